"Features: against pandas on a made-up day, against the clock, and on books that lack things."
import numpy as np
import pandas as pd
import pytest
from helpers_features import alone, full_grid, holed, one_sided, one_trade, standing, unknown
from hypothesis import given, settings, strategies as st

from lobresearch.errors import ParameterError
from lobresearch.market.features import FEATURES, OFI, SETS, feature_table, features, random_grid, select, warmup
from lobresearch.market.labels import SECOND
from lobresearch.market.registry import feature, trailing_sum
from lobresearch.market.windows import Windows, decayed_gap, decayed_ratio, extremes, moments, segment_starts, sums


@pytest.fixture(scope="module")
def grid(): return random_grid(3000, np.random.default_rng(7), breaks=(1000, 1010))


@pytest.fixture(scope="module")
def X(grid): return features(grid)


def by_segment(grid, f): return pd.concat([f(g) for _, g in grid.groupby("segment")])


def test_the_registry_says_what_each_is():
    assert 200 <= len(FEATURES) <= 260 and len(OFI) == 15
    for n, f in FEATURES.items():
        assert f.formula and f.unit and f.source and f.warmup >= 0 and f.family in ("book", "flow", "trade", "price"), n
        assert "{" not in n + f.formula, n
    assert warmup(FEATURES) <= 901 and warmup(select(lookback=61)) == 61
    t = feature_table()
    assert list(t.name) == list(FEATURES) and list(t) == ["name", "family", "formula", "unit", "source", "warmup", "levels", "sets"]
    assert t.set_index("name").sets[["imb_10", "wmid_1"]].tolist() == ["core", "core, book18, desk30"]


def test_named_sets():
    assert {k: len(v) for k, v in SETS.items()} == dict(core=69, book18=18, desk30=30, all=len(FEATURES))
    for k, names in SETS.items(): assert len(set(names)) == len(names) and set(names) <= set(FEATURES), k
    families = pd.Series({n: FEATURES[n].family for n in SETS["desk30"]}).replace("flow", "trade").to_dict()
    families |= {"vgap_60": "price"} # the VWAP of the minute
    assert pd.Series(families).value_counts().to_dict() == dict(price=6, trade=12, book=12)
    small = select(5, among="book18")
    assert small == SETS["book18"] and len(select(3, among="book18")) == 13
    assert "funding" not in select(among="all") and "funding" in select(among="all", columns=["funding"])


def test_core_is_what_it_was(grid, X):
    "The names that forecasts use, in their order, and sizes and prices reckoned from the columns"
    assert SETS["core"][:4] == ["wmid_1", "wmid_2", "wmid_5", "wmid_10"] and SETS["core"][-2:] == ["since_move", "last_move"]
    a, b, mid = grid.ask_sz_1, grid.bid_sz_1, (grid.ask_px_1 + grid.bid_px_1)/2
    assert np.allclose(X.wmid_1, 1e4*((b*grid.ask_px_1 + a*grid.bid_px_1)/(a + b)/mid - 1), atol=1e-4)
    assert np.allclose(X.imb_1, (b - a)/(a + b), atol=1e-6) and np.allclose(X.width_10, 1e4*(grid.ask_px_10 - grid.bid_px_10)/mid, atol=1e-3)
    deep = sum(grid[f"{s}_sz_{i}"] for s in ("ask", "bid") for i in range(1, 11))
    assert np.allclose(X.log_depth_10, np.log1p(deep), atol=1e-5) and np.array_equal(X.log_depth_10, X.log_depth_all)


def test_every_column_is_finite_float32(X):
    assert list(X) == select(among="all") and (X.dtypes == np.float32).all() and np.isfinite(X.to_numpy()).all()
    assert all(n.startswith(("skew", "gap", "band")) for n in X if X[n].std() == 0) # the made-up levels are equally spaced


@pytest.mark.parametrize("window", [1, 5, 30, 300])
def test_returns_and_flow_are_pandas(grid, X, window):
    mid = (grid.ask_px_1 + grid.bid_px_1)/2
    past = by_segment(grid.assign(m=mid), lambda g: 1e4*np.log(g.m/g.m.shift(window).fillna(g.m.iloc[0])))
    assert np.allclose(X[f"ret_{window}"], past, atol=1e-3)
    if window == 300: return
    roll = lambda c, w: by_segment(grid.assign(c=c), lambda g: g.c.rolling(w, min_periods=1).sum())
    depth = lambda L: sum(grid[f"{s}_sz_{i+1}"] for s in ("ask", "bid") for i in range(L))/2
    mean = lambda L: by_segment(grid.assign(c=depth(L)), lambda g: g.c.rolling(60, min_periods=1).mean())
    assert np.allclose(X[f"flow_{window}"], roll(grid.buy_vol - grid.sell_vol, window)/mean(1), atol=1e-4)
    for L in (1, 5, 10):
        ofi = sum(grid[f"ofi_{i+1}"] for i in range(L))
        assert np.allclose(X[f"ofi_{L}_{window}"], roll(ofi, window)/mean(L), atol=1e-4)


@given(st.lists(st.tuples(st.sampled_from([1, 1, 2, 7, 100]), st.sampled_from([0., 1., -2.5, 1e9, 1e-6, np.nan])),
                min_size=1, max_size=60), st.integers(1, 90))
@settings(max_examples=150, deadline=None)
def test_trailing_sum_is_the_sum(steps, window):
    t = np.cumsum([s for s, _ in steps]).astype(np.int64)
    x = np.array([v for _, v in steps])
    seg = t[np.maximum.accumulate(np.where(np.diff(t, prepend=-999) > 60, np.arange(len(t)), 0))]
    got = trailing_sum(t*SECOND, seg, x, window)
    for i in range(len(t)):
        inside = (seg[:i+1] == seg[i]) & (t[:i+1] > t[i] - window)
        assert got[i] == pytest.approx(np.nansum(x[:i+1][inside]), rel=1e-12, abs=1e-9)


@pytest.mark.parametrize("steps", [[1, 1], [1, 1, 1], [2, 2, 2, 2], [3, 1, 3, 1, 3]])
@pytest.mark.parametrize("window", [1, 2, 3, 4, 5, 8])
def test_blocks_of_one_row(steps, window):
    "Rows as far apart as the window is long: each stands in a block of its own, and may still see the one before"
    t, x = np.cumsum(steps), 2.**np.arange(len(steps))
    want = [x[:i+1][t[:i+1] > t[i] - window].sum() for i in range(len(t))]
    assert trailing_sum(t*SECOND, np.zeros(len(t)), x, window).tolist() == want


@pytest.mark.parametrize("seed", range(40))
def test_windows_are_what_one_reckons_window_by_window(seed):
    "Uneven clocks, gaps, NaN, windows and half-lives of any length"
    r = np.random.default_rng(seed)
    n, w, h = int(r.integers(1, 60)), int(r.integers(1, 40)), float(r.uniform(1, 20))
    t = np.cumsum(r.choice([1, 1, 2, 3, 7, 70], n)) + int(r.integers(0, 50))
    first = segment_starts(np.cumsum(np.diff(t, prepend=t[0]) > 60))
    x, y = (np.where(r.random(n) < .2, np.nan, v) for v in (r.normal(5, 10, n), r.normal(size=n)))
    win = Windows(t*SECOND, first, w)
    total, mom, (low, high) = sums(win, x), moments(win, x, y), extremes(win, x, y)
    mean, gap = decayed_ratio(win, x, np.ones(n), h), decayed_gap(win, x, h)
    for i in range(n):
        a = max(first[i], int(np.searchsorted(t, t[i] - w, side="right")))
        xs, ys, weight = x[a:i+1], y[a:i+1], 2.**((t[a:i+1] - t[i])/h)
        ok, both = ~np.isnan(xs), ~np.isnan(xs + ys)
        u, v, want = xs[both], ys[both], (weight*xs)[ok].sum()/weight[ok].sum() if ok.any() else 0.
        assert win.begin[i] == a and np.isclose(total[i], np.nansum(xs)) and np.isclose(mean[i], want)
        assert low[i] == min(xs[ok], default=np.inf) and high[i] == max(ys[~np.isnan(ys)], default=-np.inf)
        assert np.isclose(gap[i], 0. if np.isnan(x[i]) else x[i] - want, atol=1e-9)
        assert np.allclose(mom[:3, i], [np.mean(u*v) - u.mean()*v.mean(), u.var(), v.var()] if len(u) > 1 else 0, atol=1e-9)
        if len(u) and not np.isnan(x[i]): assert np.isclose(mom[3, i], x[i] - u.mean(), atol=1e-9)


def test_a_window_that_has_emptied_is_exactly_empty():
    x = np.r_[1e9, .1, np.zeros(8)]
    assert (trailing_sum(np.arange(10)*SECOND, np.zeros(10), x, 3)[4:] == 0).all()


def test_prices_and_sizes_may_change_unit(grid, X):
    "Another currency and another lot size: everything but the logarithms of raw size stays"
    px = [c for c in grid if c.startswith(("ask_px", "bid_px")) or c in ("vwap", "high", "low")]
    sz = [c for c in grid if c.startswith(("ask_sz", "bid_sz", "ofi"))] + ["buy_vol", "sell_vol"]
    other = features(grid.assign(**{c: grid[c]*7 for c in px}, **{c: grid[c]*.001 for c in sz}))
    same = [n for n in X if FEATURES[n].unit != "log size" or n == "bar_volume"]
    assert len(X.columns) - len(same) == 10
    assert [n for n in same if not np.allclose(other[n], X[n], rtol=1e-4, atol=2e-3)] == []


def test_mirror(grid, X):
    "Bids and asks swapped about a price: what points up points down"
    flip = {}
    for a, b in (("ask", "bid"), ("bid", "ask")):
        for i in range(1, 11): flip |= {f"{a}_px_{i}": 4000 - grid[f"{b}_px_{i}"], f"{a}_sz_{i}": grid[f"{b}_sz_{i}"]}
    flip |= {f"ofi_{i}": -grid[f"ofi_{i}"] for i in range(1, 11)} | dict(buy_vol=grid.sell_vol, sell_vol=grid.buy_vol)
    up = features(grid.assign(**flip))
    for n in ("imb_3", "cimb_5", "cimb_all", "ofi_5_10", "flow_30", "timb_10", "last_move"): assert np.allclose(up[n], -X[n], atol=1e-5), n
    for n in ("herf", "log_depth", "rel_depth"): assert np.allclose(up[f"{n}_ask_5"], X[f"{n}_bid_5"], atol=1e-5), n
    assert np.allclose(up.impact_bid_all*3, X.impact_ask_all, rtol=.02) and up.pressure_all.corr(X.pressure_all) < -.999


def test_books_that_lack_things():
    g = random_grid(300, np.random.default_rng(1))
    bad = g.copy()
    bad.loc[bad.index[50:60], [f"ask_{k}_{i}" for k in ("px", "sz") for i in range(1, 11)]] = np.nan # one-sided
    bad.loc[bad.index[:5], [f"bid_{k}_{i}" for k in ("px", "sz") for i in range(1, 11)]] = np.nan # and from the start
    bad.loc[bad.index[100:], [f"bid_{k}_{i}" for k in ("px", "sz") for i in range(6, 11)]] = np.nan # five levels
    bad.loc[bad.index[200:], ["buy_vol", "sell_vol", "buy_n", "sell_n"]] = 0
    X = features(bad)
    assert np.isfinite(X.to_numpy()).all()
    assert (X.imb_1.iloc[50:60] == 1).all() and (X.spread.iloc[50:60] == 0).all() and (X.ret_1.iloc[51:60] == 0).all()
    assert (X.imb_10.iloc[100:] == -1).all() and (X.timb_60.iloc[260:] == 0).all() and (X.vgap_60.iloc[260:] == 0).all()
    five = features(g[[c for c in g if not c.endswith(("_6", "_7", "_8", "_9", "_10"))]])
    assert "imb_5" in five and "imb_6" not in five and "ofi_10_1" not in five


def test_constant_price():
    X = features(standing(full_grid(700, np.random.default_rng(2))))
    zero = [*(n for n in X if n.startswith(("ret_", "vol_", "bvol", "ewma_vol", "mgap", "macd", "boll", "rsi", "trend", "ups", "range", "pos", "acf1", "jump",
                                            "roll", "kyle", "amihud", "volume_cv", "cancels", "rel_depth"))), "last_move"]
    assert len(zero) > 45 and [n for n in zero if X[n].abs().max() > (1e-9 if n.startswith(("mgap", "rel_depth")) else 0)] == [] and (X.since_move == 1).all()
    assert [n for n in X if n.startswith("log_depth") and X[n].nunique() != 1] == []


@pytest.mark.parametrize("what", [alone, standing, one_sided, one_trade, unknown, holed])
def test_degenerate_markets_are_finite(what):
    "An all-gap day, a book that never moves, one side, one trade, nothing known, holes everywhere: two minutes of each"
    rng = np.random.default_rng(3)
    grid = full_grid(120, rng)
    X = features(what(grid, rng) if what is holed else what(grid))
    assert list(X) == list(FEATURES) and len(X) == len(grid) and np.isfinite(X.to_numpy()).all()
    if what is alone: assert (X[[n for n in X if n.startswith(("ret_", "vol_"))]] == 0).all(axis=None) and np.isclose(X.rel_depth_bid_1, 0).all()
    if what is one_sided: assert (X[["spread", "wmid_1", "liq_spread_all", "impact_ask_all"]] == 0).all(axis=None) and (X.imb_1 == 1).all()
    if what is one_trade: assert (X.timb_300.iloc[len(X)//2:] == 1).all() and (X.timb_300.iloc[:len(X)//2] == 0).all()
    if what is unknown: assert [n for n in X if X[n].abs().max() > 0 and not n.startswith("since")] == []


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_a_few_rows(rows):
    grid = full_grid(50, np.random.default_rng(4)).iloc[:rows]
    X = features(grid)
    assert X.shape == (rows, len(FEATURES)) and X.index.equals(grid.index) and np.isfinite(X.to_numpy()).all()


@pytest.mark.parametrize("levels", [1, 2, 5, 12])
def test_fewer_and_more_levels(levels):
    "`all` adapts to what is kept; what needs more is left out"
    rng = np.random.default_rng(5)
    grid = full_grid(200, rng, levels=levels)
    X = features(grid)
    assert set(X) == {n for n, f in FEATURES.items() if f.levels <= levels} and np.isfinite(X.to_numpy()).all()
    size = sum(grid[f"{s}_sz_{i+1}"] for s in ("ask", "bid") for i in range(levels))
    assert np.allclose(X.log_depth_all, np.log1p(size), atol=1e-5)
    if levels == 5: assert np.array_equal(X.impact_both_5, X.impact_both_all) and np.array_equal(X.pressure_5, X.pressure_all)
    if levels == 1: assert (X.gap_ask_all == 0).all() and (X.top_bid == 1).all() and np.array_equal(X.cimb_all, X.imb_1)


def test_wrong_input_gets_a_sentence(grid):
    with pytest.raises(ParameterError, match="There is no feature alpha"): features(grid, ["alpha"])
    with pytest.raises(ParameterError, match="funding needs the column funding"): features(grid, ["funding"])
    with pytest.raises(ParameterError, match="must increase"): features(grid.iloc[::-1])
    with pytest.raises(ParameterError, match="holds no book"): features(grid[["segment"]])
    with pytest.raises(ParameterError, match="There is a feature spread already"): feature("spread", "", "1", "")(lambda m: m.mid)


def test_a_notebook_that_runs_after_its_module_leaves_the_family_as_it_was(monkeypatch):
    "Notebooks that run in one process enter their functions anew, as of `__main__`; their features were of the family `__main__` from then on"
    monkeypatch.setitem(FEATURES, "spread", FEATURES["spread"])
    def spread(m): return m.mid
    spread.__module__, spread.__qualname__ = "__main__", FEATURES["spread"].make.__qualname__
    feature("spread", "a - b", "bps", "common")(spread)
    assert FEATURES["spread"].make is spread and FEATURES["spread"].family == "book"
