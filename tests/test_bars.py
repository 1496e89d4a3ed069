"The block bootstrap as a market: real seconds, real moves, no jump at a seam, nothing from outside the training rows"
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from lobresearch.data.book import book_columns
from lobresearch.errors import ParameterError, TooShortError
from lobresearch.data.grid import grid_columns
from lobresearch.synthetic.bars import bootstrap_market, bootstrap_rows, market_clock, shifts
from lobresearch.synthetic.channels import snapshot_form
from lobresearch.synthetic.decode import check_books

SEC, TICK, L = 1_000_000, .01, 3


def recording(n=3000, seed=0, price=5_000, lock=.1):
    "A recording of `n` seconds with a gap in the middle; sizes of the first ask count the seconds"
    rng = np.random.default_rng(seed)
    bid = price + np.cumsum(rng.integers(-1, 2, n))
    ask = bid + np.where(rng.random(n) < lock, 0, rng.integers(1, 4, n))
    down, up = (np.cumsum(rng.integers(1, 3, (n, L)), 1) for _ in range(2))
    cols = {}
    for l in range(L):
        size = rng.integers(1, 50, (2, n))*1.
        cols |= {f"ask_px_{l+1}": ask + (up[:, l] - up[:, 0]), f"ask_sz_{l+1}": size[0], f"bid_px_{l+1}": bid - (down[:, l] - down[:, 0]), f"bid_sz_{l+1}": size[1]}
    g = pd.DataFrame(cols)
    for c in g.columns[g.columns.str.contains("px")]: g[c] = np.round(g[c]*TICK, 2)
    g["ask_sz_1"] = 1. + np.arange(n)
    traded = rng.random(n) < .5
    px = np.where(traded, g.ask_px_1, np.nan)
    g = g.assign(buy_vol=traded*2., sell_vol=0., buy_n=traded.astype(np.int32), sell_n=np.int32(0), vwap=px, high=px, low=px, stale=False, n_updates=np.int32(7))
    for l in range(L): g[f"ofi_{l+1}"] = rng.normal(size=n)
    ts = SEC*(1_700_000_000 + np.arange(n) + 500*(np.arange(n) >= n//2))
    g.index = pd.Index(ts, name="ts")
    return g.assign(segment=np.where(np.arange(n) < n//2, ts[0], ts[n//2]))[grid_columns(L)]


def mid2(g): return np.rint((g.ask_px_1 + g.bid_px_1)/TICK).to_numpy().astype(int)


def test_every_second_is_a_training_second_and_the_mid_moves_as_it_did():
    g = recording()
    train = np.arange(len(g)) < 2000
    m = bootstrap_market(g, train, 4, 500, block=37, seed=3, tick=TICK)
    src = m.ask_sz_1.to_numpy().astype(int) - 1
    assert src.max() < 2000
    sizes = [f"{s}_sz_{l}" for s in ("ask", "bid") for l in range(1, L+1)]
    np.testing.assert_array_equal(m[sizes], g[sizes].iloc[src])
    ticks = lambda x: np.rint(x[[c for c in book_columns(L) if "px" in c]].to_numpy()/TICK)
    shape = lambda x: ticks(x) - ticks(x)[:, :1]
    np.testing.assert_array_equal(shape(m), shape(g.iloc[src]))
    moved = np.diff(mid2(m).reshape(4, 500), axis=1)
    was = (mid2(g)[src] - mid2(g)[src-1]).reshape(4, 500)[:, 1:]
    np.testing.assert_array_equal(moved, was)
    src = src.reshape(4, 500)
    seams = np.diff(src, axis=1) != 1
    assert seams.any() and set(np.flatnonzero(seams.any(0)) + 1) <= set(range(37, 500, 37))
    assert not np.isin(src, [0, len(g)//2]).any() # a segment's first second has no move of its own


def test_a_market_obeys_the_rules_and_is_in_snapshot_form():
    g = recording()
    m = bootstrap_market(g, np.ones(len(g), bool), 3, 400, block=60, seed=0, tick=TICK)
    bad = check_books(m, TICK, 1.)
    assert {k for k, v in bad.items() if v} <= {"locked", "books"} and bad["locked"] > 0
    pd.testing.assert_frame_equal(m, snapshot_form(m))
    assert list(m.columns) == grid_columns(L) and m.segment.nunique() == 3
    paid = m.vwap - m.ask_px_1
    src = m.ask_sz_1.to_numpy().astype(int) - 1
    np.testing.assert_allclose(paid, (g.vwap - g.ask_px_1).to_numpy()[src], atol=1e-9)


def test_nothing_outside_the_training_rows_is_used():
    g = recording()
    train = np.zeros(len(g), bool)
    train[300:1400] = train[1600:2500] = True
    one = bootstrap_market(g, train, 3, 300, block=50, seed=1)
    h = g.copy()
    h.loc[~train, ["bid_sz_1", "buy_vol"]] *= 3
    h.loc[~train, "ask_px_2"] = np.nan
    h.loc[~train, ["ask_px_1", "bid_px_1"]] += .13
    pd.testing.assert_frame_equal(one, bootstrap_market(h, train, 3, 300, block=50, seed=1))
    src = one.ask_sz_1.to_numpy().astype(int) - 1
    assert train[src].all() and train[src - 1].all()


def test_marginals_are_those_of_the_training_block():
    g = recording(6000, seed=4)
    train = np.arange(len(g)) < 5000
    m = bootstrap_market(g, train, 16, 3000, block=30, seed=0, tick=TICK)
    t = g[train]
    spread = lambda x: np.rint((x.ask_px_1 - x.bid_px_1)/TICK).to_numpy()
    share = lambda x: np.bincount(spread(x).astype(int), minlength=4)[:4]/len(x)
    # 48,000 seconds in 1,600 blocks of 30; spreads of neighbouring seconds are independent here, so a share is known to .002
    np.testing.assert_allclose(share(m), share(t), atol=.015)
    np.testing.assert_allclose(m.bid_sz_2.quantile([.1, .5, .9]), t.bid_sz_2.quantile([.1, .5, .9]), atol=1.)
    moves = lambda x: np.diff(mid2(x))[np.diff(x.segment) == 0]
    assert abs(moves(m).std()/moves(t).std() - 1) < .03 and abs(m.buy_vol.mean()/t.buy_vol.mean() - 1) < .03
    same_shift = bootstrap_market(recording(6000, seed=4, lock=.5), train, 16, 3000, block=30, seed=0, tick=TICK)
    assert abs(share(same_shift) - share(t)).max() > .2 # another recording is told apart


def test_reproducible_from_the_seed():
    g, train = recording(800), np.ones(800, bool)
    a, b, c = (bootstrap_market(g, train, 2, 100, seed=s, tick=TICK) for s in (5, 5, 6))
    pd.testing.assert_frame_equal(a, b)
    assert not a.equals(c)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(.02, .98))
def test_any_pattern_of_parities(seed, block, share):
    rng = np.random.default_rng(seed)
    m = 100 + np.cumsum(rng.random(80) < share)
    ok = rng.random(80) < .9
    follows = ok & np.append(False, ok[:-1])
    try: rows = bootstrap_rows(m, follows, 5, 40, block, rng)
    except TooShortError: return
    assert rows.shape == (5, 40) and follows[rows].all()
    assert (m[rows[:, :-1]] % 2 == m[rows[:, 1:] - 1] % 2).all() # the second before fits
    shift = shifts(m, m - 5, rows)
    np.testing.assert_array_equal(np.diff(m[rows] + 2*shift, axis=1), (m[rows] - m[rows - 1])[:, 1:])


def test_a_price_near_zero_starts_higher():
    rows = np.tile(np.arange(1, 11), 30)[None]
    m = 2*np.arange(40, 20, -1)[:11] # falls by a tick a second
    s = shifts(m, m//2 - 3, rows)
    assert (m[rows]//2 - 3 + s).min() == 1
    np.testing.assert_array_equal(np.diff(m[rows] + 2*s), -2)


def test_books_that_lack_a_level_are_left_out():
    g = recording(1000)
    g.loc[g.index[200:260], "ask_px_3"] = np.nan
    g.loc[g.index[300:340], ["bid_px_1", "bid_px_2"]] = g.loc[g.index[300:340], ["bid_px_2", "bid_px_1"]].to_numpy()
    m = bootstrap_market(g, np.ones(1000, bool), 8, 400, block=10, seed=0, tick=TICK)
    src = m.ask_sz_1.to_numpy().astype(int) - 1
    assert not np.isin(src, [*range(200, 261), *range(300, 341)]).any() and m.notna()[book_columns(L)].all().all()


def test_wrong_input_is_told_in_a_sentence():
    g = recording(200)
    with pytest.raises(TooShortError, match="No 151 training seconds in a row"): bootstrap_market(g, np.ones(200, bool), 1, 500, block=150, tick=TICK)
    with pytest.raises(TooShortError, match="no training row"): bootstrap_market(g, np.zeros(200, bool), 1, 10, tick=TICK)
    with pytest.raises(ParameterError, match="each of the 200 rows"): bootstrap_market(g, np.ones(10, bool), 1, 10, tick=TICK)
    with pytest.raises(ParameterError, match="1 or more"): bootstrap_market(g, np.ones(200, bool), 0, 10, tick=TICK)


def test_the_clock_gives_each_path_a_segment_of_one_day():
    ts = market_clock(20, 5000).to_numpy().reshape(20, 5000)
    assert (np.diff(ts, axis=1) == SEC).all() and (ts[1:, 0] - ts[:-1, -1] > 100*SEC).all()
    assert (ts[:, 0]//(86_400*SEC) == ts[:, -1]//(86_400*SEC)).all()
