"Books from channels and tokens: exact where they can be, within the rules whatever comes in, and back through files unchanged."
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lobresearch.data.grid import grid_columns, ingest_all, load_grid
from lobresearch.data.quality import findings
from lobresearch.data.simulate import write_simulated
from lobresearch.errors import ParameterError
from lobresearch.market.registry import random_grid
from lobresearch.synthetic.channels import channel_names, fit_bins, fit_channels, mid2, moves, snapshot_form, to_channels, tokens
from lobresearch.synthetic.decode import BROKEN, DAY, SEC, START, books, check_books, quotes, starts, to_grid, write_tardis

quick = settings(max_examples=60, deadline=None)


def plain(levels=2, spreads=(1, 1, 2), steps=(-1, 0, 1), high=12., **bins):
    "A state whose channels are plain logarithms"
    D = 4*levels + 3
    s = dict(levels=levels, tick=.1, lot=.01, locks=0 in spreads, mean=[0.]*D, std=[1.]*D, high=[high]*D)
    return s | dict(spread=fit_bins(spreads, bins.get("spread", 99)), move=fit_bins(steps, bins.get("move", 99)))


def raw(sizes, gaps, spread, trades=(0, 0, 0, 0)):
    "Channels of one second in a state of plain logarithms"
    with np.errstate(divide="ignore"): return np.concatenate([np.log([*sizes, *gaps]), np.log1p([spread, *trades])])


def decode(grid, state, seed=0):
    s, m = tokens(grid, state)
    return books(to_channels(grid, state)[None], s[None], m[None], state, mid2(grid, state)[0], np.random.default_rng(seed))


def through_files(market, folder, symbol="S"):
    "Written, ingested and loaded, with the quality of each day"
    days = write_tardis(market, folder, "lobsynth", symbol)
    q = ingest_all(folder, folder/"grid", "lobsynth", [symbol], days, levels=sum(c.startswith("ask_px") for c in market), progress=False)
    return load_grid(folder/"grid", symbol), q


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    "Half an hour of the embedded exchange in snapshot form"
    d = tmp_path_factory.mktemp("sim")
    write_simulated(d, "SIM-NULL", hours=.5, seed=5)
    ingest_all(d, d/"grid", "lobsim", ["SIM-NULL"], ["2025-01-01"], progress=False)
    return snapshot_form(load_grid(d/"grid", "SIM-NULL"))


def own_bins(grid, **k):
    "A state fitted to all rows, with a bin for each move that occurs"
    s = fit_channels(grid, np.ones(len(grid), bool), **k)
    m = moves(grid, s)
    return json.loads(json.dumps(s | dict(move=fit_bins(m[~np.isnan(m)], 10**6))))


# there and back

def test_real_channels_and_tokens_give_the_real_grid(real):
    s = own_bins(real)
    *parts, bad = decode(real, s)
    g = to_grid(*parts, start_us=int(real.index[0]))
    alike = [c for c in real if c not in ("vwap", "high", "low")]
    pd.testing.assert_frame_equal(g[alike], real[alike], rtol=1e-12)
    prices = [c for c in real if "_px_" in c or "_sz_" in c]
    pd.testing.assert_frame_equal(g[prices], real[prices], check_exact=True)
    assert bad == {**dict.fromkeys(bad, 0), "books": len(real)}
    one = (real.buy_n > 0) ^ (real.sell_n > 0)  # and of the prices of trades, those that the quotes of the second before tell
    assert ((g.vwap - real.vwap).abs()[one] < .1).mean() > .8


def test_with_few_bins_only_the_level_drifts(real):
    s = fit_channels(real, np.ones(len(real), bool), spreads=3, moves=5)
    *parts, bad = decode(real, s)
    g = to_grid(*parts, start_us=int(real.index[0]))
    np.testing.assert_allclose(g.ask_px_1 - g.bid_px_1, real.ask_px_1 - real.bid_px_1, atol=1e-9)
    for l in range(2, 11): np.testing.assert_allclose(g[f"ask_px_{l}"] - g.ask_px_1, real[f"ask_px_{l}"] - real.ask_px_1, atol=1e-9)
    assert (tokens(g, s)[0] == tokens(real, s)[0]).all() and (tokens(g, s)[1] == tokens(real, s)[1]).all()
    assert not np.array_equal(mid2(g, s), mid2(real, s)) and bad["repaired"] == 0


def test_sizes_are_good_to_one_part_in_a_million():
    "What 32 bits hold: exact below some hundred thousand lots, and a millionth beyond"
    g = random_grid(300, np.random.default_rng(0), levels=2)
    rng = np.random.default_rng(1)
    cols = [c for c in g if "_sz_" in c]
    g[cols] = np.round(np.exp(rng.uniform(0, 17, (300, 4)))*.01 + .01, 2)
    s = own_bins(g, levels=2)
    ask_px, ask_sz, bid_px, bid_sz, *_ = decode(g, s)
    for l in (1, 2):
        a, b = ask_sz[0, :, l-1], g[f"ask_sz_{l}"].to_numpy()
        assert s["lot"] == .01 and (a == b)[b < 1000].all() and (np.abs(a/b - 1) < 2e-6).all() and (b > 10_000).any()


@pytest.mark.parametrize("exchange, symbol, date, locks", [("standx", "BTC-USD", "2026-01-06", True), ("binance", "NEXOUSDT", "2024-07-24", False)])
def test_recordings_there_and_back(real_data, tmp_path, exchange, symbol, date, locks):
    ingest_all(real_data, tmp_path, exchange, [symbol], [date], progress=False)
    g = load_grid(tmp_path, symbol)
    g = snapshot_form(g[g.segment == g.segment.mode()[0]].iloc[:30_000])
    s = own_bins(g)
    *parts, bad = decode(g, s)
    m = to_grid(*parts, start_us=int(g.index[0]))
    cols = [c for c in g if "_px_" in c or "_sz_" in c] + ["n_updates", "stale", "buy_n", "sell_n"]
    pd.testing.assert_frame_equal(m[cols], g[cols], rtol=1e-6)
    assert s["locks"] == locks and bad["repaired"] == 0
    again, _ = through_files(m, tmp_path/"files")
    pd.testing.assert_frame_equal(snapshot_form(again).loc[m.index], m, check_exact=True)


# quotes

def test_the_channel_chooses_within_a_shared_bin():
    s = plain(1, spreads=[1]*9 + [2, 3, 4, 8], steps=[0], spread=2)
    assert [b["values"] for b in s["spread"]] == [[1], [2, 3, 4, 8]]
    _, w, _ = quotes([[1, 5, 3, 7, 99, -4]], [[0, 1, 1, 1, 1, 0]], [[-1]*6], s, 201, np.random.default_rng(0))
    assert w.tolist() == [[1, 5, 3, 7, 7, 1]]  # 99 is cut to the bin's 8, which gives way: the mid stands on a half tick, the spread is odd


def test_an_unchanged_spread_is_kept_where_parity_made_it_give_way():
    "The channel keeps saying 6, the mid stays odd: 5 or 7 once, and then the same"
    s = plain(1, spreads=[1]*9 + [4, 5, 6, 7, 8], steps=[0], spread=2)
    for seed in range(6):
        m, w, fault = quotes([[6]*20], [[1]*20], [[0]*20], s, 201, np.random.default_rng(seed))
        assert set(w[0]) in ({5}, {7}) and set(m[0]) == {201} and not fault.any()


def test_moves_are_drawn_as_in_training():
    "One bin of the moves 2, 4 and 6, seen 1, 2 and 1 times, from a spread that does not change"
    s = plain(1, spreads=[2], steps=[2, 4, 4, 6], move=1)
    m, _, fault = quotes(np.full((4000, 2), 2), np.zeros((4000, 2)), np.zeros((4000, 2)), s, 1000, np.random.default_rng(0))
    v, n = np.unique(np.diff(m, axis=1, prepend=1000), return_counts=True)
    assert v.tolist() == [2, 4, 6] and np.abs(n/8000 - [.25, .5, .25]).max() < .02 and not fault.any()


def test_one_quote_stands_still_as_often_as_in_training():
    "The spread goes from 1 to 5: a move of 4 leaves the bid alone. Of the bin's other values 2 and 6 fit the parity too"
    s = plain(1, spreads=[1, 5], steps=[2, 3, 4, 5, 6], move=1)
    s["move"][0]["still"] = .7
    m, _, _ = quotes(np.tile([1, 5], (5000, 1)), np.tile([0, 1], (5000, 1)), np.tile([-1, 0], (5000, 1)), s, 201, np.random.default_rng(0))
    v, n = np.unique(m[:, 1] - m[:, 0], return_counts=True)
    assert v.tolist() == [2, 4, 6] and np.abs(n/5000 - [.1, .8, .1]).max() < .02  # 4: .7, and a third of what is left
    s["move"][0]["both"] = [0, 1, 0, 1, 3]  # in the other seconds: never 2 or 4
    m, _, _ = quotes(np.tile([1, 5], (5000, 1)), np.tile([0, 1], (5000, 1)), np.tile([-1, 0], (5000, 1)), s, 201, np.random.default_rng(0))
    v, n = np.unique(m[:, 1] - m[:, 0], return_counts=True)
    assert v.tolist() == [4, 6] and abs(n[0]/5000 - .7) < .02


def test_the_first_move_knows_no_change_of_spread():
    "A spread of 4 in the first second says nothing of a move by 4; had it been 0 before, the bid would have stood still"
    s = plain(1, spreads=[0, 4], steps=[2, 4], move=1)
    s["move"][0]["still"] = 1.
    m, _, _ = quotes(np.tile([4, 0, 4], (200, 1)), np.tile([1, 0, 1], (200, 1)), np.tile([0, -1, 0], (200, 1)), s, 200, np.random.default_rng(0))
    assert set(m[:, 0] - 200) == {2, 4} and set(m[:, 2] - m[:, 1]) == {4}


def test_contradicting_tokens_cost_half_a_tick_either_way():
    s = plain(1, spreads=[1, 2], steps=[0])
    m, w, fault = quotes(np.tile([1, 2], (2000, 1)), np.tile([0, 1], (2000, 1)), np.zeros((2000, 2)), s, 201, np.random.default_rng(0))
    assert (w == [1, 2]).all() and fault[:, 1, 0].all() and not fault[:, 0].any()
    assert set(m[:, 1]) == {200, 202} and abs((m[:, 1] == 200).mean() - .5) < .04


def test_a_price_does_not_fall_through_the_floor():
    "From a bid of 4 ticks, two ticks down a second; two levels need a bid of 2"
    s = plain(2, spreads=[1], steps=[-4])
    x = np.tile(raw([1]*4, [1, 1], 1), (1, 5, 1))
    _, _, bid_px, _, _, bad = books(x, np.zeros((1, 5)), np.zeros((1, 5)), s, 9, np.random.default_rng(0))
    np.testing.assert_allclose(bid_px[0], [[.2, .1]]*5)
    assert bad["price"] == 4 and bad["repaired"] == 4


def test_deep_levels_are_kept_above_zero():
    s = plain(3, spreads=[1], steps=[0])
    x = raw([1]*6, [1, 1, 1, 40], 1)[None, None]
    _, _, bid_px, _, _, bad = books(x, [[0]], [[0]], s, 21, np.random.default_rng(0))
    np.testing.assert_allclose(bid_px[0, 0], [1., .9, .1])
    assert bad["price"] == 1


# whatever comes in

@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([1, 2, 5]), st.floats(.1, 6))
@quick
def test_every_book_obeys_the_rules(seed, locks, levels, wild):
    rng = np.random.default_rng(seed)
    s = plain(levels, spreads=rng.integers(0 if locks else 1, 30, 60), steps=rng.integers(-25, 26, 60), spread=6, move=7)
    x = wild*rng.standard_normal((3, 40, 4*levels + 3))
    spread, move = rng.integers(-1, len(s["spread"]), (3, 40)), rng.integers(-1, len(s["move"]), (3, 40))
    *parts, bad = books(x, spread, move, s, rng.integers(2, 400), rng)
    g = to_grid(*parts)
    found = check_books(g, .1, .01)
    assert {k for k, v in found.items() if v} <= {"books", "locked"} and (s["locks"] or found["locked"] == 0)
    assert found["books"] == 120 == bad["books"]
    assert max(bad[k] for k in BROKEN) <= bad["repaired"] <= min(120, sum(bad[k] for k in BROKEN))
    again = tokens(g, s)[0].reshape(3, 40)
    assert (again == spread)[spread >= 0].all(), "the spread is always that of its token"


def test_violations_by_hand():
    s = plain(2)
    good = raw([3, 1, 2, 4], [1, 1], 1, [5, 0, 2, 0])
    def count(x, **k):
        b = books(np.stack([good, x])[None], [[0, 0]], [[-1, -1]], s | k, 2001, np.random.default_rng(0))[-1]
        return {n: v for n, v in b.items() if v and n != "books"}
    assert count(good) == {}
    assert count(raw([3, 1, 2, 4], [1, 1], -.6)) == dict(crossed=1, repaired=1, off_token=1)
    assert count(raw([3, 1, 2, 4], [1, 1], .2)) == dict(locked=1, repaired=1, off_token=1)
    assert count(raw([3, 1, 2, 4], [1, 1], .2), locks=True) == dict(off_token=1)  # no fault where the recording locks
    assert count(raw([3, .4, 2, 4], [1, 1], 1)) == dict(size=1, repaired=1)
    assert count(raw([3, 1, 2, 4], [1, .4], 1)) == dict(gap=1, repaired=1)
    assert count(raw([3, .4, 2, 4], [.4, .4], 1)) == dict(gap=1, size=1, repaired=1)  # one book
    assert count(raw([3, 1, 2, 4], [1, 1], 1, [5, 0, 0, 0])) == dict(trades=1)
    assert count(raw([np.exp(13.5), 1, 2, 4], [1, 1], 1)) == dict(beyond=1)


def test_trades_agree():
    "No trades, no volume; a lot a trade at least; the larger volume stays"
    s = plain(1)
    x = np.stack([np.concatenate([np.log([1, 1]), np.log1p([1, *t])]) for t in ([5, 0, 0, 0], [1, 7, 3, 2], [9, 0, 2, 0])])
    trades = books(x[None], np.zeros((1, 3)), np.full((1, 3), -1), s, 201, np.random.default_rng(0))[4]
    np.testing.assert_allclose(trades[0], [[0, 0, 0, 0], [.03, .07, 3, 2], [.09, 0, 2, 0]])


def test_the_seed_decides():
    s, rng = plain(2, steps=range(-9, 10), move=5), np.random.default_rng(0)
    a = rng.standard_normal((2, 50, 11)), np.zeros((2, 50)), rng.integers(0, 5, (2, 50)), s, 999
    one, two, three = (books(*a, np.random.default_rng(k))[0] for k in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != three).any()


@pytest.mark.parametrize("change, sentence", [
    (dict(x=np.zeros((2, 11))), r"\(paths, steps, 11\)"), (dict(x=np.full((1, 2, 11), np.nan)), "must be finite"),
    (dict(spread=[[0, 2]]), r"spread tokens must lie in -1\.\.1"), (dict(move=[[0]]), "same paths and steps"), (dict(move=[[-2, 0]]), "move tokens")])
def test_what_wrong_input_gets(change, sentence):
    a = dict(x=np.zeros((1, 2, 11)), spread=[[0, 0]], move=[[0, 0]], state=plain(2), mid2=201, rng=np.random.default_rng(0)) | change
    with pytest.raises(ParameterError, match=sentence): books(**a)


# a market

def market(seed=0, paths=3, steps=40, start=START, gap=120, quiet=.5):
    "Random books of two levels with stretches in which nothing changes, and trades"
    rng = np.random.default_rng(seed)
    s = plain(2, spreads=[1, 1, 2], steps=[-1, 0, 0, 1])
    still = rng.random((paths, steps)) < quiet
    x = rng.normal(1.5, .8, (paths, steps, 11))
    for t in range(1, steps): x[still[:, t], t] = x[still[:, t], t-1]
    move = np.where(still, 1, rng.integers(0, 3, (paths, steps)))
    x[..., 7:] = np.where(rng.random((paths, steps, 4)) < .5, 0, x[..., 7:])
    *parts, _ = books(x, np.where(still, -1, rng.integers(0, 2, (paths, steps))), move, s, 20_001, rng)
    return to_grid(*parts, start_us=start, gap=gap)


def test_a_market_is_a_grid():
    g = market()
    assert list(g.columns) == grid_columns(2) and g.index.dtype == np.int64 and g.index.name == "ts" and g.index.is_monotonic_increasing
    t = random_grid(5, np.random.default_rng(0), levels=2)
    assert g.stale.dtype == t.stale.dtype == bool and g.segment.nunique() == 3
    assert (g.groupby("segment").size() == 40).all() and (g.segment.to_numpy() == np.repeat(g.index[::40], 40)).all()
    pd.testing.assert_frame_equal(snapshot_form(g), g, check_exact=True)
    assert g.stale.any() and g.vwap.isna().any() and g.vwap.notna().any()


def test_trades_pay_the_quotes_of_the_second_before():
    g = market()
    before = g.groupby("segment").shift(1)
    first = before.ask_px_1.isna()
    ask, bid = before.ask_px_1.where(~first, g.ask_px_1), before.bid_px_1.where(~first, g.bid_px_1)
    any_ = (g.buy_n + g.sell_n) > 0
    np.testing.assert_allclose(g.vwap[any_], ((g.buy_vol*ask + g.sell_vol*bid)/(g.buy_vol + g.sell_vol))[any_], rtol=1e-12)
    assert (g.high[any_] == ask.where(g.buy_n > 0, bid)[any_]).all() and (g.low[any_] == bid.where(g.sell_n > 0, ask)[any_]).all()
    assert g.loc[~any_, ["vwap", "high", "low"]].isna().all(axis=None)


@pytest.mark.parametrize("seed, steps, start", [(1, 200, START), (2, 90, START + DAY - 100*SEC), (3, 150, START + DAY - 60*SEC)])
def test_a_market_comes_back_from_its_files(tmp_path, seed, steps, start):
    "Also where paths lie on two days, and where one has to wait for the new day"
    g = market(seed, steps=steps, start=start, quiet=.9)
    assert g.groupby("segment").stale.apply(lambda s: s.to_numpy()[-1]).any(), "a path has to end on an unchanged book, or this tests less"
    again, q = through_files(g, tmp_path)
    pd.testing.assert_frame_equal(snapshot_form(again).loc[g.index], g, check_exact=True)
    extra = again[~again.index.isin(g.index)]
    assert extra.stale.all() and len(extra) <= 60*3  # the last book of a path, carried on
    assert len(q) == len(np.unique(g.index//DAY))


def test_a_market_passes_the_gate(tmp_path):
    "Nothing dropped, nothing inferred; what is out of the ordinary is that books stand still, and the gaps between paths"
    _, q = through_files(market(4, steps=300, quiet=.5), tmp_path)
    for k in ("crossed", "empty", "locked", "unsorted", "missing_levels", "book_duplicates", "trade_duplicates", "trade_ids_reused", "trades_outside",
              "trades_before_first_book", "trades_out_of_order", "unknown_sides", "exch_reversals"): assert q[0][k] == 0, k
    assert all("gaps without a book" in f or "no book arrived" in f for f in findings(q)) and q[0]["tick"] == pytest.approx(.1)


def test_a_silence_of_more_than_a_minute_is_no_gap(tmp_path):
    parts = [np.tile(np.array(v, float), (1, 400, 1)) for v in ([10.1, 10.2], [1, 2], [10., 9.9], [3, 4])]
    g = to_grid(*parts, np.zeros((1, 400, 4)))
    assert g.n_updates.sum() == 1
    again, q = through_files(g, tmp_path)
    assert q[0]["gaps"] == 0 and q[0]["book_rows"] == 8  # one a minute, and the last
    pd.testing.assert_frame_equal(snapshot_form(again).loc[g.index], g, check_exact=True)


def test_a_recording_can_be_written_too(real, tmp_path):
    "Its books, and the sums of its trades; not at what price each was made"
    again, _ = through_files(real.iloc[:600], tmp_path)
    cols = [c for c in real if c not in ("vwap", "high", "low", "segment")]
    pd.testing.assert_frame_equal(snapshot_form(again)[cols], real.iloc[:600][cols], rtol=1e-12)


def test_paths_that_lie_too_close_are_refused(tmp_path):
    with pytest.raises(ParameterError, match="leave a longer gap"): write_tardis(market(gap=59), tmp_path, "x", "S")
    assert not list(tmp_path.glob("*.gz"))


@given(st.integers(1, 8), st.integers(1, 50_000), st.integers(0, 2*86_400), st.integers(1, 500))
@quick
def test_paths_do_not_overlap_nor_run_over_midnight(paths, steps, start, gap):
    t = starts(paths, steps, start*SEC, gap)
    assert t[0] >= start*SEC and (np.diff(t) >= (steps + gap)*SEC).all()
    assert (t//DAY == (t + (steps - 1)*SEC)//DAY).all()


def test_a_path_of_two_days_is_not_put_off():
    assert starts(2, 100_000, 50*SEC, 10).tolist() == [50*SEC, (50 + 100_010)*SEC]


def test_each_rule_finds_its_fault():
    g = market(7)
    clean = {k for k, v in check_books(g, .1, .01).items() if v}
    assert clean == {"books"}
    t = g.index[[3]]
    def found(**k):
        h = g.copy()
        for c, v in k.items(): h.loc[t, c] = v
        f = check_books(h, .1, .01)
        return {n for n, v in f.items() if v and n not in ("books", "snapshot")} | ({"snapshot"} if f["snapshot"] > 2 else set())
    assert found(ask_px_2=np.nan) == {"missing"}
    assert found(bid_px_1=np.round(g.ask_px_1[t] + .1, 1)) == {"crossed"}
    assert found(bid_px_1=g.ask_px_1[t]) == {"locked"}
    assert found(ask_px_2=g.ask_px_1[t]) == {"unsorted"}
    assert found(ask_sz_1=0.) == {"size"}
    assert found(bid_px_2=-.1) == {"price"}
    assert found(ask_px_2=g.ask_px_2[t] + .05) == {"off_tick"}
    assert found(bid_sz_2=.015) == {"off_lot"}
    assert found(buy_vol=.5, buy_n=0) == {"trades"}
    assert found(buy_vol=.5, buy_n=1, vwap=9., high=8., low=7.) == {"vwap"}
    assert check_books(g.drop(t))["gap"] == 1
    assert check_books(g.assign(n_updates=1 - g.n_updates))["snapshot"] == len(g)


def test_channels_of_a_market_are_those_it_was_made_from():
    "Decoded books seen through the same state: what whole ticks and lots leave of the channels"
    s, rng = plain(2, spreads=[1, 2, 3], steps=[-2, 0, 2]), np.random.default_rng(0)
    x = rng.normal(4, 1, (2, 300, 11))
    token = rng.integers(0, 3, (2, 300))
    x[..., 6] = np.log1p(token + 1)
    *parts, _ = books(x, token, rng.integers(0, 3, (2, 300)), s, 100_001, rng)
    back = to_channels(to_grid(*parts), s).reshape(2, 300, 11)
    names = channel_names(2)
    sizes = [i for i, n in enumerate(names) if "_sz_" in n or "_gap_" in n]
    assert np.abs(np.exp(back[..., sizes]) - np.exp(x[..., sizes])).max() <= .51
    np.testing.assert_allclose(back[..., 6], x[..., 6], atol=1e-6)
