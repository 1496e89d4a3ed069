"Change everything after a second, and nothing at or before it may move"
import gzip

import numpy as np
import pandas as pd
import pytest
from helpers_tape import DAY, SEC, T0, as_updates, random_books, random_trades, write_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lobresearch.data.grid import ingest
from lobresearch.data.tardis import file_name

quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def same_up_to(a, b, t):
    "Rows at or before `t` are bit-identical"
    x, y = a[a.index <= t], b[b.index <= t]
    pd.testing.assert_frame_equal(x, y, check_exact=True)
    return len(x)


def later_books(rng, books, t):
    "Another future: the books after `t` with other times, prices and sizes"
    out, now = [r for r in books if r[1] <= t], t
    for r in books[len(out):]:
        now += int(rng.integers(1, 3*SEC))
        out.append([now - int(rng.integers(0, SEC)), now] + [None if x is None else round(x*(1 + .5*(k % 2)) + 7, 1) for k, x in enumerate(r[2:])])
    return out


def later_trades(rng, trades, t):
    out = [r for r in trades if r[1] <= t]
    return out + [[r[0], r[1] + int(rng.integers(0, SEC)), r[2] + 10**6, "sell", r[4] + 3, r[5]*2] for r in sorted(trades[len(out):], key=lambda r: r[1])[::2]]


@given(st.integers(0, 2**32 - 1), st.booleans())
@quick
def test_the_future_moves_nothing(tmp_path, seed, updates):
    rng = np.random.default_rng(seed)
    books, trades = random_books(rng, 120), random_trades(rng, 120)
    t = int(rng.integers(books[5][1]//SEC + 1, books[-5][1]//SEC))*SEC
    grids = []
    for b, tr in ((books, trades), (later_books(rng, books, t), sorted(later_trades(rng, trades, t), key=lambda r: r[1]))):
        write_rows(tmp_path, "book_snapshot_25", b)
        write_rows(tmp_path, "trades", tr)
        (tmp_path/file_name("demo", "incremental_book_L2", DAY, "AB")).unlink(missing_ok=True)
        if updates: write_rows(tmp_path, "incremental_book_L2", as_updates(b, 3))
        grids.append(ingest(tmp_path, "demo", "AB", DAY, levels=3, max_stale=8, progress=False)[0])
    n = same_up_to(*grids, t)
    assert n > 0 and not grids[0].equals(grids[1]), "the other future has to differ, or this tests nothing"


RECORDINGS = [("binance", "NEXOUSDT", "2024-07-23"), ("standx", "BTC-USD", "2026-01-05"), ("binance-futures", "BTCUSDT", "2023-04-04")]


@pytest.mark.parametrize("exchange, symbol, date", RECORDINGS)
def test_the_future_of_a_recording_moves_nothing(real_data, tmp_path, exchange, symbol, date):
    "Prices doubled and sizes tripled in every row after a random second, in all three files"
    rng = np.random.default_rng(7)
    whole, _ = ingest(real_data, exchange, symbol, date, progress=False)
    for t in whole.index[rng.integers(30, len(whole) - 30, 2)]:
        for kind in ("book_snapshot_25", "incremental_book_L2", "trades"):
            name = file_name(exchange, kind, date, symbol)
            if not (real_data/name).is_file(): continue
            with gzip.open(real_data/name, "rt") as f: head, *lines = f.read().splitlines()
            first = 4 if kind == "book_snapshot_25" else 6
            out = [head]
            for line in lines:
                c = line.split(",")
                if int(c[3]) > t: c[first:] = [x and repr(float(x)*(2 + i % 2)) for i, x in enumerate(c[first:])]
                out.append(",".join(c))
            (tmp_path/name).write_bytes(gzip.compress(("\n".join(out) + "\n").encode(), 1))
        other, _ = ingest(tmp_path, exchange, symbol, date, progress=False)
        assert same_up_to(whole, other, t) >= 30
        after = whole.index > t + SEC
        assert (whole.ask_px_1[after] != other.ask_px_1.reindex(whole.index)[after]).mean() > .9
