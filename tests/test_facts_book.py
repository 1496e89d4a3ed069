"Facts of the book: what the queues know, impact against depth, order signs; and books that lack a side."
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import roc_auc_score

from lobresearch.errors import TooShortError
from lobresearch.evidence.bootstrap import block_indices, block_starts
from lobresearch.market.book_facts import auc_interval, impact_depth, impact_r2, impact_slope, next_move, queue_imbalance
from lobresearch.market.facts import Sample, measure
from lobresearch.market.registry import random_grid


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(1, 4)), min_size=2, max_size=40))
@settings(max_examples=150, deadline=None)
def test_auc_is_that_of_sklearn(rows):
    x, up, w = (np.array(v) for v in zip(*rows))
    if up.all() or not up.any():
        with pytest.raises(TooShortError, match="one direction"): auc_interval(x, up, 1, 20, np.random.default_rng(0), w)
        return
    assert auc_interval(x, up, 1, 20, np.random.default_rng(0), w)[0] == pytest.approx(roc_auc_score(up, x, sample_weight=w))


def test_auc_interval_is_that_of_resampled_rows():
    rng = np.random.default_rng(1)
    up = np.repeat(rng.random(300) < .5, 10)
    x = up + 1.5*np.repeat(rng.standard_normal(300), 10) + rng.standard_normal(3000)
    value, lo, hi = auc_interval(x, up, 50, 1000, np.random.default_rng(2))
    draws = [roc_auc_score(up[i], x[i]) for i in (block_indices(s, 3000, 50) for s in block_starts(3000, 50, 400, np.random.default_rng(2)))]
    want = np.quantile(draws, [.025, .975])
    assert np.allclose([lo, hi], want, atol=.15*(want[1] - want[0])) and lo < value < hi


@given(st.lists(st.tuples(st.sampled_from([1., 2., 3., math.nan]), st.booleans()), min_size=1, max_size=30))
@settings(max_examples=150, deadline=None)
def test_next_move_against_a_walk_through_the_rows(rows):
    mid, segment = np.array([m for m, _ in rows]), np.cumsum([new for _, new in rows])
    got = next_move(mid, segment)
    for i in range(len(mid)):
        want, j = math.nan, i
        while j + 1 < len(mid) and segment[j+1] == segment[j] and np.isfinite(mid[j]) and np.isfinite(mid[j+1]):
            if mid[j+1] != mid[j]:
                want = np.sign(mid[j+1] - mid[j])
                break
            j += 1
        assert got[i] == want or (math.isnan(got[i]) and math.isnan(want))


def made(rng, n=12_000, knows=.75, depths=(1., 2., 4.)):
    "Half of a return is order flow, impact is one over depth, and the heavier queue is where the price goes with a given chance"
    depth = np.repeat(rng.choice(depths, n//600), 600)
    q = rng.standard_normal(n)*depth
    mid = 1000*np.exp(1e-4*np.cumsum(q/depth + rng.standard_normal(n)))
    tells = next_move(mid, np.zeros(n)) > 0
    heavy = np.where(rng.random(n) < knows, tells, ~tells)
    grid = random_grid(n, rng).assign(ask_px_1=mid + .001, bid_px_1=mid - .001, ofi_1=q, ask_sz_1=depth*(1 - .5*heavy), bid_sz_1=depth*(.5 + .5*heavy))
    return grid


def test_planted_book():
    s = Sample(made(np.random.default_rng(5)), 200, 300)
    slope, lo, hi = impact_depth(s, 1, np.random.default_rng(0))
    assert lo < -1 < hi and slope == pytest.approx(-1, abs=.1)
    assert measure(s, "impact_1")["value"] == pytest.approx(.5, abs=.06)
    assert impact_slope(s, 1, np.random.default_rng(0))[0] == pytest.approx(.75, rel=.1) # a mean depth is .75 of a deep queue on both sides
    auc = measure(s, "queue_auc")
    assert auc["lo"] < .75 < auc["hi"] and auc["value"] == pytest.approx(.75, abs=.02)
    none = measure(Sample(made(np.random.default_rng(6), knows=.5), 200, 300), "queue_auc")
    assert none["lo"] < .5 < none["hi"]


def test_each_move_counts_once():
    grid = random_grid(6, np.random.default_rng(0)).assign(ask_px_1=[2., 2, 2, 3, 2, 2], bid_px_1=[1., 1, 1, 2, 1, 1], ask_sz_1=1., bid_sz_1=[1., 1, 3, 1, 1, 1])
    I, move, weight = queue_imbalance(Sample(grid))
    assert np.allclose(I[:4], [.5, .5, .75, .5]) and move[:4].tolist() == [1, 1, 1, -1] and np.allclose(weight[:4], [1/3, 1/3, 1/3, 1])
    assert np.isnan(I[4:]).all() and np.isnan(move[4:]).all() and np.isnan(weight[4:]).all()


def test_published_range_of_the_auc_goes_with_the_tick():
    grid = made(np.random.default_rng(7), 3000)
    large = grid.assign(**{f"{side}_px_{i}": 100 + .5*sign*(i - .5) for side, sign in (("ask", 1), ("bid", -1)) for i in range(1, 11)})
    moves = np.where(np.random.default_rng(8).random(3000) < .5, 0, .5)
    large = large.assign(**{c: large[c] + moves for c in large if "_px_" in c})
    small = large.assign(ask_px_1=large.ask_px_1 + 2, **{f"ask_px_{i}": large[f"ask_px_{i}"] + 2 for i in range(2, 11)})
    for g, lo in ((large, .75), (small, .58)): assert measure(Sample(g, 20), "queue_auc")["published_lo"] == lo


def test_order_signs_with_a_known_memory():
    "Runs of one sign whose lengths have tail index a decay with exponent a - 1 (Lillo, Mike, Farmer 2005): .5, and so H = .75"
    found = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        sign = np.repeat(rng.choice([-1, 1], 30_000), np.ceil(rng.pareto(1.5, 30_000)).astype(int))[:40_000]
        grid = random_grid(40_000, rng).assign(buy_n=(sign > 0).astype(int), sell_n=(sign < 0).astype(int))
        found += [measure(Sample(grid, 20, 600), "hurst_sign")["value"]]
    assert np.mean(found) == pytest.approx(.75, abs=.06)


BOOK = ["spread_mean", "spread_ticks", "spread_tick", "depth_1", "depth_share_1", "queue_auc", "impact_1", "impact_10", "impact_slope_10", "impact_depth_10"]


@pytest.mark.parametrize("side", ["ask", "bid"])
def test_seconds_with_one_side_only_are_left_out_and_never_zero(side):
    grid = made(np.random.default_rng(10))
    gone = np.zeros(len(grid), bool)
    gone[5000:5400] = True
    lacks = grid.copy()
    lacks.loc[gone, [c for c in lacks if c.startswith(side)]] = math.nan
    full, part = Sample(grid[~gone], 50, 300), Sample(lacks, 50, 300)
    for k in ("spread_mean", "depth_1", "depth_share_1"): assert measure(part, k)["value"] == pytest.approx(measure(full, k)["value"])
    I, move, _ = queue_imbalance(part)
    assert np.isnan(I[gone]).all() and np.isnan(move[4999])
    none = Sample(lacks[gone], 50, 300)
    for k in BOOK: assert math.isnan(measure(none, k)["value"]) and measure(none, k)["reason"] != ""


def test_a_single_trade_is_too_few():
    grid = random_grid(2000, np.random.default_rng(11)).assign(buy_n=0, sell_n=0, buy_vol=0., sell_vol=0.)
    grid.loc[grid.index[900], ["buy_n", "buy_vol"]] = [1, 2.]
    s = Sample(grid, 20)
    for k in ("sign_acf_1", "exponent_sign", "hurst_sign"):
        m = measure(s, k)
        assert math.isnan(m["value"]) and ("where" in m["reason"] or "not positive" in m["reason"])
    assert np.isfinite(measure(s, "volume_volatility_60")["value"])
    flat = pd.DataFrame(grid).assign(ofi_1=0.)
    assert "never moves" in measure(Sample(flat, 20), "impact_1")["reason"]


def test_impact_of_flow_that_says_nothing_may_be_zero():
    held = []
    for seed in range(20):
        r = np.random.default_rng(seed)
        mid = 1000*np.exp(np.cumsum(r.standard_normal(4000))*1e-4)
        g = random_grid(4000, r, levels=1).assign(ask_px_1=mid+.05, bid_px_1=mid-.05, ofi_1=r.standard_normal(4000))
        value, lo, hi = impact_r2(Sample(g, 100), 1, r)
        assert 0 <= lo <= value <= hi
        held.append(lo == 0)
    assert sum(held) >= 16 # 19 of 20 on average; a percentile interval of the square never holds it
