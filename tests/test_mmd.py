"The permutation test of blocks: its statistic by hand, its size on series that remember, its power"

import numpy as np
import pytest
from scipy.signal import lfilter

from lobresearch.errors import TooShortError
from lobresearch.market.registry import random_grid
from lobresearch.synthetic import mmd as M
from lobresearch.synthetic.distances import Pair


def autoregression(n, phi, rng): return lfilter([1], [1, -phi], rng.normal(size=(n + 200, 2))*np.sqrt(1 - phi**2), axis=0)[200:]


def kernel(a, b, h): return np.mean([np.exp(-((a - b)**2).sum()/2/(s*h)**2) for s in M.SCALES])


def test_the_statistic_by_hand():
    rng = np.random.default_rng(0)
    x, block, h = rng.normal(size=(14, 3)), np.array([0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4, 4]), 1.3
    K, n = M.kernel_sums(x, block, h)
    first = block < 3
    pairs = lambda a, b: np.mean([kernel(x[i], x[j], h) for i in np.flatnonzero(a) for j in np.flatnonzero(b) if block[i] != block[j]])
    by_hand = pairs(first, first) + pairs(~first, ~first) - 2*pairs(first, ~first)
    blocks = np.arange(5) < 3
    assert M.mmd_squared(K, n, 1.*blocks, 1.*~blocks) == pytest.approx(by_hand, abs=1e-6)
    assert M.permutation_test(K, n, blocks, 50).mmd == pytest.approx(np.sqrt(max(by_hand, 0)), abs=1e-6)


def test_a_permutation_is_the_statistic_of_other_labels():
    x = np.random.default_rng(1).normal(size=(40, 2))
    K, n = M.kernel_sums(x, np.arange(40)//4, 1.)
    rng = np.random.default_rng(7)
    got = M.permutation_test(K, n, np.arange(10) < 4, 200, rng).p
    P = np.random.default_rng(7).permuted(np.tile(np.arange(10) < 4, (200, 1)), axis=1).astype(float)
    all_ = np.r_[M.mmd_squared(K, n, 1.*(np.arange(10) < 4), 1.*(np.arange(10) >= 4)), [M.mmd_squared(K, n, p, 1 - p) for p in P]]
    assert got == pytest.approx((all_ >= all_[0] - 1e-12).mean())


def test_size_on_series_that_remember():
    "Two independent series of one law: blocks of 30 keep the 5 %, single points reject most of the time"
    rng, p = np.random.default_rng(3), {1: [], 30: []}
    for i in range(150):
        x, y = (autoregression(300, .7, rng) for _ in range(2))
        for b in p: p[b] += [M.mmd_test(x, y, b, 99, rng).p] if b > 1 or i < 30 else []
    assert np.mean(np.array(p[1]) <= .05) > .5 and np.mean(np.array(p[30]) <= .05) < .10 # two standard errors above 5 % are 8.6 %


def test_without_memory_single_points_do_too():
    rng = np.random.default_rng(4)
    rate = np.mean([M.mmd_test(*rng.normal(size=(2, 100, 2)), 1, 99, rng).p <= .05 for _ in range(150)])
    assert rate < .10


def test_power():
    rng = np.random.default_rng(5)
    p = [[M.mmd_test(autoregression(600, .5, rng), k*autoregression(600, .5, rng) + s, 30, 99, rng).p for k, s in ((1, .6), (2, 0))] for _ in range(15)]
    assert ((np.array(p) <= .05).mean(0) > .8).all() # a shift, and a spread of twice the size


def test_halves_of_a_series_by_lot():
    rng = np.random.default_rng(6)
    t = M.size_check([autoregression(320, .7, rng) for _ in range(100)], (1, 20), 40, repeats=1, permutations=99).set_index("block")
    assert t.low[1] > .3 and t.low[20] <= .05 <= t.high[20] and set(t.splits) == {100}
    h = M.halves(10, 3, 50, rng)
    assert h.shape == (50, 10) and (h[:, :3].std(1) == 0).all() and set(h[:, ::3].sum(1)) == {2}


@pytest.fixture(scope="module")
def grids(): return [random_grid(2400, np.random.default_rng(i), levels=3, breaks=range(240, 2400, 240)) for i in range(2)]


def test_a_market_against_a_recording(grids):
    a, b = grids
    same, near, far = M.mmd(Pair(a, a, .1)), M.mmd(Pair(a, b, .1)), M.mmd(Pair(a, b.assign(ask_sz_1=4*b.ask_sz_1), .1))
    assert same.value == 0 and same.p > .5 and near.p > .01
    assert far.p < .01 and far.low > near.high and far.low <= far.value <= far.high
    assert M.mmd(Pair(a, b, .1)) == near # the seed is the same


def test_points_are_those_of_whole_blocks(grids):
    pair = Pair(*grids, .1)
    all_, some = M.points(pair)[1], M.points(pair, most=100)[1]
    assert len(some[0]) <= 130 < len(all_[0]) and (np.diff(some[1]) >= 0).all() and len(some[2]) == some[1].max() + 1
    sizes = np.bincount(some[1])
    assert sizes.min() >= 6 # a minute of each path lacks its volatility; whole blocks, but for that


def test_too_little_gets_a_sentence():
    x = np.zeros((100, 2))
    with pytest.raises(TooShortError, match="one and the same"): M.mmd_test(x, x, 10)
    with pytest.raises(TooShortError, match="two blocks"): M.mmd_test(x + np.arange(100)[:, None], x, 80)
    with pytest.raises(TooShortError, match="no four stretches"): M.size_check([x], stretch=50)


def test_the_size_on_a_recording(grids):
    a = grids[0]
    t = M.real_size(Pair(a, a, .1), 40, 40)
    assert t.block.tolist() == [10, 120] and (t.splits == 40).all() and (t.high > .05).all()
    slow = a.assign(ask_sz_1=np.exp(np.sin(np.arange(2400)/150))*a.ask_sz_1) # a swing of a quarter of an hour
    assert M.real_size(Pair(slow, slow, .1), 40, 40).low[0] > .2
    assert M.real_size(Pair(a, a, .1, block=10), 40, 40).block.tolist() == [10] # a point a block: one test, not two


def test_the_interval_of_a_distance_near_zero_is_not_a_point(grids):
    a, b = grids
    d = M.mmd(Pair(a, b, .1))
    assert d.low == 0 and d.high > d.value
