"Grids that a feature may meet: with gaps, holes, one side, silence, and everything that a column can lack."
import numpy as np
import pandas as pd

from lobresearch.market.labels import SECOND
from lobresearch.market.registry import random_grid


def full_grid(seconds, rng, breaks=(), levels=10):
    "A made-up grid whose levels are unequally spaced, with seconds left out inside segments, and a funding rate"
    g = random_grid(seconds, rng, levels, breaks).assign(funding=np.repeat(rng.normal(0, 1e-4, seconds//50 + 1), 50)[:seconds])
    far = {s: np.cumsum(rng.integers(0, 3, (seconds, levels)), axis=1)*.1 for s in ("ask", "bid")}
    for i in range(levels): g[f"ask_px_{i+1}"], g[f"bid_px_{i+1}"] = g[f"ask_px_{i+1}"] + far["ask"][:, i], g[f"bid_px_{i+1}"] - far["bid"][:, i]
    keep = rng.random(seconds) < .95
    keep[[0, *breaks]] = True
    return g[keep]


def holed(grid, rng):
    "The same with levels missing, one-sided books (also at the start), books locked or empty, and minutes without trades"
    g, n, levels = grid.copy(), len(grid), sum(c.startswith("ask_px") for c in grid)
    some = lambda share: g.index[rng.random(n) < share]
    for s in ("ask", "bid"):
        deep = rng.integers(1, levels+1, n)
        for i in range(1, levels+1): g.loc[g.index[deep < i], [f"{s}_px_{i}", f"{s}_sz_{i}"]] = np.nan
        one = some(.05).union(g.index[:3] if s == "ask" else g.index[:0])
        g.loc[one, [f"{s}_{k}_{i}" for k in ("px", "sz") for i in range(1, levels+1)]] = np.nan
    locked = some(.02)
    g.loc[locked, "bid_px_1"] = g.loc[locked, "ask_px_1"]
    quiet = g.index[(np.arange(n)//90) % 3 == 1]
    g.loc[quiet, ["buy_n", "sell_n", "buy_vol", "sell_vol"]] = 0
    g.loc[quiet, ["vwap", "high", "low"]] = np.nan
    g.loc[some(.1), "stale"] = True
    return g


def alone(grid):
    "The same with every row a segment of its own"
    g = grid.set_axis(pd.Index(np.arange(len(grid))*300*SECOND, name="ts"))
    return g.assign(segment=g.index)


def standing(grid):
    "The same with a book that never changes and trades that all are alike"
    return grid.assign(**{c: grid[c].dropna().iloc[0] for c in grid if c != "segment"})


def one_sided(grid):
    "The same without a single ask"
    return grid.assign(**{c: np.nan for c in grid if c.startswith("ask_")})


def one_trade(grid):
    "The same with a single trade, in the middle"
    out = grid.assign(buy_n=0, sell_n=0, buy_vol=0., sell_vol=0., vwap=np.nan, high=np.nan, low=np.nan)
    row = out.index[len(out)//2]
    out.loc[row, ["buy_n", "buy_vol"]] = 1
    out.loc[row, ["vwap", "high", "low"]] = grid.ask_px_1[row]
    return out


def unknown(grid):
    "The same with nothing known at all"
    return grid.assign(**{c: np.nan for c in grid if c not in ("segment", "stale")})
