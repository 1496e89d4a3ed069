"Labels: by time, inside segments; their weights; classes from training rows."
import inspect
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from lobresearch.errors import ParameterError, TooShortError
from lobresearch.market import labels as module
from lobresearch.market.labels import (
    LABELS, SECOND, ahead, apply_threshold, ema_label, fit_threshold, forward_return, label, labels, make_label,
)


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


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("horizon", [1, 3, 10])
def test_weights_are_what_a_pulse_leaves_in_the_label(kind, horizon):
    "One return of one basis point, at every place around t in turn, and the label at t is its weight"
    ts, one, past, future = np.arange(300)*SECOND, np.zeros(300, int), *LABELS[kind].weights(horizon)
    w = {1 - i: v for i, v in enumerate(past, 1)} | {j: v for j, v in enumerate(future, 1)} # seconds from t
    for at in range(-30, horizon + 3):
        mid = np.exp(1e-4*(np.arange(300) >= 200 + at))
        assert make_label(kind, ts, one, mid, horizon)[200] == pytest.approx(w.get(at, 0), abs=2e-4), at


@given(clocks(), st.integers(1, 12), st.randoms(use_true_random=False), st.sampled_from(["mean_now", "mean_mean", "mean_past10"]))
@settings(max_examples=150, deadline=None)
def test_means_are_the_clock_s_and_take_every_second(clock, k, random, kind):
    ts, seg = clock
    mid = np.array([math.nan if random.random() < .03 else 100 + random.random() for _ in ts])
    q = dict(mean_now=1, mean_mean=k, mean_past10=10)[kind]
    y = make_label(kind, ts, seg, mid, k)
    at = {(t, s): m for t, s, m in zip(ts.tolist(), seg.tolist(), mid)}
    for i, (t, s) in enumerate(zip(ts.tolist(), seg.tolist())):
        next_k, last_q = ([at.get((t + n*SECOND, s), math.nan) for n in r] for r in (range(1, k+1), range(1-q, 1)))
        want = 1e4*math.log(np.mean(next_k)/np.mean(last_q)) if np.isfinite(next_k + last_q).all() else math.nan
        assert y[i] == pytest.approx(want, abs=1e-6, nan_ok=True)


@given(clocks(), st.integers(1, 12), st.sampled_from(sorted(LABELS)), st.integers(0, 79))
@settings(max_examples=100, deadline=None)
def test_a_label_does_not_see_beyond_its_horizon_nor_its_segment(clock, h, kind, row):
    ts, seg = clock
    row = min(row, len(ts) - 1)
    mid = 100 + np.random.default_rng(0).random(len(ts))
    other = np.where((ts > ts[row] + h*SECOND) | (seg != seg[row]), 50., mid)
    a, b = (make_label(kind, ts, seg, m, h)[row] for m in (mid, other))
    assert a == pytest.approx(b, abs=1e-6, nan_ok=True)


def test_every_exported_label_is_in_the_list():
    "An export that makes a label from (ts, segment, mid, horizon) and is in no registry would escape the audit"
    entered = {L.make.__name__ for L in LABELS.values()}
    for name in module.__all__:
        f = getattr(module, name)
        if inspect.isfunction(f) and list(inspect.signature(f).parameters)[:4] == ["ts", "segment", "mid", "horizon"]: assert name in entered, name
    assert {"forward_return", "ema_return", "mean_now", "mean_mean", "mean_past10"} == entered


@given(st.lists(st.floats(-100, 100) | st.just(0.) | st.just(math.nan), min_size=6, max_size=60), st.data())
@settings(max_examples=150, deadline=None)
def test_thresholds_look_at_training_rows_only(y, data):
    train = np.array(data.draw(st.lists(st.booleans(), min_size=len(y), max_size=len(y))))
    y = np.array(y)
    if np.isfinite(y[train]).sum() < 3:
        with pytest.raises(TooShortError, match="take at least 3"): fit_threshold(y, train)
        return
    state = fit_threshold(y, train)
    assert fit_threshold(np.where(train, y, 1e9), train) == state == json.loads(json.dumps(state))
    c = apply_threshold(y, state)
    assert (np.isnan(c) == np.isnan(y)).all() and set(c[np.isfinite(c)]) <= {-1, 0, 1}
    seen = c[train & np.isfinite(y)]
    assert (seen < 0).sum() <= len(seen)/3 + 1 and (seen > 0).sum() <= len(seen)/3 + 1


@pytest.mark.parametrize("kind", LABELS)
def test_dull_series_give_dull_labels(kind):
    ts = np.arange(60)*SECOND
    flat = make_label(kind, ts, np.zeros(60, int), np.full(60, 7.), 5)
    assert np.nanmax(np.abs(flat)) == 0 and np.isnan(flat[-5:]).all()
    assert np.isnan(make_label(kind, ts, np.arange(60), np.full(60, 7.), 5)).all() # every second a segment of its own
    assert np.isnan(make_label(kind, ts, np.zeros(60, int), np.full(60, math.nan), 5)).all() # no book
    assert len(make_label(kind, [], [], [], 5)) == 0


@pytest.mark.parametrize("call, says", [
    (lambda: forward_return([0, SECOND], [0, 0], [1., 0.], 1), "zero or negative"),
    (lambda: forward_return([0, 0], [0, 0], [1., 1.], 1), "must increase"),
    (lambda: forward_return([0, SECOND], [0], [1., 1.], 1), "same rows"),
    (lambda: forward_return([0, SECOND], [0, 0], [1., 1.], 0), "1 or more"),
    (lambda: ema_label([0], [0], [1.], 2), "alpha must lie"),
    (lambda: make_label("median", [0], [0], [1.], 2), "no label 'median'"),
    (lambda: make_label("mean_now", [0], [0], [1.], 0), "1 or more"),
    (lambda: label("raw", "", "", "", None), "already"),
    (lambda: fit_threshold([1., 2.], [True, True], share=.6), "share must lie"),
])
def test_wrong_input_gets_a_sentence(call, says):
    with pytest.raises(ParameterError, match=says): call()


def test_no_rows_no_labels():
    assert len(forward_return([], [], [], 10)) == 0 and len(ahead([], [], 1)) == 0
