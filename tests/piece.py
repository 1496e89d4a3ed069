"A piece of work for the tests of `map_items`: in a module of its own, so that a worker finds it and starts fast."
import os

from lobresearch.errors import ParameterError


def record(item, folder):
    "Note each call in a file, so that calls in other processes are seen too"
    with open(item["log"], "a") as f: f.write(f"{item['x']}\n")
    if item["x"] < 0: raise ParameterError("x is negative")
    if item["x"] == 0: os._exit(1)  # a worker that dies
    return [item["x"], item["x"]**2]


def train(item, folder):
    "Fit a small network, noting each epoch that is begun; where `fatal` says so, stand still in the middle of an epoch until somebody kills the process"
    if item["seed"] != 1: return count(item, folder)  # one network is enough
    import hashlib, time
    from pathlib import Path
    from unittest.mock import patch
    import numpy as np, torch
    from lobresearch.forecast import training
    from lobresearch.forecast.nets import build
    from lobresearch.forecast.rows import Rows
    torch.set_num_threads(1)
    note, rng = Path(item["log"]), np.random.default_rng(item["seed"])
    x, y = rng.standard_normal((1200, 8, 1)).astype(np.float32), rng.standard_normal((1200, 1)).astype(np.float32)
    role = np.repeat(["train", "valid"], [800, 400])
    rows = Rows(np.arange(1200)*1_000_000, np.zeros(1200, np.int64), role, torch.from_numpy(x), torch.from_numpy(y), np.ones(1), (1,), {})
    torch.manual_seed(item["seed"])
    net, begun, step, epoch = build("tcn", dict(pages=1, horizons=1, levels=2, channels=4, depth=2)), [], training.step, training.epoch

    def noted(run, *a, **k):
        begun.append(len(run.history) + 1)
        with open(note, "a") as f: f.write(f"{begun[-1]}\n")
        return epoch(run, *a, **k)

    def fatal(run, *a, **k):
        out = step(run, *a, **k)
        if item["fatal"] and begun[-1] == 3 and not note.with_suffix(".pid").exists():
            note.with_suffix(".part").write_text(str(os.getpid()))
            os.replace(note.with_suffix(".part"), note.with_suffix(".pid"))
            time.sleep(60)
        return out

    with patch.object(training, "epoch", noted), patch.object(training, "step", fatal):
        history = training.fit(net, rows, item["seed"], folder/"checkpoint", epochs=4, patience=9, targets=32)
    return dict(history=history, weights=hashlib.sha256(b"".join(v.numpy().tobytes() for v in net.state_dict().values())).hexdigest())


def count(item, folder):
    "Four epochs of nothing, each kept when it is over; `train` without the network"
    import json, time
    from pathlib import Path
    note, kept = Path(item["log"]), folder/"checkpoint"
    done = json.loads(kept.read_text()) if kept.exists() else []
    while len(done) < 4:
        with open(note, "a") as f: f.write(f"{len(done) + 1}\n")
        if item["fatal"] and len(done) == 2 and not note.with_suffix(".pid").exists():
            note.with_suffix(".part").write_text(str(os.getpid()))
            os.replace(note.with_suffix(".part"), note.with_suffix(".pid"))
            time.sleep(60)
        time.sleep(.2)
        done.append(item["seed"]*len(done))
        kept.write_text(json.dumps(done))
    return done


def slowly(item, folder):
    "Note the call, then take a while"
    import time
    with open(item["log"], "a") as f: f.write(f"{item['x']}\n")
    time.sleep(1)
    return [item["x"], item["x"]**2]


def same_code(code):
    "Let a worker's code count as the test's, even if somebody saves a file while the tests run"
    from lobresearch.forecast import items
    items.CODE = code
