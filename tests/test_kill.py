"Killed with SIGKILL, at moments that fall where they like or in the middle of writing, a run ends with the bytes of one that was left alone."
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from lobresearch.errors import DataError
from lobresearch.forecast import training
from lobresearch.forecast.items import map_items
from lobresearch.forecast.nets import build, save_model
from lobresearch.forecast.rows import Rows

ITEM = dict(symbol="made up", model="tcn", seed=3)
EPOCHS = 8


def made_up(n=2600):
    "A label that is the sum of the last five inputs, and noise"
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (n, 4, 1)).astype(np.float32)
    y = np.convolve(x[:, 0, 0], np.ones(5)/5**.5)[:n, None] + rng.normal(0, 1, (n, 1))
    role = np.repeat(["train", "valid"], [n-600, 600])
    return Rows(np.arange(n)*1_000_000, np.zeros(n, np.int64), role, torch.from_numpy(x), torch.from_numpy(y.astype(np.float32)), np.ones(1), (1,), {})


def work(item, folder):
    torch.manual_seed(item["seed"])
    net = build(item["model"], dict(pages=1, horizons=1, levels=1, channels=8))
    rows = made_up()
    (folder/"started").touch()
    history = training.fit(net, rows, item["seed"], folder/"c.safetensors", epochs=EPOCHS, patience=EPOCHS, targets=64, lr=3e-3)
    save_model(folder/"model", net, item["model"])
    return dict(history=history)


def die(*args): os.kill(os.getpid(), signal.SIGKILL)


def die_while_writing(tensors, path, note):
    "Half of the file, then the end"
    SAVE(tensors, path, note)
    os.truncate(path, path.stat().st_size//2)
    die()


SAVE = training.save_file


def child(keep, fault=None, after=0):
    "A process of its own; `fault` strikes at the checkpoint `after` so many"
    torch.set_num_threads(1)
    os.environ["TQDM_DISABLE"] = "1"
    seen = []
    def strike(real, blow):
        def f(*args):
            seen.append(1)
            return blow(*args) if len(seen) > after else real(*args)
        return f
    if fault == "writing": training.save_file = strike(SAVE, die_while_writing)
    if fault == "renaming": training.os = type("os", (), dict(vars(os), replace=staticmethod(strike(os.replace, die))))
    if fault == "written": training._line = strike(training._line, die)
    map_items(work, [ITEM], keep=keep)


@pytest.fixture(scope="module")
def start():
    context = multiprocessing.get_context("forkserver")  # a child costs a fork, and not the imports
    context.set_forkserver_preload(["lobresearch.forecast.training", "lobresearch.forecast.items", "lobresearch.forecast.nets", "torch._dynamo"])
    def run(*args):
        p = context.Process(target=child, args=args)
        p.start()
        return p
    return run


def finish(p):
    p.join()
    return p.exitcode


def spent(p):
    "Seconds that the process has computed: what a busy machine does not stretch"
    try: return sum(psutil.Process(p.pid).cpu_times()[:2])
    except psutil.NoSuchProcess: return np.inf


def started(p, keep):
    "Wait for the first epoch; seconds computed before it"
    while p.is_alive() and not list(keep.glob("*/started")): time.sleep(.002)
    return spent(p)


def bytes_of(keep):
    "Everything that a finished item left"
    return {p.name: p.read_bytes() for p in sorted(Path(keep).glob("*/*")) if p.name not in ("started", "lock")}


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory):
    "The run left alone: its files, and how long it computes from its first epoch on"
    keep, again = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("again")
    assert finish(start(keep)) == 0
    once, p = bytes_of(keep), start(again)
    length = -started(p, again)
    while p.is_alive() and (now := spent(p)) < np.inf: last = now; time.sleep(.005)
    assert finish(p) == 0 and bytes_of(again) == once
    assert set(once) == {"c.safetensors", "model.json", "model.safetensors", "result.json"}
    return once, length + last


def test_killed_at_random_moments_it_ends_with_the_same_bytes(start, alone, tmp_path):
    want, length = alone
    rng, deaths, epochs = np.random.default_rng(11), 0, [0]
    for _ in range(8):
        for s in tmp_path.glob("*/started"): s.unlink()
        p = start(tmp_path)
        end = started(p, tmp_path) + rng.uniform(.05, .5)*length
        while p.is_alive() and spent(p) < end: time.sleep(.005)
        p.kill()
        deaths += finish(p) == -signal.SIGKILL
        epochs += [len(training._read(c)[0]["history"]) for c in tmp_path.glob("*/c.safetensors")]  # whole, whenever it was killed
    assert finish(start(tmp_path)) == 0
    assert bytes_of(tmp_path) == want
    assert deaths >= 3 and 0 < epochs[-1] and epochs == sorted(epochs), (deaths, epochs)


@pytest.mark.parametrize("fault", ["writing", "renaming", "written"])
@pytest.mark.parametrize("after", [0, 2])
def test_killed_around_the_writing_of_a_checkpoint_it_ends_with_the_same_bytes(start, alone, tmp_path, fault, after):
    assert finish(start(tmp_path, fault, after)) == -signal.SIGKILL
    left = {p.name.split(".")[-1]: p for p in tmp_path.glob("*/c.*")}
    assert set(left) == ({"safetensors"} if fault == "written" else {"part", "safetensors"} if after else {"part"})
    if "safetensors" in left: assert len(training._read(left["safetensors"])[0]["history"]) == after + (fault == "written")
    if fault == "writing":
        with pytest.raises(DataError, match="no whole checkpoint"): training._read(left["part"])
    assert finish(start(tmp_path)) == 0
    assert bytes_of(tmp_path) == alone[0]  # and nothing half-written is left


def test_a_checkpoint_cut_short_anywhere_is_refused_with_a_sentence(alone, tmp_path):
    whole, path = alone[0]["c.safetensors"], tmp_path/"c.safetensors"
    for size in (0, 4, 100, len(whole)//2, len(whole)-1):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match="no whole checkpoint.*Delete it, and the run begins anew"):
            training.fit(build("tcn", dict(pages=1, horizons=1, levels=1, channels=8)), made_up(), 3, path, epochs=EPOCHS)
    path.write_bytes(whole)
    assert json.loads(alone[0]["result.json"])["result"]["history"] == training._read(path)[0]["history"]
