"The default reward is what was earned; the weighted one shows its terms and what they go on from"
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from lobresearch.errors import ParameterError
from lobresearch.trading.accounting import GO, Accounts, Market
from lobresearch.trading.rewards import REWARD_STATE, TERMS, WEIGHTED, Rewards, hacked, weights


def trade(seed, weighted=None, span=20., n=120, batch=3):
    "Random decisions on a random walk: terms (n, batch, terms), rewards (n, batch), equity in bps, positions, fills, spread + impact in bps, states"
    rng = np.random.default_rng(seed)
    bid = 1000 + rng.integers(-2, 3, n + 1).cumsum()
    book = np.stack([bid + 1, rng.integers(1, 4, n + 1), bid, rng.integers(1, 4, n + 1), bid + 3, np.full(n + 1, 50), bid - 2, np.full(n + 1, 50)], 1)*1.
    m = Market(np.arange(n + 1)*1_000_000, np.zeros(n + 1, int), book, np.full((n + 1, 4), np.nan), np.zeros(n + 1))
    acc, r = Accounts(m, batch, taker=1., capital=5_000.), Rewards(batch, weighted, span)
    acc.open(np.arange(batch), np.zeros(batch, int))
    out = {k: [] for k in ("terms", "reward", "equity", "held", "fills", "paid", "state")}
    for _ in range(n):
        out["held"].append(abs(acc.state["position"]/acc.state["size"]))
        acc.advance(rng.integers(-1, 2, batch)*1., np.full(batch, GO))
        r.score(acc.state, acc.parts)
        state = np.empty((batch, len(REWARD_STATE)))
        r.state(acc.state, np.arange(batch), state)
        now = dict(terms=r.terms.copy(), reward=r.reward.copy(), equity=acc.state["equity"]*2, fills=acc.state["fills"].copy(), state=state)
        now["paid"] = -2*acc.parts[:, 1:3].sum(1) # in bps: the capital is 5,000
        for k, v in now.items(): out[k].append(v)
    return {k: np.array(v, float) for k, v in out.items()}


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_by_default_the_rewards_of_an_episode_sum_to_what_it_earned(seed):
    d = trade(seed)
    np.testing.assert_allclose(d["reward"].cumsum(axis=0), d["equity"], atol=1e-8)
    np.testing.assert_allclose(d["reward"], np.diff(d["equity"], axis=0, prepend=0), atol=1e-8)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_every_term_is_what_pandas_makes_of_the_path(seed):
    d = trade(seed, WEIGHTED)
    t = {k: d["terms"][:, :, i] for i, k in enumerate(TERMS)}
    pnl = np.diff(d["equity"], axis=0, prepend=0)
    np.testing.assert_allclose(t["pnl"], pnl, atol=1e-8)
    e = pd.DataFrame(np.r_[np.zeros((1, 3)), pnl]).ewm(span=20, adjust=False)
    with np.errstate(invalid="ignore"): sharpe = (e.mean()/e.std(bias=True)).fillna(0).to_numpy()[1:]
    np.testing.assert_allclose(t["sharpe"], sharpe, atol=1e-6)
    down = np.maximum.accumulate(np.r_[np.zeros((1, 3)), d["equity"]]) - np.r_[np.zeros((1, 3)), d["equity"]]
    np.testing.assert_allclose(t["drawdown"], np.maximum(np.diff(down, axis=0), 0), atol=1e-8)
    np.testing.assert_array_equal(t["trades"], d["fills"])
    np.testing.assert_allclose(t["holding"], d["held"])
    np.testing.assert_allclose(t["spread"], d["paid"], atol=1e-9)
    np.testing.assert_allclose(d["reward"], sum(WEIGHTED[k]*t[k] for k in TERMS), atol=1e-9)
    last = dict(zip(REWARD_STATE, d["state"][-1].T, strict=True))
    np.testing.assert_allclose(last["earned"], d["equity"][-1], atol=1e-8)
    np.testing.assert_allclose(last["mean"], e.mean().iloc[-1], atol=1e-8)
    np.testing.assert_allclose(last["sd"], e.std(bias=True).iloc[-1], atol=1e-8)
    np.testing.assert_allclose(last["drawdown"], down[-1], atol=1e-8)
    np.testing.assert_allclose(last["trades"], np.log1p(d["fills"].sum(0)))
    np.testing.assert_allclose(last["held"], d["held"].mean(0))
    np.testing.assert_allclose(last["paid"], d["paid"].sum(0), atol=1e-8)


def test_a_term_goes_on_from_its_state_alone():
    "Two pasts, one state: the same second is paid the same; what was forgotten is forgotten"
    d = trade(3, WEIGHTED)
    again = Rewards(3, WEIGHTED, 20.)
    assert not again.memory.any()
    again.memory[:] = 7.
    again.begin(np.array([1]))
    assert not again.memory[1].any() and (again.memory[[0, 2]] == 7).all()
    assert np.isfinite(d["terms"]).all()


def test_weights_by_name():
    np.testing.assert_array_equal(weights(), [1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(weights(WEIGHTED), [1, .5, -1, -.3, .2, -.4])
    with pytest.raises(ParameterError, match="no reward term is called profit"): weights({"profit": 1})
    with pytest.raises(ParameterError, match="1 second or more"): Rewards(1, span=0)


def test_a_reward_that_rises_while_money_is_lost_is_noticed():
    d, plain = trade(5, {"pnl": 1., "holding": 50.}), trade(5)
    assert (d["equity"][-1] < 0).any()
    np.testing.assert_array_equal(hacked(d["reward"].sum(0), d["equity"][-1]), (d["equity"][-1] < 0) & (d["reward"].sum(0) > 0))
    assert hacked(d["reward"].sum(0), d["equity"][-1]).any() and not hacked(plain["reward"].sum(0), plain["equity"][-1]).any()
