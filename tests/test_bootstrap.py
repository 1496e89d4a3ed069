"Bootstrap: the same resamples as arch, scores as scikit-learn and scipy have them, and intervals that cover."
import numpy as np
import pandas as pd
import pytest
from arch.bootstrap import CircularBlockBootstrap
from hypothesis import given, settings, strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from lobresearch.errors import ParameterError
from lobresearch.evidence.bootstrap import (standard_error, MEASURES, _moments, _studentised, block_bootstrap, block_indices, block_starts, corr_interval,
                                            default_block, interval, intervals, simultaneous, value)


def overlapping(rows, horizon, rng): return np.convolve(rng.standard_normal(rows + horizon - 1), np.ones(horizon), "valid")


def example(rows=700, seed=0):
    rng = np.random.default_rng(seed)
    y = overlapping(rows, 10, rng)
    return y, .3*y + rng.standard_normal(rows)


BY_HAND = {"pearson": lambda y, p: pearsonr(y, p)[0], "rank_ic": lambda y, p: spearmanr(y, p)[0], "mae": mean_absolute_error,
           "rmse": root_mean_squared_error, "r2": lambda y, p: 1 - ((y-p)**2).sum()/(y**2).sum()}


@pytest.mark.parametrize("measure", MEASURES)
def test_scores_are_those_of_the_libraries(measure):
    y, p = example()
    assert value(measure, y, p) == pytest.approx(BY_HAND[measure](y, p), abs=1e-12)
    holes = np.arange(len(y)) % 7 == 3
    assert value(measure, np.where(holes, np.nan, y), p) == pytest.approx(BY_HAND[measure](y[~holes], p[~holes]), abs=1e-12)


@pytest.mark.parametrize("measure", ["pearson", "mae", "rmse", "r2"])
@pytest.mark.parametrize("rows, block", [(700, 70), (701, 70), (700, 1), (50, 50)])
def test_resamples_are_arch_s(measure, rows, block):
    "The same generator gives the same rows, and sums over blocks give the same score as the rows themselves"
    y, p = example(rows)
    theirs = CircularBlockBootstrap(block, y, p, seed=np.random.default_rng(4)).apply(BY_HAND[measure], 20)[:, 0]
    ours = _studentised(measure, _moments(measure, y, p)[1], block, block_starts(rows, block, 20, np.random.default_rng(4)))[2]
    plain = block_bootstrap(BY_HAND[measure], (y, p), block, 20, np.random.default_rng(4))[3]
    assert np.allclose(ours, theirs, atol=1e-10) and np.allclose(plain, theirs, atol=1e-12)


def test_interval_resembles_that_of_arch():
    y, p = example(6000)
    lo, hi = CircularBlockBootstrap(100, y, p, seed=np.random.default_rng(1)).conf_int(BY_HAND["pearson"], 800, method="percentile")[:, 0]
    _, a, b = corr_interval(y, p, 100, 800, np.random.default_rng(1))
    assert abs(a - lo) < .25*(hi - lo) and abs(b - hi) < .25*(hi - lo)


@pytest.mark.parametrize("measure", MEASURES)
def test_slope_is_the_derivative(measure):
    f, S = MEASURES[measure], _moments(measure, *example(300))[1].sum(0)
    step = 1e-6*np.maximum(abs(S), 1)
    numeric = [(f.value(S + h) - f.value(S - h))/(2*h[i]) for i, h in enumerate(np.diag(step))]
    assert np.allclose(f.slope(S), numeric, rtol=1e-4, atol=1e-9)


@given(rows=st.integers(1, 200), data=st.data())
@settings(max_examples=80, deadline=None)
def test_a_resample_is_whole_blocks(rows, data):
    block = data.draw(st.integers(1, rows))
    starts = block_starts(rows, block, 3, np.random.default_rng(0))
    for s in starts:
        i = block_indices(s, rows, block)
        assert len(i) == rows and i.min() >= 0 and i.max() < rows
        inside = np.arange(1, rows) % block != 0
        assert ((np.diff(i) % rows)[inside] == 1 % rows).all()


@pytest.mark.parametrize("horizon, rows", [(10, 3000), (60, 6000)])
def test_coverage_for_useless_forecasts_of_overlapping_returns(horizon, rows):
    held = []
    for seed in range(250):
        rng = np.random.default_rng(seed)
        y, p = overlapping(rows, horizon, rng), rng.standard_normal(rows)
        _, lo, hi = corr_interval(y, p, default_block(horizon), 300, rng)
        held.append(lo <= 0 <= hi)
    assert .90 <= np.mean(held) <= .99


def test_coverage_of_a_true_correlation():
    "An AR(1) pair with correlation one half, few blocks"
    held = []
    for seed in range(250):
        rng = np.random.default_rng(seed)
        e = rng.standard_normal((2, 1700))
        e[1] = .5*e[0] + np.sqrt(.75)*e[1]
        x = np.zeros_like(e)
        for t in range(1, e.shape[1]): x[:, t] = .8*x[:, t-1] + e[:, t]
        _, lo, hi = corr_interval(x[0, 200:], x[1, 200:], 100, 300, rng)
        held.append(lo <= .5 <= hi)
    assert .90 <= np.mean(held) <= .99


def test_simultaneous_intervals_hold_together():
    held, apart = [], []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        y = {10: overlapping(4000, 10, rng), 60: overlapping(4000, 60, rng)}
        pairs = {(m, h): (y[h], np.convolve(rng.standard_normal(4029), np.ones(30), "valid")) for h in y for m in "abcd"}
        held.append(simultaneous(pairs, 400, 300, rng, level=.95).holds_zero.all())
        apart.append(all(lo <= 0 <= hi for v, lo, hi in (corr_interval(*yp, 400, 300, rng) for yp in pairs.values())))
    assert np.mean(held) >= .90 and np.mean(apart) < np.mean(held)


def test_simultaneous_with_missing_labels_and_a_zero_model():
    y, p = example(4000)
    short = np.where(np.arange(4000) > 3900, np.nan, y)
    table = simultaneous({"whole": (y, p), "short": (short, p), "zero": (y, 0*p)}, 100, 200, np.random.default_rng(0)).set_index("key")
    assert np.isnan(table.loc["zero", "lo"]) and table.loc["zero", "holds_zero"]
    assert table.loc["short", "value"] == pytest.approx(pearsonr(y[:3901], p[:3901])[0], abs=1e-12)
    assert not table.loc["whole", "holds_zero"]


def test_the_zero_model_scores_nought():
    y, _ = example(2000)
    s = intervals(y, np.zeros(2000), 100, 100, seed=0)
    assert (s["r2"], s["r2_lo"], s["r2_hi"]) == (0, 0, 0) and np.isnan(s["pearson"]) and s["n"] == 2000
    assert s["rmse_lo"] < s["rmse"] < s["rmse_hi"] and s["rmse"] == pytest.approx(np.sqrt((y**2).mean()))


def test_same_seed_same_bytes():
    y, p = example(3000)
    assert intervals(y, p, 100, 200, seed=1) == intervals(y, p, 100, 200, seed=1) != intervals(y, p, 100, 200, seed=2)


def test_a_short_or_empty_series_gets_no_interval():
    y, p = example(300)
    assert np.isnan(interval("pearson", y, p, 100, 50, np.random.default_rng(0))[1:]).all()
    assert np.isnan(interval("pearson", [], [], 100, 50, np.random.default_rng(0))).all()
    t = simultaneous({"a": (y, p)}, 100, 50, np.random.default_rng(0))
    assert np.isnan(t.lo[0]) and np.isfinite(t.value[0]) and t.holds_zero.isna().all() # neither yes nor no
    assert np.isnan(value("pearson", [np.nan]*5, [1.]*5)) and np.isnan(value("pearson", np.full(5, .1), np.arange(5.)))


def test_wrong_input_gets_a_sentence():
    rng = np.random.default_rng(0)
    with pytest.raises(ParameterError, match="between 1 and 5 rows"): block_starts(5, 0, 1, rng)
    with pytest.raises(ParameterError, match="At least one resample"): block_starts(5, 1, 0, rng)
    with pytest.raises(ParameterError, match="no measure 'sharpe'"): value("sharpe", [1.], [1.])
    with pytest.raises(ParameterError, match="There are no pairs"): simultaneous({}, 10, 10, rng)


def test_standard_error_is_the_one_behind_the_simultaneous_intervals():
    rng = np.random.default_rng(11)
    y = np.convolve(rng.normal(size=6009), np.ones(10), "valid")
    p = .2*y + rng.normal(size=len(y))
    table = simultaneous({"a": (y, p)}, 100, 50, np.random.default_rng(0))
    assert standard_error("pearson", y, p, 100) == pytest.approx(table.se[0], rel=1e-12)
    assert np.isnan(standard_error("pearson", y[:700], p[:700], 100))
