"Everything after a second is changed; no feature at or before it may move. Every exported feature is in the registry, so none escapes."
import inspect

import numpy as np
import pandas as pd
import pytest

from lobresearch.market import book_features, price_features, trade_features
from lobresearch.market.features import FEATURES, Market, features, random_grid

N = 1200


def changed_after(grid, row, rng, how):
    "The grid with everything after `row` made different: other numbers, no numbers, a new segment, or nothing at all"
    after = grid.iloc[row+1:].astype(float)
    if how == "noise":
        after = after*rng.lognormal(0, .3, after.shape)
        after["segment"] = grid.segment.iloc[row+1:]
    if how == "nan": after.loc[:, [c for c in after if c != "segment"]] = np.nan
    if how == "gap": after["segment"] = float(grid.index[row+1])
    if how == "cut": after = after.iloc[:0]
    out = pd.concat([grid.iloc[:row+1].astype(float), after])
    out.index = grid.index[:len(out)]
    return out


@pytest.mark.parametrize("how", ["noise", "nan", "gap", "cut"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nothing_before_a_change_moves(how, seed):
    rng = np.random.default_rng(seed)
    grid = random_grid(N, rng, breaks=(400, 800))
    row = int(rng.integers(50, N-50))
    before, after = features(grid), features(changed_after(grid, row, rng, how))
    moved = [n for n in FEATURES if not np.array_equal(before[n].iloc[:row+1], after[n].iloc[:row+1])]
    assert not moved
    if how == "noise": # the test can fail: the rows that did change show in every feature
        still = [n for n in FEATURES if np.array_equal(before[n].iloc[row+1:], after[n].iloc[row+1:])]
        assert not still


def test_no_feature_reaches_beyond_its_warm_up():
    "Changing everything up to a second leaves whatever comes more than a warm-up later as it was"
    rng = np.random.default_rng(5)
    grid = random_grid(N, rng).astype(float)
    row, other = 500, grid.copy()
    other.iloc[:row+1] *= rng.lognormal(0, .1, (row+1, grid.shape[1]))
    other["segment"] = grid.segment
    a, b = features(grid), features(other)
    for n, f in FEATURES.items(): assert np.array_equal(a[n].iloc[row+f.warmup+1:], b[n].iloc[row+f.warmup+1:]), n


def test_a_planted_leak_is_seen(monkeypatch):
    "A feature that peeks one row ahead is caught by the comparison above"
    peek = lambda m: np.roll(m.mid, -1)
    monkeypatch.setitem(FEATURES, "peek", FEATURES["spread"]._replace(make=peek))
    grid = random_grid(N, np.random.default_rng(3))
    before, after = (features(g, ["peek"]).peek for g in (grid, changed_after(grid, 600, np.random.default_rng(4), "noise")))
    assert not np.array_equal(before.iloc[:601], after.iloc[:601])


def test_every_exported_feature_is_registered():
    made = {f.make for f in FEATURES.values()} | {trade_features.mean_depth} # the denominator of flow, no feature of its own
    exported = [getattr(m, n) for m in (book_features, trade_features, price_features) for n in m.__all__]
    exported = [f for f in exported if inspect.isfunction(f)]
    takes_a_market = [f for f in exported if Market in [p.annotation for p in inspect.signature(f).parameters.values()]]
    assert len(takes_a_market) > 15
    assert [f.__name__ for f in takes_a_market if f not in made] == []
