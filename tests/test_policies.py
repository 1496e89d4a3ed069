"Readers of a window see all of it, and nothing of anybody else's"
import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from lobresearch.errors import ParameterError
from lobresearch.trading.environment import STATE
from lobresearch.trading.policies import POLICIES, TOWER, Tcn, Transformer, policy_kwargs


def policy(kind, window=8, features=3):
    see = gymnasium.spaces.Box(-np.inf, np.inf, (window*features + len(STATE),), np.float32)
    torch.manual_seed(0)
    return ActorCriticPolicy(see, gymnasium.spaces.Discrete(3), lambda _: 1e-3, **policy_kwargs(kind, window, features))


@pytest.mark.parametrize("kind", [Tcn, Transformer])
@pytest.mark.parametrize("window", [2, 3, 5, 16, 33])
def test_every_second_of_the_window_and_no_other_row_bears_on_what_is_read(kind, window):
    torch.manual_seed(1)
    x = torch.randn(3, window, 4, requires_grad=True)
    y = kind(4, window)(x)
    g, = torch.autograd.grad(y[1].sum(), x)
    assert (g[1].abs().sum(1) > 0).all() and (g[[0, 2]] == 0).all()


@pytest.mark.parametrize("kind", POLICIES)
def test_towers_are_128_64_32_and_the_accounts_state_reaches_them(kind):
    net = policy(kind)
    assert TOWER == (128, 64, 32)
    for tower in (net.mlp_extractor.policy_net, net.mlp_extractor.value_net):
        assert tuple(l.out_features for l in tower if hasattr(l, "out_features")) == TOWER
    obs = torch.randn(5, 8*3 + len(STATE), requires_grad=True)
    g, = torch.autograd.grad(net.predict_values(obs).sum(), obs)
    assert (g != 0).all()


def test_a_reader_of_time_tells_the_order_of_its_seconds():
    for kind in (Tcn, Transformer):
        torch.manual_seed(2)
        x, net = torch.randn(4, 8, 3), kind(3, 8)
        assert (net(x) - net(x[:, torch.tensor([1, 0, 2, 3, 4, 5, 6, 7])])).abs().max() > 1e-6


def test_what_wrong_input_gets():
    with pytest.raises(ParameterError, match="must be one of"): policy_kwargs("lstm", 4, 3)
    with pytest.raises(ParameterError, match="two seconds"): policy_kwargs("transformer", 1, 3)
