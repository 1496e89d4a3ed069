"Reading Tardis files: numbers exact, memory bounded, every fault with its file and line"
import gzip
import io

import numpy as np
import pandas as pd
import pytest
from helpers_tape import SEC, T0, book_row, random_books, random_trades, write_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lobresearch.data.tardis import header, read_books, read_trades, read_updates
from lobresearch.errors import DataError

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
odd = ["1E5", "0.1", "1e-7", "123456789012345678901234567890", "5e-324", "9007199254740993", "000.50", "7."]
numbers = st.one_of(st.floats(1e-9, 1e12, allow_nan=False).map(repr), st.decimals(1, 10**9, places=4).map(str), st.integers(1, 10**18).map(str),
                    st.floats(1e-9, 1e-3).map(lambda x: f"{x:e}"), st.sampled_from(odd))


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20))
@quick
def test_numbers_are_those_of_python(tmp_path, pairs):
    p = write_rows(tmp_path, "trades", [[T0, T0 + i, i, "buy", a, b] for i, (a, b) in enumerate(pairs)])
    (t,) = read_trades(p, progress=False)
    assert t.price.tolist() == [float(a) for a, _ in pairs] and t.amount.tolist() == [float(b) for _, b in pairs]


@pytest.mark.parametrize("levels", [1, 3, 10, 25])
def test_books_are_those_of_pandas(tmp_path, levels):
    p = write_rows(tmp_path, "book_snapshot_25", random_books(np.random.default_rng(0), 300, levels=7))
    want = pd.read_csv(p)
    got = list(read_books(p, levels, block=5000, progress=False))
    assert len(got) > 5
    np.testing.assert_array_equal(np.concatenate([g.book for g in got]), want.iloc[:, 4:4 + 4*levels].to_numpy(float))
    assert np.concatenate([g.local_ts for g in got]).tolist() == want.local_timestamp.tolist()
    assert np.concatenate([g.exch_ts for g in got]).tolist() == want.timestamp.tolist()


@pytest.mark.parametrize("block", [60, 500, 1 << 20])
def test_blocks_of_any_size(tmp_path, block):
    p = write_rows(tmp_path, "trades", random_trades(np.random.default_rng(1), 200))
    want = pd.read_csv(p)
    got = pd.concat([pd.DataFrame(t._asdict()) for t in read_trades(p, block=block, progress=False)], ignore_index=True)
    assert got.price.tolist() == want.price.tolist() and got.local_ts.tolist() == want.local_timestamp.tolist()
    assert got.side.tolist() == want.side.map({"buy": 1, "sell": -1, "unknown": 0}).tolist()
    assert got.id.nunique() == want.id.nunique()


def test_line_ends_and_members(tmp_path):
    "Windows line ends, no newline at the end, and several gzip members in one file"
    p = write_rows(tmp_path, "trades", [[T0, T0 + i, f"a-{i}", "sell", 5, .5] for i in range(4)])
    text = gzip.decompress(p.read_bytes())
    for variant in (text.replace(b"\n", b"\r\n"), text.rstrip()):
        p.write_bytes(gzip.compress(variant))
        assert sum(len(t.price) for t in read_trades(p, progress=False)) == 4
    p.write_bytes(gzip.compress(text[:100]) + gzip.compress(text[100:]))
    assert sum(len(t.price) for t in read_trades(p, progress=False)) == 4


def test_a_header_alone_is_an_empty_day(tmp_path):
    assert list(read_trades(write_rows(tmp_path, "trades", []), progress=False)) == []


def good_trades(n=5): return [[T0, T0 + i*SEC, i, "buy", 100.5, 2] for i in range(n)]


def good_books(n=5): return [book_row(T0, T0 + i*SEC, 101, 1, 100, 1, 102, 1, 99, 1) for i in range(n)]


def fault(read, path, contains, line=None):
    with pytest.raises(DataError, match=contains) as e: list(read(path, progress=False))
    assert str(path) in str(e.value) and e.value.line == line and str(e.value).startswith(f"{path}, line {line}: ")
    return str(e.value)


TRADE_FAULTS = {
    "nan": (4, 4, "nan", "price is 'nan', not a number"), "empty": (4, 4, "", "price is '', not a number"),
    "words": (4, 5, "two", "amount is 'two', not a number"),
    "negative": (4, 5, -1, "amount is '-1'; prices are positive and sizes not negative"), "zero price": (4, 4, 0, "price is '0'"),
    "side": (4, 3, "BUY", "side is 'BUY'; expected buy, sell or unknown"), "time": (4, 0, "12.5", "timestamp is '12.5'; times are whole microseconds"),
    "backwards": (4, 1, T0 + SEC, "earlier than the line before"), "another day": (4, 1, T0 + 26*3600*SEC, "more than an hour outside the day"),
    "infinite": (4, 4, "inf", "not a number"),
    "two points": (4, 4, "1.2.3", "not a number"), "spaces": (4, 4, " 5", "not a number"), "quotes": (4, 4, '"5"', "not a number")}


@pytest.mark.parametrize("name", TRADE_FAULTS)
def test_fault_in_trades(tmp_path, name):
    i, column, value, contains = TRADE_FAULTS[name]
    rows = good_trades()
    rows[i][column] = value
    fault(read_trades, write_rows(tmp_path, "trades", rows), contains, line=i + 2)


BOOK_FAULTS = {"nan": (2, "nan", "asks\\[0\\].price is 'nan'"), "negative size": (3, -1, "asks\\[0\\].amount is '-1'"),
               "negative price": (4, "-5", "bids\\[0\\].price is '-5'"),
               "half a level": (5, None, "bids\\[0\\].amount is '' while the price beside it says otherwise"), "text far down": (90, "x", "is 'x', not a number"),
               "negative far down": (91, "-3", "is '-3'; prices are positive")}


@pytest.mark.parametrize("name", BOOK_FAULTS)
@pytest.mark.parametrize("levels", [1, 25])
def test_fault_in_a_book(tmp_path, name, levels):
    column, value, contains = BOOK_FAULTS[name]
    rows = good_books()
    rows[3][column] = value
    fault(lambda p, **kw: read_books(p, levels, **kw), write_rows(tmp_path, "book_snapshot_25", rows), contains, line=5)


@pytest.mark.parametrize("levels", [1, 10, 25])
@pytest.mark.parametrize("more", [-1, 1, -90])
def test_wrong_column_count(tmp_path, levels, more):
    rows = good_books()
    rows[2] = rows[2][:more] if more < 0 else rows[2] + [None]
    fault(lambda p, **kw: read_books(p, levels, **kw), write_rows(tmp_path, "book_snapshot_25", rows), f"{104 + more} columns where the header has 104", line=4)


def test_decreasing_arrival_in_a_book(tmp_path):
    rows = good_books()
    rows[3][1] = rows[2][1] - 1
    fault(read_books, write_rows(tmp_path, "book_snapshot_25", rows), "earlier than the line before", line=5)


def test_trades_may_be_a_little_out_of_order(tmp_path):
    rows = good_trades()
    rows[3][1] = rows[2][1] - 900_000
    assert sum(len(t.price) for t in read_trades(write_rows(tmp_path, "trades", rows), progress=False)) == 5


def test_faults_of_updates(tmp_path):
    rows = [[T0, T0 + i, "true", "bid", 5, 1] for i in range(3)]
    assert sum(len(u.price) for u in read_updates(write_rows(tmp_path, "incremental_book_L2", rows), progress=False)) == 3
    rows[1][2] = "maybe"
    fault(read_updates, write_rows(tmp_path, "incremental_book_L2", rows), "is_snapshot is 'maybe'; expected true or false", line=3)


def test_wrong_header(tmp_path):
    p = write_rows(tmp_path, "trades", good_trades())
    p.write_bytes(gzip.compress(gzip.decompress(p.read_bytes()).replace(b"local_timestamp", b"received", 1)))
    fault(read_trades, p, "the header is not that of trades", line=1)


@pytest.mark.parametrize("symbol, line", [("AB", None), ("CD", 2)])
def test_the_name_and_the_rows_agree(tmp_path, symbol, line):
    p = write_rows(tmp_path, "trades", good_trades(), symbol="AB")
    q = p.rename(p.with_name(p.name.replace("AB", symbol)))
    if line: fault(read_trades, q, "the file name says demo CD, the line demo AB", line=line)
    else: assert list(read_trades(q, progress=False))


def test_two_symbols_in_one_file(tmp_path):
    p = write_rows(tmp_path, "trades", good_trades())
    p.write_bytes(gzip.compress(gzip.decompress(p.read_bytes()) + f"demo,CD,{T0},{T0 + 9*SEC},9,buy,5,1\n".encode()))
    fault(read_trades, p, "a file holds one symbol", line=7)


@pytest.mark.parametrize("keep", [.3, .7, .99])
def test_truncated_gzip(tmp_path, keep):
    p = write_rows(tmp_path, "book_snapshot_25", random_books(np.random.default_rng(0), 200))
    whole = p.read_bytes()
    lines = gzip.decompress(whole).count(b"\n")
    p.write_bytes(whole[:int(keep*len(whole))])
    with pytest.raises(DataError, match="cut short.*Delete it and fetch it again") as e: list(read_books(p, progress=False))
    assert e.value.path == p and keep*lines*.5 < e.value.line <= lines + 1


def test_flipped_byte(tmp_path):
    p = write_rows(tmp_path, "trades", random_trades(np.random.default_rng(0), 500))
    b = bytearray(p.read_bytes())
    b[-6] ^= 255 # the checksum
    p.write_bytes(bytes(b))
    with pytest.raises(DataError, match="not valid gzip") as e: list(read_trades(p, progress=False))
    assert e.value.path == p


@pytest.mark.parametrize("content, contains", [(b"", "the file is empty"), (b"this is no gzip at all", "not valid gzip"),
                                               (gzip.compress(b"", mtime=0), "the file is empty")])
def test_no_gzip(tmp_path, content, contains):
    p = write_rows(tmp_path, "trades", [])
    p.write_bytes(content)
    with pytest.raises(DataError, match=contains): list(read_trades(p, progress=False))


def test_a_reader_that_stops_early_leaves_no_thread(tmp_path):
    import threading
    p = write_rows(tmp_path, "trades", random_trades(np.random.default_rng(0), 2000))
    before = threading.active_count()
    next(reader := read_trades(p, block=200, progress=False))
    reader.close()
    assert threading.active_count() == before
