"The label audit: zero-skill floors in closed form, by simulation and by least squares."
import warnings
from functools import partial

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import multivariate_normal, norm
from sklearn.metrics import f1_score

from lobresearch.errors import ParameterError
from lobresearch.market.label_audit import audit_labels, fig_floors, floors, known_share, macro_f1, past_predictor, spread_share, tercile_f1
from lobresearch.market.labels import LABELS, SECOND, make_label
from house import code
from lobresearch.study import toy


@pytest.fixture(scope="module")
def walk():
    e = np.random.default_rng(0).standard_normal(300_000)
    return np.exp(np.cumsum(e)*1e-5)


@pytest.fixture(scope="module")
def audit(walk):
    return audit_labels(walk, horizons=(10, 20, 50, 60), rng=np.random.default_rng(1), resamples=100).set_index(["kind", "horizon"])


@pytest.mark.parametrize("horizon", [1, 3, 10, 60])
@pytest.mark.parametrize("alpha", [.05, .2, .9])
def test_known_share_is_that_of_the_weights_summed_one_by_one(horizon, alpha):
    b, far = 1-alpha, 2000
    weight = {m: 0. for m in range(-far, horizon+1)} # of the one-second return m seconds ahead
    for j in range(1, horizon+1):
        for i, w in zip((j-np.arange(far)).tolist(), (alpha*b**np.arange(far)).tolist()):
            if i >= -far: weight[i] += w
    known, unknown = (sum(w*w for m, w in weight.items() if (m <= 0) == past) for past in (True, False))
    assert known_share("ema", horizon, alpha=alpha) == pytest.approx(known/(known + unknown), rel=1e-9)
    assert spread_share("ema", horizon, alpha=alpha) == pytest.approx(math.sqrt((known + unknown)/horizon), rel=1e-9)


def test_the_floors_that_are_known():
    f = floors(horizons=(10, 20, 50, 60)).set_index(["kind", "horizon"])
    assert f.floor["ema", 10] == pytest.approx(.485, abs=5e-4) and f.share["ema", 10] == pytest.approx(.235, abs=5e-4)
    assert f.floor["ema", 60] == pytest.approx(.179, abs=5e-4) and f.spread["ema", 10] == pytest.approx(.777, abs=5e-4)
    assert f.floor_f1["mean_mean"][[10, 20, 50]].round(2).tolist() == [.56, .57, .58]
    assert np.allclose(f.floor_f1[["raw", "mean_now"]], 1/3)


@pytest.mark.parametrize("rho", [0., .3, .652, .95])
def test_tercile_f1_is_that_of_the_bivariate_normal(rho):
    c, cdf = norm.ppf(2/3), lambda a, b: multivariate_normal([0, 0], [[1, rho], [rho, 1]]).cdf([a, b])
    up, flat = cdf(-c, -c), cdf(c, c) - 2*cdf(-c, c) + cdf(-c, -c)
    assert tercile_f1(rho) == pytest.approx(2*up + flat, abs=1e-6)


def test_measured_floors_on_a_walk_are_the_closed_form(audit):
    "Within four of the bootstrap's own standard errors, and never far"
    for v, floor in (("r", "floor"), ("f1", "floor_f1")):
        se = (audit[f"{v}_hi"] - audit[f"{v}_lo"])/4
        assert (se > 0).all() and (se < .02).all()
        assert ((audit[v] - audit[floor]).abs() < 4*se).all(), audit[[v, floor]]
    assert (audit.sd - audit.spread).abs().max() < .015
    assert audit.raw.abs().max() < .04 # the same forecasts are worth nothing on the raw label
    assert audit.r["ema", 10] == pytest.approx(.485, abs=.01) and audit.r["ema", 60] == pytest.approx(.179, abs=.02)


@pytest.mark.parametrize("kind, reach", [("ema", 60), ("mean_mean", 20), ("mean_past10", 20)])
def test_no_better_weights_exist(kind, reach):
    "Least squares on past returns finds nothing that the closed-form weights do not have"
    e = np.random.default_rng(3).standard_normal(120_000)
    ts = np.arange(len(e))*SECOND
    y = make_label(kind, ts, np.zeros(len(e), int), np.exp(np.cumsum(e)*1e-4), 10)
    X = np.column_stack([np.roll(e, n) for n in range(reach)])[100:-10]
    w, past = np.linalg.lstsq(X, y[100:-10], rcond=None)[0], LABELS[kind].weights(10)[0][:reach]
    assert np.allclose(w, np.pad(past, (0, reach - len(past))), atol=.03)


@given(st.lists(st.sampled_from([1, 1, 1, 1, 2, 30]), min_size=1, max_size=60), st.integers(1, 8), st.sampled_from(sorted(LABELS)))
@settings(max_examples=100, deadline=None)
def test_the_predictor_is_the_weighted_sum_up_to_the_last_gap(steps, h, kind):
    t = np.cumsum(steps)
    seg = np.maximum.accumulate(np.where(np.diff(t, prepend=-99) > 1, t, 0))
    log = np.random.default_rng(len(t)).standard_normal(len(t))
    w = LABELS[kind].weights(h)[0]
    w = w if len(w) else np.ones(h)
    p = past_predictor(t*SECOND, seg, np.exp(log*1e-4), kind, h)
    for i in range(len(t)):
        back = range(min(len(w), int((seg[:i+1] == seg[i]).sum()) - 1))
        assert p[i] == pytest.approx(sum(w[n]*(log[i-n] - log[i-n-1]) for n in back), abs=1e-6)


def test_the_predictor_does_not_look_ahead(walk):
    mid, ts, seg = walk[:2000], np.arange(2000)*SECOND, np.zeros(2000, int)
    other = np.where(np.arange(2000) > 1000, 2*mid, mid)
    for kind in LABELS:
        a, b = (past_predictor(ts, seg, m, kind, 10)[:1001] for m in (mid, other))
        assert (a == b).all()


def test_macro_f1_is_scikit_learn_s():
    rng = np.random.default_rng(4)
    y = rng.standard_normal(5000)
    p = .5*y + rng.standard_normal(5000)
    y[::11] = np.nan
    ok = np.isfinite(y)
    cut = [np.digitize(v[ok], np.quantile(v[ok], [1/3, 2/3])) for v in (y, p)]
    value, lo, hi = macro_f1(y, p, 100, 200, rng)
    assert value == pytest.approx(f1_score(*cut, average="macro"), abs=1e-9) and lo < value < hi


def test_a_market_that_reverts_lies_below_the_walk_and_one_with_trend_above():
    rng = np.random.default_rng(5)
    e = rng.standard_normal(100_000)
    for sign, compare in ((-.5, np.less), (.5, np.greater)):
        a = audit_labels(np.exp(1e-5*np.cumsum(e + sign*np.r_[0, e[:-1]])), horizons=[5])
        held = a[a.floor > 0]
        assert compare(held.r, held.floor).all()


@pytest.mark.parametrize("mid, segment", [
    (np.full(500, 3.), None), (np.full(500, np.nan), None), (1 + np.arange(500.), np.arange(500)), ([], None), ([1.], None)])
def test_dull_series_have_no_score(mid, segment):
    a = audit_labels(mid, segment=segment, rng=np.random.default_rng(0))
    assert len(a) == 2*len(LABELS) and a[["r", "f1", "raw", "r_lo", "f1_hi"]].isna().all(axis=None)
    assert np.isfinite(a[["share", "floor", "floor_f1"]]).all(axis=None)


def test_two_minutes_give_a_value_without_an_interval(walk):
    a = audit_labels(walk[:120], horizons=[10], rng=np.random.default_rng(0))
    assert a.r.notna().all() and a.r_lo.isna().all() and (a.n > 90).all()


def test_the_figure_draws_every_kind(audit):
    fig, table = fig_floors({"walk": audit.reset_index()})
    assert len(fig.axes) == 2*len(LABELS) and table.groupby("kind").size().nunique() == 1


@pytest.mark.parametrize("call, says", [
    (lambda: known_share("median", 10), "no label 'median'"),
    (lambda: tercile_f1(1.5), "must lie in"),
    (lambda: past_predictor([0], [0], [1.], "median", 10), "no label 'median'"),
    (lambda: audit_labels([1., -1.]), "zero or negative"),
])
def test_wrong_input_gets_a_sentence(call, says):
    with pytest.raises(ParameterError, match=says): call()


def test_the_audit_is_the_same_twice(walk):
    a, b = (audit_labels(walk[:20_000], horizons=[10], rng=np.random.default_rng(6)) for _ in range(2))
    pd.testing.assert_frame_equal(a, b)


def test_the_labels_page_stands_where_each_split_has_one_role_at_most(monkeypatch):
    "A recording of a minute or so: there is nothing to audit, and the page says so and goes on"
    monkeypatch.setitem(toy.FILLERS, "grid", partial(toy._grid, seconds=40))
    page = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code("nbs/study/04_labels_splits.ipynb"), "04_labels_splits", "exec"), page)  # noqa: S102
    assert page["st"].metrics["closest"] is None and any("nothing to audit" in s for s in page["st"].said)
