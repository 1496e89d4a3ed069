"What hindsight could have earned: the optimum over every path there is, and nothing earns more"
from itertools import product
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from lobresearch.errors import ParameterError, TooShortError
from lobresearch.market.registry import random_grid
from lobresearch.trading.accounting import as_market, follow
from lobresearch.trading.hindsight import best_path, bound, hindsight
from lobresearch.trading.rules import record


def made(seed, n, deep=True, **more):
    g = random_grid(n, np.random.default_rng(seed), **more)
    if deep: g[[c for c in g if "_sz_" in c]] = 1000.
    return as_market(g, funding=np.random.default_rng(seed + 1).normal(0, 1e-5, n)), np.ones(n, bool)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([0, 1, 2]), st.sampled_from([0., .3, 1., 5.]), st.sampled_from(["taker", "mid"]))
def test_it_is_the_best_of_all_paths(seed, latency, fee, execution):
    m, every = made(seed, 7)
    account = dict(execution=execution, taker=fee, latency=latency, capital=10.)
    best = max(follow(m, np.array([*p, 0.]), **account).net.sum() for p in product((-1., 0., 1.), repeat=6))
    found = record(m, hindsight(m, every, account), every, account).net.sum()
    assert found == pytest.approx(best, abs=1e-6) and bound(m, every, account)["net"]*6/86400 == pytest.approx(best, abs=1e-6)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from(["taker", "mid", "maker"]), st.sampled_from([0, 1, 3]))
def test_nothing_earns_more_whatever_its_size_and_depth(seed, execution, latency):
    m, every = made(seed, 120, deep=False)
    account = dict(execution=execution, taker=.5, maker=-.1, latency=latency, capital=3000.)
    rng = np.random.default_rng(seed)
    most = bound(m, every, account)["net"]
    for target in (rng.uniform(-1, 1, 120), np.repeat(rng.integers(-1, 2, 12), 10)*1., hindsight(m, every, account)):
        assert record(m, target, every, account).net.sum()*86400/119 <= most + 1e-6


def test_it_falls_with_the_fee_and_ends_at_nothing():
    m, every = made(0, 500)
    nets = [bound(m, every, dict(taker=f))["net"] for f in (0, .5, 1, 2, 5, 100)]
    assert all(a >= b for a, b in zip(nets, nets[1:])) and nets[0] > 0 and nets[-1] == 0
    assert (hindsight(m, every, dict(taker=100.)) == 0).all()


def test_paths_are_solved_one_by_one_and_other_rows_are_left_alone():
    m, every = made(1, 300, breaks=(150,))
    every[[50, 51]] = False
    account = dict(taker=0., capital=10.)
    t = hindsight(m, every, account)
    assert (t[~every] == 0).all()
    parts = [np.isin(np.arange(300), np.arange(a, b)) for a, b in ((0, 50), (52, 150), (150, 300))]
    np.testing.assert_array_equal(t, sum(hindsight(m, p, account) for p in parts))
    b = bound(m, every, account)
    assert b["seconds"] == 49 + 97 + 149
    assert b["net"]*b["seconds"] == pytest.approx(sum(bound(m, p, account)["net"]*bound(m, p, account)["seconds"] for p in parts))


def test_two_trades_by_hand():
    # +4, -5, +1 at one a side: long 4 - 1, turned by two units 5 - 2, closed -1: 5; at 3 a side only the short one pays nothing, the long one 4 - 6
    path, v = best_path(np.array([4., -5, 1]), np.ones(4), np.ones(4), 0)
    assert list(path) == [1, -1, 0] and v == pytest.approx(4 - 1 + 5 - 2 - 1)
    path, v = best_path(np.array([4., -5, 1]), np.full(4, 3.), np.full(4, 3.), 0)
    assert list(path) == [0, 0, 0] and v == 0


def test_what_cannot_be_meant_gets_a_sentence():
    m, every = made(0, 20)
    with pytest.raises(TooShortError, match="nothing can be traded"): bound(m, ~every, {})
    with pytest.raises(ParameterError, match="execution must be one of"): hindsight(m, every, dict(execution="wish"))
