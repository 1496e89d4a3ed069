"Generators to be judged beside: the block bootstrap, against blocks joined one by one; the fitted exchange, in simulated hours a second."
import time
import numpy as np
import pandas as pd
from lobresearch.data.simulate import LOT, TICK, market
from lobresearch.synthetic.bars import bootstrap_market
from lobresearch.synthetic.channels import snapshot_form
from lobresearch.synthetic.fitted_exchange import Fitted, exchange_market, fit_exchange

PATHS, STEPS, BLOCK = 16, 5000, 60


def naive(grid, paths, steps, block, rng):
    "Block by block: copy the rows, shift the prices, append"
    px, mid, out = [c for c in grid if "_px_" in c], (grid.ask_px_1 + grid.bid_px_1).to_numpy()/2, []
    for p in range(paths):
        at, pieces = mid[0], []
        for _ in range(0, steps, block):
            s = rng.integers(1, len(grid) - block)
            piece = grid.iloc[s:s+block].copy()
            piece[px] = ((piece[px] + (at - mid[s-1]))/TICK).round()*TICK
            at += mid[s+block-1] - mid[s-1]
            pieces.append(piece)
        one = pd.concat(pieces).iloc[:steps]
        one.index = pd.Index((p*(steps + 120) + np.arange(steps))*1_000_000, name="ts")
        out.append(one.assign(segment=one.index[0]))
    return snapshot_form(pd.concat(out))


def timed(f, *args):
    start = time.perf_counter()
    return f(*args), time.perf_counter() - start


def main():
    true = Fitted(market("SIM-SIGNAL").par, TICK, 1, LOT, 2000., (0, 86_400_000_000), True)
    exchange_market(true, 1, 60)                                           # compile, or load what was compiled
    made, took = timed(exchange_market, true, PATHS, STEPS)
    print(f"exchange: {PATHS} x {STEPS:,} s in {took:.2f} s, {PATHS*STEPS/3600/took:.0f} simulated hours a second with all its books")
    train = np.ones(len(made), bool)
    bootstrap_market(made, train, 1, 60, BLOCK)
    fast = min(timed(bootstrap_market, made, train, PATHS, STEPS, BLOCK)[1] for _ in range(3))
    slow = timed(naive, made, PATHS, STEPS, BLOCK, np.random.default_rng(0))[1]
    print(f"bootstrap: {PATHS} x {STEPS:,} s in {fast:.2f} s; blocks joined one by one {slow:.2f} s; ratio {slow/fast:.1f}")
    print(f"fit by moments: {timed(fit_exchange, made, train)[1]:.1f} s")


if __name__ == "__main__": main()
