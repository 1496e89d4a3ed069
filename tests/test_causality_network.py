"Change everything after a second: with the fitted state held fixed, neither the inputs nor the network's forecasts at or before it may move."
import json

import numpy as np
import pytest
import torch

from lobresearch.forecast import baselines
from lobresearch.forecast.nets import build
from lobresearch.forecast.inputs import KINDS, fit_inputs, make_inputs
from lobresearch.forecast.rows import prepare
from lobresearch.forecast.training import fit, predict_dense
from lobresearch.market.features import features, random_grid
from lobresearch.market.labels import labels
from lobresearch.market.splits import chronological

torch.set_num_threads(1)
N, L = 1600, 2


@pytest.fixture(scope="module")
def grid(): return random_grid(N, np.random.default_rng(11), levels=L, breaks=(700,))


def other_future(grid, row, rng):
    out = grid.astype(float)
    out.iloc[row+1:] = out.iloc[row+1:]*rng.lognormal(0, .3, (len(grid)-row-1, grid.shape[1]))
    out["segment"] = grid["segment"]
    return out


def network(pages):
    torch.manual_seed(0)
    net = build("deeplob_tcn", dict(pages=pages, levels=L, trunk=4, channels=8))
    for w in (net.head.weight, *([net.line.weight] if pages > 1 else [])): torch.nn.init.normal_(w, std=.3)
    return net


def forecast(net, grid, state):
    x = torch.from_numpy(np.ascontiguousarray(make_inputs(grid, state).transpose(1, 2, 0)))
    return predict_dense(net, x, grid["segment"].to_numpy(), targets=64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_future_moves_nothing(grid, kind, seed):
    rng = np.random.default_rng(seed)
    row = int(rng.integers(200, N-100))
    state = fit_inputs(grid, np.arange(N) < 150, kind, L)
    before, after = make_inputs(grid, state), make_inputs(other := other_future(grid, row, rng), state)
    assert np.array_equal(before[:, :row+1], after[:, :row+1])
    assert not np.array_equal(before[:, row+1:], after[:, row+1:])  # the change is there to be seen
    net = network(len(before))
    a, b = forecast(net, grid, state), forecast(net, other, state)
    assert np.array_equal(a[:row+1], b[:row+1], equal_nan=True)
    assert not np.array_equal(a[row+1:], b[row+1:], equal_nan=True)


def test_a_network_that_looks_ahead_is_caught(grid):
    "The comparison above can fail: the published inception pads both sides, and sees two seconds ahead"
    state = fit_inputs(grid, np.arange(N) < 150, "book", L)
    net = network(1)
    five = net.eye.inception.five[2]
    five.forward = lambda x: torch.nn.functional.conv2d(x, five.weight, five.bias, padding=(2, 0))
    a, b = forecast(net, grid, state), forecast(net, other_future(grid, 1000, np.random.default_rng(0)), state)
    assert not np.array_equal(a[:1001], b[:1001], equal_nan=True)


def trained(grid, split):
    torch.manual_seed(0)
    rows = prepare(grid, split, (5, 10), levels=L)
    net = build("deeplob_tcn", dict(pages=rows.x.shape[2], levels=L, trunk=4, channels=8))
    return rows, net, fit(net, rows, seed=0, epochs=2, targets=64)


def test_rows_outside_training_and_validation_leave_every_fit_as_it_is(grid):
    split = chronological(grid.index, horizon=10, lookback=143)
    outside = grid.index > split.ts[split.role == "valid"].max() + 10_000_000
    other = grid.astype(float)
    other.loc[outside, other.columns != "segment"] *= 1.7
    (rows, net, h), (rows2, net2, h2) = trained(grid, split), trained(other, split)
    assert json.dumps(rows.state) == json.dumps(rows2.state) and np.array_equal(rows.scale, rows2.scale) and h == h2
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), net2.state_dict().values()))
    role = split.role.to_numpy()
    ridges = [baselines.fit_ridge(features(g), labels(g, (10,))["r_10"], role == "train", role == "valid") for g in (grid, other)]
    assert ridges[0] == ridges[1]


def test_validation_rows_choose_but_do_not_train(grid):
    "With the number of epochs fixed, other labels in validation leave the weights of each epoch as they are"
    split = chronological(grid.index, horizon=10, lookback=143)
    valid = grid.index.isin(split.ts[split.role == "valid"])
    other = grid.astype(float)
    other.loc[valid, other.columns != "segment"] *= 1.7
    (rows, _, h), (rows2, _, h2) = trained(grid, split), trained(other, split)
    assert json.dumps(rows.state) == json.dumps(rows2.state)
    assert [e["train_loss"] for e in h] == [e["train_loss"] for e in h2] and [e["loss"] for e in h] != [e["loss"] for e in h2]
