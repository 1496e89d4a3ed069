"Selection: planted answers are found, chance is not, and nothing outside the given rows is looked at."
import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.signal import lfilter
from scipy.stats import kurtosis, skew, spearmanr, ttest_1samp
from scipy.stats import t as student
from statsmodels.tsa.stattools import acf

from lobresearch.errors import ParameterError, TooShortError
from lobresearch.evidence.bootstrap import standard_error
from lobresearch.market import selection as sel
from lobresearch.market.facts import false_discovery
from lobresearch.market.features import features
from lobresearch.market.labels import SECOND, labels
from lobresearch.market.registry import random_grid


def walk(n, rng, breaks=()):
    grid, e = random_grid(n, rng, 1, breaks), rng.standard_normal(n)
    mid = 1e4*np.exp(1e-4*np.cumsum(e))
    return grid.assign(ask_px_1=mid + .5, bid_px_1=mid - .5), e


def frame(grid, **cols): return pd.DataFrame(cols, index=grid.index).astype(np.float32)


@pytest.fixture(scope="module")
def planted():
    "A feature that has correlation .3 with the return of the next ten seconds, and noise"
    rng = np.random.default_rng(5)
    grid, _ = walk(30_000, rng, (9000,))
    y = labels(grid, [10]).r_10.to_numpy()
    z = np.nan_to_num(y/np.nanstd(y))
    return grid, frame(grid, known=.3*z + np.sqrt(1 - .09)*rng.standard_normal(len(grid)), noise=rng.standard_normal(len(grid)))


def test_a_planted_correlation_is_recovered_within_its_interval(planted):
    grid, X = planted
    t = sel.decay(X, grid, np.ones(len(grid), bool), (1, 10, 60), 600).set_index(["name", "horizon"])
    k = t.loc[("known", 10)]
    assert k.lo < .3 < k.hi and k.hi - k.lo < .1 and k.p < 1e-8
    assert t.loc[("known", 60), "corr"] == pytest.approx(.3*10**.5/60**.5*1.0, abs=.05) # its share of the longer return
    assert t.loc["noise"].p.min() > .001


def test_correlation_and_standard_error_are_those_of_the_evidence_chapter(planted):
    grid, X = planted
    rows = np.arange(len(grid)) < 20_000
    t = sel.decay(X, grid, rows, (2, 30), 400).set_index(["name", "horizon"])
    for (n, h), r in t.iterrows():
        y = labels(grid[rows], [h])[f"r_{h}"].to_numpy()
        x = X[n].to_numpy(float)[rows]
        ok = np.isfinite(y)
        assert r["corr"] == pytest.approx(np.corrcoef(x[ok], y[ok])[0, 1], rel=1e-9)
        assert r.se == pytest.approx(standard_error("pearson", y, x, 400), rel=1e-6) and r.seconds == ok.sum()
        assert r.bps == pytest.approx(r["corr"]*y[ok].std(), rel=1e-9)
        assert r.lo < r["corr"] < r.hi


def test_blocks_last_ten_horizons_and_few_blocks_give_no_interval(planted):
    grid, X = planted
    t = sel.decay(X[:9000], grid[:9000], np.ones(9000, bool), (1, 10, 60, 300), 300).set_index(["name", "horizon"]).loc["noise"]
    assert t.block.tolist() == [300, 300, 600, 3000] and t.blocks[300] == 2
    assert t.loc[300, ["lo", "hi", "p", "se"]].isna().all() and np.isfinite(t.loc[300, "corr"]) and t.loc[:60].p.notna().all()
    with pytest.raises(TooShortError, match="7 of the 8 blocks of 600 s"):
        sel.decay(X[:4700], grid[:4700], np.ones(4700, bool), (1,), 600)


def test_the_test_is_students_on_block_sums(planted):
    grid, X = planted
    rows = np.arange(len(grid)) < 9000 # one segment
    p = sel.decay(X, grid, rows, (10,), 500).set_index("name").p
    y = labels(grid[rows], [10]).r_10.to_numpy()
    ok = np.isfinite(y)
    for n in X:
        x = X[n].to_numpy(float)[rows]
        z = np.where(ok, (x - x[ok].mean())*(y - y[ok].mean()), 0)
        parts = np.array([z[np.arange(9000)*17//9000 == k].sum() for k in range(17)])
        assert p[n] == pytest.approx(ttest_1samp(parts, 0).pvalue, rel=1e-6)


def test_one_great_move_is_no_evidence():
    rng = np.random.default_rng(9)
    grid, _ = walk(20_000, rng)
    after = np.where(np.arange(20_000) > 7000, 1.1, 1)
    grid = grid.assign(ask_px_1=grid.ask_px_1*after, bid_px_1=grid.bid_px_1*after)
    x = rng.standard_normal(20_000)
    x[6991:7001] += 30
    r = sel.decay(frame(grid, x=x), grid, np.ones(20_000, bool), (10,), 600).iloc[0]
    assert r["corr"] > .5 and r.p == pytest.approx(2*student.sf(1, r.blocks - 1), abs=.03)


@pytest.mark.parametrize("slow", [0., .97])
def test_intervals_cover_zero_as_often_as_they_say(slow):
    "Noise that remembers against overlapping returns of thirty seconds: 95 % of intervals hold the truth"
    rng = np.random.default_rng(1)
    held, passed, n = [], [], 9000
    for _ in range(6):
        grid, _ = walk(n, rng)
        X = pd.DataFrame(lfilter([1], [1, -slow], rng.standard_normal((n, 60)), axis=0), index=grid.index)
        t = sel.decay(X, grid, np.ones(n, bool), (30,), 300)
        held += [((t.lo <= 0) & (t.hi >= 0)).mean()]
        passed += [(t.p < .05).mean()]
    assert .01 <= np.mean(passed) <= .1
    assert .90 <= np.mean(held) <= .99 # 360 intervals that share six price paths


def test_a_family_of_chance_rejects_nothing_and_single_tests_would():
    rng = np.random.default_rng(2)
    grid, _ = walk(12_000, rng)
    t = false_discovery(sel.decay(features(grid), grid, np.ones(len(grid), bool), (1, 10, 60), 600))
    assert t.p.notna().sum() > 100 and (t.p < .05).any() and not t.rejected.fillna(False).any()
    L = sel.lasting(t)
    assert (L.survives == 0).all() and L[["peak", "corr", "lasts"]].isna().all(axis=None)


def test_nothing_outside_the_rows_is_looked_at(planted):
    grid, X = planted
    rows = np.zeros(len(grid), bool)
    rows[2000:12_000] = rows[15_000:22_000] = True
    rng = np.random.default_rng(0)
    other, Z = grid.copy(), X.copy()
    other.loc[~rows, ["ask_px_1", "bid_px_1"]] *= np.exp(rng.standard_normal((~rows).sum()))[:, None]
    Z.loc[~rows] = rng.standard_normal(((~rows).sum(), 2)).astype(np.float32)
    for f in (lambda X, g: sel.decay(X, g, rows, (1, 10, 60), 300), lambda X, g: sel.describe(X, g.segment, rows)):
        pd.testing.assert_frame_equal(f(X, grid), f(Z, other), check_exact=True)
    y, z = (sel.labels_inside(g, 10, rows) for g in (grid, other))
    assert np.array_equal(y, z, equal_nan=True) and np.isnan(y[11_990:15_000]).all() and np.isfinite(y[11_989])


def test_labels_do_not_cross_segments():
    grid, _ = walk(200, np.random.default_rng(0), (100,))
    y = sel.labels_inside(grid, 10, np.ones(200, bool))
    assert np.flatnonzero(np.isnan(y)).tolist() == [*range(90, 100), *range(190, 200)]


def test_constant_features_and_prices_that_never_move_are_undefined_without_a_warning():
    rng = np.random.default_rng(0)
    grid, _ = walk(6000, rng)
    X = frame(grid, still=np.full(6000, .1), zero=np.zeros(6000), live=rng.standard_normal(6000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        t = sel.decay(X, grid, np.ones(6000, bool), (1, 10), 300).set_index("name")
        assert t.loc[["still", "zero"], ["corr", "lo", "hi", "p", "bps"]].isna().all(axis=None) and t.loc["live"].p.notna().all()
        dead = sel.decay(X, grid.assign(ask_px_1=101., bid_px_1=100.), np.ones(6000, bool), (1, 10), 300)
        assert dead[["corr", "p"]].isna().all(axis=None) and not false_discovery(dead).rejected.fillna(False).any()
        d = sel.describe(X, grid.segment, np.ones(6000, bool)).set_index("name")
        assert d.loc["still", "sd"] == 0 and d.loc["zero", "zero"] == 1
        assert d.loc[["still", "zero"], ["skew", "kurtosis", "acf_1", "half_life"]].isna().all(axis=None)
        table, R = sel.clusters(X)
        assert table.cluster.nunique() == 3 and np.isfinite(R).all(axis=None)
        assert sel.correlation_filter(X)["keep"] == ["live"] and sel.correlation_filter(X)["constant"] == ["still", "zero"]
        s = sel.principal_components(X)
        assert s["share"][0] == pytest.approx(1)


def test_rows_each_in_a_segment_of_their_own_have_no_label_and_no_memory():
    n = 6000
    grid, _ = walk(n, np.random.default_rng(0))
    grid["segment"] = grid.index
    X = frame(grid, x=np.random.default_rng(1).standard_normal(n))
    t = sel.decay(X, grid, np.ones(n, bool), (1, 10), 300)
    assert (t.seconds == 0).all() and t[["corr", "lo", "p"]].isna().all(axis=None)
    assert np.isnan(sel.describe(X, grid.segment, np.ones(n, bool)).acf_1[0])


def test_wrong_input_gets_a_sentence(planted):
    grid, X = planted
    every = np.ones(len(grid), bool)
    with pytest.raises(ParameterError, match="mask of rows 10"): sel.decay(X, grid, every[:10])
    with pytest.raises(ParameterError, match="must be the same rows"): sel.decay(X[:100], grid, every[:100], (1,), 10)
    with pytest.raises(ParameterError, match="must be finite; noise is not"):
        sel.decay(X.assign(noise=np.where(X.noise > 3, np.nan, X.noise)), grid, every, (1,), 100)
    with pytest.raises(TooShortError, match="0 rows were given"): sel.describe(X, grid.segment, ~every)


def test_description_is_scipy_and_statsmodels():
    rng = np.random.default_rng(3)
    grid, _ = walk(5000, rng)
    x = np.where(rng.random(5000) < .3, 0, rng.gamma(2, 1, 5000))
    slow = lfilter([1], [1, -.9], rng.standard_normal(5000))
    d = sel.describe(frame(grid, x=x, slow=slow), grid.segment, np.ones(5000, bool)).set_index("name")
    assert d.loc["x", ["skew", "kurtosis", "zero"]].tolist() == pytest.approx([skew(x), kurtosis(x, fisher=False), (x == 0).mean()], rel=1e-4)
    assert d.loc["x", ["q01", "q50", "q99"]].tolist() == pytest.approx(np.quantile(x, [.01, .5, .99]), rel=1e-4)
    ours, theirs = d.loc["slow", ["acf_1", "acf_5", "acf_20"]].to_numpy(float), acf(slow, nlags=20, adjusted=True)[[1, 5, 20]]
    assert ours == pytest.approx(theirs, abs=1e-5)
    long = acf(slow, nlags=900, adjusted=True)[list(sel.LAGS)]
    assert d.loc["slow", "half_life"] == pytest.approx(np.interp(-.5, -np.r_[1, long[:5]], [0, *sel.LAGS[:5]]), abs=1e-3) and 5 < d.loc["slow", "half_life"] < 9


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8))
def test_half_life_lies_where_the_autocorrelation_crosses_one_half(rho):
    lags = np.cumsum(np.arange(1, len(rho)+1))
    h = sel.half_life(lags, rho)
    if min(rho) > .5: assert h == np.inf
    else: assert 0 < h <= lags[-1] and np.interp(h, np.r_[0, lags], np.r_[1, rho]) == pytest.approx(.5, abs=1e-9)


@given(st.integers(0, 10_000), st.floats(.2, 1))
@settings(max_examples=40, deadline=None)
def test_the_filter_leaves_no_pair_above_the_limit_and_drops_nothing_below_it(seed, limit):
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.standard_normal((60, 3)) @ rng.standard_normal((3, 9)) + .3*rng.standard_normal((60, 9)), columns=list("abcdefghi"))
    f, C = sel.correlation_filter(X, limit), X.corr().abs()
    kept = C.loc[f["keep"], f["keep"]].to_numpy()
    assert (kept[~np.eye(len(kept), dtype=bool)] <= limit + 1e-9).all() and f["keep"][0] == "a"
    assert sorted(f["keep"] + list(f["dropped"]) + f["constant"]) == list(X)
    for n, (who, r) in f["dropped"].items(): assert who in f["keep"] and C.loc[n, who] > limit - 1e-9 and abs(r) == pytest.approx(C.loc[n, who])


def test_clusters_are_scipys_on_spearman():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.standard_normal((400, 4)) @ rng.standard_normal((4, 12)) + .5*rng.standard_normal((400, 12)), columns=[f"x{i}" for i in range(12)])
    table, R = sel.clusters(X, .5)
    rho = spearmanr(X).statistic
    assert np.allclose(R.loc[list(X), list(X)], rho, atol=1e-12)
    theirs = fcluster(linkage((1 - abs(rho))[np.triu_indices(12, 1)], "average"), .5, "distance")
    ours = table.set_index("name").cluster[list(X)].to_numpy()
    assert ((ours[:, None] == ours) == (theirs[:, None] == theirs)).all()
    assert (np.diff(table.cluster) >= 0).all() and table["size"].tolist() == table.groupby("cluster").name.transform("size").tolist()
    assert all(h in set(t.name) for _, t in table.groupby("cluster") for h in t["head"])


def test_components_are_numpys_singular_vectors_and_apply_row_by_row():
    rng = np.random.default_rng(4)
    X = pd.DataFrame((rng.standard_normal((500, 6)) @ rng.standard_normal((6, 6)))*[1, 10, 100, .1, 1, 1] + 5, columns=list("abcdef"))
    s = sel.principal_components(X, 4)
    Z = (X - X.mean())/X.std(ddof=0)
    _, d, V = np.linalg.svd(Z.to_numpy(), full_matrices=False)
    assert np.allclose(s["share"], d**2/(d**2).sum()) and np.allclose(abs(np.array(s["loadings"])), abs(V[:4]), atol=1e-6)
    P = sel.apply_components(X, s)
    assert np.allclose(P.var(ddof=0), d[:4]**2/500) and np.allclose(P.corr() - np.eye(4), 0, atol=1e-9)
    changed = X.copy()
    changed.iloc[300:] = 1e6
    pd.testing.assert_frame_equal(sel.apply_components(changed, s)[:300], P[:300], check_exact=True)
    assert json.loads(json.dumps(s)) == s


@pytest.fixture(scope="module")
def trees():
    rng = np.random.default_rng(0)
    n = 9000
    X = pd.DataFrame(rng.standard_normal((n, 4)), columns=["good", "n1", "n2", "n3"], index=np.arange(n)*SECOND).assign(still=1.).astype(np.float32)
    y = .35*X.good.to_numpy(float) + rng.standard_normal(n)
    train, valid = np.arange(n) < 6000, np.arange(n) >= 6100
    return X, y, train, valid, sel.fit_trees(X, y, train, 60, 1)


def test_importance_finds_the_planted_feature_and_not_the_noise(trees):
    X, y, train, valid, model = trees
    t = sel.importance(model, X, y, valid, np.random.default_rng(0), {"noise": ["n1", "n2", "n3"]}, 200, 4).set_index("name")
    assert list(t.index) == ["all", "noise", *X] and t.what.tolist() == ["model", "group"] + ["feature"]*5
    assert t.loc["all", "corr"] == pytest.approx(.35/(1 + .35**2)**.5, abs=.05)
    assert t.loc["good", "corr_lo"] > .2 and t.loc["good", "r2_lo"] > 0
    assert (t.loc[["noise", "n1", "n2", "n3"], "corr"].abs() < .02).all() and (t.loc[["n1", "n2", "n3"], "corr_lo"] < .01).all()
    assert (t.loc["still", ["corr", "corr_lo", "r2", "used"]] == 0).all()


def test_trees_and_importance_are_the_same_twice_and_ignore_what_lies_outside_their_rows(trees):
    X, y, train, valid, model = trees
    Z, z = X.copy(), y.copy()
    Z.loc[~train], z[~train] = 7., -3.
    assert sel.fit_trees(Z, z, train, 60, 1).model_to_string() == model.model_to_string()
    Z, z = X.copy(), y.copy()
    Z.loc[~valid], z[~valid] = 7., -3.
    f = lambda X, y: sel.importance(model, X, y, valid, np.random.default_rng(3), None, 200, 2)
    pd.testing.assert_frame_equal(f(X, y), f(Z, z), check_exact=True)


def test_permutation_keeps_blocks_of_time_whole():
    i = sel._block_shuffle(1003, 100, np.random.default_rng(0))
    assert sorted(i) == list(range(1003)) and (np.diff(i) == 1).sum() >= 1003 - 11 and not np.array_equal(i, np.arange(1003))


def test_trees_and_importance_too_short_say_so(trees):
    X, y, train, valid, model = trees
    with pytest.raises(TooShortError, match="trees take at least 100"): sel.fit_trees(X[:300], y[:300], np.ones(300, bool), 60, 0)
    with pytest.raises(TooShortError, match="trees take at least 100"): sel.fit_trees(X, np.full(len(X), np.nan), train, 60, 0)
    with pytest.raises(TooShortError, match="at least two blocks"): sel.importance(model, X, y, valid, np.random.default_rng(0), None, 2000)
    with pytest.raises(ParameterError, match="at least 2 permutations"): sel.importance(model, X, y, valid, np.random.default_rng(0), None, 200, 1)


def test_a_return_that_never_moves_leaves_trees_without_importance(trees):
    X, y, train, valid, _ = trees
    model = sel.fit_trees(X, 0*y, train, 60, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        t = sel.importance(model, X, 0*y, valid, np.random.default_rng(0), None, 200, 2)
    assert (t[["corr", "r2"]] == 0).all(axis=None)


def test_an_interval_holds_zero_where_the_test_finds_nothing():
    r = np.random.default_rng(4)
    n, apart = 14_400, 0
    for _ in range(12): # volatility that changes slowly, and features that follow it
        e = r.standard_normal(n)*np.exp(lfilter([1], [1, -.999], r.standard_normal(n)*.045))
        mid = 1000*np.exp(np.cumsum(e)*1e-4)
        g = pd.DataFrame(dict(ask_px_1=mid, bid_px_1=mid, segment=0), index=pd.Index(np.arange(n)*SECOND, name="ts"))
        X = pd.DataFrame({f"vol_{w}": np.sqrt(pd.Series(e*e).rolling(w, min_periods=1).mean()).to_numpy() for w in (10, 60, 300)}, index=g.index)
        t = sel.decay(X, g, np.ones(n, bool), (1, 10))
        missed = (t.lo > 0) | (t.hi < 0)
        assert (t.p[missed] <= .05).all() and (t.lo <= t["corr"]).all() and (t["corr"] <= t.hi).all()
        apart += int(missed.sum())
    assert apart <= 9 # of 72; before the interval knew of the test it was 14 or so
