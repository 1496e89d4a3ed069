"""Memory of training on three months of one symbol, streamed from disk against all of it in memory.

    python benchmarks/bench_memory.py [--rows 8000000] [--piece 432000] [--steps 50] [--limit 2.0]

Makes days of a random book, then works in processes of their own: `streamed` prepares all the rows from disk, trains `tcn` and `deeplob_tcn`
for some steps and validates them; `memory` does the same in memory on two smaller pieces, and a straight line through the two says what all the
rows would have taken. Memory is what the process itself allocated (anonymous pages, sampled). Pages of mapped files, which the system takes back
when it needs room, are in ru_maxrss too. Exits with 1 if the streamed way takes more than `--limit` GB. Takes some minutes and 6 GB of disk."""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

for k in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"): os.environ[k] = "1"

import numpy as np  # noqa: E402 the number of threads is read when it is imported
import pandas as pd  # noqa: E402
import torch  # noqa: E402

from lobresearch.data.grid import load_grid, write_grid  # noqa: E402
from lobresearch.forecast.nets import build  # noqa: E402
from lobresearch.forecast.rows import prepare, stretches  # noqa: E402
from lobresearch.forecast.streamed import prepare_streamed  # noqa: E402
from lobresearch.forecast.training import Run, step, validate  # noqa: E402
from lobresearch.market.registry import random_grid  # noqa: E402
from lobresearch.market.splits import chronological, load_split, write_splits  # noqa: E402

DAY, START, NETS = 86_400, 1_735_689_600_000_000, ("tcn", "deeplob_tcn")


def anonymous():
    "Bytes that this process has allocated and that no file stands behind; NaN where the system does not tell"
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((1024*int(v.split()[1]) for v in lines if v.startswith("RssAnon:")), float("nan"))


class Peak(threading.Thread):
    "The most that `anonymous` said, asked a hundred times a second"
    def __init__(self):
        super().__init__(daemon=True)
        self.most, self.over = anonymous(), threading.Event()

    def run(self):
        while not self.over.wait(.01): self.most = max(self.most, anonymous())

    def take(self):
        most, self.most = self.most, anonymous()
        return most


def make_days(root, rows):
    "Days of one random book, each at another price: one is made, the others are shifted"
    one = random_grid(DAY, np.random.default_rng(0))
    prices = [c for c in one if "_px_" in c or c in ("vwap", "high", "low")]
    for c in one.columns[one.columns.str.contains("_sz_|ofi_|_vol")]: one[c] = one[c].round(1)  # as lots are: they compress
    for k in range(-(-rows//DAY)):
        g = one.iloc[:min(DAY, rows - k*DAY)].copy(deep=False)
        g[prices] = g[prices] + (k % 7)
        g.index = g.index + START + k*DAY*1_000_000
        write_grid(root, "MADE-UP", str(pd.Timestamp(g.index[0], unit="us").date()), g, dict(max_stale=60))


def make_split(root, rows):
    write_splits(root, "MADE-UP", chronological(START + np.arange(rows)*1_000_000, horizon=60, lookback=200))


def work(way, root, rows, steps, peak):
    "Prepare, train some steps, validate; what each took"
    t, said = time.perf_counter(), {}
    def done(name):
        nonlocal t
        said[name] = dict(gb=peak.take()/1e9, seconds=time.perf_counter() - t)
        t = time.perf_counter()
    split = load_split(root, "MADE-UP")
    split = split[["ts", "role"]].assign(role=split.role.astype("category"))
    done("split")
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        made = prepare_streamed(root, "MADE-UP", split, folder) if way == "streamed" else prepare(load_grid(root, "MADE-UP"), split)
        del split
        done("prepare")
        for name in NETS:
            torch.manual_seed(0)
            run = Run(build(name, dict(pages=made.x.shape[2])), made, 0)
            all_ = stretches(made.segment, run.train, run.context, run.p["targets"])
            rng = np.random.default_rng(0)
            for _ in range(steps): step(run, all_[np.sort(rng.choice(len(all_), run.p["stretches"], replace=False))])
            done(f"{name}, {steps} steps")
            few = made.role == "valid"
            few[np.flatnonzero(few)[200_000:]] = False  # the whole array is allocated, some of the forecasts are made
            validate(run.mean, made._replace(role=np.where(few, "valid", "")), run.p["precision"])
            done(f"{name}, validation")
            del run, all_
        bytes_on_disk = sum(f.stat().st_size for f in Path(folder).iterdir())
    return dict(parts=said, disk=bytes_on_disk, most=max(v["gb"] for v in said.values()), rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024/1e9)


def child(way, root, rows, steps):
    args = [sys.executable, __file__, "--child", way, "--root", str(root), "--rows", str(rows), "--steps", str(steps)]
    return json.loads(subprocess.run(args, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def compare(rows, piece, steps, limit):
    with tempfile.TemporaryDirectory() as folder:
        t = time.perf_counter()
        roots = {n: Path(folder)/f"{n}/grid" for n in (piece//2, piece, rows)}
        for n, root in roots.items():
            make_days(root, n)
            make_split(root, n)
        print(f"{rows:,} rows of a made-up symbol written in {time.perf_counter() - t:.0f} s", flush=True)
        s = child("streamed", roots[rows], rows, steps)
        for name, v in s["parts"].items(): print(f"  streamed, {name}: peak {v['gb']:.2f} GB, {v['seconds']:.0f} s", flush=True)
        small, large = (child("memory", roots[n], n, steps)["most"] for n in (piece//2, piece))
    slope = (large - small)/(piece - piece//2)
    whole = large + slope*(rows - piece)
    print(f"streamed: {s['most']:.2f} GB of the process's own (resident with mapped files {s['rss']:.2f} GB), {s['disk']/1e9:.2f} GB on disk")
    print(f"in memory: {small:.2f} GB at {piece//2:,} rows, {large:.2f} GB at {piece:,}: {whole:.1f} GB at {rows:,}, by a straight line")
    print(f"ratio {whole/s['most']:.0f}; limit {limit:g} GB: {'kept' if s['most'] <= limit else 'BROKEN'}")
    return s["most"] <= limit


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rows", type=int, default=8_000_000)
    p.add_argument("--piece", type=int, default=5*DAY)
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--limit", type=float, default=2.)
    p.add_argument("--child", choices=("streamed", "memory"), help=argparse.SUPPRESS)
    p.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    a = p.parse_args()
    if not a.child: sys.exit(0 if compare(a.rows, a.piece, a.steps, a.limit) else 1)
    peak = Peak()
    peak.start()
    print(json.dumps(work(a.child, a.root, a.rows, a.steps, peak)))


if __name__ == "__main__": main()
