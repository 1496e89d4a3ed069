"`map_items` on processes, on a Dask cluster of its own, and on one that runs already: the same results, and a death that costs one item its current epoch."
import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from piece import count, record, same_code, slowly, train
from lobresearch.errors import LobError, ParameterError
from lobresearch.forecast import items
from lobresearch.forecast.items import map_items


QUIET = dict(host="127.0.0.1", dashboard_address=None, scheduler_kwargs=dict(dashboard=False, dashboard_address="127.0.0.1:0"))


@pytest.fixture(scope="module")
def running():
    "A cluster that somebody else started"
    made = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, memory_limit=0, silence_logs=logging.CRITICAL, **QUIET)
    with made, Client(made, set_as_default=False) as client:
        client.run(same_code, items.CODE)
        yield made


def squares(log, xs): return [dict(x=x, log=str(log)) for x in xs]


def kill_when_told(path, seconds=300):
    "Kill the process that names itself in a file"
    def watch():
        for _ in range(seconds*20):
            if path.exists(): os.kill(int(path.read_text()), signal.SIGKILL); return
            time.sleep(.05)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("where", ["inline", "processes", "dask", "address"])
def test_results_are_the_same_wherever_the_work_is_done(where, running, tmp_path, capfd):
    where = running.scheduler_address if where == "address" else where
    assert map_items(record, squares(tmp_path/"log", [5, 3, 4]), 2, tmp_path/"keep", cluster=where) == [[5, 25], [3, 9], [4, 16]]
    assert map_items(record, squares(tmp_path/"log", [4, 6, 5]), 2, tmp_path/"keep", cluster=where) == [[4, 16], [6, 36], [5, 25]]
    with pytest.raises(LobError, match=r"(?s)1 of 2 items failed.*x -1.*x is negative"):
        map_items(record, squares(tmp_path/"log", [-1, 7]), 2, tmp_path/"keep", cluster=where)
    assert sorted(map(int, (tmp_path/"log").read_text().split())) == [-1, 3, 4, 5, 6, 7]  # nothing twice
    assert capfd.readouterr() == ("", "")


def undisturbed(fn, folder):
    folder.mkdir()
    return [map_items(fn, [dict(seed=s, log=str(folder/str(s)), fatal=False)])[0] for s in (1, 2)]


@pytest.mark.parametrize(("fn", "where"), [(train, "processes"), (train, "dask"), (count, "processes"), (count, "dask"), (count, "address")])
def test_a_killed_worker_costs_its_item_the_current_epoch_and_the_others_nothing(fn, where, running, tmp_path, capfd):
    killer = kill_when_told(tmp_path/"1.pid")
    todo = [dict(seed=s, log=str(tmp_path/str(s)), fatal=s == 1) for s in (1, 2)]
    got = map_items(fn, todo, 2, tmp_path/"keep", cluster=running.scheduler_address if where == "address" else where)
    killer.join(1)
    assert not killer.is_alive()
    assert json.dumps(got) == json.dumps(undisturbed(fn, tmp_path/"undisturbed"))
    assert [(tmp_path/s).read_text().split() for s in "12"] == [list("12334"), list("1234")]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("where", ["processes", "dask"])
def test_an_item_that_kills_every_worker_is_reported_after_three_and_the_others_are_done(where, tmp_path, capfd):
    with pytest.raises(LobError, match=r"(?s)^1 of 3 items failed, the others are done:\nx 0.*its worker process died, 3 times"):
        map_items(record, squares(tmp_path/"log", [0, 2, 3]), 2, tmp_path/"keep", cluster=where)
    assert sorted(map(int, (tmp_path/"log").read_text().split())) == [0, 0, 0, 2, 3]
    assert map_items(record, squares(tmp_path/"log", [2, 3]), keep=tmp_path/"keep") == [[2, 4], [3, 9]]
    assert capfd.readouterr() == ("", "")


def test_two_studies_at_once_do_an_item_once(tmp_path):
    todo, got = [dict(x=x, log=str(tmp_path/"log")) for x in (1, 2)], []
    threads = [threading.Thread(target=lambda: got.append(map_items(slowly, todo, 2, tmp_path/"keep"))) for _ in range(2)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert got == [[[1, 1], [2, 4]]]*2 and sorted((tmp_path/"log").read_text().split()) == ["1", "2"]


def test_a_notebook_whose_kernel_has_an_event_loop_can_use_dask(tmp_path):
    import nbformat
    from nbclient import NotebookClient
    code = (f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom piece import record\nfrom lobresearch.forecast.items import map_items\n"
            f"import asyncio; assert asyncio.get_running_loop()\n"
            f"map_items(record, [dict(x=x, log={str(tmp_path/'log')!r}) for x in (3, 4)], 2, {str(tmp_path/'keep')!r}, cluster='dask')")
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(nb, timeout=60, kernel_name="python3").execute()
    assert [(o.output_type, o.get("data", {}).get("text/plain")) for o in nb.cells[0].outputs] == [("execute_result", "[[3, 9], [4, 16]]")]


def test_slips_get_a_sentence(running, tmp_path, monkeypatch):
    todo = squares(tmp_path/"log", [1, 2])
    with pytest.raises(ParameterError, match="cluster must be processes, inline, dask, or the address"): map_items(record, todo, cluster="dusk")
    with pytest.raises(LobError, match="defined in a module"): map_items(lambda item, folder: 1, todo, 2, cluster="dask")
    monkeypatch.setattr("lobresearch.forecast.items.TIMEOUT", 1)
    for address in ("tcp://127.0.0.1:9", "tpc://127.0.0.1:9"):
        with pytest.raises(LobError, match=f"No Dask scheduler answers at {address} within 1 s"): map_items(record, todo, cluster=address)
    assert not (tmp_path/"log").exists()


@pytest.mark.parametrize(("how", "says"), [(dict(n_workers=0), "has no workers; start some with `dask worker"),
                                           (dict(n_workers=1, threads_per_worker=2), "start it with --nthreads 1")])
def test_a_cluster_that_would_not_do_is_refused(how, says, tmp_path):
    with LocalCluster(processes=False, protocol="tcp://", **QUIET, **how) as made:
        with pytest.raises(LobError, match=says): map_items(record, squares(tmp_path/"log", [1, 2]), cluster=made.scheduler_address)


def test_workers_that_see_another_disk_or_run_other_code_are_refused(running, tmp_path, monkeypatch):
    class Elsewhere:
        def __init__(self, answer): self.answer = answer
        def scheduler_info(self): return {"workers": {"tcp://far:1": {"nthreads": 1}}}
        def run(self, fn, token, on_error): return {"tcp://far:1": self.answer}
    code = items.CODE
    for answer, says in (((False, code), "does not see .* must lie on a disk"), ((True, "other"), "runs another version of lobresearch"),
                         (ImportError("no lobresearch"), "cannot run lobresearch; install")):
        with pytest.raises(LobError, match=f"tcp://far:1 {says}"): items._fit_for_work(Elsewhere(answer), "tcp://far:8786", tmp_path)
    items._fit_for_work(Elsewhere((True, code)), "tcp://far:8786", tmp_path)


def test_no_dask_is_imported_unless_it_is_asked_for():
    import subprocess
    code = "import sys\nfrom lobresearch.forecast.items import map_items\nassert map_items(len, []) == [] and not {'dask', 'distributed'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
