"Everything after a second is changed; no feature at or before it may move. Every exported feature is in the registry, so none escapes."
import inspect
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from helpers_features import full_grid, holed

from lobresearch.market import book_features, price_features, trade_features
from lobresearch.market.features import FEATURES, features
from lobresearch.market.labels import SECOND
from lobresearch.market.registry import Market

N = 2700
MODULES = (book_features, trade_features, price_features)
HELPERS = { # exported functions that are no features, and why
    "side_vwap": "a price, from which vwap_* and liq_spread_* are made",
    "walk_cost": "a cost for any size, from which impact_* is made",
    "mean_depth": "the denominator of flow",
    "half_life": "turns a smoothing constant into seconds, knows no market"}


@pytest.fixture(scope="module")
def market():
    "A grid with gaps of every kind, missing levels and quiet minutes, and its features"
    rng = np.random.default_rng(11)
    grid = holed(full_grid(N, rng, breaks=(400, 1500)), rng)
    return grid, features(grid)


def changed_after(grid, row, rng, how):
    "The grid with everything after `row` made different"
    before, after = grid.iloc[:row+1], grid.iloc[row+1:].astype({c: float for c in grid if c not in ("segment", "stale")})
    book = [c for c in after if c not in ("segment", "stale")]
    if how == "noise": # other numbers, other trades; what traded falls silent and the other way round
        after[book] = after[book]*rng.lognormal(0, .3, after[book].shape)
        silent = after.buy_n + after.sell_n > 0
        for c in ("buy_n", "sell_n", "buy_vol", "sell_vol"): after[c] = np.where(silent, 0, rng.gamma(1, 1, len(after)))
        for c in ("vwap", "high", "low"): after[c] = np.where(silent, np.nan, rng.lognormal(7, .01, len(after)))
    if how == "nan": after[book] = np.nan
    if how == "one side": after[[c for c in book if c.startswith("bid")]] = np.nan
    if how == "still": after[book] = grid[book].iloc[row].to_numpy(float)
    if how == "gap": after["segment"] = grid.index[row+1]
    if how == "cut": after = after.iloc[:0]
    out = pd.concat([before.astype(after.dtypes), after])
    return out.set_axis(grid.index[:len(out)])


def moved(make, grid, row, rng, how):
    "Names of the columns that differ at or before the row"
    before, after = make(grid), make(changed_after(grid, row, rng, how))
    return [n for n in before if not np.array_equal(before[n].iloc[:row+1], after[n].iloc[:row+1])]


@pytest.mark.parametrize("how", ["noise", "nan", "one side", "still", "gap", "cut"])
@pytest.mark.parametrize("row", [399, 1207, 2100])
def test_nothing_before_a_change_moves(market, how, row):
    grid, X = market
    later = features(changed_after(grid, row, np.random.default_rng(row), how))
    assert [n for n in X if not np.array_equal(X[n].iloc[:row+1], later[n].iloc[:row+1])] == []
    if how == "noise": # the test can fail: the rows that did change show in every feature
        assert [n for n in X if np.array_equal(X[n].iloc[row+1:], later[n].iloc[row+1:])] == []
        assert list(X) == list(FEATURES)


def test_no_feature_reaches_beyond_its_warm_up(market):
    "Changing everything up to a second leaves whatever comes more than a warm-up later as it was, to the last bit"
    grid, X = market
    rng, row = np.random.default_rng(5), 1450 # early in the last segment
    other = grid.astype({c: float for c in grid if c not in ("segment", "stale")})
    cols = [c for c in other if c not in ("segment", "stale")]
    other.iloc[:row+1, [other.columns.get_loc(c) for c in cols]] *= rng.lognormal(0, .1, (row+1, len(cols)))
    both = other.ask_px_1.notna() & other.bid_px_1.notna()
    at = row + 1 + int(both.iloc[row+1:].argmax()) # a mid may be carried on from before while there is no other
    assert at < row + 30
    b, ts = features(other), grid.index.to_numpy()
    for n, f in FEATURES.items():
        late = np.searchsorted(ts, ts - f.warmup*SECOND) - 1 > at # the row before the window is where a return over it starts
        assert late.sum() > 50 and np.array_equal(X[n][late], b[n][late]), n


@pytest.mark.parametrize("piece", [1, 97, 1000])
def test_pieces_give_what_the_whole_gives(market, piece):
    "So each feature depends on no more than its warm-up, and large grids may be taken in pieces"
    grid, X = market
    if piece == 1: grid, X = grid.iloc[:60], features(grid.iloc[:60])
    pd.testing.assert_frame_equal(features(grid, piece=piece), X, check_exact=True)
    names = ["spread", "ret_1"] # with a warm-up of one second only
    pd.testing.assert_frame_equal(features(grid, names, piece), X[names], check_exact=True)


def test_a_planted_leak_is_seen(monkeypatch, market):
    "A feature that peeks one row ahead, and one that standardises by the whole day, are caught by the comparison above"
    monkeypatch.setitem(FEATURES, "peek", FEATURES["spread"]._replace(make=lambda m: np.roll(m.mid, -1)))
    monkeypatch.setitem(FEATURES, "whole", FEATURES["spread"]._replace(make=lambda m: m.volume - m.volume.mean()))
    make, g = lambda g: features(g, ["peek", "whole", "spread"]), market[0]
    row = 1200 + int((g.ask_px_1 + g.bid_px_1).iloc[1201:].notna().argmax()) # whose next row has a mid of its own
    assert moved(make, g, row, np.random.default_rng(4), "noise") == ["peek", "whole"]


def test_a_planted_long_memory_is_seen(monkeypatch, market):
    "A feature that looks back farther than it says gives something else in pieces"
    monkeypatch.setitem(FEATURES, "long", FEATURES["spread"]._replace(make=lambda m: m.total("volume", 60), warmup=10))
    grid = market[0]
    assert not features(grid, ["long"], piece=97).equals(features(grid, ["long"]))


def unregistered(*modules):
    "Functions that a module exports, that no entry of the registry is made by and that nothing excuses"
    made = {f.make for f in FEATURES.values()}
    return [n for m in modules for n in m.__all__ if inspect.isroutine(f := getattr(m, n)) and f not in made and n not in HELPERS]


def test_every_exported_function_is_registered_or_excused():
    assert unregistered(*MODULES) == []
    everything = {n: getattr(m, n) for m in MODULES for n in m.__all__}
    for n in HELPERS: assert callable(everything[n]) and everything[n] not in {f.make for f in FEATURES.values()}, n
    features_made = [n for n, f in everything.items() if f in {s.make for s in FEATURES.values()}]
    assert len(features_made) > 50
    for n in features_made: assert next(iter(inspect.signature(everything[n]).parameters.values())).annotation is Market, n


def test_a_function_exported_without_registration_is_seen():
    def momentum(m): return np.roll(m.mid, -1)
    extra = SimpleNamespace(__all__=["momentum", "past_return", "SPANS"], momentum=momentum,
                            past_return=price_features.past_return, SPANS=price_features.SPANS)
    assert unregistered(extra) == ["momentum"]
