"""Dense training against windowed training of the same network, in one run: labels a second, and time to an equal validation score.

    python benchmarks/bench_training.py [--steps 3] [--seeds 3] [--hours 24] [--share 0.9] [--cap 60] [--skip-score]

Windowed is the published way: one pass for each window of 100 s, 32 windows a step, the last output scored. Dense runs the causal network
once over a stretch and scores every second with full context. Both take the same network, loss, optimiser and number format, on one thread.
DeepLOB's LSTM in windows is PyTorch's own over the whole window; its dense form restarts at every second and shares trunk and input projection;
the stateful one, never restarted, is another model.
Neighbouring labels overlap, so a dense label teaches less than a windowed one; the time to an equal score says what is left."""
import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from lobresearch.data.grid import ingest, load_grid, write_grid
from lobresearch.data.simulate import make_simulated
from lobresearch.forecast.baselines import fit_ridge, predict_ridge
from lobresearch.forecast.nets import build
from lobresearch.forecast.rows import Rows, prepare, stretches
from lobresearch.forecast.training import Run, _cast, huber, predict_dense, step, validate
from lobresearch.market.features import features, select
from lobresearch.market.labels import labels
from lobresearch.market.splits import chronological

WINDOW, BATCH = 100, 32


def windowed_step(run, ends):
    "One step on windows that end at the given rows: the last output of each is scored"
    i = torch.from_numpy(ends[:, None] + np.arange(1-WINDOW, 1))
    x, y = run.rows.x[i].permute(0, 3, 1, 2), run.rows.y[torch.from_numpy(ends)]
    with _cast(run.net, run.p["precision"]): y_hat = run.net(x)[:, -1]
    run.optim.zero_grad(set_to_none=True)
    huber(y_hat.float(), y).backward()
    torch.nn.utils.clip_grad_norm_(run.net.parameters(), run.p["clip"])
    run.optim.step()
    return len(ends)


def made_up(pages, n=20_000):
    "Rows of noise: for speed alone"
    x, y = torch.randn(n, 40, pages), torch.randn(n, 2)
    return Rows(np.arange(n)*1_000_000, np.zeros(n, np.int64), np.full(n, "train"), x, y, np.ones(2), (10, 60), {})


def new_run(rows, seed=0, model="deeplob_tcn", **params):
    torch.manual_seed(seed)
    return Run(build(model, dict(pages=rows.x.shape[2])), rows, seed, average=0, **params)


def rate(work, steps):
    "Labels a second: the best of some steps, after one to warm up"
    work()
    best = 0.
    for _ in range(steps):
        t = time.perf_counter()
        n = work()
        best = max(best, n/(time.perf_counter()-t))
    return best


def compare(rows, what, precision, steps, model, windowed, shapes):
    "Labels a second of a network trained densely, against a windowed one"
    rng, run = np.random.default_rng(0), new_run(rows, model=windowed, precision=precision)
    w = rate(lambda: windowed_step(run, rng.integers(WINDOW, 19_000, BATCH)), steps)
    print(f"{model:21s} {what:14s} {precision}  windowed, {BATCH} x {WINDOW:3d} s           {w:9,.0f} labels/s")
    run = new_run(rows, model=model, precision=precision)
    for many, targets in shapes:
        some = stretches(rows.segment, run.train, run.context, targets)
        d = rate(lambda some=some, many=many: step(run, np.sort(some[rng.integers(0, len(some)-1, many)], axis=0))[1], steps)
        print(f"{model:21s} {what:14s} {precision}  dense, {many} x ({run.context} + {targets:3d}) s      {d:9,.0f} labels/s   {d/w:5.1f} x")


def labels_a_second(steps):
    book, both = made_up(1), made_up(3)
    for precision in ("fp32", "bf16"):
        compare(book, "book", precision, steps, "deeplob_tcn", "deeplob_tcn", ((8, 512), (4, 128)))
    compare(both, "book+features", "fp32", steps, "deeplob_tcn", "deeplob_tcn", ((8, 512), (4, 128)))
    for model in ("deeplob_lstm", "deeplob_lstm_stateful"): # PyTorch's LSTM over a window is what the stateful network does with one
        compare(book, "book", "fp32", steps, model, "deeplob_lstm_stateful", ((8, 512), (4, 128)))


def signal(hours, share):
    "The embedded exchange's signal symbol, and the score to reach: a share of what ridge gets on validation"
    with tempfile.TemporaryDirectory() as d:
        make_simulated(Path(d)/"raw", hours, 7, workers=1, symbols=("SIM-SIGNAL",))
        for day in sorted({p.name.split("_")[-2] for p in (Path(d)/"raw").glob("lobsim_book*")}):
            write_grid(Path(d)/"grid", "SIM-SIGNAL", day, ingest(Path(d)/"raw", "lobsim", "SIM-SIGNAL", day, progress=False)[0])
        grid = load_grid(Path(d)/"grid", "SIM-SIGNAL")
    names = select(10, 61)
    split = chronological(grid.index, 60, 143)
    rows = prepare(grid, split, names=names)
    X, Y, role = features(grid, names), labels(grid).to_numpy(), rows.role
    r = []
    for y in Y.T:
        ok, p = (role == "valid") & np.isfinite(y), predict_ridge(X, fit_ridge(X, y, role == "train", role == "valid"))
        r.append(np.corrcoef(p[ok], y[ok])[0, 1])
    return rows, share*float(np.mean(r))


def seconds_to(score, run, work, cap, every):
    "Seconds of training, validation not counted, until the validation correlation reaches `score`; infinite beyond `cap`"
    spent = 0.
    while spent < cap:
        run.net.train()
        t = time.perf_counter()
        for _ in range(every): work()
        spent += time.perf_counter() - t
        if validate(run.net, run.rows)["correlation"] >= score: return spent
    return np.inf


def time_to_score(seeds, hours, share, cap):
    rows, score = signal(hours, share)
    print(f"SIM-SIGNAL, {hours:g} h: seconds until the validation correlation, mean of 10 s and 60 s, is {score:.3f} ({share:g} of ridge's)")
    out = {"windowed": [], "dense": []}
    for seed in range(seeds):
        rng, run = np.random.default_rng(seed), new_run(rows, seed)
        some = stretches(rows.segment, run.train, run.context, 128)
        out["dense"].append(seconds_to(score, run, lambda run=run, some=some, rng=rng: step(run, np.sort(some[rng.integers(0, len(some), 4)], axis=0)), cap, 4))
        run = new_run(rows, seed)
        ends = np.concatenate([np.arange(a+WINDOW, b) for a, b in stretches(rows.segment, run.train, WINDOW, 10**9)])
        out["windowed"].append(seconds_to(score, run, lambda run=run, ends=ends, rng=rng: windowed_step(run, rng.choice(ends, BATCH)), cap, 10))
    for k, v in out.items():
        late = f"   (inf: not within {cap} s)" if np.isinf(v).any() else ""
        print(f"  {k:9s} median {np.median(v):6.1f} s   of {', '.join(f'{s:.1f}' for s in v)}{late}")
    w, d = (np.median(out[k]) for k in ("windowed", "dense"))
    if np.isinf(d): print("  neither can be compared: dense training did not get there either; lower --share or raise --cap")
    else: print(f"  dense is {'more than ' if np.isinf(w) else ''}{min(w, cap)/d:.1f} times faster to an equal score")


def windowed_is_dense():
    "The two ways must mean the same network"
    rows = made_up(1, 400)
    net = build("deeplob_tcn", dict(pages=1)).eval()
    torch.nn.init.normal_(net.head.weight, std=.1)
    ends = np.arange(150, 400, 10)
    with torch.no_grad(): w = net(rows.x[torch.from_numpy(ends[:, None] + np.arange(1-WINDOW, 1))].permute(0, 3, 1, 2))[:, -1].numpy()
    print(f"largest difference between the two in evaluation: {np.abs(w - predict_dense(net, rows.x, rows.segment)[ends]).max():.1e}")


if __name__ == "__main__":
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("steps", 3), ("seeds", 3), ("hours", 24.), ("share", .9), ("cap", 60.)): a.add_argument(f"--{name}", type=type(default), default=default)
    a.add_argument("--skip-score", action="store_true", help="labels a second only")
    a = a.parse_args()
    torch.set_num_threads(1)
    windowed_is_dense()
    labels_a_second(a.steps)
    if not a.skip_score: time_to_score(a.seeds, a.hours, a.share, a.cap)
