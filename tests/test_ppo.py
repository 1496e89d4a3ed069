"Our loops are stable-baselines3's algorithm: same rollouts, same updates, weight by weight"
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from helpers_trading import market
from lobresearch.errors import ParameterError
from lobresearch.trading.adapters import Batched, Scales
from lobresearch.trading.environment import STATE, Environment
from lobresearch.trading.policies import policy_kwargs
from lobresearch.trading.ppo import Ppo

SETTINGS = dict(n_steps=24, batch_size=40, n_epochs=3, ent_coef=.02, gamma=.9, gae_lambda=.8, learning_rate=1e-3) # 8*24 = 192: the last minibatch is short


class Dice:
    "Decisions from one generator, minibatches from a stream that numpy's global one can repeat"
    def __init__(self, seed):
        g = np.random.default_rng(seed)
        self.random, self.standard_normal, self.permutation = g.random, g.standard_normal, np.random.RandomState(seed).permutation


def world(actions="discrete", window=1, end="cut"):
    m = market(400)
    x = np.random.default_rng(1).normal(size=(len(m), 3))
    return Batched(Environment(m, x, 8, actions=actions, window=window, length=17, end=end, taker=.1, capital=500.), Scales(np.full(len(STATE), .3), .5))


def both(kind, actions, window, end="cut"):
    "Ours and theirs, from the same weights"
    kw = SETTINGS | dict(policy_kwargs=policy_kwargs(kind, window, 3), seed=0)
    return Ppo(ActorCriticPolicy, world(actions, window, end), **kw), PPO(ActorCriticPolicy, world(actions, window, end), device="cpu", **kw)


@pytest.mark.parametrize("kind, actions, window, end", [("mlp", "discrete", 1, "cut"), ("mlp", "discrete", 2, "close"), ("mlp", "continuous", 1, "cut"),
                                                        ("tcn", "discrete", 4, "cut"), ("transformer", "discrete", 4, "cut")])
def test_three_rounds_of_learning_give_the_weights_of_stable_baselines(kind, actions, window, end):
    ours, theirs = both(kind, actions, window, end)
    for a, b in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True): assert torch.equal(a, b)
    start, ours.rng, taken, step = ours.weights.w.copy(), Dice(5), [], ours.env.env.step
    ours.env.env.step = lambda a: taken.append((ours.rollout_buffer.actions[len(taken)%24].copy(), a)) or step(a)
    ours.learn(3*192, log_interval=None)
    def repeat(obs, deterministic=False): # what we did, judged by their network
        action = torch.from_numpy(taken[repeat.at][0]); repeat.at += 1
        action = action[:, 0].long() if actions == "discrete" else action
        value, logp, _ = theirs.policy.evaluate_actions(obs, action)
        return action, value, logp
    repeat.at, theirs.policy.forward = 0, repeat
    np.random.seed(5)
    theirs.learn(3*192, log_interval=None)
    assert repeat.at == 72 and ours.num_timesteps == theirs.num_timesteps == 576
    assert abs(ours.weights.w - start).max() > .005                          # both have gone far
    for (name, a), b in zip(ours.policy.named_parameters(), theirs.policy.parameters(), strict=True):
        np.testing.assert_allclose(a.detach(), b.detach(), atol=2e-4, err_msg=name)


@pytest.mark.parametrize("actions", ["discrete", "continuous"])
def test_the_buffer_holds_what_the_policy_says_and_the_bootstrapped_rewards(actions):
    ours, _ = both("mlp", actions, 1)
    weights = ours.weights.w.copy()
    ours._setup_learn(192)
    ours.train = None
    ours.collect_rollouts(ours.env, ours._init_callback(None), ours.rollout_buffer, 24)
    np.testing.assert_array_equal(ours.weights.w, weights)
    b = ours.rollout_buffer
    obs, action = torch.from_numpy(b.observations.reshape(192, -1)), torch.from_numpy(b.actions.reshape(192, -1))
    value, logp, _ = ours.policy.evaluate_actions(obs, action[:, 0] if actions == "discrete" else action)
    np.testing.assert_allclose(b.values.ravel(), value.detach().ravel(), atol=1e-5)
    np.testing.assert_allclose(b.log_probs.ravel(), logp.detach().ravel(), atol=1e-5)
    again = world(actions)                                                    # the same decisions through the VecEnv
    again.seed(0); again.reset()
    for t in range(24):
        wish = b.actions[t] if actions == "continuous" else b.actions[t, :, 0].astype(int)
        _, reward, done, told = again.step(np.clip(wish, -1, 1) if actions == "continuous" else wish)
        for i in np.flatnonzero(done):
            assert told[i]["TimeLimit.truncated"]
            reward[i] += .9*ours.policy.predict_values(torch.from_numpy(told[i]["terminal_observation"])[None]).item()
        np.testing.assert_allclose(b.rewards[t], reward, atol=1e-5)
    assert b.episode_starts[17].all() and b.episode_starts[0].all() and not b.episode_starts[1:17].any()
    g, last = np.zeros(8), value.detach().numpy().reshape(24, 8)
    following = np.vstack([last[1:], ours.policy.predict_values(torch.from_numpy(ours._last_obs)).detach().numpy().T])
    for t in range(23, -1, -1):                                               # advantages, written out
        goes_on = 1 - (b.episode_starts[t+1] if t < 23 else ours._last_episode_starts)
        g = b.rewards[t] + .9*goes_on*following[t] - last[t] + .9*.8*goes_on*g
        np.testing.assert_allclose(b.advantages[t], g, atol=1e-4)


def test_seeds_repeat_and_differ():
    runs = []
    for seed in (0, 0, 1):
        p = Ppo(ActorCriticPolicy, world(), seed=seed, **SETTINGS)
        p.learn(192, log_interval=None)
        runs.append(p.weights.w.copy())
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).any()


def test_what_wrong_input_gets():
    with pytest.raises(ParameterError, match="wrap it in Batched"): Ppo("MlpPolicy", "CartPole-v1")
    with pytest.raises(ParameterError, match="take its PPO"): Ppo("MlpPolicy", world(), target_kl=.1, **SETTINGS)
