"Labels: by time, inside segments; the zero-skill floor of smoothed ones."
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from lobresearch.errors import ParameterError
from lobresearch.market.labels import SECOND, ahead, ema_known_share, ema_label, ema_variance, forward_return, labels, zero_skill


@st.composite
def clocks(draw):
    "Increasing whole seconds with holes; a new segment after holes longer than a drawn limit"
    steps = draw(st.lists(st.sampled_from([1, 1, 1, 2, 5, 90]), min_size=1, max_size=80))
    limit = draw(st.sampled_from([1, 2, 60]))
    t = np.cumsum(steps).astype(np.int64)
    segment = t[np.maximum.accumulate(np.where(np.diff(t, prepend=-999) > limit, np.arange(len(t)), 0))]
    return t*SECOND, segment


@given(clocks(), st.integers(1, 100), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_forward_return_is_the_clock_s(clock, horizon, random):
    ts, seg = clock
    mid = np.array([100 + random.random() for _ in ts])
    r = forward_return(ts, seg, mid, horizon)
    at = {(t, s): i for i, (t, s) in enumerate(zip(ts.tolist(), seg.tolist()))}
    for i, (t, s) in enumerate(zip(ts.tolist(), seg.tolist())):
        j = at.get((t + horizon*SECOND, s))
        assert math.isnan(r[i]) if j is None else r[i] == pytest.approx(1e4*math.log(mid[j]/mid[i]), abs=1e-7)


def test_rows_are_not_seconds():
    "A hole of one second: the label of two seconds skips a row, that of one second is absent"
    ts = np.array([0, 1, 3, 4])*SECOND
    r = forward_return(ts, np.zeros(4, int), [1., 2., 4., 8.], 2)
    assert np.allclose(r[1], 1e4*math.log(2)) and np.isnan(r[[0, 2, 3]]).all()


def test_labels_of_a_day_of_one_second_data():
    rng = np.random.default_rng(1)
    m = 100*np.exp(np.cumsum(rng.normal(0, 1e-4, 500)))
    grid = pd.DataFrame(dict(ask_px_1=m+.01, bid_px_1=m-.01, segment=0), index=np.arange(500, dtype=np.int64)*SECOND)
    y = labels(grid)
    assert list(y) == ["r_10", "r_60"] and y.index.equals(grid.index)
    assert y["r_60"].isna().sum() == 60 and y["r_60"].iloc[-60:].isna().all()
    assert np.allclose(y["r_60"].iloc[:440], 1e4*np.log(m[60:]/m[:-60]), atol=1e-8)


def test_ema_label_is_pandas_ewm_on_consecutive_seconds():
    r = np.random.default_rng(2).standard_normal(300)
    ours = ema_label(np.arange(300)*SECOND, np.zeros(300, int), r, .2)
    assert np.allclose(ours, pd.Series(r).ewm(alpha=.2, adjust=False).mean())


@pytest.mark.parametrize("horizon", [1, 3, 10, 60])
@pytest.mark.parametrize("alpha", [.05, .2, .9])
def test_known_share_is_that_of_the_weights_summed_one_by_one(horizon, alpha):
    b, far = 1-alpha, 2000
    k = np.arange(far)
    weight = {m: 0. for m in range(-far, horizon+1)} # of the one-second return m seconds ahead
    for j in range(1, horizon+1):
        for i, w in zip((j-k).tolist(), (alpha*b**k).tolist()):
            if i >= -far: weight[i] += w
    known = sum(w*w for m, w in weight.items() if m <= 0)
    unknown = sum(w*w for m, w in weight.items() if m > 0)
    assert ema_variance(horizon, alpha) == pytest.approx((known, unknown), rel=1e-9)


def test_zero_skill_on_a_million_step_walk():
    rng = np.random.default_rng(0)
    walk = np.exp(np.cumsum(rng.standard_normal(1_000_000))*1e-5)
    ten, sixty = zero_skill(walk, 10), zero_skill(walk, 60)
    assert ten["measured"] == pytest.approx(.485, abs=.01) and ten["closed_form"] == pytest.approx(.485, abs=.001)
    assert sixty["measured"] == pytest.approx(.179, abs=.02) and sixty["closed_form"] == pytest.approx(.179, abs=.001)
    assert abs(ten["raw"]) < .02 and ten["n"] == 1_000_000 - 10
    assert ema_known_share(10) == pytest.approx(.235, abs=.001)


def test_no_better_weights_exist():
    "Least squares on sixty past returns finds nothing that the closed-form weights do not have"
    rng = np.random.default_rng(3)
    e = rng.standard_normal(120_000)
    ts = np.arange(len(e))*SECOND
    y = ema_label(ts, np.zeros(len(e), int), forward_return(ts, np.zeros(len(e), int), np.exp(np.cumsum(e)*1e-4), 10))
    X = np.column_stack([np.roll(e, n) for n in range(60)])[100:-10]
    w = np.linalg.lstsq(X, y[100:-10], rcond=None)[0]
    assert np.allclose(w, .8**np.arange(1, 61)*(1-.8**10), atol=.03)


@pytest.mark.parametrize("call, says", [
    (lambda: forward_return([0, SECOND], [0, 0], [1., 0.], 1), "zero or negative"),
    (lambda: forward_return([0, 0], [0, 0], [1., 1.], 1), "must increase"),
    (lambda: forward_return([0, SECOND], [0], [1., 1.], 1), "same rows"),
    (lambda: forward_return([0, SECOND], [0, 0], [1., 1.], 0), "1 or more"),
    (lambda: ema_label([0], [0], [1.], 2), "alpha must lie"),
])
def test_wrong_input_gets_a_sentence(call, says):
    with pytest.raises(ParameterError, match=says): call()


def test_no_rows_no_labels():
    assert len(forward_return([], [], [], 10)) == 0 and len(ahead([], [], 1)) == 0
