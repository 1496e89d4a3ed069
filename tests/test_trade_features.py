"Trade and flow features: against pandas by the clock, against loops, on planted impact, and where nothing trades."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from lobresearch.market import trade_features as tf
from lobresearch.market.registry import FEATURES, Market, random_grid
from lobresearch.market.windows import Windows, extremes, moments

SECOND = 1_000_000
MINE = [n for n, f in FEATURES.items() if not f.needs and f.make.__module__ == tf.__name__]


def compute(grid, name):
    return FEATURES[name].make(Market(grid), **FEATURES[name].settings)


@pytest.fixture(scope="module")
def grid():
    "Three segments, and seconds that are missing within them: rows are no seconds"
    g = random_grid(1500, np.random.default_rng(11), breaks=(500, 520))
    return g[np.random.default_rng(12).random(len(g)) < .8]


def rolling(grid, x, window):
    "pandas' own windows of time, segment by segment"
    s = pd.Series(np.asarray(x, float), pd.to_datetime(grid.index.to_numpy(), unit="us"))
    return s.groupby(grid.segment.to_numpy(), group_keys=False).apply(lambda g: g.to_frame("x").rolling(f"{window}s").agg(["sum", "count", "max", "min"])["x"])


def total(grid, x, window): return rolling(grid, x, window)["sum"].to_numpy()
def mean(grid, x, window): return (rolling(grid, x, window)["sum"]/rolling(grid, x, window)["count"]).to_numpy()
def depth(grid, levels=1): return sum(grid[f"{s}_sz_{i+1}"] for s in ("ask", "bid") for i in range(levels)).to_numpy()/2


def share(a, b): return np.divide(a, b, out=np.zeros(len(a)), where=b != 0)


def test_ninety_seven_of_them_say_what_they_are():
    assert len(MINE) == 97
    for n in MINE: assert FEATURES[n].formula and FEATURES[n].unit and FEATURES[n].source and FEATURES[n].warmup > 0, n


@pytest.mark.parametrize("level", [2, 7, 10])
@pytest.mark.parametrize("window", [1, 10, 60])
def test_flow_of_a_level_is_pandas(grid, level, window):
    ref = total(grid, grid[f"ofi_{level}"], window)/mean(grid, depth(grid, level)/level, 60)
    assert np.allclose(compute(grid, f"lofi_{level}_{window}"), ref, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [1, 10, 60, 300])
def test_imbalance_and_pace_are_pandas(grid, window):
    t = lambda x: total(grid, x, window)
    n, v = grid.buy_n + grid.sell_n, grid.buy_vol + grid.sell_vol
    assert np.allclose(compute(grid, f"timb_{window}"), share(t(grid.buy_vol - grid.sell_vol), t(v)), atol=1e-9)
    assert np.allclose(compute(grid, f"nimb_{window}"), share(t(grid.buy_n - grid.sell_n), t(n)), atol=1e-9)
    assert np.allclose(compute(grid, f"freq_{window}"), mean(grid, n, window))
    if window > 1: assert np.allclose(compute(grid, f"size_{window}"), share(t(v), t(n)*mean(grid, depth(grid), 60)))


def test_size_spread_and_largest_are_pandas(grid):
    v, n = grid.buy_vol + grid.sell_vol, grid.buy_n + grid.sell_n
    for w in (60, 300):
        mu, sq = mean(grid, v, w), mean(grid, v**2, w)
        ref = np.divide(np.sqrt(np.maximum(sq - mu**2, 0)), mu, out=np.zeros(len(mu)), where=mu > 0)
        assert np.allclose(compute(grid, f"volume_cv_{w}"), ref, atol=1e-6)
    largest = rolling(grid, (v/n).fillna(0), 60)["max"].to_numpy()
    assert np.allclose(compute(grid, "size_max_60"), largest/mean(grid, depth(grid), 60))


def test_pace_changes_are_pandas(grid):
    v, n = grid.buy_vol + grid.sell_vol, grid.buy_n + grid.sell_n
    for w in (10, 60):
        rows, both = rolling(grid, v, w)["count"].to_numpy(), rolling(grid, v, 2*w)["count"].to_numpy()
        some = both > rows
        a, b = total(grid, n, w)/rows, (total(grid, n, 2*w) - total(grid, n, w))/np.where(some, both - rows, 1)
        assert np.allclose(compute(grid, f"velocity_{w}"), np.where(some, a - b, 0))
        a, b = total(grid, v, w)/rows, (total(grid, v, 2*w) - total(grid, v, w))/np.where(some, both - rows, 1)
        assert np.allclose(compute(grid, f"vacc_{w}"), np.where(some, share(a - b, a + b), 0), atol=1e-9)
    assert 0 < some.mean() < 1


def test_one_sided_vwap_is_pandas(grid):
    for side, other in (("buy", "sell"), ("sell", "buy")):
        alone = (grid[f"{other}_vol"] == 0) & (grid[f"{side}_vol"] > 0)
        money, v = total(grid, (grid.vwap*grid[f"{side}_vol"]).where(alone, 0), 60), total(grid, grid[f"{side}_vol"].where(alone, 0), 60)
        mid = ((grid.ask_px_1 + grid.bid_px_1)/2).to_numpy()
        ref = np.where(v > 1e-9, 1e4*np.log(np.maximum(share(money, v), 1e-9)/mid), 0)
        assert np.allclose(compute(grid, f"vgap_{side}_60"), ref, atol=1e-5)


rows = st.lists(st.tuples(st.sampled_from([1, 1, 2, 7, 100]), st.sampled_from([0., 1., -2.5, 3., 1e6, np.nan]), st.sampled_from([0., 1., -1., 4., np.nan])),
                min_size=1, max_size=50)


def windows(steps, w):
    "Times, first rows of segments, both columns, and the rows each window holds"
    t = np.cumsum([s for s, *_ in steps]).astype(np.int64)
    first = np.maximum.accumulate(np.where(np.diff(t, prepend=-999) > 60, np.arange(len(t)), 0))
    held = [np.arange(first[i], i+1)[t[first[i]:i+1] > t[i] - w] for i in range(len(t))]
    return t*SECOND, first, np.array([x for _, x, _ in steps]), np.array([y for *_, y in steps]), held


@given(rows, st.integers(1, 90))
@settings(max_examples=200, deadline=None)
def test_moments_are_numpy(steps, w):
    ts, first, x, y, held = windows(steps, w)
    got = moments(Windows(ts, first, w), x, y)
    for i, k in enumerate(held):
        k = k[np.isfinite(x[k]) & np.isfinite(y[k])]
        want = np.zeros(4)
        if len(k) >= 2: want[:3] = np.mean((x[k]-x[k].mean())*(y[k]-y[k].mean())), x[k].var(), y[k].var()
        if len(k) and np.isfinite(x[i]): want[3] = x[i] - x[k].mean()
        scale = max(np.abs(x[k]).max(initial=1)**2, 1)
        assert np.allclose(got[:, i], want, atol=1e-9*scale)
        if len(set(x[k])) == 1: assert got[1, i] == 0
        if len(set(y[k])) == 1: assert got[2, i] == 0


@given(rows, st.integers(1, 90))
@settings(max_examples=150, deadline=None)
def test_extremes_are_numpy(steps, w):
    ts, first, x, y, held = windows(steps, w)
    lo, hi = extremes(Windows(ts, first, w), x, y)
    for i, k in enumerate(held):
        assert lo[i] == np.min(x[k][np.isfinite(x[k])], initial=np.inf) and hi[i] == np.max(y[k][np.isfinite(y[k])], initial=-np.inf)


def test_a_window_forgets_altogether():
    "Numbers of 1e15 that have left change nothing, not even the last digit"
    n = 400
    ts, first, rng = np.arange(n)*SECOND, np.zeros(n, np.int64), np.random.default_rng(0)
    x, y = rng.normal(size=n), rng.normal(size=n)
    big, far = x.copy(), y.copy()
    big[:100] *= 1e15; far[:100] = np.nan
    w = Windows(ts, first, 60)
    a, b = moments(w, x, y), moments(w, big, far)
    assert np.array_equal(a[:, 160:], b[:, 160:]) and not np.array_equal(a[:, :150], b[:, :150])


def made(n, ret, signed, vwap=None):
    "A book of one unit a side whose mid makes these returns (bps) while this much is bought net"
    mid, signed = 100*np.exp(np.cumsum(ret)/1e4), np.asarray(signed, float)
    g = dict(ask_px_1=mid + .01, ask_sz_1=1., bid_px_1=mid - .01, bid_sz_1=1., ofi_1=0., n_updates=1, buy_vol=np.maximum(signed, 0), sell_vol=np.maximum(-signed, 0))
    g |= dict(buy_n=g["buy_vol"] > 0, sell_n=g["sell_vol"] > 0, vwap=np.where(signed != 0, mid if vwap is None else vwap, np.nan), segment=0)
    g |= dict(high=g["vwap"], low=g["vwap"])
    return pd.DataFrame(g, index=pd.Index(np.arange(n)*SECOND, name="ts"))


def test_kyle_finds_a_planted_slope():
    rng = np.random.default_rng(3)
    flow = rng.normal(0, 2, 4000)
    exact, noisy = made(4000, .7*flow + .05, flow), made(4000, .7*flow + rng.normal(0, 1, 4000), flow)
    assert np.allclose(compute(exact, "kyle_60")[5:], .7, atol=1e-6) # an intercept does not disturb
    got = compute(noisy, "kyle_300")[300::300]
    assert np.abs(got - .7).max() < 5/(2*np.sqrt(300)) and abs(got.mean() - .7) < 3/(2*np.sqrt(4000))


def test_kyle_and_amihud_are_numpy(grid):
    m = Market(grid)
    ts, seg = grid.index.to_numpy(), grid.segment.to_numpy()
    d, money = mean(grid, depth(grid), 60), (m.vwap*m.volume)
    kyle, illiquid = compute(grid, "kyle_60"), compute(grid, "amihud_60")
    for i in range(0, len(ts), 13):
        k = np.flatnonzero((seg == seg[i]) & (ts > ts[i] - 60*SECOND) & (ts <= ts[i]))
        assert illiquid[i] == pytest.approx(share(np.array([np.abs(m.ret[k]).sum()*m.mid[i]*d[i]]), money[[*k]].sum(keepdims=True))[0], rel=1e-9)
        k = k[m.first[k] < k]
        if len(k) > 3: assert kyle[i] == pytest.approx(np.polyfit(m.signed[k], m.ret[k], 1)[0]*d[i], rel=1e-6, abs=1e-9)


def test_orders_balance(grid):
    "Where the best price stands, the size after is the size before, plus arrivals, less cancellations, less trades"
    m = Market(grid.assign(bid_px_1=1000., ask_px_1=1000.2))
    came, went = tf._orders(m.first, m.bid[:, 0], m.bid_sz[:, 0], m.sell_vol, 1.)
    inside = m.first < np.arange(len(m.ts))
    change = np.diff(m.bid_sz[:, 0], prepend=0)
    assert np.allclose((came - went - m.sell_vol)[inside], change[inside])
    assert (came[~inside] == 0).all() and (went[~inside] == 0).all() and ((came == 0) | (went == 0)).all() and (came >= 0).all() and (went >= 0).all()


@pytest.mark.parametrize("price,size,hit,want", [
    ([100, 101], [5, 2], 0, (2, 0)), # a better bid: all of it came
    ([100, 99], [5, 9], 2, (0, 3)), # the best bid is gone: 2 traded, 3 cancelled, and the 9 behind it are nobody's news
    ([100, 99], [5, 9], 7, (0, 0)), # more traded than stood there
    ([100, np.nan], [5, 0], 1, (0, 4)), # the side emptied
    ([np.nan, 100], [0, 5], 0, (5, 0)), # and filled
    ([np.nan, np.nan], [0, 0], 0, (0, 0)), ([100, 100], [5, 5], 3, (3, 0)), ([100, 100], [5, 1], 3, (0, 1))])
def test_orders_case_by_case(price, size, hit, want):
    first, size, hit = np.zeros(2, np.int64), np.array(size, float), np.array([0., hit])
    bid = tf._orders(first, np.array(price, float), size, hit, 1.)
    ask = tf._orders(first, 200 - np.array(price, float), size, hit, -1.)
    assert (bid[0][1], bid[1][1]) == want == (ask[0][1], ask[1][1])


def test_mirror(grid):
    "Sides swapped about a price: bids' rates are the asks', and what pointed up points down"
    flip = dict(buy_vol=grid.sell_vol, sell_vol=grid.buy_vol, buy_n=grid.sell_n, sell_n=grid.buy_n)
    for a, b in (("ask", "bid"), ("bid", "ask")):
        for i in range(1, 11): flip |= {f"{a}_px_{i}": 4000 - grid[f"{b}_px_{i}"], f"{a}_sz_{i}": grid[f"{b}_sz_{i}"]}
    other = grid.assign(**flip, **{f"ofi_{i}": -grid[f"ofi_{i}"] for i in range(1, 11)})
    for w in (10, 60):
        for what in ("arrivals", "cancels"): assert np.allclose(compute(other, f"{what}_bid_{w}"), compute(grid, f"{what}_ask_{w}"))
    for n in ("lofi_4_10", "nimb_60", "timb_300", "last_trade", "large_net_60"): assert np.allclose(compute(other, n), -compute(grid, n), atol=1e-6), n
    for n in ("vpin_60", "size_10", "large", "since_trade", "volume_cv_60"): assert np.allclose(compute(other, n), compute(grid, n), atol=1e-6), n


def test_vpin_bar_by_bar(grid):
    ts, seg, s, v = grid.index.to_numpy(), grid.segment.to_numpy(), (grid.buy_vol - grid.sell_vol).to_numpy(), (grid.buy_vol + grid.sell_vol).to_numpy()
    for bar in (60,):
        got = compute(grid, f"vpin_{bar}")
        assert (got >= 0).all() and (got <= 1).all()
        for i in range(0, len(ts), 17):
            age = (ts[i] - ts)//SECOND
            held = (seg == seg[i]) & (age >= 0) & (age < 5*bar)
            net = sum(abs(s[held & (age//bar == k)].sum()) for k in range(5))
            assert got[i] == pytest.approx(net/v[held].sum() if v[held].sum() else 0, abs=1e-9)
    one = made(900, np.zeros(900), np.ones(900))
    assert np.allclose(compute(one, "vpin_60"), 1)
    even = one.assign(sell_vol=1., sell_n=1)
    assert (compute(even, "vpin_60") == 0).all()


def test_large_seconds_by_a_loop(grid):
    ts, seg, v = grid.index.to_numpy(), grid.segment.to_numpy(), (grid.buy_vol + grid.sell_vol).to_numpy().copy()
    v[np.random.default_rng(0).integers(0, len(v), 60)] = 30.
    got = compute(grid.assign(buy_vol=v, sell_vol=0.), "large")
    for i in range(len(ts)):
        before = v[(seg == seg[i]) & (ts < ts[i]) & (ts > ts[i] - 300*SECOND)]
        before = before[before > 0]
        assert got[i] == (len(before) >= 10 and v[i] > 3*before.mean())
    assert 20 < got.sum() < 100


def test_since_trade_counts_to_a_minute():
    signed = np.zeros(130)
    signed[5], signed[9] = 1, -2
    g = made(130, np.zeros(130), signed)
    age, way = compute(g, "since_trade"), compute(g, "last_trade")
    assert (age[:5] == 1).all() and np.allclose(age[9:69], np.arange(60)/60) and (age[69:] == 1).all()
    assert (way[:5] == 0).all() and (way[5:9] == 1).all() and (way[9:69] == -1).all() and (way[69:] == 0).all()


def every(grid): return pd.DataFrame({n: compute(grid, n) for n in MINE if FEATURES[n].levels <= 10}, index=grid.index)


def test_where_nothing_trades():
    g = random_grid(200, np.random.default_rng(1)).assign(buy_vol=0., sell_vol=0., buy_n=0, sell_n=0, vwap=np.nan, high=np.nan, low=np.nan)
    X = every(g)
    of_trades = ("flow", "timb", "nimb", "vgap", "kyle", "amihud", "log_trades", "freq", "velocity", "vacc", "size", "volume", "large", "vpin")
    quiet = [n for n in MINE if n.startswith(of_trades)]
    assert len(quiet) == 43 and (X[[*quiet, "last_trade"]] == 0).all(axis=None) and (X.since_trade == 1).all()


def test_a_single_trade():
    signed = np.zeros(400)
    signed[100] = 2.
    g = made(400, np.zeros(400), signed)
    X = every(g.assign(**{f"{k}_{i}": g[f"{k}_1"] for k in ("ask_px", "ask_sz", "bid_px", "bid_sz", "ofi") for i in range(2, 11)}))
    assert np.isfinite(X.to_numpy()).all()
    assert (X.vpin_60.iloc[100:400] == 1).all() and (X.kyle_60 == 0).all() and (X.amihud_60 == 0).all() and (X.large == 0).all()
    assert X.size_10[100*SECOND] == 2 and X.vacc_10[100*SECOND] == 1 and X.volume_cv_60[100*SECOND] == pytest.approx(np.sqrt(59))


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_hardly_any_rows(rows):
    X = every(random_grid(10, np.random.default_rng(2)).iloc[:rows])
    assert X.shape == (rows, len(MINE)) and np.isfinite(X.to_numpy()).all()


def test_one_sided_books_and_a_day_of_gaps():
    g = random_grid(300, np.random.default_rng(4))
    bad = g.copy()
    for s, part in (("ask", slice(50, 90)), ("bid", slice(80, 120))):
        bad.loc[bad.index[part], [f"{s}_{k}_{i}" for k in ("px", "sz") for i in range(1, 11)]] = np.nan
    assert np.isfinite(every(bad).to_numpy()).all() and (compute(bad, "arrivals_ask_10")[60:90] == 0).all()
    alone = g.assign(segment=g.index.to_numpy())
    X = every(alone)
    still = [n for n in MINE if n.startswith(("kyle", "amihud", "arrivals", "cancels", "velocity", "vacc", "volume_cv")) or n == "large"]
    assert np.isfinite(X.to_numpy()).all() and (X[still] == 0).all(axis=None) and len(still) == 19
