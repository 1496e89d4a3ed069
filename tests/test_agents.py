"Agents learn from training rows, are chosen by validation rows, and are frozen from then on"
import copy
import json
import random
import numpy as np
import pytest
import torch
from helpers_trading import announced, market
from lobresearch.trading import agents
from lobresearch.errors import ParameterError, TooShortError
from lobresearch.trading.adapters import Scales
from lobresearch.trading.agents import DEFAULTS, PLAIN, fit_agent, fit_scales, load_agent, save_agent, settings_of, tried, world
from lobresearch.trading.environment import STATE
from lobresearch.trading.measures import DAY
from lobresearch.trading.rewards import TERMS, WEIGHTED
from lobresearch.trading.rollouts import path

QUICK = dict(envs=16, n_steps=32, batch=128, epochs=4, lr=1e-3, gamma=.9, steps=512*6, length=60, checkpoints=3)
MID = dict(execution="mid", taker=0., capital=500.)
M = market(1500, gaps=(700,))
X, AT = announced(M), np.arange(1500)
TRAIN, VALID = AT < 900, (AT >= 950) & (AT < 1250)


def fit(m=M, x=X, train=TRAIN, valid=VALID, seed=0, account=MID, **kw): return fit_agent(m, x, train, valid, seed, account, QUICK | kw)


def test_it_learns_what_is_announced_and_beats_what_it_began_with():
    agent = fit(steps=512*30, epochs=8)
    found = [h["valid_net"] for h in agent.history if np.isfinite(h["valid_net"])]
    most = np.abs(np.diff(M.mid[VALID])/M.mid[VALID][:-1]).mean()*1e4*DAY       # every move caught
    assert agent.kept["valid_net"] == max(found) > .7*most
    assert agent.history[-1]["entropy"] < agent.history[0]["entropy"] < np.log(3) + 1e-6


def test_only_training_rows_teach_and_validation_rows_only_choose():
    m, x = copy.deepcopy(M), X.copy()
    m.book[900:], x[900:] = m.book[900:]*1.01, x[900:][::-1]
    a, b = fit(checkpoints=1), fit(m, x, checkpoints=1)
    np.testing.assert_array_equal(a.weights.w, b.weights.w)
    np.testing.assert_array_equal(a.scales.own, b.scales.own)
    for one, other in zip(a.history, b.history, strict=True):
        assert {k: v for k, v in one.items() if "valid" not in k and v == v} == {k: v for k, v in other.items() if "valid" not in k and v == v}
    assert a.kept["valid_net"] != b.kept["valid_net"]


def test_the_version_kept_is_the_best_on_validation_and_its_weights_are_back():
    agent = fit(steps=512*8, checkpoints=8, seed=3)
    found = [h["valid_net"] for h in agent.history]
    assert agent.kept["valid_net"] == max(found) and agent.kept["steps"] == agent.history[int(np.argmax(found))]["steps"]
    assert tried(agent, M, X, VALID) == (agent.kept["valid_net"], agent.kept["valid_turnover"])
    ledger = path(agent, M, X, VALID)
    assert ledger.net.mean()*DAY == agent.kept["valid_net"] and ledger.index[0] == M.ts[951] and ledger.index[-1] == M.ts[1249]


def test_without_validation_the_last_version_is_kept():
    agent = fit(valid=np.zeros(1500, bool))
    assert agent.kept["steps"] == agent.history[-1]["steps"] and np.isnan(agent.kept["valid_net"])


def test_seeds_repeat_and_differ():
    a, b, c = fit(), fit(), fit(seed=1)
    np.testing.assert_array_equal(a.weights.w, b.weights.w)
    assert a.history == b.history or json.dumps(a.history, default=float) == json.dumps(b.history, default=float)
    assert (a.weights.w != c.weights.w).any()


def test_nobody_elses_dice_are_touched():
    states = lambda: (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), torch.get_num_threads())
    before = states()
    fit(steps=512)
    assert states() == before


@pytest.mark.parametrize("policy, window, actions", [("mlp", 1, "discrete"), ("mlp", 2, "continuous"), ("tcn", 4, "discrete"), ("transformer", 3, "continuous")])
def test_what_is_saved_is_read_back_decision_by_decision(tmp_path, policy, window, actions):
    agent = fit(steps=512, policy=policy, window=window, actions=actions)
    again = load_agent(save_agent(agent, tmp_path/"a"))
    obs = np.random.default_rng(0).normal(size=(200, window + len(STATE))).astype(np.float32)
    np.testing.assert_array_equal(again.wants(obs), agent.wants(obs))
    np.testing.assert_array_equal(again.act(obs), agent.act(obs))
    assert again.kept == agent.kept and again.account == MID and again.settings == agent.settings and len(again.history) == 1
    if actions == "discrete": assert set(agent.act(obs)) <= {-1., 0., 1.}
    else: assert (abs(agent.act(obs)) <= 1).all()


def test_an_observation_is_not_changed_by_looking():
    agent, obs = fit(steps=512), np.random.default_rng(0).normal(size=(5, 1 + len(STATE))).astype(np.float32)
    before = obs.copy()
    agent.act(obs); agent.chances(obs)
    np.testing.assert_array_equal(obs, before)


def test_scales_are_those_of_play_by_lot_and_shares_stay_as_they_are():
    s = settings_of(QUICK)
    scales = fit_scales(world(M, X, TRAIN, MID, s, batch=64), np.random.default_rng(0), 300)
    own = dict(zip(STATE, scales.own, strict=True))
    assert all(own[k] == 1 for k in ("position", "target", "waiting", "age", "left", "held")) and own["paid"] == 0 # at mid nothing is paid: not seen
    bps = (np.diff(M.mid)/M.mid[:-1]*1e4)[:899][np.diff(M.segment[:900]) == 0]
    assert .5 < 1/scales.reward/(bps.std()*np.sqrt(2/3)) < 2 and np.isfinite(scales.own).all()


def test_the_history_names_every_term_of_the_reward():
    agent = fit(account=dict(taker=1., capital=500.), weighted=WEIGHTED)
    for h in agent.history:
        total = sum(WEIGHTED[k]*h[k] for k in TERMS)
        assert h["reward"] == pytest.approx(total) and h["net"] == pytest.approx(h["pnl"]*DAY)
        assert h["trades"] > 0 and h["turnover"] > 0 and 0 <= h["clipped"] <= 1


def test_it_stops_trading_where_trading_only_costs():
    quiet = fit(x=np.zeros_like(X), account=dict(taker=20., capital=500.), steps=512*40, epochs=8)
    assert quiet.history[-1]["turnover"] < .1*quiet.history[0]["turnover"] and quiet.kept["valid_turnover"] < .01*DAY


def test_costs_fade_in_and_the_books_hold_them_in_full():
    told = fit(account=dict(taker=2., capital=500.), steps=512*10, ramp=.5).history
    np.testing.assert_allclose([h["charged"] for h in told], [0, .2, .4, .6, .8, 1, 1, 1, 1, 1])
    assert all(h["reward"] == pytest.approx(h["net"]/DAY) for h in told)          # what is told is what was earned, whatever the learner was let off
    for ramp, part in ((0., 1.), (1., .5)):                                       # one rollout at half the costs: the rewards in the buffer
        s = settings_of(QUICK | dict(ramp=ramp, epochs=1))
        ppo = agents._algorithm(world(M, X, TRAIN, dict(taker=2., capital=500.), s, batch=16), Scales(reward=2.), 0, s)
        paid, step = [], ppo.env.env.step
        ppo.env.env.step = lambda a, step=step, paid=paid: paid.append(step(a)) or paid[-1]
        rest = ppo._setup_learn(1024)[1]
        ppo.num_timesteps = 512
        agents._round(ppo, rest, s, 1024)
        want = np.array([r - (1 - part)*i["parts"][:, 1:4].sum(1) for _, r, _, _, i in paid])*2
        late = np.array([cut for _, _, _, cut, _ in paid])                        # cut episodes are worth what comes besides
        np.testing.assert_allclose(ppo.rollout_buffer.rewards[~late], want[~late], atol=1e-4)


def test_the_plain_settings_are_schulmans():
    s = settings_of(PLAIN)
    assert (s["lr"], s["gamma"], s["lam"], s["clip"], s["value"], s["entropy"], s["epochs"], s["ramp"], s["cool"]) == (3e-4, .99, .95, .2, .5, .01, 10, 0, 1)
    h = fit_agent(M, X, TRAIN, VALID, 0, MID, QUICK | PLAIN | dict(steps=512*2)).history
    assert [x["charged"] for x in h] == [1, 1]


def test_rows_without_features_are_not_stepped_on():
    x = X.copy(); x[300:320] = np.nan
    agent = fit(x=x, steps=512)
    assert np.isfinite(agent.weights.w).all()


def test_what_wrong_input_gets():
    with pytest.raises(ParameterError, match="no setting lambda_"): settings_of({"lambda_": 1})
    with pytest.raises(ParameterError, match="1 or more"): settings_of({"epochs": 0})
    with pytest.raises(ParameterError, match="ramp must lie"): settings_of({"ramp": 2})
    with pytest.raises(ParameterError, match="learned from and chosen by"): fit(valid=TRAIN)
    with pytest.raises(TooShortError, match="long enough for an episode"): fit(train=AT < 50)
    with pytest.raises(ParameterError, match="train the agent first"): load_agent("nowhere")
    assert settings_of() == DEFAULTS and isinstance(Scales(), Scales)
