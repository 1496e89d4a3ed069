"A path is what the environment would show and the network decide, second by second, and it knows no future"
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from stable_baselines3.common.policies import ActorCriticPolicy
from helpers_trading import market
from lobresearch.errors import ParameterError, TooShortError
from lobresearch.trading.accounting import PARTS, follow
from lobresearch.trading.adapters import Scales, spaces_of
from lobresearch.trading.agents import Agent, settings_of, world
from lobresearch.trading.environment import STATE
from lobresearch.trading.policies import policy_kwargs
from lobresearch.trading.rollouts import decisions, episodes, path

M = market(500, gaps=(260,))
X = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
X[120] = np.nan
ROWS = np.arange(500) >= 30


def agent_of(policy="mlp", window=1, actions="discrete", seed=0, account=None, **kw):
    "Untrained, with strong opinions that depend on its account too"
    torch.manual_seed(seed)
    s = settings_of(dict(policy=policy, window=window, actions=actions, length=50, unit=20) | kw)
    net = ActorCriticPolicy(*spaces_of(world(M, X, ROWS, {}, s)), lambda _: 1e-3, **policy_kwargs(policy, window, 3))
    with torch.no_grad(): net.action_net.weight.mul_(100)
    return Agent(net, 3, s, account or dict(taker=.2, capital=500.), Scales(np.full(len(STATE), .4)))


def slowly(agent, account):
    "Net and decisions of each stretch, through the environment"
    net, wants = [], []
    for i, j in decisions(agent, M, X, ROWS, account)[1]:
        env = world(M, X, ROWS, account, agent.settings, starts=[i], length=j - i + agent.settings["unit"], end="close", again=agent.settings["length"])
        obs, done = env.reset()[0], False
        while not done:
            wants.append(agent.act(obs)[0])
            obs, _, closed, _, info = env.step(wants[-1:])
            done = closed[0]
        net.append(info["episode"]["net"][0])
    return net, wants


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 1000), st.sampled_from([("mlp", 1), ("mlp", 3), ("tcn", 4), ("transformer", 3)]), st.sampled_from(["discrete", "continuous"]),
       st.sampled_from(["taker", "maker", "mid"]), st.integers(0, 3))
def test_the_compiled_path_is_the_environments(seed, kind, actions, execution, latency):
    account = dict(execution=execution, latency=latency, taker=.3, maker=-.1, capital=500.)
    agent = agent_of(*kind, actions, seed, account)
    (target, ways), (net, wants) = decisions(agent, M, X, ROWS), slowly(agent, account)
    assert ways[0][0] == 30 + kind[1] - 1 and [j for _, j in ways] == [119, 259, 499]
    np.testing.assert_allclose(np.concatenate([target[i:j] for i, j in ways]), wants, atol=1e-4)
    got = path(agent, M, X, ROWS)
    np.testing.assert_allclose(got.groupby("path").net.sum(), net, atol=1e-2)
    np.testing.assert_allclose(got[list(PARTS)].sum(axis=1), got.net, atol=1e-8)
    assert (got.groupby("path").position.last() == 0).all() and len(got) == sum(j - i for i, j in ways)


def test_its_account_matters_to_what_it_decides():
    a, b = (decisions(agent_of(), M, X, ROWS, dict(taker=.2, capital=500., execution=e))[0] for e in ("taker", "maker"))
    assert (a != b).any()


@settings(deadline=None, max_examples=15)
@given(st.integers(40, 490), st.sampled_from([("mlp", 1), ("mlp", 3), ("tcn", 4), ("transformer", 3)]))
def test_what_comes_later_changes_nothing_before(t, kind):
    agent, m, x = agent_of(*kind, account=dict(execution="mid", taker=0., capital=500.)), market(500, gaps=(260,)), X.copy()
    rng = np.random.default_rng(t)
    m.book[t+1:, ::2] += .1*rng.integers(1, 9, (len(m) - t - 1, 1))
    x[t+1:] = np.where(np.isfinite(x[t+1:]), rng.normal(size=x[t+1:].shape), np.nan)
    before, after = (decisions(agent, *w, ROWS)[0] for w in ((M, X), (m, x)))
    np.testing.assert_array_equal(before[:t+1], after[:t+1])
    if t < 400: assert (before != after).any()


@settings(deadline=None, max_examples=15)
@given(st.integers(60, 480), st.sampled_from([("mlp", 1), ("mlp", 3), ("tcn", 4), ("transformer", 3)]), st.sampled_from(["gap", "feature", "block"]),
       st.integers(0, 9))
def test_that_a_stretch_will_end_is_not_known_before(t, kind, why, seed):
    agent, m, x, rows = agent_of(*kind, seed=seed, account=dict(execution="mid", taker=0., capital=500.)), market(500, gaps=(260,)), X.copy(), ROWS.copy()
    if why == "gap": m.ts[t+1:], m.segment[t+1:] = m.ts[t+1:] + 7_000_000, m.segment[t+1:] + 1
    elif why == "feature": x[t+1] = np.nan
    else: rows[t+1:] = False
    before, after = decisions(agent, M, X, ROWS)[0], decisions(agent, m, x, rows)[0]
    np.testing.assert_array_equal(before[:t], after[:t])                       # at t itself there is nothing left to decide


def test_episodes_are_paths_of_ten_minutes_each_but_for_the_time_left():
    agent = agent_of(account=dict(execution="mid", taker=.1, capital=500.))
    agent.scales.own[STATE.index("left")] = 0                                 # an episode's end is announced, a path's is not
    e = episodes(agent, M, X, ROWS)
    assert e.terminated.all() and ((e.stop - e.start) <= 50).all() and e.start.min() == 30
    for r in e.itertuples():
        one = np.zeros(500, bool); one[r.start:r.stop + 1] = True
        target, ways = decisions(agent, M, X, one)
        assert ways == [(r.start, r.stop)]
        assert r.net == pytest.approx(follow(M, target, r.start, r.stop, **agent.account).net.sum(), abs=1e-2)


def test_what_wrong_input_gets():
    agent = agent_of()
    with pytest.raises(TooShortError, match="no stretch of two"): path(agent, M, X, np.zeros(500, bool))
    with pytest.raises(TooShortError, match="an episode of a minute"): episodes(agent, M, X, np.zeros(500, bool))
    with pytest.raises(ParameterError, match="sees 3 features"): decisions(agent, M, X[:, :2], ROWS)
