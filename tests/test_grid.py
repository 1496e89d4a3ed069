"From files to the grid: against a plain reference an event, chunk by chunk, day by day, fault by fault"
import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from helpers_tape import DAY, SEC, T0, as_updates, assert_grid_equal, book_row, random_books, random_trades, reference_grid, write_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lobresearch.data.book import Books
from lobresearch.data.grid import Day, grid_columns, grid_dates, ingest, ingest_all, load_grid, read_quality, write_grid
from lobresearch.data.tardis import read_books, read_trades
from lobresearch.errors import DataError, ParameterError

quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
seeds = st.integers(0, 2**32 - 1)


def files(folder, rng, n=150, **kw):
    books, trades = random_books(rng, n), random_trades(rng, n)
    write_rows(folder, "book_snapshot_25", books, **kw)
    write_rows(folder, "trades", trades, **kw)
    return books, trades


@given(seeds, st.sampled_from(["local", "exchange"]), st.sampled_from([0, 2, 60]), st.integers(1, 4))
@quick
def test_grid_is_the_reference(tmp_path, seed, clock, max_stale, levels):
    books, trades = files(tmp_path, np.random.default_rng(seed))
    grid, q = ingest(tmp_path, "demo", "AB", DAY, levels=levels, max_stale=max_stale, clock=clock, progress=False)
    want, counts = reference_grid(books, trades, levels, max_stale, clock)
    assert_grid_equal(grid, want, levels)
    assert {k: q[k] for k in counts} == counts
    assert q["book_rows"] == len(books) == q["book_kept"] + q["crossed"] + q["empty"] + q["book_duplicates"]
    assert q["trades"] == len(trades) and q["gaps"] == grid.segment.nunique() - 1
    assert q["exch_reversals"] == sum(a[0] > b[0] for a, b in zip(books, books[1:], strict=False))


@given(seeds, st.integers(100, 4000))
@quick
def test_chunks_of_any_size_give_the_same_bits(tmp_path, seed, block):
    files(tmp_path, np.random.default_rng(seed), n=80)
    grids = []
    for b in (block, 1 << 20):
        d = Day(DAY, 3)
        d.add_books(read_books(tmp_path/f"demo_book_snapshot_25_{DAY}_AB.csv.gz", 3, block=b, progress=False))
        d.add_trades(read_trades(tmp_path/f"demo_trades_{DAY}_AB.csv.gz", block=b, progress=False))
        grids.append(d.grid())
    pd.testing.assert_frame_equal(*grids, check_exact=True)


def test_columns_and_types(tmp_path):
    files(tmp_path, np.random.default_rng(0))
    grid, q = ingest(tmp_path, "demo", "AB", DAY, levels=3, progress=False)
    assert list(grid.columns) == grid_columns(3) and grid.index.name == "ts" and grid.index.dtype == np.int64
    assert grid.stale.dtype == bool and grid.segment.dtype == np.int64 and grid.ask_px_1.dtype == np.float64
    assert json.loads(json.dumps(q)) == q
    quiet = grid.buy_n + grid.sell_n == 0
    assert (grid.buy_vol[quiet] == 0).all() and grid.vwap.notna().any()
    seen = grid.dropna(subset="vwap")
    assert (seen.low <= seen.vwap + 1e-9).all() and (seen.vwap <= seen.high + 1e-9).all()
    fresh = grid[~grid.stale]
    assert (fresh.n_updates > 0).all() and (grid.n_updates[grid.stale] == 0).all()
    assert (grid.filter(like="ofi_")[grid.stale] == 0).all(axis=None)


def test_row_holds_what_had_arrived(tmp_path):
    "A book at exactly T is in row T, one a microsecond later in the next; the exchange's clock moves it"
    rows = [book_row(T0 + SEC, T0 + 2*SEC, 101, 1, 100, 1), book_row(T0 + SEC + 1, T0 + 2*SEC + 1, 103, 1, 102, 1)]
    write_rows(tmp_path, "book_snapshot_25", rows)
    grid, _ = ingest(tmp_path, "demo", "AB", DAY, levels=1, progress=False)
    assert ((grid.index - T0)//SEC).tolist() == [2, 3] and grid.ask_px_1.tolist() == [101, 103]
    grid, _ = ingest(tmp_path, "demo", "AB", DAY, levels=1, clock="exchange", progress=False)
    assert ((grid.index - T0)//SEC).tolist() == [1, 2]


@pytest.mark.parametrize("quiet, segments", [(59, 1), (60, 1), (61, 2), (200, 2)])
def test_a_gap_is_more_than_max_stale_empty_seconds(tmp_path, quiet, segments):
    t = T0 + 10*SEC
    write_rows(tmp_path, "book_snapshot_25", [book_row(t, t, 101, 5, 100, 1), book_row(t, t + (quiet + 1)*SEC, 101, 2, 100, 1)])
    grid, q = ingest(tmp_path, "demo", "AB", DAY, levels=1, progress=False)
    assert grid.segment.nunique() == segments and grid.stale.sum() == min(quiet, 60) and q["gap_s"] == max(0, quiet - 60)
    assert grid.segment.iloc[-1] == (t if segments == 1 else grid.index[-1])
    assert grid.ofi_1.iloc[-1] == (3 if segments == 1 else 0)


def test_side_by_quote_then_tick(tmp_path):
    "Mid 100.5 from second 1 on. At the mid the last change decides; a trade and a book of one instant: the trade sees the book before"
    t = T0 + SEC
    write_rows(tmp_path, "book_snapshot_25", [book_row(t, t, 101, 5, 100, 1), book_row(t, t + 3*SEC, 111, 5, 110, 1)])
    prices = [(0, 100.5), (1, 101.), (2, 100.5), (3, 100.7), (4, 110.)]
    write_rows(tmp_path, "trades", [[t, t + s*SEC, s, "unknown", p, 1] for s, p in prices])
    grid, q = ingest(tmp_path, "demo", "AB", DAY, levels=1, progress=False)
    # 0: no book before it, no trade before it; 1: above; 2: at the mid, last change down;
    # 3: above 100.5, for the book of 110.5 comes after; 4 is after the last book
    assert grid.buy_n.tolist() == [0, 1, 0, 1] and grid.sell_n.tolist() == [0, 0, 1, 0]
    assert (q["n_unsigned"], q["n_quote_rule"], q["n_tick_rule"], q["trades_outside"], q["unknown_sides"]) == (1, 3, 1, 1, 5)
    assert grid.high.tolist() == [100.5, 101, 100.5, 100.7]


def test_repeated_and_reused_trade_ids(tmp_path):
    write_rows(tmp_path, "book_snapshot_25", [book_row(T0, T0 + s*SEC, 101, 5, 100, 1) for s in range(1, 50)])
    t = [[T0, T0 + s*SEC, i, "buy", 101, q] for s, i, q in ((2, 7, 1), (40, 7, 1), (41, 7, 2), (42, "", 4), (42, "", 4))]
    write_rows(tmp_path, "trades", t)
    grid, q = ingest(tmp_path, "demo", "AB", DAY, levels=1, progress=False)
    assert (q["trade_duplicates"], q["trade_ids_reused"]) == (1, 1) and grid.buy_vol.sum() == 1 + 2 + 8


def test_many_trades_outgrow_the_first_table(tmp_path):
    n = 40_000
    write_rows(tmp_path, "book_snapshot_25", [book_row(T0, T0 + s*SEC, 101, 5, 100, 1) for s in (1, 2)])
    write_rows(tmp_path, "trades", [[T0, T0 + 2*SEC, i, "buy", 101, 1] for i in range(n)]*2)
    _, q = ingest(tmp_path, "demo", "AB", DAY, levels=1, progress=False)
    assert q["trade_duplicates"] == n and q["trades"] == 2*n


def test_imbalance_from_updates(tmp_path):
    "The same book told by snapshots and by updates gives the same imbalance; the source is recorded"
    rng = np.random.default_rng(5)
    books = random_books(rng, 200, odd=0, step=1.)
    write_rows(tmp_path, "book_snapshot_25", books)
    a, qa = ingest(tmp_path, "demo", "AB", DAY, levels=3, progress=False)
    updates = as_updates(books, 3)
    write_rows(tmp_path, "incremental_book_L2", updates)
    b, qb = ingest(tmp_path, "demo", "AB", DAY, levels=3, progress=False)
    assert (qa["ofi_source"], qb["ofi_source"]) == ("book_snapshot_25", "incremental_book_L2")
    pd.testing.assert_frame_equal(a, b)
    # with only every third snapshot the book file misses events that the updates still have
    write_rows(tmp_path, "book_snapshot_25", books[::3])
    c, _ = ingest(tmp_path, "demo", "AB", DAY, levels=3, progress=False)
    both = c.index.intersection(b.index)
    pd.testing.assert_series_equal(c.ofi_1[both][1:], b.ofi_1[both][1:])
    write_rows(tmp_path, "incremental_book_L2", [[*r[:2], "false", *r[3:]] for r in updates])
    _, q = ingest(tmp_path, "demo", "AB", DAY, levels=3, progress=False)
    assert q["ofi_source"].startswith("book_snapshot_25 (incremental_book_L2 has no snapshot")


def test_updates_far_from_the_touch_keep_the_book_alive_but_bridge_no_gap(tmp_path):
    "Two minutes in which only a deep level changes: a gap where the book file is silent, none where it too shows the deep change"
    t = T0 + 10*SEC
    quiet = [[t, t + s*SEC, "false", "bid", 50, s] for s in range(30, 120, 30)]
    feed = [[t, t, "true", "ask", 101, 5], [t, t, "true", "bid", 100, 1], *quiet, [t, t + 120*SEC, "false", "ask", 101, 2], [t, t + 121*SEC, "false", "ask", 101, 1]]
    write_rows(tmp_path, "incremental_book_L2", feed)
    ends = [book_row(t, t, 101, 5, 100, 1), book_row(t, t + 120*SEC, 101, 2, 100, 1), book_row(t, t + 121*SEC, 101, 1, 100, 1)]
    write_rows(tmp_path, "book_snapshot_25", ends)
    grid, _ = ingest(tmp_path, "demo", "AB", DAY, levels=1, progress=False)
    assert grid.segment.nunique() == 2 and grid.ofi_1.iloc[-2:].tolist() == [0, 1] and grid.ofi_1.sum() == 1
    write_rows(tmp_path, "book_snapshot_25", [ends[0], *(book_row(t, t + s*SEC, 101, 5, 100, 1, None, None, 50, s) for s in (30, 60, 90)), *ends[1:]])
    grid, q = ingest(tmp_path, "demo", "AB", DAY, levels=1, progress=False)
    assert grid.segment.nunique() == 1 and grid.ofi_1.iloc[-2:].tolist() == [3, 1] and q["ofi_source"] == "incremental_book_L2"


def test_updates_that_end_early(tmp_path):
    books = random_books(np.random.default_rng(3), 150, odd=0, step=2.)
    write_rows(tmp_path, "book_snapshot_25", books)
    whole, _ = ingest(tmp_path, "demo", "AB", DAY, levels=3, max_stale=5, progress=False)
    write_rows(tmp_path, "incremental_book_L2", as_updates(books[:75], 3))
    part, q = ingest(tmp_path, "demo", "AB", DAY, levels=3, max_stale=5, progress=False)
    assert q["ofi_source"].startswith("incremental_book_L2 for ")
    end = -(-books[74][1]//SEC)*SEC
    away = (whole.index < end) | (whole.index > end + 5*SEC)       # for max_stale seconds the silence may be a quiet market
    pd.testing.assert_frame_equal(whole[away], part[away])


def test_no_trades_file_is_said(tmp_path, capsys):
    write_rows(tmp_path, "book_snapshot_25", random_books(np.random.default_rng(0), 50))
    rows = ingest_all(tmp_path, tmp_path/"grid", "demo", ["AB"], [DAY], levels=2)
    out = capsys.readouterr()
    assert rows[0]["trades_file"] == "missing" and "NO TRADES for AB 2025-01-01" in out.out + out.err
    g = load_grid(tmp_path/"grid", "AB")
    assert (g[["buy_vol", "sell_vol", "buy_n", "sell_n"]] == 0).all(axis=None) and g.vwap.isna().all()


def test_a_bad_file_stops_itself_only(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for s in ("AB", "CD"): files(tmp_path, rng, symbol=s)
    bad = random_books(rng, 20)
    bad[9][3] = -1.
    p = write_rows(tmp_path, "book_snapshot_25", bad, symbol="CD")
    rows = ingest_all(tmp_path, tmp_path/"grid", "demo", ["AB", "CD", "EF"], [DAY], levels=2)
    assert [r["status"] for r in rows] == ["ok", "failed", "failed"]
    assert f"{p}, line 11" in rows[1]["error"] and "there is no such file" in rows[2]["error"]
    out = capsys.readouterr()
    assert "NOT INGESTED CD 2025-01-01" in out.out + out.err
    assert grid_dates(tmp_path/"grid", "AB") == [DAY] and grid_dates(tmp_path/"grid", "CD") == []
    with pytest.raises(DataError, match="none of 1 symbol-days"): ingest_all(tmp_path, tmp_path/"grid", "demo", ["CD"], [DAY])


def test_a_bad_trades_file_stops_the_day(tmp_path):
    files(tmp_path, np.random.default_rng(0))
    p = tmp_path/f"demo_trades_{DAY}_AB.csv.gz"
    p.write_bytes(p.read_bytes()[:-9])
    with pytest.raises(DataError, match="trades_.*cut short"): ingest(tmp_path, "demo", "AB", DAY, progress=False)


@pytest.mark.parametrize("books, contains", [([], "no usable book"), ([book_row(T0, T0, 99, 1, 100, 1)], "no usable book"), ([book_row(T0, T0)], "no usable book")])
def test_a_day_without_a_book(tmp_path, books, contains):
    write_rows(tmp_path, "book_snapshot_25", books)
    with pytest.raises(DataError, match=contains): ingest(tmp_path, "demo", "AB", DAY, progress=False)


def test_parameters(tmp_path):
    files(tmp_path, np.random.default_rng(0))
    wrong = ((dict(levels=26), "levels must be between 1 and 25"), (dict(levels=0), "levels must be"), (dict(clock="wall"), "clock must be"),
             (dict(max_stale=-1), "max_stale"))
    for kw, contains in wrong:
        with pytest.raises(ParameterError, match=contains): ingest(tmp_path, "demo", "AB", DAY, **kw)
    with pytest.raises(ParameterError, match="YYYY-MM-DD"): ingest(tmp_path, "demo", "AB", "1 Jan")


def test_written_twice_the_same_bytes(tmp_path):
    files(tmp_path, np.random.default_rng(0))
    a, b = (write_grid(tmp_path/x, "AB", DAY, *ingest(tmp_path, "demo", "AB", DAY, progress=False)) for x in "ab")
    assert a.read_bytes() == b.read_bytes() and not list(tmp_path.glob("**/*.part"))
    assert read_quality(tmp_path/"a", "AB", DAY)["symbol"] == "AB"


@given(seeds, st.sampled_from([3, 60]))
@settings(quick, max_examples=12)
def test_two_days_are_one_recording(tmp_path, seed, max_stale):
    "A recording cut at midnight and joined by the loader is the recording, but for the one event that lost its predecessor"
    rng = np.random.default_rng(seed)
    shutil.rmtree(tmp_path/"grid", ignore_errors=True)
    midnight = T0 + 86400*SEC
    books = random_books(rng, 120, odd=0, start=midnight - 25*SEC)
    trades = [[*r[:3], "buy", *r[4:]] for r in random_trades(rng, 100, start=midnight - 25*SEC)]
    parts = []
    for date, pick in ((DAY, lambda r: r[1] < midnight), ("2025-01-02", lambda r: r[1] >= midnight)):
        b = [r for r in books if pick(r)]
        if not b: return
        write_rows(tmp_path, "book_snapshot_25", b, date=date)
        write_rows(tmp_path, "trades", [r for r in trades if pick(r)], date=date)
        g, _ = ingest(tmp_path, "demo", "AB", date, levels=2, max_stale=max_stale, progress=False)
        write_grid(tmp_path/"grid", "AB", date, g)
        parts.append(b)
    grid = load_grid(tmp_path/"grid", "AB", max_stale=max_stale)
    want, _ = reference_grid(books, trades, 2, max_stale)
    first = parts[1][0]
    seam = -(-first[1]//SEC)
    dead = [s for s in want if s not in {t//SEC for t in grid.index}]   # a seam too long is not carried into: the first file just ended
    assert all(want[s]["stale"] for s in dead) and (not dead or grid.segment.nunique() > 1)
    want = {s: r for s, r in want.items() if s not in dead}
    assert [t//SEC for t in grid.index] == list(want)
    assert grid.n_updates.tolist() == [r["n_updates"] for r in want.values()] and grid.stale.tolist() == [r["stale"] for r in want.values()]
    np.testing.assert_array_equal(grid.ask_px_1, [r["book"][0][0] for r in want.values()])
    own = np.array([not r["stale"] and s != seam for s, r in want.items()]) # neither the seconds of the seam nor the one that ends it
    np.testing.assert_array_equal(grid.ofi_1[own], np.array([r["ofi"][0] for r in want.values()])[own])
    np.testing.assert_array_equal(grid.buy_n[own], np.array([len(r["trades"]) for r in want.values()])[own])
    assert grid.index.is_monotonic_increasing and grid.index.is_unique
    runs = np.diff(grid.index) != SEC
    assert grid.segment.nunique() == runs.sum() + 1


def test_a_row_at_midnight_that_both_days_know(tmp_path):
    midnight = T0 + 86400*SEC
    for date, t, px in ((DAY, midnight - 5, 101), ("2025-01-02", midnight, 102)):
        write_rows(tmp_path, "book_snapshot_25", [book_row(t, t, px, 1, 100, 1)], date=date)
        write_rows(tmp_path, "trades", [[t, t, t, "buy", px, 2 if px == 101 else 6]], date=date)
        write_grid(tmp_path/"g", "AB", date, *ingest(tmp_path, "demo", "AB", date, levels=1, progress=False))
    g = load_grid(tmp_path/"g", "AB")
    assert len(g) == 1 and g.index[0] == midnight
    assert g.iloc[0][["ask_px_1", "n_updates", "buy_vol", "buy_n", "vwap", "high", "low"]].tolist() == [102, 2, 8, 2, (202 + 612)/8, 102, 101]


def test_days_of_other_shape_are_refused(tmp_path):
    for date, levels in ((DAY, 1), ("2025-01-02", 2)):
        write_rows(tmp_path, "book_snapshot_25", [book_row(T0, T0 + (86400*SEC if levels == 2 else 9), 101, 1, 100, 1)], date=date)
        write_grid(tmp_path/"g", "AB", date, *ingest(tmp_path, "demo", "AB", date, levels=levels, progress=False))
    with pytest.raises(DataError, match="Ingest all days with the same levels"): load_grid(tmp_path/"g", "AB")


def test_other_readers_have_a_door():
    "Chunks of arrays are all that a day needs"
    t = T0 + np.arange(1, 6)*SEC
    d = Day(DAY, levels=1)
    d.add_books(Books(t[i:i+1], t[i:i+1], np.array([[101., i + 1, 100, 1]])) for i in range(5))
    assert d.grid().ofi_1.tolist() == [0, -1, -1, -1, -1]


# what the notes beside the recordings say, and what the grid has to find
def day_of(real_data, exchange, symbol, date): return ingest(real_data, exchange, symbol, date, progress=False)


def test_standx_24_hours(real_data):
    g, q = day_of(real_data, "standx", "BTC-USD", "2026-01-06")
    assert q["book_rows"] == 261_470 and .46 < q["locked_share"] < .48 and q["crossed"] == 0
    assert q["unknown_sides"] == q["trades"] == 165_660 and q["n_unsigned"] < 10
    assert q["steps_over_10s"] == 9 and 107 < q["longest_step_s"] < 109 and 86_300 < len(g) < 86_400
    assert .24 < q["median_step_s"] < .26 and 350 < q["delay_p50_ms"] < 400 and q["tick"] == .1
    assert q["gaps"] == 1 and q["missing_levels"] == 0 and q["trades_out_of_order"] == 1634
    _, q = ingest(real_data, "standx", "BTC-USD", "2026-01-05", levels=25, progress=False)
    assert q["missing_levels"] == q["book_rows"]                     # the venue gives 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak memory from /proc")
def test_24_hours_stay_under_600_megabytes(real_data):
    "The whole process, imports included"
    code = f"""from lobresearch.data.grid import ingest
ingest({str(real_data)!r}, "standx", "BTC-USD", "2026-01-06", progress=False)
print(next(x for x in open("/proc/self/status") if x.startswith("VmHWM")).split()[1])"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 50_000 < int(out.stdout) < 600_000


def test_nexo_two_files_are_one_segment(real_data, tmp_path):
    for date in ("2024-07-23", "2024-07-24"): write_grid(tmp_path, "NEXOUSDT", date, *day_of(real_data, "binance", "NEXOUSDT", date))
    g = load_grid(tmp_path, "NEXOUSDT")
    assert g.segment.nunique() == 1 and len(g) == (g.index[-1] - g.index[0])//SEC + 1 and 24.3*3600 < len(g) < 24.4*3600
    q = read_quality(tmp_path, "NEXOUSDT", "2024-07-23")
    assert q["tick"] == .001 and 8 < q["spread_median_bps"] < 8.5 and q["unknown_sides"] == 0 and q["ofi_source"] == "incremental_book_L2"
    assert 1.19 < q["mid_min"] and q["mid_max"] < 1.27


def test_updates_and_snapshots_agree_on_imbalance(real_data, tmp_path):
    "The book file has a row for every change within 25 levels, so both sources must give the same sums"
    name = "binance-futures_{}_2023-04-04_BTCUSDT.csv.gz"
    (tmp_path/name.format("book_snapshot_25")).symlink_to(real_data/name.format("book_snapshot_25"))
    a, _ = day_of(tmp_path, "binance-futures", "BTCUSDT", "2023-04-04")
    b, q = day_of(real_data, "binance-futures", "BTCUSDT", "2023-04-04")
    assert q["ofi_source"] == "incremental_book_L2" and len(a) == 100
    np.testing.assert_allclose(a.filter(like="ofi_"), b.filter(like="ofi_"), atol=1e-9)


def test_hyperliquid_and_short_recordings(real_data):
    for symbol, tick in (("BTC", 1.), ("ETH", .1), ("SOL", .01)):
        g, q = day_of(real_data, "hyperliquid", symbol, "2025-09-04")
        assert q["tick"] == tick and q["trades_before_first_book"] == 30 and 34 < len(g)/60 < 36
    g, q = day_of(real_data, "binance-futures", "BTCUSDT", "2024-07-19")
    assert -1530 < q["delay_p50_ms"] < -1500 and len(g) == 300       # that clock runs behind the exchange's
