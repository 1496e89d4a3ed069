"Features: against pandas on a made-up day, against the clock, and on books that lack things."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from lobresearch.errors import ParameterError
from lobresearch.market.features import FEATURES, OFI, features, random_grid, select, warmup
from lobresearch.market.labels import SECOND
from lobresearch.market.registry import feature, trailing_sum


@pytest.fixture(scope="module")
def grid(): return random_grid(3000, np.random.default_rng(7), breaks=(1000, 1010))


@pytest.fixture(scope="module")
def X(grid): return features(grid)


def by_segment(grid, f): return pd.concat([f(g) for _, g in grid.groupby("segment")])


def test_registry_is_about_sixty_and_says_what_each_is():
    assert 55 <= len(FEATURES) <= 80 and len(OFI) == 15
    for n, f in FEATURES.items(): assert f.formula and f.unit and f.source and f.warmup >= 0, n
    assert warmup(FEATURES) == 301 and warmup(select(lookback=61)) == 61


def test_every_column_is_finite_float32(X):
    assert list(X) == list(FEATURES) and (X.dtypes == np.float32).all() and np.isfinite(X.to_numpy()).all()
    assert [n for n in X if X[n].std() == 0] in ([], ["skew_2", "skew_5", "skew_10"]) # the made-up levels are equally spaced


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


def test_a_window_that_has_emptied_is_exactly_empty():
    x = np.r_[1e9, .1, np.zeros(8)]
    assert (trailing_sum(np.arange(10)*SECOND, np.zeros(10), x, 3)[4:] == 0).all()


def test_prices_and_sizes_may_change_unit(grid, X):
    "Another currency and another lot size: everything but the logarithms of raw size stays"
    px = [c for c in grid if c.startswith(("ask_px", "bid_px")) or c in ("vwap", "high", "low")]
    sz = [c for c in grid if c.startswith(("ask_sz", "bid_sz", "ofi"))] + ["buy_vol", "sell_vol"]
    other = features(grid.assign(**{c: grid[c]*7 for c in px}, **{c: grid[c]*.001 for c in sz}))
    same = [n for n in FEATURES if not n.startswith("log_depth")]
    assert np.allclose(other[same], X[same], atol=2e-3)


def test_mirror(grid, X):
    "Bids and asks swapped about a price: what points up points down"
    flip = {}
    for a, b in (("ask", "bid"), ("bid", "ask")):
        for i in range(1, 11): flip |= {f"{a}_px_{i}": 4000 - grid[f"{b}_px_{i}"], f"{a}_sz_{i}": grid[f"{b}_sz_{i}"]}
    flip |= {f"ofi_{i}": -grid[f"ofi_{i}"] for i in range(1, 11)} | dict(buy_vol=grid.sell_vol, sell_vol=grid.buy_vol)
    up = features(grid.assign(**flip))
    for n in ("imb_3", "cimb_5", "ofi_5_10", "flow_30", "timb_10", "last_move"): assert np.allclose(up[n], -X[n], atol=1e-5), n


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


def test_constant_price_and_single_row():
    g = random_grid(50, np.random.default_rng(2))
    for i in range(1, 11): g[f"ask_px_{i}"], g[f"bid_px_{i}"] = 100 + .1*i, 100 - .1*i
    X = features(g)
    assert (X[["ret_300", "vol_60", "mgap_60", "last_move"]] == 0).all(axis=None) and (X.since_move == 1).all()
    assert np.isfinite(features(g.iloc[:1]).to_numpy()).all() and features(g.iloc[:0]).shape == (0, len(FEATURES))


def test_wrong_input_gets_a_sentence(grid):
    with pytest.raises(ParameterError, match="There is no feature alpha"): features(grid, ["alpha"])
    with pytest.raises(ParameterError, match="must increase"): features(grid.iloc[::-1])
    with pytest.raises(ParameterError, match="holds no book"): features(grid[["segment"]])
    with pytest.raises(ParameterError, match="There is a feature spread already"): feature("spread", "", "1", "")(lambda m: m.mid)
