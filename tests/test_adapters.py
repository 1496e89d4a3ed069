"Gymnasium's and stable-baselines3's shapes hold the same lives, and other libraries find nothing wrong with them"
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings, strategies as st
from helpers_trading import market
from lobresearch.errors import ParameterError
from lobresearch.trading.adapters import LIMIT, Batched, Scales, Single
from lobresearch.trading.environment import STATE, Environment
from lobresearch.trading.rewards import WEIGHTED


def features(m): return np.diff(m.mid, prepend=m.mid[0], n=1)[:, None]


@pytest.mark.parametrize("actions", ["discrete", "continuous"])
@pytest.mark.parametrize("end", ["close", "cut"])
def test_gymnasiums_checker_finds_nothing(actions, end):
    m = market()
    check_env(Single(m, features(m), length=30, actions=actions, end=end, window=3), skip_render_check=True)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(5, 40), st.sampled_from(["close", "cut"]), st.sampled_from(["taker", "maker", "mid"]),
       st.integers(0, 2), st.sampled_from([None, WEIGHTED]), st.sampled_from(["discrete", "continuous"]))
def test_single_and_batched_live_the_same_lives_to_the_last_bit(seed, window, length, end, execution, latency, weighted, actions):
    m, rng = market(300, gaps=(130,)), np.random.default_rng(seed)
    scales = Scales(rng.uniform(.1, 3, len(STATE)), rng.uniform(.1, 3))
    kw = dict(actions=actions, window=window, length=length, end=end, execution=execution, latency=latency, weighted=weighted, loss=.001, capital=500.)
    many, one = Batched(Environment(m, features(m), 3, **kw), scales), Single(m, features(m), scales, first=1, **kw)
    many.seed(seed)
    a, (b, _) = many.reset(), one.reset(seed=seed)
    for _ in range(100):
        np.testing.assert_array_equal(a[1], b)
        wish = rng.integers(0, 3, 3) if actions == "discrete" else rng.uniform(-1, 1, (3, 1)).astype(np.float32)
        a, reward, done, told = many.step(wish)
        b, r, closed, cut, info = one.step(wish[1])
        assert reward[1] == np.float32(r) and done[1] == (closed or cut)
        if done[1]:
            np.testing.assert_array_equal(told[1]["terminal_observation"], b)
            assert told[1]["TimeLimit.truncated"] == cut and told[1]["episode"]["net"] == info["episode"]["net"]
            b, _ = one.reset()


def test_stable_baselines_own_ppo_learns_on_both():
    from stable_baselines3 import PPO
    m, kw = market(), dict(n_steps=16, batch_size=16, n_epochs=1, device="cpu", seed=0)
    for env in (Batched(Environment(m, features(m), 4, length=20)), Single(m, features(m), length=20)):
        assert PPO("MlpPolicy", env, **kw).learn(64).num_timesteps == 64


def test_scales_touch_the_accounts_state_only():
    obs = np.arange(2*(3 + len(STATE)), dtype=np.float32).reshape(2, -1) - 10
    out = Scales(np.full(len(STATE), .5))(obs.copy())
    np.testing.assert_array_equal(out[:, :3], obs[:, :3])
    np.testing.assert_array_equal(out[:, 3:], np.clip(obs[:, 3:]*.5, -LIMIT, LIMIT))


def test_what_wrong_input_gets():
    m = market()
    with pytest.raises(ParameterError, match="take Batched"): Single(m, features(m), batch=2)
    for own, reward in ((np.ones(3), 1.), (np.full(len(STATE), np.nan), 1.), (None, 0.)):
        with pytest.raises(ParameterError, match="a finite factor"): Scales(own, reward)
