"Book arithmetic: flows worked by hand, the book rebuilt from updates against a dict and against real snapshots"
import math

import numpy as np
import pytest
from helpers_tape import _level_flow
from hypothesis import given, settings
from hypothesis import strategies as st

from lobresearch.data.book import Books, Rebuild, event_ofi, interleave, mid, rebuild, spread, tick_size, weighted_mid
from lobresearch.data.tardis import Updates, read_books, read_updates
from lobresearch.errors import ParameterError

rows = st.lists(st.tuples(st.integers(101, 103), st.integers(1, 5), st.integers(98, 100), st.integers(1, 5)), min_size=1, max_size=12)


def test_three_events_by_hand():
    # asks 101 x 5, 101 x 2, 102 x 7; bids 100 x 4, 100 x 6, 99 x 1
    b = interleave([[101], [101], [102]], [[5], [2], [7]], [[100], [100], [99]], [[4], [6], [1]])
    # event 1: bid +6 -4 = 2, ask -(2 - 5) = 3; event 2: bid fell, -6; ask rose, +2
    assert event_ofi(b)[:, 0].tolist() == [0, 5, -4]
    assert mid(b).tolist() == [100.5, 100.5, 100.5] and spread(b).tolist() == [1, 1, 3]
    assert weighted_mid(b)[0] == pytest.approx(100 + 4/9)


@given(rows)
@settings(deadline=None)
def test_ofi_is_the_formula(levels):
    b = np.array(levels, float)
    want = [0.] + [_level_flow(x, y) for x, y in zip(levels[1:], levels, strict=False)]
    assert event_ofi(b)[:, 0].tolist() == want


@given(rows)
@settings(deadline=None)
def test_ofi_turns_round_with_the_book(levels):
    "Mirror the book (bids for asks, prices negated): buying pressure becomes selling pressure"
    b = np.array(levels, float)
    mirror = np.column_stack([-b[:, 2], b[:, 3], -b[:, 0], b[:, 1]])
    assert (event_ofi(mirror) == -event_ofi(b)).all()


step = st.tuples(st.integers(0, 2), st.sampled_from([0, 0, 0, 0, 1]), st.sampled_from([1, -1]), st.integers(1, 12), st.integers(0, 4))
updates = st.lists(step, min_size=1, max_size=60)


def dict_tops(events, levels):
    "Top of the book after each message that changed it, from two dicts"
    book, seen, was, out, last = {1: {}, -1: {}}, False, False, [], None
    for i, (t, snap, side, price, amount) in enumerate(events):
        if snap and not was: book, seen = {1: {}, -1: {}}, True
        was = bool(snap)
        if not seen: continue
        if amount: book[side][price] = amount
        else: book[side].pop(price, None)
        if i + 1 < len(events) and events[i+1][0] == t: continue
        row = []
        asks, bids = sorted(book[-1].items())[:levels], sorted(book[1].items(), reverse=True)[:levels]
        for l in range(levels):
            for s in (asks, bids): row += list(s[l]) if l < len(s) else [None, None]
        if row != (last or [None]*4*levels): out.append((t, row))
        last = row
    return out


@given(updates, st.integers(1, 3), st.integers(1, 60))
@settings(max_examples=150, deadline=None)
def test_rebuild_is_the_dict(steps, levels, cut):
    t, events = 0, []
    for dt, snap, side, price, amount in steps:
        t += dt
        events.append((t, snap, side, price, amount))
    a = np.array(events)
    u = Updates(a[:, 0], a[:, 0] - 1, a[:, 1], a[:, 2], a[:, 3].astype(float), a[:, 4].astype(float))
    got = list(rebuild([Updates(*(x[i:i + cut] for x in u)) for i in range(0, len(a), cut)], levels))
    ts, book = np.concatenate([g.local_ts for g in got]), np.concatenate([g.book for g in got])
    want = dict_tops(events, levels)
    assert ts.tolist() == [t for t, _ in want]
    np.testing.assert_array_equal(book, np.array([[math.nan if x is None else x for x in r] for _, r in want], float).reshape(-1, 4*levels))


def test_book_grows_past_its_first_room():
    n = 3000
    u = Updates(np.arange(n), np.arange(n), np.ones(n, int), np.tile([1, -1], n//2), np.where(np.arange(n) % 2, 1e4 + np.arange(n), 1e4 - np.arange(n)), np.ones(n))
    r = Rebuild(2)
    books = r.add(u)
    assert r.n.tolist() == [n//2, n//2] and books.book[-1].tolist() == [10001, 1, 10000, 1, 10003, 1, 9998, 1]


@pytest.mark.parametrize("tick, decimals", [(.1, 1), (.0001, 4), (5., 0), (1e-7, 7)])
def test_tick(tick, decimals):
    rng = np.random.default_rng(1)
    p = np.cumsum(rng.integers(-1, 2, 2000)) + 5000
    a = (p[:, None] + 1 + np.cumsum(rng.integers(1, 4, (2000, 4)), axis=1))*tick
    b = (p[:, None] - np.cumsum(rng.integers(1, 4, (2000, 4)), axis=1))*tick
    assert tick_size(interleave(a.round(decimals), a*0 + 1, b.round(decimals), b*0 + 1)) == pytest.approx(tick, rel=1e-9)


def compare_with_snapshots(real_data, name, days, r):
    "Rebuilt top 25 against the book file of the same day, both as last state of each arrival time"
    for date in days:
        parts = [*rebuild(read_updates(real_data/f"{name[0]}_incremental_book_L2_{date}_{name[1]}.csv.gz", progress=False), 25, into=r)]
        snaps = [*read_books(real_data/f"{name[0]}_book_snapshot_25_{date}_{name[1]}.csv.gz", 25, progress=False)]
        ours, theirs = (Books(*map(np.concatenate, zip(*x, strict=True))) for x in (parts, snaps))
    assert len(theirs.local_ts) > 1000
    at = np.searchsorted(ours.local_ts, theirs.local_ts, side="right") - 1
    last = np.append(theirs.local_ts[1:] != theirs.local_ts[:-1], True)
    np.testing.assert_array_equal(ours.book[at][last], theirs.book[last])
    assert set(ours.local_ts) <= set(theirs.local_ts), "a change within 25 levels that the book file lacks"


@pytest.mark.parametrize("name, days", [(("binance-futures", "BTCUSDT"), ["2023-04-04"]), (("binance", "NEXOUSDT"), ["2024-07-23", "2024-07-24"])])
def test_rebuilt_book_is_the_recorded_one(real_data, name, days):
    compare_with_snapshots(real_data, name, days, Rebuild(25)) # the second day of NEXOUSDT runs on from the first


def test_prices_without_a_grid_have_no_tick_and_the_sentence_says_so():
    "Thousands of steps, each seen once: once an IndexError without a word"
    rng = np.random.default_rng(0)
    a = 100 + rng.random((5000, 1)) + np.cumsum(rng.random((5000, 3)), axis=1)
    with pytest.raises(ParameterError, match="occurs regularly"): tick_size(interleave(a, a*0 + 1, 200 - a, a*0 + 1))
