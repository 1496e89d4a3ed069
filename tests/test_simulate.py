"The embedded exchange and the martingale: bytes from the seed, books that are books, a null that knows nothing."
import gzip
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lobresearch.data import simulate as sim
from lobresearch.data.exchange import (ASK, BID, EVENTS, RING, TRADES, WINDOW, X, Exchange, emptied, market_order, new_record, new_state, run,
                                       tables)
from lobresearch.data.martingale import Martingale, new_martingale, run_martingale
from lobresearch.data.tape import BOOK_HEADER, MISSING, book_text, to_units, write_book, write_trades
from lobresearch.errors import DataError, ParameterError

SYMBOLS = ["SIM-SIGNAL", "SIM-NULL"]


def observe(symbol, hours, seed=0, **par):
    "slots, books (R, 2, 25, 2), trades and hidden states of a run in memory"
    m = sim.market(symbol)
    m = m._replace(par=m.par._replace(**par))
    entropy = sim.branch(0, symbol, 0) + np.atleast_1d(seed).tolist()
    got = [(r.slots[:n], r.books[:n], r.trades, r.hidden) for n, r, _ in sim.chunks(m, int(hours * sim.HOUR), entropy)]
    return [np.concatenate(x) for x in zip(*got, strict=True)]


@pytest.fixture(scope="module")
def runs():
    "Three hours of each market"
    return {s: observe(s, 3) for s in SYMBOLS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A quarter of an hour of each market, on disk"
    path = tmp_path_factory.mktemp("lobsim")
    sim.make_simulated(path, hours=.25, seed=5, workers=1)
    return path


def tree(path): return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


# ---- files

def test_same_seed_same_bytes_whatever_the_processes(folder, tmp_path):
    sim.make_simulated(tmp_path, hours=.25, seed=5, workers=2)
    assert tree(tmp_path) == tree(folder)


def test_another_seed_gives_other_bytes(folder, tmp_path):
    sim.write_simulated(tmp_path, "SIM-NULL", hours=.25, seed=6)
    other, first = tree(tmp_path), tree(folder)
    assert other and all(first[name] != other[name] for name in other)


def test_files_are_as_tardis_has_them(folder):
    for s in SYMBOLS:
        book = pd.read_csv(folder / f"lobsim_book_snapshot_25_2025-01-01_{s}.csv.gz")
        trades = pd.read_csv(folder / f"lobsim_trades_2025-01-01_{s}.csv.gz")
        assert ",".join(book.columns) == BOOK_HEADER
        for df in (book, trades):
            assert set(df.exchange) == {"lobsim"} and set(df.symbol) == {s}
            assert set(df.local_timestamp - df.timestamp) == {sim.DELAY}
            assert df.local_timestamp.is_monotonic_increasing
        assert book.local_timestamp.diff().min() >= 250_000 and (book.local_timestamp % 250_000 == 0).all()
        assert list(trades.id) == list(range(1, len(trades) + 1))
        assert set(trades.side) == {"buy", "sell"} and trades.amount.min() > 0
        assert trades.local_timestamp.min() >= pd.Timestamp("2025-01-01").value // 1000


def test_truth_lies_apart(folder):
    assert {p.name.split("_")[1] for p in folder.glob("*.*")} == {"book", "trades"}
    assert {p.name.split("_")[1] for p in (folder / "truth").iterdir()} == {"hidden", "states"}
    with pytest.raises(DataError, match="lobresearch data simulated"): sim.read_states(folder / "truth", "SIM-NULL")


def test_a_saved_state_is_the_book_published_at_that_second(folder):
    for s in SYMBOLS:
        states = sim.read_states(folder, s)
        book = pd.read_csv(folder / f"lobsim_book_snapshot_25_2025-01-01_{s}.csv.gz")
        i = np.searchsorted(book.local_timestamp, states.ts, side="right") - 1
        n = np.arange(len(i))
        for side, name in ((BID, "bid"), (ASK, "ask")):
            best = states.k[:, side]
            np.testing.assert_allclose(book[f"{name}s[0].price"].to_numpy()[i], best * sim.TICK)
            np.testing.assert_allclose(book[f"{name}s[0].amount"].to_numpy()[i], states.book[n, side, best % RING] * sim.LOT)


def test_hidden_state_is_a_row_a_second_and_agrees_with_the_states(folder):
    hidden, states = sim.read_hidden(folder, "SIM-SIGNAL"), sim.read_states(folder, "SIM-SIGNAL")
    assert len(hidden) == 900 and (np.diff(hidden.index) == 1_000_000).all()
    np.testing.assert_array_equal(hidden.latent.loc[states.ts], states.z[:, X])


def test_midnight_splits_a_run_without_loss(tmp_path, monkeypatch):
    "Days of 20 minutes: the two files together hold the rows of the unsplit run"
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    for s in SYMBOLS:
        sim.write_simulated(tmp_path / "one", s, hours=.5, seed=1)
        with monkeypatch.context() as patch:
            patch.setattr(sim, "DAY", 4800)
            out = sim.write_simulated(tmp_path / "two", s, hours=.5, seed=1)
        for kind in ("book_snapshot_25", "trades"):
            files = [gzip.open(tmp_path / d / f"lobsim_{kind}_{day}_{s}.csv.gz", "rt").read().splitlines()
                     for d, day in (("one", "2025-01-01"), ("two", "2025-01-01"), ("two", "2025-01-02"))]
            assert files[0] == files[1] + files[2][1:]
            edge = [int(line.split(",")[3]) for line in (files[1][-1], files[2][1])]
            midnight = pd.Timestamp("2025-01-01 00:20").value // 1000
            assert edge[0] < midnight <= edge[1]
        assert out["trades"] == len(files[0]) - 1


@pytest.mark.parametrize("bad, sentence", [(dict(symbol="SIM-OTHER"), "lists SIM-SIGNAL, SIM-NULL"), (dict(symbol="SIM-NULL", hours=0), "at least one second")])
def test_what_cannot_be_simulated_is_said(tmp_path, bad, sentence):
    with pytest.raises(ParameterError, match=sentence): sim.write_simulated(tmp_path, **bad)
    assert not list(tmp_path.glob("*.gz"))


# ---- books and trades

@pytest.mark.parametrize("symbol", SYMBOLS)
def test_books_are_books(runs, symbol):
    slots, books, _, _ = runs[symbol]
    price, lots = books[..., 0], books[..., 1]
    there = price >= 0
    assert (np.diff(slots) > 0).all()
    assert there[:, :, :15].all() and there.mean() > .99                  # no empty side, and 25 levels nearly always
    assert (price[:, 0, 0] < price[:, 1, 0]).all()                        # never locked or crossed
    assert (price[:, 1, 0] - price[:, 0, 0]).max() < 2 * Exchange().max_spread
    assert (lots[there] > 0).all() and (there[:, :, :-1] >= there[:, :, 1:]).all()
    both = there[:, :, 1:]
    assert (np.diff(price[:, 0], axis=1)[both[:, 0]] < 0).all() and (np.diff(price[:, 1], axis=1)[both[:, 1]] > 0).all()


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_trades_lie_between_the_quotes_around_them(runs, symbol):
    "A buy pays an ask and a sell hits a bid that stood in this quarter second or the one before"
    slots, books, trades, _ = runs[symbol]
    i = np.clip(np.searchsorted(slots * 250_000, trades[:, 0]), 2, len(slots) - 1)
    around = np.stack([books[i - j, :, 0, 0] for j in range(3)])
    reach = Exchange().max_spread
    assert (trades[:, 2] >= around[:, :, 0].min(0) - reach).all() and (trades[:, 2] <= around[:, :, 1].max(0) + reach).all()
    buy = trades[:, 1] > 0
    at_quote = np.where(buy, (trades[:, 2] == around[:, :, 1]).any(0), (trades[:, 2] == around[:, :, 0]).any(0))
    assert at_quote.mean() > .9 and (trades[:, 3] > 0).all()


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_spread_is_mostly_a_tick_and_tails_are_fat(runs, symbol):
    slots, books, _, _ = runs[symbol]
    best = books[:, :, 0, 0]
    mid = best.sum(1)[np.searchsorted(slots, 4 * np.arange(1, 10_800), side="right") - 1] / 2
    r = np.diff(mid)
    assert np.mean(best[:, 1] - best[:, 0] == 1) > .8
    assert abs(np.corrcoef(r[1:], r[:-1])[0, 1]) < .05
    r10 = np.diff(mid[::10])
    assert np.mean(r10**4) / np.mean(r10**2)**2 > 4.5
    assert np.corrcoef(np.abs(r[1:]), np.abs(r[:-1]))[0, 1] > .05


def test_latent_is_the_process_it_says(runs):
    x, par = runs["SIM-SIGNAL"][3][:, 0], Exchange()
    phi = 2**(-1 / par.latent_life)
    assert abs(np.corrcoef(x[1:], x[:-1])[0, 1] - phi) < .01
    assert abs(x.std() - 1) < 4 * ((1 + phi) / (1 - phi) / len(x) / 2)**.5


@settings(max_examples=60, deadline=None)
@given(lots=st.integers(1, 200), buy=st.booleans(), queues=st.lists(st.integers(0, 30), min_size=8, max_size=8))
def test_a_market_order_takes_what_is_there_best_price_first(lots, buy, queues):
    tab, trades = tables(Exchange()), np.zeros((9, 4), np.int64)
    s = new_state(tab, 0, price=100)
    side, first, step = (ASK, 101, 1) if buy else (BID, 100, -1)
    queues[0] = max(queues[0], 1)
    for i, q in enumerate(queues): s.book[side, (first + step * i) % RING] = q
    open_queues = [(first + step * i, q) for i, q in enumerate(queues[:8]) if q]
    before = s.book[side].sum()
    market_order(s.book, s.k, tab.cap, 8, buy, lots, 0., trades)
    done = trades[:s.k[TRADES]]
    left, expect = lots, []
    for p, q in open_queues[:5]:
        if left and abs(p - (100 if buy else 101)) <= 8: expect, left = expect + [(p, min(q, left))], left - min(q, left)
    assert [tuple(t) for t in done[:len(expect), 2:]] == expect
    assert (done[:, 1] == (1 if buy else -1)).all() and done[:, 3].sum() <= lots
    assert s.k[BID] < s.k[ASK] and s.book[side, s.k[side] % RING] > 0
    if len(open_queues) > 5: assert before - s.book[side].sum() == done[:, 3].sum()


def test_an_emptied_side_is_quoted_again():
    tab = tables(Exchange())
    for side in (BID, ASK):
        s = new_state(tab, 0)
        s.book[side] = 0
        emptied(s.book, s.k, tab.cap, side, 8)
        assert s.k[ASK] - s.k[BID] == 8 and s.book[side, s.k[side] % RING] > 0


def test_the_window_holds_what_it_should():
    "After any run, each side has lots only between its best price and WINDOW ticks behind the best price possible"
    par = Exchange()
    tab = tables(par)
    s = new_state(tab, 3)
    for first in range(0, 14_400, 400):
        run(s, par, tab, first, first + 400, new_record())
        for side, step in ((BID, -1), (ASK, 1)):
            reach = {(s.k[1 - side] + step * (1 + d)) % RING for d in range(WINDOW + 1)}
            inside = {(s.k[1 - side] + step * d) % RING for d in range(1, step * (s.k[side] - s.k[1 - side]))}
            full = set(np.flatnonzero(s.book[side]))
            assert full <= reach - inside and s.book[side].min() >= 0


@settings(max_examples=10, deadline=None)
@given(cut=st.integers(1, 999), seed=st.integers(0, 2**32))
def test_a_run_may_be_cut_anywhere(cut, seed):
    for par, new, go in ((Exchange(), new_state, run), (Martingale(), new_martingale, run_martingale)):
        tab = tables(par)
        whole, parts = new(tab, seed), new(tab, seed)
        go(whole, par, tab, 0, 1000, new_record())
        go(parts, par, tab, 0, cut, new_record())
        go(parts, par, tab, cut, 1000, new_record())
        for a, b in zip(whole, parts, strict=True): np.testing.assert_array_equal(a, b)


# ---- the null

def strongest(x, y):
    "The largest |t| of the correlations of the columns of `x` with `y`"
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    p = x * y[:, None]
    return np.abs(p.mean(0) / p.std(0) * len(y)**.5).max()


def before_moves(slots, books):
    "What is visible before each move of the mid (rows), and the sign of the move"
    best = books[:, :, 0].astype(float)
    mid, spread = best[:, :, 0].mean(1), best[:, 1, 0] - best[:, 0, 0]
    depth = books[:, :, :, 1].astype(float)
    imbalance = [(a - b) / (a + b) for a, b in ((depth[:, 0, :n].sum(1), depth[:, 1, :n].sum(1)) for n in (1, 2, 5, 25))]
    step = np.diff(mid, prepend=mid[0])
    at = np.flatnonzero(np.diff(mid))
    at = at[at > 20]
    visible = imbalance + [step, imbalance[0] * (spread > 1), step * (spread > 1), imbalance[0] * spread, mid % 1] + [mid - np.roll(mid, n) for n in (2, 4, 10, 20)]
    return np.stack(visible, 1)[at], np.sign(np.diff(mid))[at]


def test_nothing_visible_knows_the_next_sign_of_the_null(runs):
    x, sign = before_moves(*runs["SIM-NULL"][:2])
    assert len(sign) > 5_000 and strongest(x, sign) < 4


def test_the_same_look_at_the_exchange_sees_it(runs):
    assert strongest(*before_moves(*runs["SIM-SIGNAL"][:2])) > 10


def test_flow_explains_the_move_it_came_with_and_not_the_next(runs):
    slots, books, trades, _ = runs["SIM-NULL"]
    S = 10_800
    mid = books[:, :, 0, 0].mean(1)[np.searchsorted(slots, 4 * np.arange(1, S), side="right") - 1]
    flow = np.bincount(np.minimum((trades[:, 0] - 1) // 1_000_000, S - 1), trades[:, 1] * trades[:, 3], minlength=S)[:S - 1]
    r = np.diff(mid, prepend=mid[0])
    assert np.corrcoef(flow, r)[0, 1] > .1
    for h in (1, 2, 10):
        ahead = mid[h:] - mid[:-h]
        x = np.stack([flow, r, flow * np.abs(r)], 1)[:-h]
        assert strongest(x[::h], ahead[::h]) < 4


def test_a_wide_spread_is_closed_from_either_side(runs):
    "Whatever side stepped away, the odds that the mid goes on are even"
    slots, books, _, _ = runs["SIM-NULL"]
    best = books[:, :, 0, 0]
    spread, mid = best[:, 1] - best[:, 0], best.sum(1)
    i = 1 + np.flatnonzero((spread[:-2] == 1) & (spread[1:-1] == 2) & (spread[2:] == 1) & (np.diff(slots)[:-1] == 1) & (np.diff(slots)[1:] == 1))
    on = np.sign(mid[i] - mid[i - 1]) * np.sign(mid[i + 1] - mid[i])
    assert len(on) > 500 and abs(on.mean()) < 4 / len(on)**.5


def test_a_fill_needs_the_level_to_be_depleted():
    "While the price stands still, what trades after any moment is less than the queue of that moment"
    par = Martingale()._replace(move=0., market=10.)
    tab = tables(par)
    s, rec = new_martingale(tab, 4), new_record(3600, 100_000)
    n = run_martingale(s, par, tab, 0, 3600, rec)
    queue, trades = rec.books[:n, :, 0, 1], rec.trades[:s.k[TRADES]]
    assert len(np.unique(rec.books[:n, :, 0, 0], axis=0)) == 1 and len(trades) > 4
    for side, sign in ((BID, -1), (ASK, 1)):
        t = trades[trades[:, 1] == sign]
        sold = np.concatenate([[0], np.cumsum(t[:, 3])])
        before = np.searchsorted(t[:, 0], rec.slots[:n] * 250_000, side="right")
        assert (sold[-1] - sold[before] < queue[:, side]).all()


def test_no_trade_brings_the_news_before_the_book(runs):
    "A trade priced beyond the quotes last shown would tell of a move that the book has yet to show"
    slots, books, trades, _ = runs["SIM-NULL"]
    t = trades[trades[:, 0] > slots[0] * 250_000]
    i = np.searchsorted(slots * 250_000, t[:, 0], side="right") - 1
    best = books[:, :, 0, 0]
    mid = best.sum(1)
    beyond = np.where(t[:, 1] > 0, t[:, 2] > best[i, 1], t[:, 2] < best[i, 0])
    assert len(t) > 5_000 and beyond.mean() < .03                         # the few are old: a step of two ticks, taken back within the slot
    for some in (beyond, ~beyond):
        for ahead in (1, 4):
            j = i[some & (i + ahead < len(mid))]
            move = (mid[j + ahead] - mid[j]) * t[some & (i + ahead < len(mid)), 1]
            assert abs(move.mean()) < 4 * move.std() / len(np.unique(j))**.5


# ---- tape

@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-10**12, 10**12), min_size=1, max_size=25), st.integers(0, 4))
def test_the_compiled_digits_are_pythons(units, places):
    row = np.array([units])
    text = bytes(book_text("x", "y", [1], [2], row, row, row, row, (places, places))).decode()
    shown = text.rstrip("\n").split(",")[4:4 + 4 * len(units):4]
    from decimal import Decimal
    assert shown == [f"{Decimal(u).scaleb(-places):.{places}f}" for u in units]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(0, 10**9)), min_size=1, max_size=20), st.integers(0, 6))
def test_units_come_back(numbers, places):
    x = np.array([np.nan if n is None else n * 10.0**-places for n in numbers])
    back = to_units(x, places)
    assert [None if v == MISSING else v for v in back.tolist()] == numbers


def test_written_tables_read_back(tmp_path):
    rng = np.random.default_rng(0)
    px, sz = np.round(rng.uniform(1, 9, (2, 30, 25)), 2), np.round(rng.uniform(1, 9, (2, 30, 25)), 3)
    px[0, 3, 20:] = sz[0, 3, 20:] = np.nan
    ts = np.arange(30) * 10
    write_book(tmp_path / "b.csv.gz", "x", "y", ts, ts + 1, px[0], sz[0], px[1], sz[1])
    b = pd.read_csv(tmp_path / "b.csv.gz")
    np.testing.assert_array_equal(b[[f"asks[{i}].price" for i in range(25)]], px[0])
    np.testing.assert_array_equal(b[[f"bids[{i}].amount" for i in range(25)]], sz[1])
    write_trades(tmp_path / "t.csv.gz", "x", "y", ts, ts, ts, ["buy"] * 30, px[1, :, 0], sz[1, :, 0])
    np.testing.assert_array_equal(pd.read_csv(tmp_path / "t.csv.gz").amount, sz[1, :, 0])


def test_events_are_counted_once_each():
    par = Exchange()
    tab, s = tables(par), new_state(tables(par), 0)
    counts = []
    for first in range(0, 8000, 400):
        run(s, par, tab, first, first + 400, new_record())
        counts.append(int(s.k[EVENTS]))
    assert all(a < b for a, b in pairwise(counts))
    assert counts[-1] < 2000 * 30 * (par.limit + par.cancel + par.market)


# ---- slow: can a machine find anything in the null?

def visible_features(slots, books, trades, seconds):
    "Plain features at each whole second, and the mid in bps"
    best, depth = books[:, :, 0].astype(float), books[..., 1].astype(float)
    (pb, qb), (pa, qa) = best[:, 0].T, best[:, 1].T
    e = (pb[1:] >= pb[:-1]) * qb[1:] - (pb[1:] <= pb[:-1]) * qb[:-1] - (pa[1:] <= pa[:-1]) * qa[1:] + (pa[1:] >= pa[:-1]) * qa[:-1]
    ofi = np.bincount((slots[1:] - 1) // 4, e, minlength=seconds)
    flow = np.bincount(np.minimum((trades[:, 0] - 1) // 1_000_000, seconds - 1), trades[:, 1] * trades[:, 3], minlength=seconds)
    last = np.searchsorted(slots, 4 * np.arange(1, seconds + 1), side="right") - 1
    mid = 1e4 * np.log((pb + pa)[last])
    r = np.diff(mid, prepend=mid[0])
    sums = lambda x, w: np.convolve(x, np.ones(w), "full")[:seconds]
    spread = (pa - pb)[last]
    books_now = [((depth[:, 0, :n].sum(1) - depth[:, 1, :n].sum(1)) / depth[:, :, :n].sum((1, 2)))[last] for n in (1, 2, 3, 5, 10, 25)]
    past = [sums(x, w) for x in (ofi, flow, r, np.abs(r), r**2) for w in (1, 2, 5, 10, 30, 60, 300)]
    mixed = [spread, spread * np.sign(r), (spread > 1) * books_now[0], (spread > 1) * np.sign(sums(r, 5)), r * books_now[0], flow * np.abs(r),
             (2 * mid) % 2, books_now[0] * sums(np.abs(r), 30), *[np.roll(x, n) for x in (r, ofi, flow) for n in (1, 2, 3)]]
    return np.stack(books_now + past + mixed, 1), mid


@pytest.mark.slow
def test_neither_ridge_nor_trees_forecast_the_null():
    "Twelve seeds of six hours, four horizons: the t statistics out of sample are those of chance"
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import Ridge
    seconds, t = 6 * 3600, {}
    for seed in range(12):
        slots, books, trades, _ = observe("SIM-NULL", 6, seed=[seed, 77])
        x, mid = visible_features(slots, books, trades, seconds)
        for h in (1, 2, 10, 60):
            y, z = mid[h:] - mid[:-h], (x - x[:10_000].mean(0)) / (x[:10_000].std(0) + 1e-9)
            train, test = slice(400, 11_500), slice(12_500, seconds - h)
            for model in (Ridge(30.), HistGradientBoostingRegressor(max_iter=30, max_leaf_nodes=15, min_samples_leaf=100, random_state=0)):
                f = model.fit(z[train], y[train]).predict(z[test])
                p = (f - f.mean()) * (y[test] - y[test].mean())
                blocks = p[:p.size // 300 * 300].reshape(-1, 300).sum(1)
                t.setdefault((type(model).__name__, h), []).append(blocks.sum() / (blocks @ blocks)**.5)
    scores = np.array(list(t.values()))
    assert scores.shape == (8, 12)
    assert (np.abs(scores.mean(1)) < 4 / 12**.5).all(), t
    assert np.abs(scores).max() < 4.5 and .6 < scores.std() < 1.4


def test_saved_states_do_not_depend_on_the_patch_version_of_python(tmp_path):
    "numpy's own writer marks entries as zip64 in some versions of Python and not in others: the hash of data/ changed, the data did not"
    import zipfile

    from lobresearch.data.simulate import write_npz
    a = dict(x=np.arange(1000), name=np.array("SIM"))
    write_npz(tmp_path / "a.npz", **a)
    back = np.load(tmp_path / "a.npz")
    assert all(np.array_equal(back[k], v) for k, v in a.items())
    raw = (tmp_path / "a.npz").read_bytes()
    at = [i.header_offset for i in zipfile.ZipFile(tmp_path / "a.npz").infolist()]
    assert [raw[i + 4] for i in at] == [20, 20]  # version needed to read: plain zip
    assert all(i.date_time == (1980, 1, 1, 0, 0, 0) and i.create_system == 3 for i in zipfile.ZipFile(tmp_path / "a.npz").infolist())
