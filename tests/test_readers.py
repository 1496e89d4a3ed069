"Other formats: LOBSTER pairs, FI-2010 and (N, 43) arrays, against plain loops, the calendar, and a real LOBSTER sample"
import gzip
import os
from decimal import ROUND_CEILING, Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers_tape import assert_grid_equal, reference_grid
from hypothesis import assume, given, settings, strategies as st

from lobresearch.data import fi2010, lobster, npy43
from lobresearch.data.fi2010 import FI2010
from lobresearch.data.grid import ingest
from lobresearch.errors import DataError, LobError, ParameterError
from lobresearch.market.labels import forward_return

LEVELS, DATE = 3, "2012-06-21"
NAMES = {k: f"AB_{DATE}_34200000_57600000_{k}_{LEVELS}.csv" for k in ("message", "orderbook")}


# LOBSTER: an order book in plain Python writes the pair, and the ingest's reference the grid

class ToyExchange:
    "Limit orders in two dicts; every event is a message line and a book line"
    def __init__(self, seed, levels=LEVELS):
        self.rng, self.levels, self.orders, self.t = np.random.default_rng(seed), levels, {}, Decimal("34200.25")
        self.messages, self.books = [], []

    def side(self, s):
        "Price and size of a side, best first"
        total = {}
        for side, price, size in self.orders.values():
            if side == s: total[price] = total.get(price, 0) + size
        return sorted(total.items(), reverse=s > 0)

    def log(self, kind, i, size, price, side):
        self.t += Decimal(int(self.rng.integers(0, 700_000_000)))/Decimal(10**9)
        self.messages.append((self.t, kind, i, size, price, side))
        asks, bids = self.side(-1), self.side(1)
        self.books.append([x for k in range(self.levels) for x in (*(asks[k] if k < len(asks) else (9999999999, 0)),
                                                                   *(bids[k] if k < len(bids) else (-9999999999, 0)))])

    def submit(self):
        side, i = int(self.rng.choice([-1, 1])), 1000 + len(self.messages)
        mid = 100_000 + 100*int(self.rng.integers(-4, 5))
        best = self.side(-side)
        price = mid - side*100*int(self.rng.integers(1, 6))
        if best and side*price >= side*best[0][0]: price = best[0][0] - side*100
        self.orders[i] = (side, price, int(self.rng.integers(1, 9))*10)
        self.log(1, i, self.orders[i][2], price, side)

    def take(self, kind):
        "Cancel a part (2), delete (3) or execute (4)"
        if kind == 4:
            side = int(self.rng.choice([-1, 1]))
            best = self.side(side)[0][0]
            i = next(i for i, o in self.orders.items() if o[:2] == (side, best))
        else: i = list(self.orders)[int(self.rng.integers(len(self.orders)))]
        side, price, size = self.orders[i]
        part = size if kind == 3 else int(self.rng.integers(1, size + 1))
        if kind == 2: part = max(1, part - 1)
        if part == size: del self.orders[i]
        else: self.orders[i] = (side, price, size - part)
        self.log(kind, i, part, price, side)

    def run(self, n):
        for _ in range(n):
            both = self.side(1) and self.side(-1)
            kind = int(self.rng.choice([1, 1, 1, 2, 3, 4, 4, 5, 7])) if both else 1
            if kind == 1: self.submit()
            elif kind == 5: self.log(5, 0, 7, 100_050, int(self.rng.choice([-1, 1])))
            elif kind == 7: self.log(7, 0, 0, -1, -1)
            else: self.take(kind)
        return self

    def write(self, folder, pack=lambda b: b):
        folder.mkdir(exist_ok=True)
        for k, rows in (("message", self.messages), ("orderbook", self.books)):
            (folder/NAMES[k]).write_bytes(pack("".join(",".join(map(str, r)) + "\n" for r in rows).encode()))
        return lobster.find_pairs(folder)[0]

    def events(self, hour=13, minute=30, utc_day="2012-06-21"):
        "Rows for `reference_grid`: 09:30 in New York is `hour:minute` UTC"
        start = int(pd.Timestamp(f"{utc_day} {hour}:{minute}").timestamp())*1_000_000
        us = [start + int(((m[0] - 34200)*10**6).to_integral_value(ROUND_CEILING)) for m in self.messages]
        def cell(x): return None if abs(x) == 9999999999 else x
        books = []
        for t, b in zip(us, self.books, strict=True):
            row = [v for k in range(0, len(b), 2) for v in ((b[k]/1e4, float(b[k+1])) if cell(b[k]) else (None, None))]
            books.append([t, t, *row])
        trades = [[t, t, i, "buy" if m[5] == -1 else "sell", m[4]/1e4, float(m[3])]
                  for i, (t, m) in enumerate(zip(us, self.messages, strict=True)) if m[1] in (4, 5)]
        return books, trades


@pytest.mark.parametrize("seed", range(4))
def test_a_made_up_pair_gives_the_grid_that_plain_loops_give(tmp_path, seed):
    ex = ToyExchange(seed).run(600)
    said = lobster.to_tardis(ex.write(tmp_path/"in"), tmp_path)
    grid, quality = ingest(tmp_path, "nasdaq", "AB", DATE, levels=LEVELS, max_stale=5, progress=False)
    want, counts = reference_grid(*ex.events(), LEVELS, max_stale=5)
    assert_grid_equal(grid, want, LEVELS)
    assert said["lines"] == quality["book_rows"] == 600
    assert said["trades"] == quality["trades"] == sum(m[1] in (4, 5) for m in ex.messages) > 50
    assert said["halts"] == sum(m[1] == 7 for m in ex.messages) > 0
    assert quality["empty"] == counts["empty"] > 0  # the first orders stand on one side only


@pytest.mark.parametrize("seed", range(3))
def test_messages_and_books_of_a_made_up_pair_agree_and_a_mixed_up_pair_does_not(tmp_path, seed):
    ex = ToyExchange(seed).run(800)
    t = lobster.audit_pair(ex.write(tmp_path/"in"))
    assert (t.agree == t.checked).all() and t.first_line.sum() == 0
    assert t.lines.sum() == 800 and t.checked.sum() > 400 and (t.checked.loc[[1, 2, 3, 4, 5, 7]] > 0).all()
    assert t.equals(lobster.audit_pair(ex.write(tmp_path/"in"), rows=7))
    i = next(i for i, m in enumerate(ex.messages) if i > 100 and m[1] == 4)
    size = list(ex.messages[i])
    size[3] += 1
    ex.messages[i] = tuple(size)
    t = lobster.audit_pair(ex.write(tmp_path/"in"))
    assert t.first_line.to_dict() == {k: i + 1 if k == 4 else 0 for k in range(1, 8)}


def test_chunks_and_compression_change_nothing(tmp_path):
    ex, got = ToyExchange(9).run(300), []
    for k, (rows, pack) in enumerate([(1 << 16, bytes), (7, bytes), (1, bytes), (64, gzip.compress)]):
        out = tmp_path/f"out{k}"
        out.mkdir()
        lobster.to_tardis(ex.write(tmp_path/"in", pack), out, rows=rows)
        got.append([gzip.decompress(p.read_bytes()) for p in sorted(out.iterdir())])
    assert len(got[0]) == 2 and all(g == got[0] for g in got)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.decimals(0, 86400, allow_nan=False, places=11), st.integers(-10**10, 10**10)), min_size=1, max_size=9), st.booleans())
def test_numbers_are_read_exactly(rows, crlf):
    text = "".join(f"{t:f},{v}{chr(13)*crlf}\n" for t, v in rows).encode()
    out, buf = np.zeros((len(rows), 2), np.int64), np.frombuffer(text, np.uint8)
    assert lobster._scan(buf, 0, len(buf), np.array([9, 0]), out, 0) == (len(rows), len(buf), -1)
    assert out[:, 0].tolist() == [int((t*10**9).to_integral_value(ROUND_CEILING)) for t, _ in rows]
    assert out[:, 1].tolist() == [v for _, v in rows]


@settings(max_examples=80, deadline=None)
@given(st.dates(pd.Timestamp("2007-01-01").date(), pd.Timestamp("2030-12-31").date()), st.integers(0, 86_399_999_999))
def test_new_york_is_converted_as_pandas_does(day, us):
    midnight = pd.Timestamp(day)
    assume(midnight.tz_localize("America/New_York").utcoffset() == (midnight + pd.Timedelta("23h")).tz_localize("America/New_York").utcoffset())
    want = (midnight + pd.Timedelta(us, "us")).tz_localize("America/New_York").tz_convert("UTC")
    assert pd.Timestamp(int(lobster.to_utc(str(day), [us*1000])[0]), unit="us", tz="UTC") == want


def test_hidden_executions_without_a_side_are_signed_by_the_quotes(tmp_path):
    "Since 14 July 2014 the direction of a hidden execution is always 1; above the mid it was a buyer"
    for date, buy, sell, without in (("2014-07-11", 0, 30, 0), ("2014-07-14", 30, 0, 1)):
        for k, text in (("message", "34200.5,1,1,100,100000,1\n34201.5,5,0,30,100150,1\n"), ("orderbook", "100200,100,100000,100\n"*2)):
            (tmp_path/f"AB_{date}_34200000_57600000_{k}_1.csv").write_text(text)
        said = lobster.to_tardis(lobster.find_pairs(tmp_path, days=[date])[0], tmp_path)
        grid, quality = ingest(tmp_path, "nasdaq", "AB", date, levels=1, progress=False)
        assert (grid.buy_vol.sum(), grid.sell_vol.sum(), said["hidden_unsigned"], quality["n_quote_rule"]) == (buy, sell, without, without)


def test_a_line_ends_where_a_side_is_empty(tmp_path):
    "One level, no bid at all: the row is there, the side empty, the ingest counts it"
    for k, text in (("message", "34200.5,1,1,100,100200,-1\n34201.5,1,2,100,100000,1\n"),
                    ("orderbook", "100200,100,-9999999999,0\n100200,100,100000,100\n")):
        (tmp_path/f"AB_{DATE}_34200000_57600000_{k}_1.csv").write_text(text)
    lobster.to_tardis(lobster.find_pairs(tmp_path)[0], tmp_path)
    grid, quality = ingest(tmp_path, "nasdaq", "AB", DATE, levels=1, progress=False)
    assert (len(grid), quality["empty"], quality["book_rows"]) == (1, 1, 2)


def edit(rows, i, col, text):
    cells = rows[i].split(",")
    cells[col] = text
    return [*rows[:i], ",".join(cells), *rows[i+1:]]


BAD = {
    "columns": ("orderbook", lambda r: [*r[:4], r[4].rsplit(",", 1)[0], *r[5:]], 5, "11 columns instead of 12"),
    "more columns": ("message", lambda r: [*r[:4], r[4] + ",NULL", *r[5:]], 5, "7 columns instead of 6"),
    "fewer books": ("orderbook", lambda r: r[:-3], 197, "the file ends after 197 lines"),
    "fewer messages": ("message", lambda r: r[:-1], 199, "the file ends after 199 lines"),
    "nan": ("orderbook", lambda r: edit(r, 7, 1, "nan"), 8, "ask size 1 is 'nan', not a whole number"),
    "empty field": ("message", lambda r: edit(r, 7, 3, ""), 8, "size is '', not a whole number"),
    "half a share": ("message", lambda r: edit(r, 7, 3, "2.5"), 8, "size is '2.5'"),
    "negative": ("orderbook", lambda r: edit(r, 150, 1, "-3"), 151, "a size is -3"),
    "negative message": ("message", lambda r: edit(r, 150, 3, "-3"), 151, "size is -3"),
    "back in time": ("message", lambda r: edit(r, 90, 0, "34200.1"), 91, "time 34200.100000000 is earlier"),
    "past midnight": ("message", lambda r: edit(r, 199, 0, "86400"), 200, "not in the day"),
    "unsorted": ("orderbook", lambda r: edit(r, 120, 0, "200000"), 121, "ask prices do not rise"),
    "type": ("message", lambda r: edit(r, 3, 1, "0"), 4, "type is 0"),
    "blank line": ("message", lambda r: [*r[:9], "", *r[9:]], 10, "1 columns instead of 6"),
    "nothing": ("message", lambda r: [], 1, "the file is empty"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("rows", [1 << 16, 50])
def test_a_fault_names_file_and_line_and_leaves_no_file(tmp_path, what, rows):
    kind, breaks, line, says = BAD[what]
    pair, out = ToyExchange(5).run(200).write(tmp_path/"in"), tmp_path/"out"
    out.mkdir()
    p = tmp_path/"in"/NAMES[kind]
    p.write_text("".join(r + "\n" for r in breaks(p.read_text().splitlines())))
    with pytest.raises(DataError) as e: lobster.to_tardis(pair, out, rows=rows)
    assert (e.value.path, e.value.line) == (p, line) and says in str(e.value) and str(e.value).startswith(f"{p}, line {line}: ")
    assert not list(out.iterdir())


def test_a_truncated_gzip_names_the_line_it_breaks_at(tmp_path):
    pair = ToyExchange(5).run(200).write(tmp_path/"in", gzip.compress)
    p = tmp_path/"in"/NAMES["orderbook"]
    p.write_bytes(p.read_bytes()[:-200])
    with pytest.raises(DataError, match="damaged or cut short from here on") as e: lobster.to_tardis(pair, tmp_path)
    assert e.value.path == p and 1 <= e.value.line <= 200


def test_folders_that_hold_no_pair(tmp_path):
    with pytest.raises(ParameterError, match="does not exist"): lobster.find_pairs(tmp_path/"no")
    with pytest.raises(ParameterError, match="holds no LOBSTER file; names are like"): lobster.find_pairs(tmp_path)
    (tmp_path/NAMES["message"]).write_text("")
    with pytest.raises(DataError, match="its orderbook file is not in the folder"): lobster.find_pairs(tmp_path)
    (tmp_path/NAMES["orderbook"].replace("_3.csv", "_5.csv")).write_text("")
    with pytest.raises(DataError, match="has 3 levels by its name, the order-book file 5"): lobster.find_pairs(tmp_path)
    (tmp_path/NAMES["orderbook"]).write_text("")
    with pytest.raises(DataError, match="there is another orderbook file of AB 2012-06-21"): lobster.find_pairs(tmp_path)


# LOBSTER's own sample

SAMPLE = Path(os.environ.get("LOBRESEARCH_REAL_DATA", "/nowhere/tardis")).parent/"lobster_aapl_sample"
real = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the LOBSTER sample is not here")


def follow(messages, books, levels):
    "Apply each message to dicts of what was shown; the shown levels must follow, but for new ones behind the last. Levels checked"
    shown = [{b[4*k + j]: b[4*k + j + 1] for k in range(levels)} for b in books[:1] for j in (0, 2)]
    checked = 0
    for m, b in zip(messages[1:], books[1:], strict=True):
        _, kind, _, size, price, direction = m
        for j, side, sign in ((0, shown[0], 1), (1, shown[1], -1)):
            new = {b[4*k + 2*j]: b[4*k + 2*j + 1] for k in range(levels)}
            worst_known, worst = max(side, key=lambda p: sign*p), max(new, key=lambda p: sign*p)  # noqa: B023
            if kind <= 4 and (direction == -1) == (j == 0) and sign*price <= sign*max(worst_known, worst, key=lambda p: sign*p):  # noqa: B023
                side[price] = side.get(price, 0) + (size if kind == 1 else -size)
                if side[price] == 0: del side[price]
            for p, q in new.items():
                if sign*p <= sign*worst_known or p in side:
                    assert side.get(p) == q, (m, p, q)
                    checked += 1
            assert all(p in new for p in side if sign*p <= sign*worst), m
            side.clear()
            side.update(new)
    return checked


def lines(path):
    with gzip.open(path, "rt") as f: return [[float(x) if "." in x else int(x) for x in line.split(",")] for line in f]


@real
def test_the_real_sample_follows_from_its_messages():
    pair = lobster.find_pairs(SAMPLE)[0]
    m, b = lines(pair.message), lines(pair.orderbook)
    assert follow(m, b, pair.levels) > 19_000
    t = lobster.audit_pair(pair)
    assert t.lines.sum() == len(m) == t.checked.sum() + 1 and (t.agree == t.checked).all()
    b[500][1] += 1
    with pytest.raises(AssertionError): follow(m, b, pair.levels)


@real
def test_the_real_sample_as_a_grid(tmp_path):
    "Books of the whole seconds and the volume of each, from the raw lines"
    pair = lobster.find_pairs(SAMPLE)[0]
    said = lobster.to_tardis(pair, tmp_path)
    grid, quality = ingest(tmp_path, "nasdaq", "AAPL", DATE, progress=False)
    m, b = lines(pair.message), lines(pair.orderbook)
    assert said["lines"] == quality["book_rows"] == len(m) and quality["crossed"] == quality["empty"] == quality["unsorted"] == 0
    nine_thirty = int(pd.Timestamp("2012-06-21 13:30", tz="UTC").timestamp())
    for second in (1, 2, 16, 44, 49):
        i = max(k for k, x in enumerate(m) if x[0] <= 34200 + second)
        row = grid.loc[(nine_thirty + second)*1_000_000]
        assert row[[f"{s}_{k}" for k in (1, 5, 10) for s in ("ask_px", "ask_sz", "bid_px", "bid_sz")]].tolist() == [
            b[i][4*(k-1) + j]/(1 if j % 2 else 1e4) for k in (1, 5, 10) for j in range(4)]
        for way, name in ((-1, "buy"), (1, "sell")):
            vol = sum(x[3] for x in m if x[1] in (4, 5) and x[5] == way and 34200 + second - 1 < x[0] <= 34200 + second)
            assert row[f"{name}_vol"] == vol


@real
def test_visible_executions_in_the_real_sample_are_at_the_best_price_of_their_side():
    pair = lobster.find_pairs(SAMPLE)[0]
    m, b = lines(pair.message), lines(pair.orderbook)
    hits = [(x, before) for x, before in zip(m[1:], b, strict=False) if x[1] == 4]
    assert len(hits) > 90 and all(x[4] == before[0 if x[5] == -1 else 2] for x, before in hits)


# FI-2010

def fi(n, seed=1, start=.26, normalise=False):
    "A random walk at decimal precision, labelled by a plain loop"
    rng = np.random.default_rng(seed)
    m = start*np.exp(np.cumsum(rng.normal(0, .0015, n)))
    x = rng.random((n, 144))
    for k in range(10): x[:, 4*k], x[:, 4*k + 2] = m*(1.0002 + k/1e4), m*(.9998 - k/1e4)
    y = np.full((n, 5), 2, np.int8)
    for c, k in enumerate((1, 2, 3, 5, 10)):
        for i in range(n - k):
            move = sum(m[i+1:i+1+k])/k/m[i] - 1
            y[i, c] = 1 if move > .002 else 3 if move < -.002 else 2
    if normalise: x = (x - x.mean(axis=0))/x.std(axis=0)
    return FI2010(x[:, :40], x, y)


def save_fi(path, f): np.savetxt(path, np.column_stack([f.features, f.labels]).T, fmt="%.9e")


def test_fi2010_reads_back_and_its_labels_follow_from_its_prices(tmp_path):
    f = fi(500)
    save_fi(tmp_path/"x.txt", f)
    got = fi2010.read_fi2010(tmp_path/"x.txt")
    np.testing.assert_allclose(got.features, f.features, rtol=1e-9)
    assert (got.labels == f.labels).all() and got.labels.dtype == np.int8 and got.book.base is got.features
    t = fi2010.check_labels(got)
    assert (t.agree == 1).all() and t.rows.tolist() == [499, 498, 497, 495, 490] and (t[["up", "down"]] > .05).all().all()
    np.testing.assert_allclose(t[["up", "flat", "down"]].sum(axis=1), 1)
    late = fi2010.check_labels(got._replace(labels=np.roll(got.labels, 1, axis=0)))
    assert (late.agree < .95).all() and (late["first"] >= 0).all()
    turned = fi2010.check_labels(got._replace(labels=got.labels[:, ::-1]))
    assert turned.agree[10] < .9 and turned.agree[30] == 1
    with pytest.raises(ParameterError, match="Use the DecPre files"): fi2010.check_labels(fi(500, normalise=True))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(.9, 1.1), min_size=1, max_size=30), st.sampled_from([10, 20, 50]))
def test_the_rule_is_a_rolling_mean(m, k):
    q, m = k//10, np.array(m)
    move = pd.Series(m).rolling(q).mean().shift(-q)/m - 1
    sure = ~(np.abs(np.abs(move) - .002) < 1e-9)
    want = np.where(move.isna(), 0, np.where(move > .002, 1, np.where(move < -.002, 3, 2)))
    assert (fi2010.relabel(m, k)[sure] == want[sure]).all() and len(fi2010.relabel(m, k)) == len(m)


@settings(max_examples=40, deadline=None)
@given(st.integers(5, 40), st.integers(1, 5), st.sets(st.integers(1, 39), max_size=4))
def test_windows_do_not_cross_known_seams(n, length, seams):
    f = FI2010(np.arange(40*n, dtype=float).reshape(n, 40), None, np.arange(5*n).reshape(n, 5))
    seams = sorted(s for s in seams if s < n)
    x, y = fi2010.windows(f, length, seams)
    want = [i for i in range(n - length + 1) if not any(i < s <= i + length - 1 for s in seams)]
    assert x.shape == (len(want), length, 40)
    for k, i in enumerate(want): assert (x[k] == f.book[i:i+length]).all() and (y[k] == f.labels[i+length-1]).all()


def test_setup2(tmp_path):
    parts = [("Train", 7, 300), ("Test", 7, 60), ("Test", 8, 50), ("Test", 9, 40)]
    for j, (part, i, n) in enumerate(parts): save_fi(tmp_path/f"{part}_Dst_NoAuction_DecPre_CF_{i}.txt", fi(n, seed=j))
    (tmp_path/"deep").mkdir()
    (tmp_path/"Test_Dst_NoAuction_DecPre_CF_9.txt").rename(tmp_path/"deep"/"Test_Dst_NoAuction_DecPre_CF_9.txt")
    s = fi2010.load_setup2(tmp_path, counts=(300, 150))
    assert [len(x.labels) for x in s] == [240, 60, 150] and s.train.book.dtype == np.float32
    np.testing.assert_allclose(s.test.features[60:110], fi(50, seed=2).features, rtol=1e-6)
    assert (s.valid.labels == fi(300, seed=0).labels[240:]).all()
    with pytest.raises(DataError, match="have 300 and 150 columns, the published files 254,750 and 139,587"): fi2010.load_setup2(tmp_path)
    (tmp_path/"Test_Dst_NoAuction_DecPre_CF_9.txt").write_text("")
    with pytest.raises(ParameterError, match="hold 2 files Test_Dst_NoAuction_DecPre_CF_9.txt"): fi2010.load_setup2(tmp_path)
    with pytest.raises(ParameterError, match="norm must be one of DecPre, ZScore, MinMax"): fi2010.load_setup2(tmp_path, "zscore")
    with pytest.raises(LobError, match="99 columns do not hold a window of 100"): fi2010.windows(FI2010(*(x[:99] for x in s.train)))


@pytest.mark.parametrize(("breaks", "line", "says"), [
    (lambda r: r[:100], 100, "the file ends after 100 lines of 149"),
    (lambda r: [], 1, "the file ends after 0 lines"),
    (lambda r: [*r, r[0]], 150, "Was it turned"),
    (lambda r: [*r[:4], "nan " + r[4].split(" ", 1)[1], *r[5:]], 5, "number 1 is nan"),
    (lambda r: [*r[:4], "x " + r[4].split(" ", 1)[1], *r[5:]], 5, "no number"),
    (lambda r: [*r[:4], r[4].split(" ", 1)[1], *r[5:]], 5, "19 numbers where the lines before have 20"),
    (lambda r: [*r[:148], "0 " + r[148].split(" ", 1)[1]], 149, "label 1 is 0"),
])
def test_a_bad_fi2010_file_names_its_line(tmp_path, breaks, line, says):
    p = tmp_path/"x.txt"
    save_fi(p, fi(20))
    p.write_text("".join(r + "\n" for r in breaks(p.read_text().splitlines())))
    with pytest.raises(DataError) as e: fi2010.read_fi2010(p)
    assert (e.value.path, e.value.line) == (p, line) and says in str(e.value)


# (N, 43) arrays

T0 = 1_754_006_400  # 2025-08-01


def arrays(t, mid, layout="grouped", size=None, returns=None, dtype=np.float64):
    "Rows of a file: a book of ten levels a tick of 0.01 apart around each mid"
    n, ladder = len(t), np.arange(10)*.01
    ask, bid = np.round(np.asarray(mid)[:, None] + .005 + ladder, 3), np.round(np.asarray(mid)[:, None] - .005 - ladder, 3)
    q = np.ones((n, 10)) if size is None else size
    parts = [ask, q, bid, 2*q]
    book = np.concatenate(parts, axis=1) if layout == "grouped" else np.stack(parts, axis=2).reshape(n, 40)
    return np.column_stack([np.asarray(t, float) + T0, book, np.zeros((n, 2)) if returns is None else returns]).astype(dtype)


@pytest.mark.parametrize("layout", ["grouped", "interleaved"])
def test_labels_by_time_worked_by_hand(tmp_path, layout):
    "Rows at .5, 1.2, 1.9, 3.7, 4 and 6.5 s; the book of a second is the last one known at it"
    a = arrays([.5, 1.2, 1.9, 3.7, 4, 6.5], [100, 101, 102, 103, 104, 105.], layout)
    np.save(tmp_path/"a.npy", a)
    assert npy43.to_tardis(tmp_path/"a.npy", tmp_path, "demo", "AB", layout) == {"2025-08-01": 6}
    grid, quality = ingest(tmp_path, "demo", "AB", "2025-08-01", progress=False)
    mid = ((grid.ask_px_1 + grid.bid_px_1)/2).to_numpy()
    assert (grid.index.to_numpy()//10**6 - T0).tolist() == [1, 2, 3, 4, 5, 6, 7]
    np.testing.assert_allclose(mid, [100, 102, 102, 104, 104, 104, 105])
    assert (grid.n_updates == [1, 2, 0, 2, 0, 0, 1]).all() and (grid.buy_vol == 0).all() and quality["trades_file"] == "missing"
    y = forward_return(grid.index.to_numpy(), grid.segment.to_numpy(), mid, 2)
    np.testing.assert_allclose(y, 1e4*np.log([102/100, 104/102, 104/102, 104/104, 105/104, np.nan, np.nan]))
    assert grid[["ask_px_10", "bid_px_10"]].to_numpy()[0] == pytest.approx([100.095, 99.905])


BOOKS = st.integers(2, 30).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, 2**31)))


@settings(max_examples=40, deadline=None)
@given(BOOKS)
def test_the_layout_is_told_from_any_sorted_book(made):
    n, seed = made
    rng = np.random.default_rng(seed)
    base, tick = rng.choice([.001, 1., 60_000.]), rng.choice([1e-5, .01, 1.])
    ask = base + tick*np.cumsum(rng.integers(1, 9, (n, 10)), axis=1)
    bid = ask[:, :1] - tick*np.cumsum(rng.integers(1, 9, (n, 10)), axis=1)
    parts = [ask, rng.exponential(rng.choice([1e-3, 1, 1e6]), (n, 10)), bid, rng.exponential(1, (n, 10))]
    x = {"grouped": np.concatenate(parts, axis=1), "interleaved": np.stack(parts, axis=2).reshape(n, 40)}
    for k, v in x.items():
        assert npy43.detect_layout(v) == k
        assert (npy43.interleaved(v, k) == x["interleaved"]).all()


def test_a_wrong_layout_and_float32_times_are_refused(tmp_path):
    a, p = arrays(np.arange(50.), np.full(50, 100.)), tmp_path/"a.npy"
    np.save(p, a)
    with pytest.raises(DataError, match="its columns are grouped, but interleaved was declared. Declare grouped."): npy43.read_npy43(p, "interleaved")
    np.save(p, a[:, ::-1])
    with pytest.raises(DataError, match="no book, neither grouped"): npy43.read_npy43(p)
    np.save(p, a.astype(np.float32))
    with pytest.raises(DataError, match="float32, exact to 128 s only"): npy43.to_tardis(p, tmp_path, "demo", "AB")
    np.save(p, a.astype(np.float32).astype(float))
    with pytest.raises(DataError, match="were float32 once"): npy43.to_tardis(p, tmp_path, "demo", "AB")
    with pytest.raises(DataError, match="away from the file's time"): npy43.to_tardis(p, tmp_path, "demo", "AB", start="2025-08-01T01:00", step=1)
    with pytest.raises(ParameterError, match="give both"): npy43.to_tardis(p, tmp_path, "demo", "AB", step=1)
    assert npy43.to_tardis(p, tmp_path, "demo", "AB", start="2025-08-01T00:00:01", step=1) == {"2025-08-01": 50}
    grid, _ = ingest(tmp_path, "demo", "AB", "2025-08-01", levels=2, progress=False)
    assert grid.index[0] == (T0 + 1)*10**6 and len(grid) == 50 and grid.ask_px_2.iloc[3] == 100.015


def test_days_are_split_at_midnight_utc(tmp_path):
    t = np.array([86_398.5, 86_399, 86_400, 86_401.25])
    np.save(tmp_path/"a.npy", arrays(t, [100., 101, 102, 103]))
    assert npy43.days_of(tmp_path/"a.npy") == ["2025-08-01", "2025-08-02"]
    assert npy43.to_tardis(tmp_path/"a.npy", tmp_path, "demo", "AB") == {"2025-08-01": 2, "2025-08-02": 2}
    with gzip.open(tmp_path/"demo_book_snapshot_25_2025-08-02_AB.csv.gz", "rt") as f: rows = f.read().splitlines()
    assert len(rows) == 3 and rows[1].startswith(f"demo,AB,{(T0 + 86_400)*10**6},{(T0 + 86_400)*10**6},102.005,1,101.995,2,102.015,")
    assert rows[2].endswith("," + "," * 59) and rows[2].count(",") == 103
    other = tmp_path/"other"
    other.mkdir()
    assert npy43.to_tardis(tmp_path/"a.npy", other, "demo", "AB", days=["2025-08-02"]) == {"2025-08-02": 2} and len(list(other.iterdir())) == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(70, 120), st.sampled_from([5., 60.]))
def test_returns_by_time_are_those_of_a_plain_loop(seed, n, max_gap):
    rng = np.random.default_rng(seed)
    ts = np.cumsum(rng.choice([1, 500_000, 3_000_000, 20_000_000], n, p=[.1, .5, .3, .1]))
    m = 100 + np.cumsum(rng.integers(-1, 2, n))*.01
    got = npy43.ahead(ts, m, 10, max_gap)
    for i in range(n):
        end = ts[i] + 10_000_000
        j = max(k for k in range(n) if ts[k] <= end)
        gap = any(ts[k+1] - ts[k] > max_gap*1e6 for k in range(i, j)) or end - ts[j] > max_gap*1e6
        if end > ts[-1] or gap: assert np.isnan(got[i])
        else: assert got[i] == m[j]/m[i] - 1


def test_the_files_returns_count_rows():
    "Steady rows: rows and seconds agree. Rows twice a second: ten rows are 5 s. A flat market has no correlation, and says nothing else"
    rng = np.random.default_rng(4)
    m = 100 + np.cumsum(rng.integers(-1, 2, 1500))*.01
    r = np.column_stack([np.append(m[k:]/m[:-k] - 1, np.full(k, np.nan)) for k in (10, 60)])
    for step, corr, longer in ((1, 1., 0), (.5, None, 0), (2, None, 1)):
        x = arrays(np.arange(1500)*step, m, returns=r)
        f = npy43.Npy43(npy43.times(x[:, 0]), npy43.interleaved(x[:, 1:41], "grouped"), x[:, 41:], "grouped")
        t = npy43.compare_returns(f)
        assert t.corr_rows.min() > 1 - 1e-9 and (t.longer_share == longer).all() and t.median_span_s.tolist() == [10*step, 60*step]
        if corr: assert t.corr_time.min() > 1 - 1e-9 and t.largest_off_bps.max() < 1e-6
        else: assert t.corr_time.max() < .9 and t.largest_off_bps.min() > 1
        bps = npy43.compare_returns(f._replace(returns=f.returns*1e4), unit=1)
        pd.testing.assert_frame_equal(bps, t)
    still = arrays(np.arange(100), np.full(100, 5.))
    t = npy43.compare_returns(npy43.Npy43(npy43.times(still[:, 0]), npy43.interleaved(still[:, 1:41], "grouped"), still[:, 41:], "grouped"))
    assert t[["corr_rows", "corr_time"]].isna().all().all() and (t.largest_off_bps == 0).all()


@pytest.mark.parametrize(("where", "value", "says"), [
    ((7, 3), np.nan, "a price or size is not a number"), ((7, 3), np.inf, "not a number"), ((7, 15), -1, "a size is negative"),
    ((7, 1), -5, "a price is not above zero"), ((7, 21), 1, "levels are out of order (read as grouped)"),
    ((7, 0), T0, "is not later than that of the row before"), ((7, 0), np.nan, "the timestamp is not a number")])
def test_a_bad_row_is_named(tmp_path, where, value, says):
    a, p, out = arrays(np.arange(50.), np.full(50, 100.)), tmp_path/"a.npy", tmp_path/"out"
    out.mkdir()
    a[where] = value
    np.save(p, a)
    with pytest.raises(DataError) as e: npy43.to_tardis(p, out, "demo", "AB")
    assert (e.value.path, e.value.line) == (p, 8) and says in str(e.value) and not list(out.iterdir())


@pytest.mark.parametrize(("content", "says"), [
    (lambda a: a[:, :42], "(50, 42)"), (lambda a: a[0], "(43,)"), (lambda a: a.astype(int), "int64"), (lambda a: a[:0], "it has no row"),
    (lambda a: np.array([{"pickled": 1}]), "no whole .npy file")])
def test_an_array_of_another_kind(tmp_path, content, says):
    p = tmp_path/"a.npy"
    np.save(p, content(arrays(np.arange(50.), np.full(50, 100.))), allow_pickle=True)
    with pytest.raises(DataError) as e: npy43.read_npy43(p)
    assert says in str(e.value)
    p.write_bytes(p.read_bytes()[:60])
    with pytest.raises(DataError, match="no whole .npy file"): npy43.read_npy43(p)
