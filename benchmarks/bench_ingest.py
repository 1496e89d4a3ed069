"""Ingest against pandas, in one run: time, memory, and bare decompression as the floor.

    python benchmarks/bench_ingest.py [--rows 864000] [--repeat 2]

Makes a 24-hour file of 25 levels, then measures each way in a process of its own (a fresh process is the only fair reading of peak memory).
The pandas versions are vectorised and do the same work: last book of each second, event imbalance of ten levels, counts, trade sums."""
import argparse
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

LEVELS, DAY, T0, SEC = 10, "2025-01-01", 1_735_689_600_000_000, 1_000_000


def tails(rng, n):
    "Texts of `n` book rows after the times: 25 levels a side; a row changes one to three sizes, one in five moves the touch by a tick"
    new = lambda: f"{rng.lognormal(0, 1.5) + .001:.3f}"
    ask, bid = [[500_001 + i, new()] for i in range(25)], [[500_000 - i, new()] for i in range(25)]
    out = []
    for move in rng.choice([-1, 0, 0, 0, 0, 0, 0, 0, 0, 1], n):
        up, down = (ask, bid) if move > 0 else (bid, ask)
        if move: # the side that the price runs into loses its best level, the other gains one
            up.pop(0); up.append([up[-1][0] + move, new()])
            down.insert(0, [down[0][0] + move, new()]); down.pop()
        for k in rng.integers(0, 25, rng.integers(1, 4)): (ask, bid)[k % 2][k//(1 + k % 3)][1] = new()
        out.append(",".join(f"{a/10:.1f},{q},{b/10:.1f},{r}" for (a, q), (b, r) in zip(ask, bid, strict=True)))
    return out


def make(folder, rows):
    "A book file and a trades file of 24 hours"
    from lobresearch.data.tardis import file_name, header
    rng = np.random.default_rng(0)
    pool = tails(rng, 20_000)
    t = T0 + np.sort(rng.integers(1, 86400*SEC, rows))
    with gzip.GzipFile(folder/file_name("bench", "book_snapshot_25", DAY, "BENCH"), "wb", compresslevel=1, mtime=0) as f:
        f.write((",".join(header("book_snapshot_25")) + "\n").encode())
        for i in range(0, rows, 20_000):
            lines = (f"bench,BENCH,{x - 40_000},{x},{y}\n" for x, y in zip(t[i:i + 20_000].tolist(), pool, strict=False))
            f.write("".join(lines).encode())
    t = T0 + np.sort(rng.integers(1, 86400*SEC, rows//4))
    with gzip.GzipFile(folder/file_name("bench", "trades", DAY, "BENCH"), "wb", compresslevel=1, mtime=0) as f:
        f.write((",".join(header("trades")) + "\n").encode())
        trades = enumerate(zip(t.tolist(), np.where(rng.random(len(t)) < .5, "buy", "sell"), strict=True))
        f.write("".join(f"bench,BENCH,{x - 40_000},{x},{i},{s},50000.{i % 10},0.{1 + i % 97}\n" for i, (x, s) in trades).encode())


def paths(folder): return [next(folder.glob(f"*_{k}_*.gz")) for k in ("book_snapshot_25", "trades")]


def unzip(folder):
    "Decompression of the book file and nothing else"
    z, n = zlib.decompressobj(31), 0
    with open(paths(folder)[0], "rb") as f:
        while raw := f.read(1 << 18): n += len(z.decompress(raw))


def ours(folder):
    "lobresearch, files to grid"
    from lobresearch.data.grid import ingest
    return ingest(folder, "bench", "BENCH", DAY, levels=LEVELS, progress=False)[0]


def wanted():
    from lobresearch.data.tardis import header
    return header("book_snapshot_25")[2:4 + 4*LEVELS]


def pandas_work(b, t):
    "Books and trades in data frames to the same grid"
    import pandas as pd
    names = [f"{s}_{l}" for l in range(1, LEVELS + 1) for s in ("ask_px", "ask_sz", "bid_px", "bid_sz")]
    second = lambda x: -(-x.local_timestamp//SEC)*SEC
    b = b.set_axis(["timestamp", "local_timestamp", *names], axis=1)
    b = b[(b.bid_px_1 <= b.ask_px_1)]
    flow = {}
    for l in range(1, LEVELS + 1):
        a, r, p, q = (b[f"{s}_{l}"].to_numpy() for s in ("ask_px", "ask_sz", "bid_px", "bid_sz"))
        e = (p[1:] >= p[:-1])*q[1:] - (p[1:] <= p[:-1])*q[:-1] - (a[1:] <= a[:-1])*r[1:] + (a[1:] >= a[:-1])*r[:-1]
        flow[f"ofi_{l}"] = np.concatenate([[0.], e])
    by = second(b)
    g = b[names].groupby(by).last()
    g = g.join(pd.DataFrame(flow, index=b.index).groupby(by).sum()).join(by.groupby(by).size().rename("n_updates"))
    full = np.arange(g.index[0], g.index[-1] + SEC, SEC)
    stale = ~np.isin(full, g.index)
    g = g.reindex(full)
    g[names] = g[names].ffill(limit=60)
    g["stale"] = stale
    buy, sell = t.side == "buy", t.side == "sell"
    t = t.assign(buy_vol=t.amount.where(buy, 0), sell_vol=t.amount.where(sell, 0), buy_n=buy, sell_n=sell, pv=t.price*t.amount)
    by = t.groupby(second(t))
    s = by[["buy_vol", "sell_vol", "buy_n", "sell_n", "pv", "amount"]].sum().join(by.price.agg(["max", "min"]))
    return g.join(s)


def pandas_needed(folder):
    "pandas, reading the needed columns only"
    import pandas as pd
    book, trades = paths(folder)
    return pandas_work(pd.read_csv(book, usecols=wanted()), pd.read_csv(trades))


def pandas_whole(folder):
    "pandas, reading the whole file first"
    import pandas as pd
    book, trades = paths(folder)
    return pandas_work(pd.read_csv(book)[wanted()], pd.read_csv(trades))


def pandas_whole_read(folder):
    "pandas reading the whole book file, and no work"
    import pandas as pd
    pd.read_csv(paths(folder)[0])


def parse_only(folder):
    "Our reader on the book file, no work"
    from lobresearch.data.tardis import read_books
    for _ in read_books(paths(folder)[0], LEVELS, progress=False): pass


def polars_read(folder):
    "polars, lazy scan of the needed columns in batches, no work"
    import polars as pl
    for _ in pl.scan_csv(paths(folder)[0]).select(wanted()).collect_batches(): pass


def arrow_read(folder):
    "pyarrow, streaming reader of the needed columns, no work"
    from pyarrow import csv
    with csv.open_csv(paths(folder)[0], convert_options=csv.ConvertOptions(include_columns=wanted())) as r:
        for _ in r: pass


WAYS = dict(unzip=unzip, parse_only=parse_only, polars_read=polars_read, arrow_read=arrow_read, ours=ours, pandas_needed=pandas_needed,
            pandas_whole_read=pandas_whole_read, pandas_whole=pandas_whole)


def peak_mb():
    "Peak resident memory of this process since it began its program"
    status = Path("/proc/self/status")
    if not status.exists(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(1 << 20) # macOS counts bytes
    return int(next(x for x in status.read_text().splitlines() if x.startswith("VmHWM")).split()[1])/1024


def measure(way, folder):
    "Seconds, processor seconds, peak memory of the process in MB, sums to compare; imports and compiled code are loaded on a small day first"
    WAYS[way](folder/"small")
    start, cpu = time.perf_counter(), time.process_time()
    g = WAYS[way](folder)
    out = dict(seconds=time.perf_counter() - start, cpu=time.process_time() - cpu, rss=peak_mb())
    if g is not None: out["sums"] = [float(g[c].sum()) for c in ("ask_px_1", "bid_sz_10", "ofi_1", "ofi_10", "n_updates", "buy_vol", "sell_n", "stale")]
    print(json.dumps(out))


def child(way, folder):
    r = subprocess.run([sys.executable, __file__, "--way", way, "--folder", str(folder)], capture_output=True, text=True, check=False)
    if r.returncode: sys.exit(r.stderr)
    return json.loads(r.stdout.splitlines()[-1])


def main(rows, repeat):
    with tempfile.TemporaryDirectory() as d:
        folder = Path(d)
        (folder/"small").mkdir()
        make(folder/"small", 2000)
        make(folder, rows)
        print(f"{rows:,} rows of book_snapshot_25 and {rows//4:,} trades over 24 hours, {paths(folder)[0].stat().st_size/1e6:.0f} MB compressed; best of {repeat}")
        best = {w: min((child(w, folder) for _ in range(repeat)), key=lambda r: r["seconds"]) for w in WAYS}
    for w, r in best.items():
        what = WAYS[w].__doc__.splitlines()[0]
        print(f"{w:18s}{r['seconds']:7.2f} s, processor{r['cpu']:6.2f} s,{rows/r['seconds']/1e6:6.2f} M rows/s,{r['rss']:6.0f} MB  {what}")
    ratio = lambda w, k: f"{best[w][k]/best['ours'][k]:.1f}"
    np.testing.assert_allclose(best["ours"]["sums"], best["pandas_needed"]["sums"], rtol=1e-9, err_msg="the two ways did not do the same work")
    for w, what in (("pandas_needed", "pandas on the needed columns, same work (asked: 2)"), ("pandas_whole", "pandas reading the whole file, same work (asked: 4)"),
                    ("pandas_whole_read", "pandas reading the whole file, no work at all")):
        print(f"ours is {ratio(w, 'seconds')}x as fast as {what}; {ratio(w, 'cpu')}x by processor time")
    print(f"bare decompression (zlib) takes {ratio('unzip', 'seconds')} of our time; peak memory {best['ours']['rss']:.0f} MB (asked: under 600)")


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--rows", type=int, default=864_000, help="book rows in the day")
    p.add_argument("--repeat", type=int, default=2, help="runs of each way; the best counts")
    p.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    p.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.way: measure(a.way, a.folder)
    else: main(a.rows, a.repeat)
