"Distances between a recording and a market: other libraries' answers, planted shifts, and what must not matter"

from collections import Counter
from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import ks_2samp, wasserstein_distance

from lobresearch.errors import ParameterError, TooShortError
from lobresearch.market.facts import acf
from lobresearch.market.registry import random_grid
from lobresearch.synthetic import conditionals as C
from lobresearch.synthetic import distances as D

TICK = .1
PX = [f"{s}_px_{i}" for s in ("ask", "bid") for i in (1, 2, 3)]


def grid(seconds=2400, seed=0, breaks=(), push=0.):
    "A made-up book whose mid goes `push` ticks in the direction of each second's net volume, a second later"
    g = random_grid(seconds, np.random.default_rng(seed), levels=3, breaks=breaks)
    side = np.sign(g.buy_vol - g.sell_vol).to_numpy()
    g[PX] = g[PX].to_numpy() + TICK*push*np.r_[0, side[:-1]].cumsum()[:, None]
    return g


def paths(seconds=2400, seed=1, length=240, push=0.): return grid(seconds, seed, range(length, seconds, length), push)


@pytest.fixture(scope="module")
def pair(): return D.Pair(grid(), paths(push=1.), TICK)


values = st.lists(st.integers(-5, 5).map(float) | st.floats(-5, 5, width=32), min_size=2, max_size=40)


@given(values, values)
def test_wasserstein_and_ks_are_scipys(x, y):
    P, Q, at = D._exact(np.array(x), np.array(y))
    assert D.wasserstein(P, Q, at) == pytest.approx(wasserstein_distance(x, y), abs=1e-9)
    assert D.kolmogorov(P, Q) == pytest.approx(ks_2samp(x, y, method="asymp").statistic, abs=1e-9)


@given(values, values)
def test_l1_of_histograms(x, y):
    edges = D.bars(np.array(x))
    p, q = (Counter(D.in_bars(edges, np.array(v))) for v in (x, y))
    by_hand = sum(abs(p[k]/len(x) - q[k]/len(y)) for k in p | q)
    H = [D.tally(np.zeros(len(v), int), D.in_bars(edges, np.array(v)), 1, len(edges) + 1)[0] for v in (x, y)]
    assert D.histogram_l1(*H) == pytest.approx(by_hand) and 0 <= by_hand <= 2 + 1e-12


def test_a_value_the_recording_never_has_is_a_bar_of_its_own():
    edges = D.bars(np.ones(50))
    assert len({*D.in_bars(edges, np.array([.5, 1., 1.5]))}) == 3


def test_marginals_are_scipys_on_all_rows(pair):
    for name in ("log_ask", "imbalance", "move", "volatility"):
        x, y = (v[name].dropna() for v in pair.views)
        w1, ks, _ = D.marginal(pair, name)
        assert w1.value == pytest.approx(wasserstein_distance(x, y)/x.std(ddof=0)) and ks.value == pytest.approx(ks_2samp(x, y).statistic)


def test_the_cells_of_resamples_lose_little():
    rng = np.random.default_rng(0)
    x, y = rng.standard_t(3, 5000), 1.2*rng.standard_t(3, 4000) + .1
    a, b, at = D.cells((x, y))
    P, Q = (np.bincount(v, minlength=len(at)) for v in (a, b))
    assert len(at) <= D.CELLS
    assert D.wasserstein(P, Q, at) == pytest.approx(wasserstein_distance(x, y), rel=.02)
    assert D.kolmogorov(P, Q) == pytest.approx(ks_2samp(x, y).statistic, abs=.004)


def test_a_resample_of_sums_is_a_resample_of_rows(pair):
    x, y = (pair.values("spread")[0] + np.arange(2400) % 7, pair.values("move")[1])
    *which, at = D.cells((x, y))
    T, W = pair.tally(which, len(at)), [w[3] for w in pair.weights]
    rows = [np.repeat(v, w[b].astype(int)) for v, b, w in zip((x, y), pair.block, W)]
    assert D.kolmogorov(W[0] @ T[0], W[1] @ T[1]) == pytest.approx(ks_2samp(*(r[np.isfinite(r)] for r in rows)).statistic)


def test_everything_is_zero_on_the_same_grid():
    g, codes = paths(), np.random.default_rng(0).integers(5, size=2400)
    facts = C.fact_list(g, 20)
    t = D.distance_table(g, g, TICK, codes=(codes, codes), facts=(facts, facts))
    assert t.value.max() < 1e-12 and (t.value.notna().sum() > 60)
    assert set(t.group) == {"marginal", "conditional", "impact", "dependence", "codes", "sample", "facts"}
    assert t.p[t.group == "sample"].item() > .5


SHIFTS = { # What is planted, and the distances that must grow with it: (group, measure, statistic)
    "asks grow": (lambda g, k: g.assign(ask_sz_1=g.ask_sz_1*np.exp(k)),
                  [("marginal", m, s) for m in ("w1", "ks", "l1") for s in ("log_ask", "imbalance")] + [("sample", "mmd", "state of the book")]),
    "more trades": (lambda g, k: g.assign(buy_n=g.buy_n + round(2*k)), [("marginal", "w1", "trades"), ("conditional", "w1", "trades | abs_move")]),
    "books stand still": (lambda g, k: g.assign(n_updates=np.where(np.arange(len(g)) % 10 < 5*k, 0, g.n_updates)), [("marginal", "l1", "still")]),
    "sides persist": (lambda g, k: g.assign(buy_vol=np.where(np.arange(len(g)) % 100 < 50*k, 9., g.buy_vol)), [("dependence", "acf", "side")]),
    "flow follows sides": (lambda g, k: g.assign(ofi_1=g.ofi_1 + 4*k*np.sign(g.buy_vol - g.sell_vol)), [("dependence", "corr", "all pairs")]),
}


@pytest.mark.parametrize("what", SHIFTS)
def test_distances_grow_with_a_planted_shift(what):
    plant, which = SHIFTS[what]
    real, got = grid(), []
    for k in (0., .4, 1.): got.append(D.distance_table(real, plant(paths(), k), TICK, resamples=40).set_index(["group", "measure", "statistic"]))
    for key in which:
        v, top = [t.value[key] for t in got], got[-1].loc[key]
        assert v[0] < v[1] < v[2], key
        assert top.low > got[0].value[key] and top.low <= top.value <= top.high, key


def test_prices_answer_to_trades(pair):
    d = {m.measure: m for m in C.impact(D.Pair(grid(), paths(push=.5), TICK))}, {m.measure: m for m in C.impact(pair)}
    assert 0 < d[0]["response"].low < d[0]["response"].value < d[1]["response"].low


def test_the_order_of_the_paths_does_not_matter():
    real, market = grid(), paths(push=.3)
    codes = [np.random.default_rng(i).integers(4, size=2400) for i in (0, 1)]
    order = np.concatenate([np.arange(240) + 240*k for k in (3, 1, 9, 0, 2, 8, 7, 4, 6, 5)])
    mixed = market.iloc[order].set_index(market.index).assign(segment=market.segment.to_numpy())
    a, b = (D.distance_table(real, m, TICK, codes=(codes[0], c)) for m, c in ((market, codes[1]), (mixed, codes[1][order])))
    same = a.group != "sample" # the test uses points ten seconds apart, in the same places of each path
    np.testing.assert_allclose(a.value[same], b.value[same], atol=1e-10)


def test_the_interval_covers_the_truth():
    hit, rng, shift = 0, np.random.default_rng(5), .6
    for _ in range(60):
        z = rng.normal(size=(2, 3000))
        for i in range(1, 3000): z[:, i] = .8*z[:, i-1] + .6*z[:, i]
        z[1] += shift
        block = (np.arange(3000)//100, np.arange(3000)//200)
        *which, at = D.cells((z[0], z[1]), 200)
        T = [D.tally(b, w, int(b[-1]) + 1, len(at)) for b, w in zip(block, which)]
        W = [D.block_weights(len(t), 100, rng) for t in T]
        _, low, high = D.centred(partial(D.wasserstein, at=at), T, W)
        hit += low <= shift <= high
    assert 50 <= hit <= 60 # 57 of 60 expected; blocks are few


def test_few_blocks_give_no_interval():
    t = D.distance_table(grid(600), paths(600, length=200), TICK, block=300) # blocks of 30 s in the recording, and in three paths
    assert t.low[t.group == "marginal"].notna().any()
    d = D.centred(D.histogram_l1, (np.eye(7, 3) + 1, np.eye(20, 3) + 1), None)
    assert np.isfinite(d[0]) and np.isnan(d[1:]).all()


@settings(max_examples=20)
@given(st.integers(-500, 500))
def test_views_do_not_see_the_level_of_the_price(ticks):
    g = grid(300)
    pd.testing.assert_frame_equal(D.views(g, TICK), D.views(g.assign(**{c: g[c] + TICK*ticks for c in PX}), TICK), atol=1e-9)


def test_views_in_a_mirror():
    g = grid(300)
    other = {"ask_px": "bid_px", "bid_px": "ask_px", "ask_sz": "bid_sz", "bid_sz": "ask_sz"}
    m = g.assign(**{f"{k}_{i}": (2000 - g[f"{o}_{i}"] if "px" in k else g[f"{o}_{i}"]) for k, o in other.items() for i in (1, 2, 3)},
                 buy_vol=g.sell_vol, sell_vol=g.buy_vol, ofi_1=-g.ofi_1)
    a, b = D.views(g, TICK), D.views(m, TICK)
    for c in ("move", "side", "ofi"): np.testing.assert_allclose(a[c], -b[c])
    for c in ("imbalance", "depth_imbalance"): np.testing.assert_allclose(a[c], 1 - b[c])
    for c in ("spread", "abs_move", "volatility", "log_depth"): np.testing.assert_allclose(a[c], b[c])
    np.testing.assert_allclose(a.log_ask, b.log_bid)


def test_what_cannot_be_compared_is_missing(pair):
    w1, ks, l1 = D.marginal(pair, "spread") # always a tick
    assert np.isnan(w1.value) and ks.value == 0 == l1.value
    quiet = grid().assign(buy_vol=0., sell_vol=0., buy_n=0, sell_n=0)
    t = D.distance_table(grid(), quiet, TICK, resamples=20).set_index(["group", "measure", "statistic"])
    assert np.isnan(t.value["marginal", "w1", "log_volume"]) and np.isnan(t.value["impact", "response", "answer to trades, 1 to 60 s"])
    assert t.value["marginal", "ks", "trades"] > .3


def test_wrong_input_gets_a_sentence(pair):
    with pytest.raises(TooShortError, match="market has 50 seconds where 120"): D.Pair(grid(), paths().iloc[:50], TICK)
    with pytest.raises(ParameterError, match="20 resamples"): D.Pair(grid(), paths(), TICK, resamples=3)
    with pytest.raises(ParameterError, match="codes for"): C.code_distances(pair, (np.zeros(2400, int), np.zeros(3, int)))


def test_a_conditional_is_scipys_state_by_state(pair):
    x, g = C.of_pair(pair, "next_move"), pair.values("side")
    real, market = (pd.DataFrame(dict(x=a, g=b)).dropna() for a, b in zip(x, g))
    each = [(real.g == k).mean()*wasserstein_distance(real.x[real.g == k], market.x[market.g == k]) for k in (-1, 0, 1)]
    assert C.conditional(pair, "next_move", "side").value == pytest.approx(sum(each)/real.x.std(ddof=0))


def test_the_response_by_hand(pair):
    r = C.response(pair, (1, 7)).set_index("lag")
    g = pair.grids[1]
    m, s = (g.ask_px_1 + g.bid_px_1).to_numpy()/2/TICK, np.sign(g.buy_vol - g.sell_vol).to_numpy()
    for lag in (1, 7):
        terms = [s[t]*(m[t+lag] - m[t]) for t in range(len(m) - lag) if g.segment.iloc[t] == g.segment.iloc[t+lag] and s[t] != 0]
        assert r.market[lag] == pytest.approx(np.mean(terms), abs=1e-9)


def test_the_slope_is_that_of_a_straight_line(pair):
    g = pair.grids[0] # one segment
    q = (g.ofi_1/pair.unit).to_numpy()
    x = np.array([q[t-9:t+1].sum() for t in range(10, len(q))])
    m = (g.ask_px_1 + g.bid_px_1).to_numpy()/2/TICK
    y, f = m[10:] - m[:-10], C.flow_slope(pair).set_index("quantity")
    assert f.real["slope"] == pytest.approx(np.polyfit(x, y, 1)[0], abs=1e-9) and f.real["r2"] == pytest.approx(np.corrcoef(x, y)[0, 1]**2, abs=1e-9)


def test_the_curve_of_memory_is_that_of_chapter_3(pair):
    c = C.acf_curve(pair, "abs_move", (1, 5, 34))
    for k, side in enumerate(("real", "market")):
        np.testing.assert_allclose(c[side], acf(pair.values("abs_move")[k], pair.segment[k], 34)[[1, 5, 34]], atol=1e-9)


def test_correlations_are_numpys(pair):
    names = ("imbalance", "ofi", "move", "side")
    R = [np.corrcoef(v[list(names)].dropna().to_numpy().T) for v in pair.views]
    assert C.correlations(pair, names).value == pytest.approx(np.abs(R[0] - R[1])[np.triu_indices(4, 1)].mean())


def test_codes_by_counting(pair):
    rng = np.random.default_rng(2)
    codes = tuple(np.where(rng.random(2400) < .05, -1, rng.integers(6, size=2400)) for _ in range(2))
    got = {(m.measure, m.statistic): m.value for m in C.code_distances(pair, codes)}
    def grams(k, n): # by hand, one run at a time
        c, seg = codes[k], pair.segment[k]
        runs = [tuple(c[i:i+n]) for i in range(len(c) - n + 1) if seg[i] == seg[i+n-1] and (c[i:i+n] >= 0).all()]
        return Counter(runs), len(runs)
    for n, what in ((1, "single codes"), (2, "2 in a row"), (3, "3 in a row")):
        (p, a), (q, b) = grams(0, n), grams(1, n)
        assert got["l1", what] == pytest.approx(sum(abs(p[k]/a - q[k]/b) for k in p | q))
    (p, a), (q, b) = grams(0, 2), grams(1, 2)
    row = lambda c, i: sum(v for k, v in c.items() if k[0] == i)
    by_hand = sum(row(p, i)/a*sum(abs(p[i, j]/row(p, i) - q[i, j]/row(q, i)) for j in range(6))/2 for i in range(6))
    assert got["transitions", "next code"] == pytest.approx(by_hand)


def test_facts_are_apart_only_where_they_differ():
    a, b = (C.fact_list(grid(6000, i), 40) for i in (0, 1))
    moved = grid(6000, 1)
    wild = C.fact_list(moved.assign(**{c: 1000 + 3*(moved[c] - 1000) for c in PX}), 40)
    t, w = C.beside(a, b), C.beside(a, wild).set_index("key")
    assert not any(k.startswith("season") for k in t.key) and C.facts_apart(t).value < .25
    assert w.apart["sd_10"] and w.apart["spread_mean"] and not w.apart["queue_auc"]
    assert C.facts_apart(w.reset_index()).value > C.facts_apart(t).value


def test_the_same_seed_gives_the_same_table():
    a, b, c = (D.distance_table(grid(), paths(), TICK, resamples=20, seed=s) for s in (1, 1, 2))
    pd.testing.assert_frame_equal(a, b)
    assert (a.value - c.value).abs().max() < 1e-12 and (a.high - c.high).abs().max() > 0


def test_states_are_shares_of_the_recording_and_take_in_what_lies_beyond(pair):
    x, g = C.of_pair(pair, "next_move"), pair.values("imbalance")
    states, (real, _) = C._states((g[0], 3*g[1]), x)
    assert states == C.STATES and np.bincount(real[real >= 0]).min() > .19*(real >= 0).sum()
    assert (C._states((g[0], g[1] + 9), x)[1][1][np.isfinite(x[1])] == C.STATES - 1).all()
