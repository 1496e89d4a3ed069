"Price features: against pandas by the clock, against loops, on series whose bounce, jump and trend are known, and where nothing moves."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from lobresearch.market import price_features as pf
from lobresearch.market.registry import FEATURES, Market, random_grid
from lobresearch.market.windows import Windows, decayed_gap, decayed_ratio

SECOND = 1_000_000
MINE = [n for n, f in FEATURES.items() if not f.needs and f.make.__module__ == pf.__name__]


def compute(grid, name):
    return FEATURES[name].make(Market(grid), **FEATURES[name].settings)


def every(grid): return pd.DataFrame({n: compute(grid, n) for n in MINE}, index=grid.index)


@pytest.fixture(scope="module")
def grid():
    "Three segments, and seconds that are missing within them: rows are no seconds"
    g = random_grid(2500, np.random.default_rng(11), breaks=(500, 520))
    return g[np.random.default_rng(12).random(len(g)) < .8]


def rolling(grid, x, window, how="sum"):
    "pandas' own windows of time, segment by segment"
    s = pd.Series(np.asarray(x, float), pd.to_datetime(grid.index.to_numpy(), unit="us"))
    return s.groupby(grid.segment.to_numpy(), group_keys=False).apply(lambda g: getattr(g.rolling(f"{window}s"), how)()).to_numpy()


def mid(grid): return ((grid.ask_px_1 + grid.bid_px_1)/2).to_numpy()


def of(mids, vwap=np.nan, start=0):
    "A book of one unit a side about the mid; one unit bought wherever a traded price is given"
    mids, p = np.broadcast_arrays(np.asarray(mids, float), np.asarray(vwap, float))
    some = np.isfinite(p)*1.
    g = dict(ask_px_1=mids + .01, ask_sz_1=1., bid_px_1=mids - .01, bid_sz_1=1., ofi_1=0., n_updates=0, buy_vol=some, sell_vol=0., buy_n=some, sell_n=0)
    return pd.DataFrame(g | dict(vwap=p, high=p, low=p, segment=start), index=pd.Index(np.arange(len(mids))*SECOND, name="ts"))


def share(a, b): return np.divide(a, b, out=np.zeros(len(a)), where=b != 0)


def test_fifty_one_of_them_say_what_they_are():
    assert len(MINE) == 51
    for n in MINE: assert FEATURES[n].formula and FEATURES[n].unit and FEATURES[n].source and FEATURES[n].warmup > 0, n


@pytest.mark.parametrize("window", [1, 3, 20, 120, 900])
def test_returns_by_a_search(grid, window):
    ts, seg, p = grid.index.to_numpy(), grid.segment.to_numpy(), mid(grid)
    first = np.searchsorted(ts, seg)
    at = np.maximum(np.searchsorted(ts, ts - window*SECOND, side="right") - 1, first)
    assert np.allclose(compute(grid, f"ret_{window}"), 1e4*np.log(p/p[at]), atol=1e-8)


@pytest.mark.parametrize("window", [60, 300])
def test_sums_of_returns_are_pandas(grid, window):
    r, first = Market(grid).ret, Market(grid).first
    before = np.where(first < np.arange(len(r)), np.r_[0, r[:-1]], 0)
    rv, bv = rolling(grid, r**2, window), np.pi/2*rolling(grid, np.abs(r*before), window)
    assert np.allclose(compute(grid, f"vol_{window}"), np.sqrt(rv), atol=1e-5)
    assert np.allclose(compute(grid, f"bvol_{window}"), np.sqrt(np.maximum(bv, 0)), atol=1e-4)
    assert np.allclose(compute(grid, f"jump_{window}"), np.maximum(share(rv - bv, rv), 0), atol=1e-6)
    ups, downs = rolling(grid, r > 0, window), rolling(grid, r < 0, window)
    assert np.allclose(compute(grid, f"ups_{window}"), share(ups - downs, ups + downs))


@pytest.mark.parametrize("window", [60, 300])
def test_range_is_pandas(grid, window):
    p, hi, lo = mid(grid), rolling(grid, mid(grid), window, "max"), rolling(grid, mid(grid), window, "min")
    assert np.allclose(compute(grid, f"range_{window}"), 1e4*np.log(hi/lo)/np.sqrt(4*np.log(2)))
    assert np.allclose(compute(grid, f"pos_{window}"), share(2*p - hi - lo, hi - lo), atol=1e-6)


@pytest.mark.parametrize("window", [20, 60])
def test_bollinger_is_pandas(grid, window):
    p = 1e4*np.log(mid(grid)/1000)
    mean, sd = rolling(grid, p, window, "mean"), np.sqrt(np.maximum(rolling(grid, p**2, window, "mean") - rolling(grid, p, window, "mean")**2, 0))
    ref = np.where(sd > 1e-5, (p - mean)/np.maximum(2*sd, 1e-9), 0)
    assert np.allclose(compute(grid, f"boll_{window}"), ref, atol=1e-5)


def test_the_bar_is_pandas(grid):
    p, hi, lo = mid(grid), rolling(grid, grid.high, 60, "max"), rolling(grid, grid.low, 60, "min")
    s = pd.Series(grid.vwap.to_numpy(), pd.to_datetime(grid.index.to_numpy(), unit="us")).dropna()
    seg = grid.segment[grid.vwap.notna()].to_numpy()
    for name, ref in dict(bar_high=hi, bar_low=lo).items(): assert np.allclose(compute(grid, name), np.nan_to_num(1e4*np.log(ref/p)), atol=1e-6), name
    opened, closed = compute(grid, "bar_open"), compute(grid, "bar_close")
    for i in range(0, len(grid), 7):
        a, b = (pd.Timestamp(grid.index[i] - w*SECOND, unit="us") for w in (60, 0))
        held = s[(seg == grid.segment.iloc[i]) & (s.index > a) & (s.index <= b)]
        if len(held): assert (opened[i], closed[i]) == pytest.approx(1e4*np.log(held.iloc[[0, -1]].to_numpy()/p[i]), abs=1e-6)
        else: assert opened[i] == closed[i] == 0


def test_the_bar_without_trades_is_nothing():
    p = np.full(200, np.nan)
    p[[20, 30]] = 101, 99
    X = every(of(np.full(200, 100.), p))
    for n, a, b in (("bar_open", 101, 99), ("bar_high", 101, 99), ("bar_low", 99, 99), ("bar_close", 99, 99)):
        assert (X[n].iloc[:20] == 0).all() and (X[n].iloc[90:] == 0).all(), n
        assert np.allclose(X[n].iloc[30:80], 1e4*np.log(a/100)) and np.allclose(X[n].iloc[80:90], 1e4*np.log(b/100)), n


def test_a_decaying_mean_is_pandas():
    "On one unbroken segment and with a memory so long that nothing is forgotten"
    g = random_grid(900, np.random.default_rng(1))
    m, lm = Market(g), pd.Series(1e4*np.log(mid(g)))
    ewm = lambda s, **k: s.ewm(adjust=True, **k).mean()
    got = decayed_ratio(Windows(m.ts, m.first, 10_000), m.ret**2, np.ones(900), 20)
    assert np.allclose(got, ewm(pd.Series(m.ret**2), halflife=20))
    assert np.allclose(compute(g, "ewma_vol_20"), np.sqrt(ewm(pd.Series(m.ret**2), halflife=20)), rtol=2e-3, atol=1e-9) # 2^-10 is forgotten
    assert np.allclose(compute(g, "macd_1"), ewm(lm, span=12) - ewm(lm, span=26), atol=.02)
    ups, downs = ewm(pd.Series(np.maximum(m.ret, 0)), alpha=1/14), ewm(pd.Series(np.maximum(-m.ret, 0)), alpha=1/14)
    rsi = 100 - 100/(1 + ups/downs) # Wilder's own form
    some = (downs > 0) & (ups + downs > 0)
    assert np.allclose(50*(1 + compute(g, "rsi_14"))[some], rsi[some], atol=.02)


@given(st.lists(st.tuples(st.sampled_from([1, 1, 2, 7, 100]), st.sampled_from([0., 1., 2.5, 1e6]), st.sampled_from([0., 1., 3.])), min_size=1, max_size=50),
       st.integers(1, 90), st.sampled_from([.5, 3., 20.]))
@settings(max_examples=150, deadline=None)
def test_decay_is_the_weighted_sum(steps, memory, half):
    t = np.cumsum([s for s, *_ in steps]).astype(np.int64)
    first = np.maximum.accumulate(np.where(np.diff(t, prepend=-999) > 60, np.arange(len(t)), 0))
    x, y = np.array([a for _, a, _ in steps]), np.array([b for *_, b in steps])
    w = Windows(t*SECOND, first, memory)
    got, gap = decayed_ratio(w, x, y, half), decayed_gap(w, x, half)
    for i in range(len(t)):
        k = np.arange(first[i], i+1)[t[first[i]:i+1] > t[i] - memory]
        d = .5**((t[i] - t[k])/half)
        top, bottom = (d*x[k]).sum(), (d*y[k]).sum()
        assert got[i] == pytest.approx(top/bottom if bottom else 0, rel=1e-9)
        assert gap[i] == pytest.approx(x[i] - (d*x[k]).sum()/d.sum(), rel=1e-9, abs=1e-9*np.abs(x[k]).max())
        if len(set(x[k])) == 1: assert gap[i] == 0


@pytest.mark.parametrize("rho", [0., .5])
def test_roll_finds_a_planted_half_spread(rho):
    "Trades at the mid plus or minus c, the side an AR(1): the covariance is -c^2 (1 - rho)^2, so the measure reads 2c (1 - rho)"
    rng, n, c = np.random.default_rng(7), 6000, 3.
    side, same = np.where(rng.random(n) < .5, 1, -1), rng.random(n) < rho
    for i in range(1, n):
        if same[i]: side[i] = side[i-1]
    price = 100*np.exp((rng.normal(0, .5, n).cumsum() + c*side)/1e4)
    got = compute(of(np.full(n, 100.), price), "roll_300")[600::300]
    assert abs(got.mean() - 2*c*(1 - rho)) < .25
    quiet = np.where(rng.random(n) < .3, price, np.nan) # a third of the seconds: the same measure from trade to trade
    thin = compute(of(np.full(n, 100.), quiet), "roll_300")[600::300]
    if rho == 0: assert abs(thin.mean() - 2*c) < .5


def test_roll_is_zero_on_a_trend_and_forgets_a_minute():
    n = 400
    assert (compute(of(np.full(n, 100.), 100*1.0001**np.arange(n)), "roll_300") < 1e-6).all()
    price = np.full(n, np.nan)
    price[::61] = np.where(np.arange(len(price[::61])) % 2, 101., 99.)
    assert (compute(of(np.full(n, 100.), price), "roll_300") == 0).all() # more than a minute from trade to trade
    price = np.full(n, np.nan)
    price[::60] = np.where(np.arange(len(price[::60])) % 2, 101., 99.)
    assert compute(of(np.full(n, 100.), price), "roll_300")[-1] > 0


def test_bipower_passes_over_a_jump():
    rng, n = np.random.default_rng(5), 6000
    r = rng.normal(0, 1, n)
    smooth = of(100*np.exp(r.cumsum()/1e4))
    r2 = r.copy()
    r2[3000] += 60
    jumped = of(100*np.exp(r2.cumsum()/1e4))
    a, b = compute(smooth, "bvol_300"), compute(jumped, "bvol_300")
    assert abs((a[600::300]**2).mean()/300 - 1) < .06 # a diffusion: bipower variation is its variance
    assert compute(jumped, "vol_300")[3100] > 3*compute(smooth, "vol_300")[3100] and b[3100] < 1.5*a[3100]
    assert compute(jumped, "jump_300")[3100] > .8 and compute(smooth, "jump_300")[600::300].mean() < .15


def test_volatilities_agree_on_a_random_walk():
    rng, n = np.random.default_rng(6), 20_000
    g = of(100*np.exp(rng.normal(0, 2, n).cumsum()/1e4))
    at = slice(1000, None, 300)
    assert abs((compute(g, "vol_300")[at]**2).mean()/300 - 4) < .2 and abs((compute(g, "ewma_vol_20")[at]**2).mean() - 4) < .6
    assert .8 < (compute(g, "range_300")[at]**2).mean()/1200 < 1.02 # the range of seconds misses what lies between them
    assert abs(compute(g, "acf1_300")[at].mean()) < .03 and abs(compute(g, "ups_300")[at].mean()) < .03
    assert np.abs(compute(g, "boll_60")).max() < 4 and compute(g, "trend_300")[at].mean() < .12


@pytest.mark.parametrize("rho", [-.5, .4])
def test_autocorrelation_finds_an_ar1(rho):
    rng, n = np.random.default_rng(8), 12_000
    e, r = rng.normal(0, 1, n), np.zeros(n)
    for i in range(1, n): r[i] = rho*r[i-1] + e[i]
    got = compute(of(100*np.exp(r.cumsum()/1e4)), "acf1_300")[600::300]
    assert abs(got.mean() - rho) < .04


def test_autocorrelation_by_a_loop(grid):
    m, ts, got = Market(grid), grid.index.to_numpy(), compute(grid, "acf1_60")
    for i in range(1, len(ts), 11):
        k = np.flatnonzero((m.first == m.first[i]) & (ts > ts[i] - 60*SECOND) & (ts <= ts[i]))
        now, before = m.ret[k], np.where(m.first[k] < k, m.ret[k-1], 0)
        scale = np.sqrt((now**2).sum()*(before**2).sum())
        assert got[i] == pytest.approx((now*before).sum()/scale if scale else 0, abs=1e-9)


def test_a_trend_and_its_mirror():
    up, down = (every(of(100*np.exp(s*np.arange(1200)/1e4))) for s in (1, -1))
    at = 1100*SECOND
    for n in ("trend_300", "pos_60", "ups_60", "rsi_14"): assert up[n][at] == pytest.approx(1, abs=1e-6), n
    for n in ("pos_60", "ups_60", "rsi_60", "ret_900", "macd_1", "boll_20", "last_move"): assert down[n][at] == pytest.approx(-up[n][at], abs=1e-6), n
    assert up.macd_1[at] == pytest.approx(7, abs=.3) and up.ret_900[at] == pytest.approx(900) # (26 - 12)/2 seconds behind
    assert up.acf1_300[at] == pytest.approx(1, abs=1e-6)


def test_where_nothing_moves():
    X = every(random_grid(1200, np.random.default_rng(2)).assign(bid_px_1=61234.1, ask_px_1=61234.2))
    bars = [n for n in MINE if n.startswith("bar_") or n.startswith("roll")] # trades may move all the same
    still = [n for n in MINE if n not in bars and n != "since_move" and not n.startswith("mgap")]
    assert (X[still] == 0).all(axis=None) and (X.since_move == 1).all() and len(still) == 41
    assert np.abs(X[["mgap_10", "mgap_60"]]).to_numpy().max() < 1e-9


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_hardly_any_rows(rows):
    X = every(random_grid(10, np.random.default_rng(2)).iloc[:rows])
    assert X.shape == (rows, len(MINE)) and np.isfinite(X.to_numpy()).all()


def test_one_sided_books_and_a_day_of_gaps():
    g = random_grid(400, np.random.default_rng(4))
    bad = g.copy()
    for s, part in (("ask", slice(0, 40)), ("bid", slice(180, 220))):
        bad.loc[bad.index[part], [f"{s}_{k}_{i}" for k in ("px", "sz") for i in range(1, 11)]] = np.nan
    X = every(bad)
    unknown = X.iloc[:40].filter(regex="^(ret|vol|boll|macd|rsi|pos|range|bar_[ohlc])") # no mid yet
    assert np.isfinite(X.to_numpy()).all() and (unknown == 0).all(axis=None)
    alone = every(g.assign(segment=g.index.to_numpy()))
    stays = [n for n in MINE if not n.startswith("bar_") and n != "since_move"]
    assert np.isfinite(alone.to_numpy()).all() and (alone[stays] == 0).all(axis=None)


def test_a_segment_knows_nothing_of_the_one_before():
    g = random_grid(1000, np.random.default_rng(9), breaks=(400,))
    later = g.iloc[400:]
    assert len(set(g.segment)) == 2
    a, b = every(g).iloc[400:], every(later)
    for n in MINE: assert np.array_equal(a[n].astype(np.float32), b[n].astype(np.float32)), n
