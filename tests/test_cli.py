"The command line, in small repositories of its own: what it makes, what it refuses, and what it says."
import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from lobresearch import __version__, cli
from lobresearch.data import versioning
from lobresearch.data.capture import KINDS, wanted
from lobresearch.data.grid import ingest, ingest_all
from lobresearch.data.loopback import serve
from lobresearch.data.tape import BOOK_HEADER, TRADE_HEADER
from lobresearch.data.versioning import data_state, edit_block, folder_hash, read_block, recorded

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # within DVC

PARAMS = """# The study. Notes stay.

study: {seed:   7}     # odd spacing stays

# Which raw files lie in data/.
data:
  source: simulated     # simulated, tardis or files
  exchange: lobsim
  symbols: [SIM-SIGNAL, SIM-NULL]
  days: ['2025-01-01']
  types: [book_snapshot_25, trades]
  hours: 24
  seed: 7

# "quotes" and 'quotes'
grid:
    levels: 10    # four spaces
    clock: 'local'

labels:
  horizons: [10,60]     # no space

nested:
  a:
  - 1
  - {b: 2}
"""
HEAD, TAIL = PARAMS[:PARAMS.index("data:")], PARAMS[PARAMS.index('\n# "quotes"'):]


def toy_maker(folder, hours, seed, workers, symbols):
    "Files whose bytes depend on the arguments, as the exchange's do"
    for s in symbols:
        for kind, head in (("book_snapshot_25", BOOK_HEADER), ("trades", TRADE_HEADER)):
            text = f"{head}\n{hours},{seed}\n"
            (Path(folder) / f"lobsim_{kind}_2025-01-01_{s}.csv.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    (Path(folder) / "truth").mkdir()
    (Path(folder) / "truth" / "latent.txt").write_text(f"{seed}")


@pytest.fixture(scope="session")
def template(tmp_path_factory): return versioning.make_root(tmp_path_factory.mktemp("template"), PARAMS)


@pytest.fixture
def root(template, tmp_path, monkeypatch):
    "A fresh repository, and the working directory in it"
    home = tmp_path / "repo"
    shutil.copytree(template, home)
    monkeypatch.chdir(home)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("TARDIS_API_KEY", raising=False)
    monkeypatch.setattr(cli, "_maker", lambda: toy_maker)
    return home


@pytest.fixture
def source(tmp_path):
    "One symbol, two days, all three kinds"
    folder = tmp_path / "recordings"
    folder.mkdir()
    for f in wanted("binance", ["NEXOUSDT"], ["2024-07-23..2024-07-24"], KINDS):
        (folder / f.name).write_bytes(gzip.compress(f"exchange,symbol,timestamp,local_timestamp,x\n{f.name}\n".encode(), mtime=0))
    return folder


@pytest.fixture
def do(capsys):
    "Run a command: exit status, stdout, stderr"
    def run(*argv):
        code = cli.main(list(argv))
        out = capsys.readouterr()
        return code, out.out, out.err
    return run


FILES = ("--exchange", "binance", "--symbols", "NEXOUSDT", "--days", "2024-07-23,2024-07-24")


def same(root): return folder_hash(root / "data") == recorded(root)["md5"]


def leftovers(root): return [p.name for p in root.iterdir() if p.name.startswith(("data.partial", "data.old", ".params", ".data"))]


def test_simulated_makes_versions_and_says_what_is_next(root, do):
    code, out, err = do("data", "simulated", "--hours", "2", "--seed", "3")
    assert (code, err) == (0, "")
    assert "data/ holds 5 files" in out and "lobsim_trades_2025-01-01_SIM-NULL.csv.gz" in out and "Next: make study" in out
    assert data_state(root) == "same" and same(root) and recorded(root)["md5"][:8] in out
    assert recorded(root)["meta"] == read_block(root) == dict(source="simulated", exchange="lobsim", symbols=["SIM-SIGNAL", "SIM-NULL"],
                                                             days=["2025-01-01"], types=["book_snapshot_25", "trades"], hours=2, seed=3)
    assert not leftovers(root)


def test_the_embedded_exchange_itself(root, do, monkeypatch):
    "A minute and a half of the real exchange: what it writes is what the data block says"
    monkeypatch.undo()
    monkeypatch.chdir(root)
    assert do("data", "simulated", "--hours", "0.025", "--seed", "3")[0] == 0
    block = read_block(root)
    names = [f"lobsim_{k}_{d}_{s}.csv.gz" for s in block["symbols"] for d in block["days"] for k in block["types"]]
    assert sorted(p.name for p in (root / "data").glob("*.gz")) == sorted(names) and (root / "data" / "truth").is_dir()


def test_the_same_seed_gives_the_same_data_dvc_byte_for_byte(root, do):
    do("data", "simulated", "--hours", "2")
    first, params = (root / "data.dvc").read_bytes(), (root / "params.yaml").read_bytes()
    do("data", "simulated", "--hours", "2")
    assert ((root / "data.dvc").read_bytes(), (root / "params.yaml").read_bytes()) == (first, params)
    do("data", "simulated", "--hours", "2", "--seed", "8")
    assert (root / "data.dvc").read_bytes() != first


def test_other_blocks_of_params_stay_byte_for_byte(root, do, source):
    do("data", "files", str(source), *FILES)
    text = (root / "params.yaml").read_text()
    assert text.startswith(HEAD) and text.endswith(TAIL) and "# simulated, tardis or files" in text
    assert read_block(root) == dict(source="files", exchange="binance", symbols=["NEXOUSDT"], days=["2024-07-23", "2024-07-24"],
                                    types=["book_snapshot_25", "trades", "incremental_book_L2"], hours=None, seed=None)
    do("data", "simulated")
    assert (root / "params.yaml").read_text() == PARAMS


def test_files_are_copied_whole(root, do, source):
    code, out, _ = do("data", "files", str(source), *FILES)
    assert code == 0 and "data/ holds 6 files" in out
    got = sorted((root / "data").iterdir())
    assert [p.name for p in got] == sorted(p.name for p in source.iterdir())
    for p in got:
        assert p.read_bytes() == (source / p.name).read_bytes() and not p.is_symlink()
        assert p.stat().st_ino != (source / p.name).stat().st_ino and os.access(source / p.name, os.W_OK)
    do("data", "files", str(source), *FILES, "--types", "book_snapshot_25,trades")
    assert len(list((root / "data").iterdir())) == 4


def test_files_with_a_missing_day_change_nothing(root, do, source):
    do("data", "simulated")
    before = (root / "params.yaml").read_bytes(), (root / "data.dvc").read_bytes()
    code, _, err = do("data", "files", str(source), *FILES[:-1], "2024-07-24,2024-07-25")
    assert code == 1
    assert "lacks 2 of the 4 files asked for: binance_book_snapshot_25_2024-07-25_NEXOUSDT.csv.gz, binance_trades_2024-07-25" in err
    assert "there are: binance_book_snapshot_25_2024-07-24_NEXOUSDT.csv.gz" in err
    assert before == ((root / "params.yaml").read_bytes(), (root / "data.dvc").read_bytes()) and same(root)


def test_tardis_downloads_into_data(root, do, source):
    with serve(source, key=None) as s:
        code, out, err = do("data", "tardis", *FILES, "--endpoint", s.endpoint)
        assert code == 0, err
        assert "data/ holds 4 files" in out and ".tardis-cache/" in out
        for p in (root / "data").iterdir(): assert p.read_bytes() == (source / p.name).read_bytes()
        assert read_block(root)["source"] == "tardis" and same(root)
        do("data", "tardis", *FILES, "--endpoint", s.endpoint, "--types", ",".join(KINDS))
        assert s.asked["binance_trades_2024-07-23_NEXOUSDT.csv.gz"] == 1 and len(list((root / "data").iterdir())) == 6


def test_tardis_that_fails_changes_nothing_and_keeps_what_came(root, do, source):
    do("data", "simulated")
    before = (root / "params.yaml").read_bytes(), (root / "data.dvc").read_bytes()
    with serve(source) as s: code, _, err = do("data", "tardis", *FILES[:-1], "2024-07-24..2024-07-25", "--endpoint", s.endpoint)
    assert code == 1 and "not there (404" in err and "2 of 4 files are complete and kept" in err
    assert before == ((root / "params.yaml").read_bytes(), (root / "data.dvc").read_bytes()) and same(root) and not leftovers(root)
    assert len([p for p in (root / ".tardis-cache").rglob("*") if p.is_file()]) == 2


@pytest.mark.parametrize("how", ["unversioned", "changed", "unsaved"])
def test_data_that_dvc_does_not_have_is_not_overwritten(root, do, how):
    if how == "unversioned": (root / "data").mkdir()
    else: do("data", "simulated")
    if how == "unsaved": shutil.rmtree(root / ".dvc" / "cache")
    else: (root / "data" / "mine.txt").write_text("a day's work")
    before = folder_hash(root / "data")
    assert data_state(root) == how
    code, _, err = do("data", "simulated", "--seed", "9")
    assert code == 1 and "so overwriting it would lose it. `lobresearch data accept` versions it as it is; `--force` overwrites it." in err
    assert folder_hash(root / "data") == before
    if how == "changed":
        assert do("data", "accept")[0] == 0 and recorded(root)["md5"] == before
        assert do("data", "simulated", "--seed", "9")[0] == 0
    else: assert do("data", "simulated", "--seed", "9", "--force")[0] == 0
    assert (root / "data" / "truth" / "latent.txt").read_text() == "9" and not (root / "data" / "mine.txt").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), ZeroDivisionError])
def test_a_source_that_stops_half_way_leaves_the_old_data(root, do, monkeypatch, error):
    do("data", "simulated")
    before = folder_hash(root / "data"), (root / "params.yaml").read_bytes()
    def half(folder, **kw): (folder / "half.csv.gz").write_text("1"); raise error
    monkeypatch.setattr(cli, "_maker", lambda: half)
    if error is ZeroDivisionError: pytest.raises(ZeroDivisionError, do, "data", "simulated", "--seed", "9")  # a bug shows itself
    else:
        code, _, err = do("data", "simulated", "--seed", "9")
        assert (code, err[:20]) == ((130, "lobresearch: stopped") if error is KeyboardInterrupt else (1, "lobresearch: No spac"))
    assert (folder_hash(root / "data"), (root / "params.yaml").read_bytes()) == before and not leftovers(root)


def test_when_versioning_fails_all_three_come_back(root, do, monkeypatch):
    do("data", "simulated")
    def all_three(): return folder_hash(root / "data"), (root / "params.yaml").read_bytes(), (root / "data.dvc").read_bytes()
    before = all_three()
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    def full(*a, **kw): raise DvcException("no room")
    monkeypatch.setattr(Repo, "add", full)
    code, _, err = do("data", "simulated", "--seed", "9")
    assert code == 1 and err == "lobresearch: DVC refused: no room\n"
    assert all_three() == before and not leftovers(root)


def test_what_a_killed_command_left_is_mended(root, do):
    "Killed between the two renames: the old data is back; killed before: half-made data is gone"
    do("data", "simulated")
    (root / "data").rename(root / "data.old-x")
    (root / "data.partial-x").mkdir()
    code, _, err = do("data", "simulated", "--hours", "0")
    assert code == 1 and "--hours must be above 0" in err
    do("data", "simulated", "--seed", "9")
    assert not leftovers(root) and (root / "data" / "truth" / "latent.txt").read_text() == "9"


def test_two_commands_at_once(root, do):
    with versioning._alone(root):
        assert "Another `lobresearch data` command is at work here" in do("data", "simulated")[2]
    assert do("data", "simulated")[0] == 0


# other formats

def lobster_pair(folder, symbol="AB", day="2012-06-21"):
    "Three lines: a book at 09:30:00.1 in New York, 50 bought of a sell order at 1.5 s, 20 sold into a hidden buy order at 2 s"
    folder.mkdir(exist_ok=True)
    for kind, text in (("message", "34200.1,1,11,200,100000,1\n34201.5,4,10,50,100200,-1\n34202,5,0,20,100050,1\n"),
                       ("orderbook", "100200,100,100000,200\n" + "100200,50,100000,200\n"*2)):
        (folder / f"{symbol}_{day}_34200000_57600000_{kind}_1.csv").write_text(text)
    return folder


def test_lobster_pairs_become_data_that_the_ingest_reads(root, do, tmp_path):
    folder = lobster_pair(lobster_pair(tmp_path / "lobster"), day="2012-06-22")
    code, out, err = do("data", "lobster", str(folder))
    assert (code, err) == (0, "") and "data/ holds 4 files" in out and "Next: make study" in out
    assert "AB 2012-06-22: 3 lines, 2 trades, 1 of them hidden (0 without a side); 0 crosses and 0 halt messages." in out
    assert read_block(root) == dict(source="lobster", exchange="nasdaq", symbols=["AB"], days=["2012-06-21", "2012-06-22"],
                                    types=["book_snapshot_25", "trades"], hours=None, seed=None) == recorded(root)["meta"]
    assert same(root) and not leftovers(root)
    grid, quality = ingest(root / "data", "nasdaq", "AB", "2012-06-22", levels=1, progress=False)
    assert (grid.index.to_numpy() // 10**6 - 1340371800).tolist() == [1, 2]  # 13:30 UTC
    assert grid[["ask_px_1", "ask_sz_1", "bid_px_1", "bid_sz_1", "buy_vol", "sell_vol"]].values.tolist() == [
        [10.02, 100, 10, 200, 0, 0], [10.02, 50, 10, 200, 50, 20]]
    first = recorded(root)["md5"]
    assert do("data", "lobster", str(folder), "--symbols", "AB", "--days", "2012-06-21..2012-06-22")[0] == 0 and recorded(root)["md5"] == first
    assert do("data", "lobster", str(folder), "--days", "2012-06-21", "--exchange", "xnas")[0] == 0
    assert sorted(p.name for p in (root / "data").iterdir()) == ["xnas_book_snapshot_25_2012-06-21_AB.csv.gz", "xnas_trades_2012-06-21_AB.csv.gz"]
    shutil.rmtree(root / "data"), shutil.rmtree(root / ".dvc" / "cache")
    assert "Run: lobresearch data lobster FOLDER --exchange xnas --symbols AB --days 2012-06-21   (or" in do("data", "check")[2]


def test_what_lobster_refuses_changes_nothing(root, do, tmp_path):
    do("data", "simulated")
    before = folder_hash(root / "data"), (root / "params.yaml").read_bytes()
    folder = lobster_pair(tmp_path / "lobster")
    assert "holds no LOBSTER file of CD on any day" in do("data", "lobster", str(folder), "--symbols", "AB,CD")[2]
    lobster_pair(folder, "CD", "2012-06-22")
    code, _, err = do("data", "lobster", str(folder))
    assert code == 1 and "AB lacks 2012-06-22; CD lacks 2012-06-21. Choose with --symbols and --days" in err
    book = folder / "AB_2012-06-21_34200000_57600000_orderbook_1.csv"
    book.write_text(book.read_text().replace("100200,50", "100200,-50", 1))
    code, _, err = do("data", "lobster", str(folder), "--symbols", "AB")
    assert code == 1 and err == f"lobresearch: {book}, line 2: a size is -50; sizes are not negative.\n"
    assert (folder_hash(root / "data"), (root / "params.yaml").read_bytes()) == before and not leftovers(root)
    (root / "data" / "mine.txt").write_text("a day's work")
    lobster_pair(folder)
    assert "so overwriting it would lose it" in do("data", "lobster", str(folder), "--symbols", "AB")[2]
    assert do("data", "lobster", str(folder), "--symbols", "AB", "--force")[0] == 0


def npy(path, n=200, step=.5, dtype=float):
    "Rows of a published file: steady, grouped, a mid that goes up and down by a cent, returns by rows"
    mid = 100 + .01 * (np.arange(n) // 3 % 4)
    ladder = np.arange(10) * .01
    book = [np.round(mid[:, None] + .005 + ladder, 3), np.ones((n, 10)), np.round(mid[:, None] - .005 - ladder, 3), np.ones((n, 10))]
    back = [np.append(mid[k:] / mid[:-k] - 1, np.zeros(k))[:n] for k in (10, 60)]
    np.save(path, np.column_stack([1754006400.0 + step * np.arange(n), *book, *back]).astype(dtype))
    return str(path)


NPY = ("--exchange", "demo", "--symbols")


def test_npy43_arrays_become_books_without_trades(root, do, tmp_path):
    a, b = npy(tmp_path / "a.npy"), npy(tmp_path / "b.npy", 300)
    code, out, err = do("data", "npy43", a, b, *NPY, "AB,CD", "--layout", "grouped")
    assert (code, err) == (0, "") and "AB: 200 books on 1 days, no trades." in out
    assert "Its 10 s return is 10 rows ahead, 5.0 s in the median; correlation with the return 10 s ahead" in out
    assert read_block(root) == dict(source="npy43", exchange="demo", symbols=["AB", "CD"], days=["2025-08-01"], types=["book_snapshot_25"],
                                    hours=None, seed=None)
    assert same(root) and sorted(p.name for p in (root / "data").iterdir()) == [f"demo_book_snapshot_25_2025-08-01_{s}.csv.gz" for s in ("AB", "CD")]
    rows = ingest_all(root / "data", root / "grids", "demo", ["AB", "CD"], ["2025-08-01"], progress=False)
    assert [(r["status"], r["trades_file"], r["grid_rows"]) for r in rows] == [("ok", "missing", 101), ("ok", "missing", 151)]
    assert "data/ is what data.dvc records" in do("data", "check")[1]
    shutil.rmtree(root / "data"), shutil.rmtree(root / ".dvc" / "cache")
    assert "Run: lobresearch data npy43 FILE FILE --exchange demo --symbols AB,CD --days 2025-08-01   (or" in do("data", "check")[2]


def test_npy43_refusals(root, do, tmp_path):
    a, f = npy(tmp_path / "a.npy"), npy(tmp_path / "f.npy", 30, dtype=np.float32)
    for argv, says in (((a, *NPY, "AB,CD"), "1 files and 2 symbols"), ((a, *NPY, "AB", "--layout", "interleaved"), "its columns are grouped, but interleaved"),
                       ((f, *NPY, "AB"), "exact to 128 s only"), ((a, *NPY, "AB", "--days", "2025-08-02"), "has no row on 2025-08-02"),
                       ((str(tmp_path / "no.npy"), *NPY, "AB"), "there is no such file"), ((f, *NPY, "AB", "--step", "1"), "give both start")):
        code, _, err = do("data", "npy43", *argv)
        assert code == 1 and says in err, err
    assert not (root / "data").exists() and (root / "params.yaml").read_text() == PARAMS and not leftovers(root)
    code, out, _ = do("data", "npy43", f, *NPY, "AB", "--start", "2025-08-01", "--step", "0.5")
    assert code == 0 and "Its returns are not compared: the file has 30 rows, too few" in out


def test_fi2010_stays_out(root, do):
    code, _, err = do("data", "fi2010", "somewhere")
    assert code == 1 and err.startswith("lobresearch: FI-2010 cannot become data/") and "fi2010.load_setup2('somewhere')" in err
    assert not (root / "data").exists() and (root / "params.yaml").read_text() == PARAMS


# what `make study` asks first

def test_check_makes_missing_simulated_data(root, do):
    code, out, _ = do("data", "check")
    assert code == 0 and "There is no data/: making it." in out and "24 h of SIM-SIGNAL and SIM-NULL, seed 7" in out and "Note:" not in out
    code, out, _ = do("data", "check")
    assert (code, out) == (0, f"data/ is what data.dvc records ({recorded(root)['md5'][:8]}).\n")


def test_check_says_when_another_platform_gives_other_bytes(root, do, monkeypatch):
    "A fresh clone: data.dvc from git, no data, an empty DVC store"
    do("data", "check")
    theirs = recorded(root)["md5"]
    shutil.rmtree(root / "data"), shutil.rmtree(root / ".dvc" / "cache")
    code, out, _ = do("data", "check")
    assert code == 0 and "Note:" not in out and recorded(root)["md5"] == theirs
    shutil.rmtree(root / "data"), shutil.rmtree(root / ".dvc" / "cache")
    def other(folder, **kw): toy_maker(folder, **kw); (folder / "truth" / "latent.txt").write_text("7.0000000001")
    monkeypatch.setattr(cli, "_maker", lambda: other)
    code, out, _ = do("data", "check")
    assert code == 0 and f"Note: data.dvc recorded {theirs[:8]} and this machine made {recorded(root)['md5'][:8]} from the same seed" in out
    assert same(root)


def test_check_brings_deleted_data_back_from_the_store(root, do, source):
    do("data", "files", str(source), *FILES)
    shutil.rmtree(root / "data")
    assert do("data", "check")[:2] == (0, "There is no data/; what data.dvc records is back from DVC's store.\n")
    assert same(root)


def test_check_after_another_commit_is_checked_out(root, do, source):
    "data.dvc changes under a data/ that DVC has: the recorded version comes from the store, or is made, or is asked for"
    do("data", "files", str(source), *FILES)
    old = (root / "data.dvc").read_text(), (root / "params.yaml").read_text()
    (source / "binance_trades_2024-07-23_NEXOUSDT.csv.gz").write_bytes(b"mended")
    do("data", "files", str(source), *FILES)
    (root / "data.dvc").write_text(old[0])
    code, out, _ = do("data", "check")
    assert (code, out) == (0, "data/ is another version than data.dvc records; what data.dvc records is back from DVC's store.\n")
    assert same(root)
    do("data", "simulated")
    there = (root / "data.dvc").read_text().replace(recorded(root)["md5"], "0" * 32 + ".dir")
    (root / "data.dvc").write_text(there)
    code, out, _ = do("data", "check")
    assert code == 0 and "data/ is another version than data.dvc records: making it." in out
    assert "Note: data.dvc recorded 00000000" in out and same(root)
    do("data", "files", str(source), *FILES)
    (root / "data.dvc").write_text((root / "data.dvc").read_text().replace(recorded(root)["md5"], "0" * 32 + ".dir"))
    assert "data/ is another version than data.dvc records. Run: lobresearch data files" in do("data", "check")[2]


def test_check_names_the_command_that_brings_recordings(root, do, source):
    do("data", "files", str(source), *FILES, "--types", "book_snapshot_25,trades")
    shutil.rmtree(root / "data"), shutil.rmtree(root / ".dvc" / "cache")
    code, _, err = do("data", "check")
    assert code == 1
    assert err.startswith("lobresearch: There is no data/. Run: lobresearch data files FOLDER --exchange binance --symbols NEXOUSDT "
                          "--days 2024-07-23,2024-07-24   (or `dvc pull data.dvc`")


def test_check_follows_params(root, do):
    "Another seed in params.yaml makes other data; another recording is asked for by its command"
    do("data", "check")
    versioning.set_block(root, "data", dict(hours=30, seed=8))
    code, out, _ = do("data", "check")
    assert code == 0
    assert "data/ was made by `lobresearch data simulated --hours 24 --seed 7`, but params.yaml asks for other data: making it." in out
    assert read_block(root)["days"] == ["2025-01-01", "2025-01-02"] and recorded(root)["meta"]["seed"] == 8 and "Note:" not in out
    versioning.set_block(root, "data", dict(source="tardis", exchange="binance", symbols=["BTCUSDT"], days=["2024-07-01"]))
    code, _, err = do("data", "check")
    assert code == 1 and "asks for other data. Run: lobresearch data tardis --exchange binance --symbols BTCUSDT --days 2024-07-01 " in err
    versioning.set_block(root, "data", dict(source="sim"))
    assert "source 'sim'; it can be simulated, tardis, files, lobster or npy43" in do("data", "check")[2]


def test_check_goes_on_with_changed_simulated_data_and_stops_at_changed_recordings(root, do, source):
    do("data", "check")
    (root / "data" / "truth" / "latent.txt").write_text("8")
    code, out, _ = do("data", "check")
    assert code == 0 and out.startswith("data/ differs from what data.dvc records. It is recorded now as ") and same(root)
    do("data", "files", str(source), *FILES)
    day = root / "data" / "binance_trades_2024-07-23_NEXOUSDT.csv.gz"
    day.write_bytes(day.read_bytes()[:-9])
    code, _, err = do("data", "check")
    assert code == 1
    assert "`lobresearch data accept` versions it as it is; `dvc checkout --force data.dvc` brings the recorded files back." in err
    subprocess.run([sys.executable, "-m", "dvc", "checkout", "-q", "--force", "data.dvc"], cwd=root, check=True)
    assert do("data", "check")[0] == 0


def test_check_knows_the_recorded_bytes_without_the_store(root, do, source):
    do("data", "files", str(source), *FILES)
    shutil.rmtree(root / ".dvc" / "cache")
    code, out, _ = do("data", "check")
    assert code == 0 and "DVC's store has it now" in out and same(root)


# profiles and the rest

def test_profile(root, do):
    (root / "params.full.yaml").write_text("data: {hours: 96}\ngrid:\n  levels: 20\nlabels: {horizons: [10, 60, 300]}\n")
    code, out, _ = do("profile", "full")
    assert (code, out) == (0, "  data.hours: 24 -> 96\n  grid.levels: 10 -> 20\n  labels.horizons: [10, 60] -> [10, 60, 300]\n"
                              "params.yaml has full's values now: 3 changed. `git checkout params.yaml` brings the old ones back.\n")
    assert (root / "params.yaml").read_text() == PARAMS.replace("hours: 24", "hours: 96").replace("levels: 10 ", "levels: 20 ") \
        .replace("[10,60]     #", "[10, 60, 300] #")
    assert "0 changed.\n" in do("profile", "full")[1]
    (root / "params.slip.yaml").write_text("grid: {level: 3}\n")
    assert "params.slip.yaml sets grid.level, which params.yaml does not have" in do("profile", "slip")[2]
    assert "There is no profile 'huge': params.huge.yaml is missing. Profiles here: full, slip." in do("profile", "huge")[2]


def test_a_profile_leaves_recordings_alone(root, do, source):
    do("data", "files", str(source), *FILES)
    (root / "params.full.yaml").write_text("data: {hours: 96}\ngrid: {levels: 20}\n")
    block = read_block(root)
    assert "Its data block was left out" in do("profile", "full")[1]
    assert read_block(root) == block and read_block(root, "grid")["levels"] == 20


VALUES = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.floats(-1, 1, width=16), st.text("ab: #'\"-", max_size=6),
                   st.lists(st.sampled_from(["2024-07-01", "x", 3]), max_size=3))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["levels", "clock", "new"]), VALUES, max_size=3))
def test_an_edited_block_reads_back_and_the_rest_stays(values):
    text, changes = edit_block(PARAMS, "grid", values)
    first, last = PARAMS.index("grid:"), PARAMS.index("\nlabels:")
    assert text.startswith(PARAMS[:first]) and text.endswith(PARAMS[last:])
    from ruamel.yaml import YAML
    before, after = YAML(typ="safe").load(PARAMS), YAML(typ="safe").load(text)
    assert after == {**before, "grid": {**before["grid"], **values}}
    assert set(changes) == {f"grid.{k}" for k, v in values.items() if k not in before["grid"] or before["grid"][k] != v}


def test_outside_a_checkout(do, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = do("data", "check")
    assert code == 1 and err == f"lobresearch: No settings.ini in {tmp_path} or above it. Run this inside a checkout of lobresearch.\n"


@pytest.mark.parametrize(("argv", "says"), [
    ([], ["data", "profile", "estimate", "--version"]),
    (["data"], ["simulated", "tardis", "files", "check", "accept", "not overwritten"]),
    (["data", "simulated"], ["--hours", "--seed", "--force"]),
    (["data", "tardis"], ["--exchange", "--symbols", "--days", "--types", "--endpoint", "TARDIS_API_KEY", "first day of each month"]),
    (["data", "lobster"], ["FOLDER", "--exchange", "--symbols", "--days", "message_LEVEL.csv"]),
    (["data", "npy43"], ["FILE", "--exchange", "--symbols", "--layout", "grouped,interleaved", "--start", "--step", "count rows, not seconds"]),
    (["data", "fi2010"], ["FOLDER", "cannot become data/"]),
    (["data", "files"], ["FOLDER", "--exchange", "--symbols", "--days", "--types"]),
    (["profile"], ["params.NAME.yaml"]),
    (["estimate"], ["--symbols", "--days", "--models", "deeplob_tcn,deeplob_lstm,hierarchical,tcn", "--epochs", "--workers", "--precision", "--cluster"]),
])
def test_help(argv, says, capsys):
    with pytest.raises(SystemExit) as e: cli.main([*argv, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert e.value.code == 0 and all(s in text for s in says) and str(Path.home()) not in text


def test_slips_in_the_options(capsys):
    for argv in (["data", "tardis"], ["data", "simulated", "--hours", "many"], ["date"]):
        with pytest.raises(SystemExit) as e: cli.main(argv)
        assert e.value.code == 2 and "usage: lobresearch" in capsys.readouterr().err


def test_the_installed_command_and_the_module():
    for cmd in ([str(Path(sys.executable).with_name("lobresearch"))], [sys.executable, "-m", "lobresearch.cli"]):
        assert subprocess.run([*cmd, "--version"], capture_output=True, text=True, check=True).stdout == f"lobresearch {__version__}\n"
