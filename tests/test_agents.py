"Agents learn from training rows, are chosen by validation rows, and are frozen from then on"
import copy
import json
import random
import numpy as np
import pytest
import torch
from helpers_trading import announced, market
from lobresearch.errors import ParameterError, TooShortError
from lobresearch.trading.adapters import Scales
from lobresearch.trading.agents import DEFAULTS, a_day, fit_agent, fit_scales, load_agent, save_agent, settings_of, trial_ground, world
from lobresearch.trading.environment import STATE, play
from lobresearch.trading.measures import DAY
from lobresearch.trading.rewards import TERMS, WEIGHTED

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
    tried = [h["valid_net"] for h in agent.history]
    assert agent.kept["valid_net"] == max(tried) and agent.kept["steps"] == agent.history[int(np.argmax(tried))]["steps"]
    ground = trial_ground(M, X, VALID, MID, agent.settings)
    assert a_day(play(ground, agent.act)) == (agent.kept["valid_net"], agent.kept["valid_turnover"])
    assert ground.starts.min() >= 950 and ground.stretch[:, 1].max() < 1250


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
    assert quiet.history[-1]["turnover"] < .05*quiet.history[0]["turnover"]
    assert quiet.kept["valid_turnover"] < .01*DAY


def test_rows_without_features_are_not_stepped_on():
    x = X.copy(); x[300:320] = np.nan
    agent = fit(x=x, steps=512)
    assert np.isfinite(agent.weights.w).all()


def test_what_wrong_input_gets():
    with pytest.raises(ParameterError, match="no setting lambda_"): settings_of({"lambda_": 1})
    with pytest.raises(ParameterError, match="1 or more"): settings_of({"epochs": 0})
    with pytest.raises(ParameterError, match="learned from and chosen by"): fit(valid=TRAIN)
    with pytest.raises(TooShortError, match="long enough for an episode"): fit(train=AT < 50)
    with pytest.raises(ParameterError, match="train the agent first"): load_agent("nowhere")
    assert settings_of() == DEFAULTS and isinstance(Scales(), Scales)
