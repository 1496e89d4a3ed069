"Fitted features: known answers, and no look-ahead in fit or use, for every entry of the registry."
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_causality_features import changed_after

from lobresearch.market import fitted as module
from lobresearch.market.fitted import FITTED, fit_features, fitted_features, level_flows, microprice_table, vpin
from lobresearch.market.registry import Market, random_grid

N = 2500


def grid_of(seed=0, **kw): return random_grid(N, np.random.default_rng(seed), **kw)


@pytest.mark.parametrize("how", ["noise", "nan", "gap", "cut"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_with_the_state_fixed_nothing_before_a_change_moves(how, seed):
    rng = np.random.default_rng(seed)
    grid = grid_of(seed, breaks=(400, 1800))
    state = fit_features(grid, np.arange(N) < 1500)
    row = int(rng.integers(50, N-50))
    a, b = fitted_features(grid, state), fitted_features(changed_after(grid, row, rng, how), state)
    assert list(a) == list(FITTED)
    assert [n for n in a if not np.array_equal(a[n].iloc[:row+1], b[n].iloc[:row+1])] == []
    if how == "noise": assert [n for n in a if np.array_equal(a[n].iloc[row+1:], b[n].iloc[row+1:])] == []


@pytest.mark.parametrize("how", ["noise", "nan", "gap"])
def test_the_state_is_bit_identical_whatever_lies_outside_training(how):
    grid = grid_of(3)
    train = (np.arange(N) >= 700) & (np.arange(N) < 1900)
    rng = np.random.default_rng(0)
    other = changed_after(grid, 1899, rng, how)
    segment = other.segment
    scale = np.ones(other.shape)
    scale[:600] = rng.lognormal(0, .3, (600, other.shape[1])) # but not the minute that training rows look back on
    other = (other.astype(float)*scale).assign(segment=segment)
    assert json.dumps(fit_features(other, train)) == json.dumps(fit_features(grid, train))
    scale = np.ones(grid.shape)
    scale[1000:1500] = rng.lognormal(0, .3, (500, grid.shape[1]))
    inside = (grid.astype(float)*scale).assign(segment=grid.segment)
    moved = fit_features(inside, train)
    assert [n for n, s in fit_features(grid, train).items() if s == moved[n]] == [] # the test can fail


def test_every_exported_fitted_feature_is_registered():
    made = {f.make.__name__ for f in FITTED.values()}
    others = {"Fitted", "fitted", "chain_states", "microprice_table", "level_flows", "fit_features", "fitted_features", "fitted_table"} # parts and doors
    functions = {n for n in module.__all__ if callable(getattr(module, n))}
    assert functions - others == made


def test_the_microprice_of_a_chain_with_a_known_drift():
    "Imbalance drawn anew each second; the next move is up with a chance that rises with it: G is the expected next move"
    rng = np.random.default_rng(0)
    s = rng.integers(11, size=400_000)
    p = .3*(s/5 - 1)
    move = np.sign(p)*(rng.random(len(s)) < np.abs(p))
    G = microprice_table(s[:-1], s[1:], move[:-1], 11, 1)
    assert np.allclose(G, .3*(np.arange(11)/5 - 1), atol=.01)
    assert np.allclose(G, -G[::-1], atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 400), spreads=st.integers(1, 3))
def test_the_microprice_is_the_sum_of_the_papers_series_and_odd(seed, n, spreads):
    rng = np.random.default_rng(seed)
    bins, k = 5, 5*spreads
    s, t, move = rng.integers(-1, k, n), rng.integers(-1, k, n), rng.integers(-2, 3, n)/2.
    G = microprice_table(s, t, move, bins, spreads)
    assert np.isfinite(G).all()
    mirror = np.arange(k).reshape(spreads, bins)[:, ::-1].ravel()
    assert np.allclose(G, -G[mirror], atol=1e-6)
    ok = (s >= 0) & (t >= 0)
    s, t, move = np.r_[s[ok], mirror[s[ok]]], np.r_[t[ok], mirror[t[ok]]], np.r_[move[ok], -move[ok]]
    total = np.bincount(s, minlength=k) + 1.
    Q, T = np.zeros((k, k)), np.eye(k)/total[:, None]
    for a, b, m in zip(s, t, move): (Q if m == 0 else T)[a, b] += 1/total[a]
    G1 = np.linalg.solve(np.eye(k) - Q, np.bincount(s, move, k)/total)
    B, term, want = np.linalg.solve(np.eye(k) - Q, T), G1, np.zeros(k)
    for _ in range(60_000):
        want, term = want + term, B @ term
        if np.abs(term).max() < 1e-12: break
    if np.abs(term).max() < 1e-12: assert np.allclose(G, want, atol=1e-5)


def test_integrated_flow_is_the_first_component_of_sklearn():
    from sklearn.decomposition import PCA
    grid = grid_of(5, levels=6)
    train = np.arange(N) < 1500
    w = np.array(fit_features(grid, train, ["iofi_10"])["iofi_10"]["weights"])
    c = PCA(1).fit(level_flows(Market(grid), 10)[train]).components_[0]
    assert abs(np.abs(w).sum() - 1) < 1e-12 and np.allclose(np.abs(w), np.abs(c)/np.abs(c).sum(), atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.floats(.5, 20), big=st.floats(0, 1e4))
def test_vpin_is_what_a_bucket_by_bucket_reckoning_gives(seed, size, big):
    grid = random_grid(60, np.random.default_rng(seed), breaks=(30,))
    grid.loc[grid.index[20], "buy_vol"] += big
    m = Market(grid)
    want, buckets, fill, net, last = [], [], 0., 0., None
    for b, s, seg in zip(m.buy_vol, m.sell_vol, m.segment):
        if seg != last: buckets, fill, net, last = [], 0., 0., seg
        v = b + s
        left = v
        while v > 0 and fill + left >= size:
            net, left = net + (b - s)/v*(size - fill), left - (size - fill)
            buckets.append(abs(net)/size)
            fill = net = 0.
        if v > 0: fill, net = fill + left, net + (b - s)/v*left
        want.append(np.mean(buckets[-10:]) if buckets else 0.)
    got = vpin(m, dict(size=size, buckets=10))
    assert np.allclose(got, want, atol=1e-6) and got.min() >= 0 and got.max() <= 1 + 1e-9


def test_markets_in_which_nothing_happens():
    grid = grid_of(1)
    quiet = grid.assign(**{c: grid[c].iloc[0] for c in grid if "_px_" in c}, **{c: 0 for c in ("buy_vol", "sell_vol", "buy_n", "sell_n")},
                        **{f"ofi_{i}": 0. for i in range(1, 11)}, vwap=np.nan)
    X = fitted_features(quiet, fit_features(quiet, np.arange(N) < 1000))
    assert (X == 0).all().all()
    one = grid.assign(ask_px_1=np.nan, ask_sz_1=np.nan)
    assert np.isfinite(fitted_features(one, fit_features(grid, np.arange(N) < 1000)).to_numpy()).all()
    alone = grid.assign(segment=grid.index) # every second a segment of its own
    Y = fitted_features(alone, fit_features(alone, np.arange(N) < 1000))
    assert (Y.micro_11 == 0).all() and np.isfinite(Y.to_numpy()).all()
