"Independent items: results in the items' order, nothing done twice, failures by name, the same inline and in processes; and whole items from grid to forecasts."
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import pytest

from piece import record
from lobresearch.data.grid import write_grid
from lobresearch.errors import LobError, TooShortError
from lobresearch.forecast.items import item_key, map_items
from lobresearch.forecast.jobs import collect, make_items, run_item
from lobresearch.market.features import random_grid
from lobresearch.market.splits import chronological, write_splits


def items(tmp_path, xs): return [dict(x=x, log=str(tmp_path/"log")) for x in xs]


def calls(tmp_path): return sorted(map(int, (tmp_path/"log").read_text().split()))


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_nothing_is_done_twice(tmp_path, workers):
    first = map_items(record, items(tmp_path, [5, 3, 4]), workers, tmp_path/"keep")
    assert first == [[5, 25], [3, 9], [4, 16]]
    again = map_items(record, items(tmp_path, [4, 6, 5]), workers, tmp_path/"keep")
    assert again == [[4, 16], [6, 36], [5, 25]]
    assert calls(tmp_path) == [3, 4, 5, 6]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_is_reported_by_name_after_the_others_are_done(tmp_path, workers):
    todo = items(tmp_path, [-1, 2, 3])
    with pytest.raises(LobError, match=r"(?s)1 of 3 items failed.*x -1.*x is negative") as e: map_items(record, todo, workers, tmp_path/"keep")
    assert item_key(todo[0]) in str(e.value)
    assert map_items(record, todo[1:], workers, tmp_path/"keep") == [[2, 4], [3, 9]]
    assert calls(tmp_path) == [-1, 2, 3]


def test_a_worker_that_dies_is_reported_and_the_rest_can_be_run_again(tmp_path):
    with pytest.raises(LobError, match="its worker process died, 3 times"): map_items(record, items(tmp_path, [0, 2]), 2, tmp_path/"keep")
    assert calls(tmp_path) == [0, 0, 0, 2]
    assert map_items(record, items(tmp_path, [2]), 1, tmp_path/"keep") == [[2, 4]]


def test_an_executor_of_one_s_own_is_used(tmp_path):
    with ThreadPoolExecutor(2) as pool: assert map_items(record, items(tmp_path, [2, 7]), executor=pool) == [[2, 4], [7, 49]]


def test_the_result_is_the_same_fresh_and_kept(tmp_path):
    "A tuple comes back as a list the first time too, as it will from the file"
    fn = lambda item, folder: (1, 2)
    assert map_items(fn, [{}], keep=tmp_path) == map_items(fn, [{}], keep=tmp_path) == [[1, 2]]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    for i, s in enumerate(("A", "B")):
        grid = random_grid(4000, np.random.default_rng(i), levels=2, breaks=(1500,))
        write_grid(root/"artifacts/grid", s, "1970-01-01", grid)
        write_splits(root/"artifacts/splits", s, chronological(grid.index, horizon=10, lookback=143))
    return root


def toy_items(root, depth=2):
    net = dict(trunk=4, channels=4, depth=depth)
    return make_items(root, ["A", "B"], [5, 10], 7, ("zero", "ridge", "deeplob_tcn"), 1, net, dict(epochs=1))


def test_inline_and_processes_write_the_same_bytes(study, tmp_path):
    todo, out = toy_items(study), []
    for workers in (1, 2):
        keep = tmp_path/str(workers)
        results = map_items(partial(run_item, root=study), todo, workers, keep)
        table = collect(todo, keep, tmp_path/f"out{workers}")
        files = {p.relative_to(tmp_path/f"out{workers}"): p.read_bytes() for p in sorted((tmp_path/f"out{workers}").rglob("*")) if p.is_file()}
        out.append((json.dumps(results), files, table))
    assert out[0][0] == out[1][0] and out[0][1] == out[1][1]
    table = out[0][2]
    assert list(table) == ["symbol", "ts", "horizon", "model", "seed", "split", "y_hat"]
    assert set(table.split) == {"valid", "test"} and table.y_hat.notna().all()
    assert not any(p.suffix in (".pt", ".pkl") for p in out[0][1])


def test_what_bears_on_the_result_is_in_the_key(study):
    a, b = toy_items(study), toy_items(study, depth=3)
    keys = [[item_key(i) for i in t] for t in (a, b)]
    assert [x == y for x, y in zip(*keys)] == [True, True, False]*2  # depth concerns the networks alone
    other = random_grid(4000, np.random.default_rng(9), levels=2)
    before = item_key(toy_items(study)[0])
    path = write_grid(study/"artifacts/grid", "A", "1970-01-02", other)
    try: assert item_key(toy_items(study)[0]) != before
    finally: path.unlink()


def test_forecasts_keep_to_validation_and_test_and_never_touch_the_sealed_rows(study, tmp_path):
    todo = toy_items(study)
    map_items(partial(run_item, root=study), todo, keep=tmp_path)
    split = pd.read_parquet(study/"artifacts/splits/symbol=A.parquet").set_index("ts").role
    p = pd.read_parquet(tmp_path/item_key(todo[2])/"predictions.parquet")
    assert (split.loc[p.ts].to_numpy() == p.split.to_numpy()).all()


def test_a_recording_too_short_says_so(study, tmp_path):
    grid = random_grid(300, np.random.default_rng(0), levels=2)
    write_grid(tmp_path/"artifacts/grid", "C", "1970-01-01", grid)
    write_splits(tmp_path/"artifacts/splits", "C", chronological(grid.index, horizon=10, lookback=143))
    todo = make_items(tmp_path, ["C"], [10], 7, ("ridge",))
    with pytest.raises(TooShortError, match="C is too short to forecast"): run_item(todo[0], tmp_path, tmp_path)
