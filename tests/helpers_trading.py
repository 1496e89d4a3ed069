"Markets to trade in tests"
import numpy as np
from lobresearch.trading.accounting import Market


def market(n=600, seed=0, gaps=(), step=2):
    "A random walk in ticks of .1 with two levels; a new segment at each gap"
    rng = np.random.default_rng(seed)
    bid = 5_000 + rng.integers(-step, step + 1, n).cumsum()
    size = rng.integers(3, 9, (n, 4))
    book = np.stack([.1*(bid + 1), size[:, 0], .1*bid, size[:, 1], .1*(bid + 2), 2*size[:, 2], .1*(bid - 1), 2*size[:, 3]], 1)
    ts, segment = 1_000_000*np.arange(n), np.zeros(n, int)
    for g in gaps: ts[g:], segment[g:] = ts[g:] + 100_000_000, ts[g] + 100_000_000
    return Market(ts, segment, book, np.stack([book[:, 2] - .1, book[:, 0] + .1, np.ones(n), np.ones(n)], 1), np.zeros(n))


def announced(m):
    "The sign of the move that a decision of now, met by the next second's book, earns"
    move = np.sign(np.diff(m.mid))
    return np.r_[move[1:], 0, 0][:, None].astype(np.float32)
