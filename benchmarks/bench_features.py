"""Features of a million seconds: all of the registry, and a part of it against plain pandas, in one run.

    python benchmarks/bench_features.py [--rows 1000000] [--repeat 3]

Both make the same columns from the same grid, pandas feature by feature with rolling, shift and ewm as one would write it down. Numbers are compared
where the windows are full. Times are the best of some runs on one core after compilation. The memory of a day is measured in a process of its own."""
import argparse
import json
import os
import resource
import subprocess
import sys
import time

for k in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"): os.environ[k] = "1"

import numpy as np  # noqa: E402 the number of threads is read when it is imported
import pandas as pd  # noqa: E402

from lobresearch.market.features import SETS, features, select, warmup  # noqa: E402
from lobresearch.market.registry import random_grid  # noqa: E402

TOLERANCE = {"ewma_vol_20": 2e-3} # ours forgets after ten half-lives, that of pandas never


def book_columns(g, mid):
    "Book features in pandas"
    ask, bid, levels = g.ask_sz_1, g.bid_sz_1, range(1, 11)
    x = {"spread": 1e4*(g.ask_px_1 - g.bid_px_1)/mid, "width_10": 1e4*(g.ask_px_10 - g.bid_px_10)/mid,
         "skew_5": 1e4*(g.ask_px_5 + g.bid_px_5 - 2*mid)/mid, "wmid_1": 1e4*((bid*g.ask_px_1 + ask*g.bid_px_1)/(ask + bid) - mid)/mid}
    for i in (1, 2, 5): x[f"imb_{i}"] = (g[f"bid_sz_{i}"] - g[f"ask_sz_{i}"])/(g[f"bid_sz_{i}"] + g[f"ask_sz_{i}"])
    for n in (5, 10):
        a, b = (g[[f"{s}_sz_{i}" for i in levels[:n]]].sum(axis=1) for s in ("ask", "bid"))
        x |= {f"cimb_{n}": (b - a)/(b + a), f"log_depth_{n}": np.log1p(a + b)}
    a, b = (sum(g[f"{s}_px_{i}"]*g[f"{s}_sz_{i}"] for i in levels)/sum(g[f"{s}_sz_{i}"] for i in levels) for s in ("ask", "bid"))
    square = sum(g[f"{s}_sz_{i}"]**2 for s in ("ask", "bid") for i in levels)
    return x | {"liq_spread_all": 1e4*(a - b)/mid, "herf_both_all": square/sum(g[f"{s}_sz_{i}"] for s in ("ask", "bid") for i in levels)**2}


def trade_columns(g, mid):
    "Trade and flow features in pandas"
    signed, volume, trades, x = g.buy_vol - g.sell_vol, g.buy_vol + g.sell_vol, g.buy_n + g.sell_n, {}
    def depth(n): return (g[[f"{s}_sz_{i}" for s in ("ask", "bid") for i in range(1, n+1)]].sum(axis=1)/2).rolling(60).mean()
    for n in (1, 5, 10):
        for w in (10, 60): x[f"ofi_{n}_{w}"] = g[[f"ofi_{i}" for i in range(1, n+1)]].sum(axis=1).rolling(w).sum()/depth(n)
    for w in (10, 60):
        x |= {f"flow_{w}": signed.rolling(w).sum()/depth(1), f"timb_{w}": (signed.rolling(w).sum()/volume.rolling(w).sum()).fillna(0),
              f"log_trades_{w}": np.log1p(trades.rolling(w).sum())}
    x["freq_300"] = trades.rolling(300).mean()
    x["vgap_60"] = 1e4*np.log((g.vwap.fillna(0)*volume).rolling(60).sum()/volume.rolling(60).sum()/mid)
    x["volume_cv_300"] = volume.rolling(300).std(ddof=0)/volume.rolling(300).mean()
    return x


def price_columns(g, mid):
    "Price features in pandas"
    ret, x = 1e4*np.log(mid/mid.shift(1)), {}
    for w in (1, 10, 60, 300): x[f"ret_{w}"] = 1e4*np.log(mid/mid.shift(w))
    for w in (10, 60, 300): x[f"vol_{w}"] = np.sqrt((ret**2).rolling(w).sum().clip(lower=0))
    x |= {"mgap_60": 1e4*np.log(mid/mid.rolling(60).mean()), "ewma_vol_20": np.sqrt((ret**2).ewm(halflife=20).mean()),
          "range_60": 1e4*np.log(mid.rolling(60).max()/mid.rolling(60).min())/np.sqrt(4*np.log(2))}
    return x


def naive(g):
    "All of the columns, float32"
    mid = (g.ask_px_1 + g.bid_px_1)/2
    return pd.DataFrame(book_columns(g, mid) | trade_columns(g, mid) | price_columns(g, mid)).astype(np.float32)


def best(work, repeat):
    "What it gives, and the least seconds it took: wall and processor"
    out, wall, cpu = None, [], []
    for _ in range(repeat):
        out = None # memory given back before it is asked for again
        t, c = time.perf_counter(), time.process_time()
        out = work()
        wall.append(time.perf_counter() - t)
        cpu.append(time.process_time() - c)
    return out, min(wall), min(cpu)


def agree(ours, theirs):
    "Greatest difference of a column against what is allowed, over rows with full windows"
    off = {}
    for n in theirs:
        a, b = ours[n].to_numpy()[1000:].astype(float), theirs[n].to_numpy()[1000:].astype(float)
        off[n] = float(np.max(np.abs(a - b)/(1 + np.abs(b))))
        if off[n] > TOLERANCE.get(n, 1e-4): raise SystemExit(f"{n} differs from pandas by {off[n]:.1e}")
    return max(v for n, v in off.items() if n not in TOLERANCE)


def day_memory():
    "Peak memory of a day's features, in a fresh process: MiB before and at the peak, and of the grid and the result"
    grid, peak = random_grid(86_400, np.random.default_rng(0)), lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
    features(grid.iloc[:2000])
    before = peak()
    X = features(grid)
    print(json.dumps(dict(before=before, peak=peak(), grid=grid.memory_usage().sum()/2**20, result=X.to_numpy().nbytes/2**20)))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rows", type=int, default=1_000_000)
    p.add_argument("--repeat", type=int, default=3)
    p.add_argument("--day", action="store_true", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.day: return day_memory()
    day = json.loads(subprocess.run([sys.executable, __file__, "--day"], capture_output=True, text=True, check=True).stdout) # while this process is small
    grid = random_grid(a.rows, np.random.default_rng(0))
    features(grid.iloc[:3000]) # compile, or load what was compiled
    for label, names in (("all", select(among="all")), *((k, SETS[k]) for k in ("core", "book18", "desk30"))):
        X, wall, cpu = best(lambda names=names: features(grid, names), a.repeat)
        print(f"features, {label:7s} {len(names):4d} columns x {len(grid):,} rows: {wall:5.2f} s ({cpu:.2f} s of processor), {len(grid)/wall/1e6:5.2f} M rows/s, "
              f"{X.to_numpy().nbytes/1e6:4.0f} MB, looking back {warmup(names)} s")
        del X
    theirs, slow, _ = best(lambda: naive(grid), max(1, a.repeat - 1))
    ours, fast, _ = best(lambda: features(grid, list(theirs)), a.repeat)
    print(f"{theirs.shape[1]} of them, pandas {slow:.2f} s, ours {fast:.2f} s: ratio {slow/fast:.1f}; greatest difference {agree(ours, theirs):.0e}")
    print(f"memory of a day, {86_400:,} rows: {day['before']:.0f} MiB with the grid ({day['grid']:.0f} MiB of it), {day['peak']:.0f} MiB at the peak, "
          f"{day['result']:.0f} MiB of it the result")


if __name__ == "__main__": main()
