"Downloads from a server on this machine, through the real client, and files from a folder: whole, or a sentence."
import asyncio
import gzip
import logging
import socket
import urllib.error
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from lobresearch.data import capture
from lobresearch.data.capture import KINDS, check_days, check_whole, download, from_folder, place, wanted
from lobresearch.data.loopback import serve
from lobresearch.errors import DataError, DownloadError, ParameterError
from lobresearch.data.tape import BOOK_HEADER, TRADE_HEADER

QUICK = dict(pause=.01, attempts=3)


def made_up(folder, files, rows=400):
    "Small files in Tardis's columns"
    for i, f in enumerate(files):
        head = TRADE_HEADER if f.kind == "trades" else BOOK_HEADER
        rest = "," + ",".join("1" for _ in range(head.count(",") - 3))
        lines = [f"{f.exchange},{f.symbol},{t},{t + i},".rstrip(",") + rest for t in range(rows)]
        (folder / f.name).write_bytes(gzip.compress("\n".join([head, *lines, ""]).encode(), mtime=0))


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("TARDIS_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def source(tmp_path):
    "Two symbols, two days, both kinds: eight files"
    folder = tmp_path / "source"
    folder.mkdir()
    made_up(folder, wanted("binance", ["BTCUSDT", "ETHUSDT"], ["2024-07-01", "2024-07-02"]))
    return folder


def get(server, cache, symbols=("BTCUSDT",), days=("2024-07-01",), exchange="binance", **kw):
    return download(exchange, list(symbols), list(days), cache, endpoint=server.endpoint, **{**QUICK, **kw})


def refusal(*args, **kw):
    with pytest.raises(DownloadError) as e: get(*args, **kw)
    return str(e.value)


def files_in(folder): return sorted(p.name for p in Path(folder).rglob("*") if p.is_file())


def test_all_files_arrive_as_they_are(source, tmp_path):
    with serve(source) as s:
        got = get(s, tmp_path / "c", ["BTCUSDT", "ETHUSDT"], ["2024-07-01", "2024-07-02"])
        assert len(got) == 8 and set(s.asked.values()) == {1}
        for p in got: assert p.read_bytes() == (source / p.name).read_bytes()
        get(s, tmp_path / "c", ["BTCUSDT", "ETHUSDT"], ["2024-07-01..2024-07-02"])
        assert set(s.asked.values()) == {1}, "what is there is not asked for again"
    assert files_in(tmp_path / "c") == files_in(source)


def test_real_recordings_arrive_as_they_are(real_data, tmp_path):
    with serve(real_data) as s:
        got = download("binance", ["NEXOUSDT"], ["2024-07-23..2024-07-24"], tmp_path, KINDS, s.endpoint, **QUICK)
        got += download("standx", ["BTC-USD"], ["2026-01-05"], tmp_path, endpoint=s.endpoint, **QUICK)
    assert len(got) == 8
    for p in got: assert p.read_bytes() == (real_data / p.name).read_bytes()


def test_a_day_that_is_not_there(source, tmp_path):
    with serve(source) as s:
        said = refusal(s, tmp_path, days=["2024-07-01..2024-07-03"])
        assert s.asked["binance_trades_2024-07-03_BTCUSDT.csv.gz"] == 1, "404 is final: no second try"
    assert "binance_book_snapshot_25_2024-07-03_BTCUSDT.csv.gz, binance_trades_2024-07-03_BTCUSDT.csv.gz: not there (404:" in said
    assert "leave it out of --days" in said and "4 of 6 files are complete and kept" in said
    assert len(files_in(tmp_path / place("", s.endpoint))) == 4


@pytest.mark.parametrize("packed", [False, True])
def test_without_a_key(source, tmp_path, packed):
    with serve(source, key="right", packed=packed) as s: said = refusal(s, tmp_path, days=["2024-07-01", "2024-07-02"])
    assert "Without an API key only the first day of each month can be accessed" in said and "2 of 4 files are complete" in said
    if packed: assert "the server refused" in said  # the client hides the status of a packed error behind a decoding error
    else: assert "(401:" in said and "TARDIS_API_KEY" in said and "--days 2024-07-01" in said


def test_a_wrong_and_a_right_key(source, tmp_path, monkeypatch):
    with serve(source, key="right") as s:
        monkeypatch.setenv("TARDIS_API_KEY", "wrong-secret")
        said = refusal(s, tmp_path, days=["2024-07-02"])
        assert "It refused the one in the environment variable TARDIS_API_KEY" in said and "wrong-secret" not in said
        monkeypatch.setenv("TARDIS_API_KEY", "right")
        assert len(get(s, tmp_path, days=["2024-07-02"])) == 2


def test_an_unknown_symbol(source, tmp_path):
    with serve(source) as s: said = refusal(s, tmp_path, ["NOSUCH"])
    assert "the server does not know the request (400:" in said and "symbol NOSUCH" in said and "0 of 2 files" in said


@pytest.mark.parametrize("fault", ["cut", "short", "page"])
def test_a_bad_reply_is_fetched_again_and_never_kept(source, tmp_path, fault):
    with serve(source, fault=lambda name, n: fault if n < 2 else None) as s:
        for p in get(s, tmp_path / "good"): assert p.read_bytes() == (source / p.name).read_bytes()
    with serve(source, fault=lambda name, n: fault if "trades" in name else None) as s: said = refusal(s, tmp_path / "bad")
    assert "binance_trades_2024-07-01_BTCUSDT.csv.gz: what came was not the whole file, 3 times" in said and "1 of 2 files" in said
    assert files_in(tmp_path / "bad") == ["binance_book_snapshot_25_2024-07-01_BTCUSDT.csv.gz"]


def test_what_was_finished_stays_and_the_rest_follows(source, tmp_path):
    down = [True]
    with serve(source, fault=lambda name, n: 503 if down[0] and "ETH" in name else None) as s:
        said = refusal(s, tmp_path, ["BTCUSDT", "ETHUSDT"])
        assert "the server failed 3 times (503" in said
        assert said.endswith("2 of 4 files are complete and kept; the same command fetches only the rest.")
        assert s.asked["binance_trades_2024-07-01_ETHUSDT.csv.gz"] == 3
        down[0] = False
        assert len(get(s, tmp_path, ["BTCUSDT", "ETHUSDT"])) == 4
        assert s.asked["binance_trades_2024-07-01_BTCUSDT.csv.gz"] == 1


def test_a_slow_reply_is_waited_for_and_silence_is_not(source, tmp_path):
    with serve(source, fault=lambda name, n: "drip", drip=.12) as s:  # about 1 s in all, never 0.5 s silent
        for p in get(s, tmp_path / "slow", timeout=.5, attempts=1): assert p.read_bytes() == (source / p.name).read_bytes()
    with serve(source, fault=lambda name, n: "stall") as s: said = refusal(s, tmp_path / "silent", timeout=.2, attempts=2)
    assert "no byte came for 0.2 s, 2 times" in said
    assert files_in(tmp_path / "silent") == []


def test_no_server_at_all(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with pytest.raises(DownloadError, match=f"no connection to http://127.0.0.1:{port}/v1 .*Check the network and the address"):
        download("binance", [f"S{i}" for i in range(20)], ["2024-07-01"], tmp_path, endpoint=f"http://127.0.0.1:{port}/v1", **QUICK)
    assert files_in(tmp_path) == []


def test_a_busy_server_is_given_time(source, tmp_path):
    with serve(source, fault=lambda name, n: 429 if n == 0 else None) as s: assert len(get(s, tmp_path)) == 2
    with serve(source, fault=lambda name, n: 429) as s: assert "busy or the quota is spent (429" in refusal(s, tmp_path / "never")


def test_a_killed_run_leaves_nothing_that_counts(source, tmp_path):
    "What the client had half-written is cleared; a file it finished but nobody checked is checked"
    with serve(source) as s:
        side = place(tmp_path / "c", s.endpoint) / "unchecked"
        side.mkdir(parents=True)
        book, trades = (f.name for f in wanted("binance", ["BTCUSDT"], ["2024-07-01"]))
        (side / f"{book}1f.unconfirmed").write_bytes(b"half")
        (side / trades).write_bytes((source / trades).read_bytes()[:-20])
        for p in get(s, tmp_path / "c"): assert p.read_bytes() == (source / p.name).read_bytes()
    assert files_in(tmp_path / "c") == [book, trades]


def test_a_full_disk_is_not_mistaken_for_the_network(source, tmp_path, monkeypatch):
    def full(*a): raise OSError(28, "No space left on device")
    monkeypatch.setattr(capture.os, "replace", full)
    with serve(source) as s, pytest.raises(OSError, match="No space left"): get(s, tmp_path)


def test_servers_do_not_share_downloads(tmp_path):
    assert place(tmp_path, "https://datasets.tardis.dev/v1") == tmp_path / "datasets.tardis.dev-v1"
    assert place(tmp_path, "https://datasets.tardis.dev/v1/") == tmp_path / "datasets.tardis.dev-v1"
    assert place(tmp_path, "http://127.0.0.1:8000/v1") != place(tmp_path, "http://127.0.0.1:8001/v1")
    with pytest.raises(ParameterError, match="must begin with https://"): place(tmp_path, "datasets.tardis.dev")


def test_in_a_notebook_the_other_form_is_named():
    async def notebook(): download("binance", ["BTCUSDT"], ["2024-07-01"], "never-made")
    with pytest.raises(ParameterError, match="await download_async"): asyncio.run(notebook())
    assert not Path("never-made").exists()


def test_the_clients_log_is_left_as_it_was(source, tmp_path):
    log = logging.getLogger("tardis_dev._http")
    before = log.level, log.propagate, list(log.handlers)
    with serve(source) as s: refusal(s, tmp_path, ["NOSUCH"])
    assert (log.level, log.propagate, list(log.handlers)) == before


@pytest.mark.parametrize(("ask", "said"), [
    (dict(symbols=["btcusdt"]), "'btcusdt' is not how Tardis files write a symbol; did you mean 'BTCUSDT'"),
    (dict(symbols=["../../X"]), "did you mean"),
    (dict(symbols=[]), "No symbol given"),
    (dict(days=["2024-02-30"]), "2024-02-30 is not in the calendar"),
    (dict(days=["2024-7-1"]), "write it as 2024-07-01"),
    (dict(days=["20240701"]), "write it as 2024-07-01"),
    (dict(days=["2024-07-01", "2024-06-30..2024-07-02"]), "day 2024-07-01 is named twice"),
    (dict(days=["9999-01-01"]), "not over yet"),
    (dict(exchange="Binance"), "small letters"),
    (dict(kinds=["trades", "book_snapshot_25", "quotes"]), "quotes is no data type that lobresearch reads"),
    (dict(kinds=["trades"]), "lacks book_snapshot_25"),
])
def test_a_slip_is_caught_before_the_network_is_asked(source, tmp_path, ask, said):
    with serve(source) as s:
        with pytest.raises(ParameterError) as e: get(s, tmp_path, **ask)
        assert said in str(e.value) and not s.asked


@settings(max_examples=50, deadline=None)
@given(st.dates(date(2019, 1, 1), date(2030, 1, 1)), st.integers(0, 400))
def test_a_range_of_days_has_every_day_once(first, n):
    days = check_days([f"{first}..{date.fromordinal(first.toordinal() + n)}"])
    assert [date.fromisoformat(d).toordinal() for d in days] == list(range(first.toordinal(), first.toordinal() + n + 1))


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 10_000))
def test_every_cut_is_found(tmp_path_factory, cut):
    "Whatever byte a file is cut at, it is not taken for whole"
    whole = gzip.compress((TRADE_HEADER + "\n" + "".join(f"x,Y,{i},{i},{i * i % 977},buy,1,1\n" for i in range(300))).encode(), mtime=0)
    path = tmp_path_factory.getbasetemp() / "cut.csv.gz"
    path.write_bytes(whole[:cut % len(whole)])
    with pytest.raises(capture.BadReply): check_whole(path)
    path.write_bytes(whole)
    assert check_whole(path) == len(gzip.decompress(whole))


def test_files_of_a_folder(source):
    got = from_folder(source, "binance", ["ETHUSDT"], ["2024-07-01", "2024-07-02"])
    assert [f.name for f in got] == [f"binance_{k}_2024-07-0{d}_ETHUSDT.csv.gz" for d in (1, 2) for k in ("book_snapshot_25", "trades")]
    made_up(source, [f for f in wanted("binance", ["ETHUSDT"], ["2024-07-02"], KINDS) if f.kind == KINDS[2]])
    assert [f.kind for f in from_folder(source, "binance", ["ETHUSDT"], ["2024-07-02"])] == list(KINDS)
    assert len(from_folder(source, "binance", ["ETHUSDT"], ["2024-07-02"], ["trades", "book_snapshot_25"])) == 2


def test_a_folder_that_lacks_a_day_says_what_it_has(source):
    with pytest.raises(DataError) as e: from_folder(source, "binance", ["BTCUSDT"], ["2024-07-02", "2024-07-03"])
    assert "lacks 2 of the 4 files asked for: " \
           "binance_book_snapshot_25_2024-07-03_BTCUSDT.csv.gz, binance_trades_2024-07-03_BTCUSDT.csv.gz; " \
           "there are: binance_book_snapshot_25_2024-07-02_BTCUSDT.csv.gz, binance_trades_2024-07-02_BTCUSDT.csv.gz." in str(e.value)
    assert "Of binance it holds BTCUSDT 2024-07-01, ETHUSDT 2024-07-01, BTCUSDT 2024-07-02, ETHUSDT 2024-07-02." in str(e.value)
    with pytest.raises(DataError, match="lacks 1 of the 3 files"): from_folder(source, "binance", ["BTCUSDT"], ["2024-07-02"], KINDS)
    with pytest.raises(ParameterError, match="is not a folder"):
        from_folder(source / "binance_trades_2024-07-01_BTCUSDT.csv.gz", "binance", ["B"], ["2024-07-01"])


def test_headers_of_an_error_may_be_missing():
    assert capture._retry_after(urllib.error.HTTPError("", 429, "", None, None)) is None
    assert capture._passing(urllib.error.HTTPError("", 429, "", {"Retry-After": "7"}, None))
    assert not capture._passing(urllib.error.HTTPError("", 429, "", {"Retry-After": "7000"}, None))
