"The network: receptive field, and dense forecasts that equal windowed ones for any stretch and any pattern of gaps."
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lobresearch.errors import ParameterError
from lobresearch.forecast.blocks import CausalConv, ChannelNorm, Inception, ResidualBlock
from lobresearch.forecast.deeplob import DeepLobTcn
from lobresearch.forecast.nets import NETS, build, load_model, measured_receptive_field, save_model, weights
from lobresearch.forecast.training import predict_dense

T = 100  # the window of the published networks
torch.set_num_threads(1)


def network(pages=1, depth=4, levels=2, seed=0, **kw):
    "A small network whose head is not the zero it starts from"
    torch.manual_seed(seed)
    net = build("deeplob_tcn", dict(pages=pages, horizons=2, levels=levels, trunk=8, channels=8, depth=depth, **kw))
    torch.nn.init.normal_(net.head.weight, std=.3)
    if pages > 1: torch.nn.init.normal_(net.line.weight, std=.1)
    return net.eval()


SMALL = dict(deeplob_tcn=dict(trunk=8, channels=8), tcn=dict(channels=8), hierarchical=dict(trunk=4, channels=8, depth=2, band=9), lstm=dict(hidden=8, window=40),
             deeplob_lstm=dict(trunk=4, channels=8, hidden=8, window=30), cnn_lstm=dict(channels=8, hidden=8, window=30), transformer=dict(channels=8, band=20))
DENSE = [n for n, c in NETS.items() if not c.stateful]  # those that claim it


def any_network(name, pages, seed):
    "A small network of that name, all of its weights away from where they start"
    torch.manual_seed(seed)
    net = build(name, dict(pages=pages, levels=2, **SMALL[name.removesuffix("_stateful")]))
    for k, p in net.named_parameters():
        if k.startswith(("head", "far", "line", "pass_on")) or k.endswith("band.bias") or k == "ask.bias": torch.nn.init.normal_(p, std=.3)
    return net.eval()


def windowed(net, x, rows, T=T):
    "The published way: one pass for each window of T seconds, its last output kept"
    with torch.no_grad(): return np.stack([net(x[t-T+1:t+1][None].permute(0, 3, 1, 2))[0, -1].numpy() for t in rows])


@pytest.mark.parametrize("name", DENSE)
@given(lengths=st.lists(st.integers(1, 220), min_size=1, max_size=3), targets=st.integers(1, 200), pages=st.integers(1, 2), longer=st.integers(0, 30),
       seed=st.integers(0, 9))
@settings(max_examples=12, deadline=None)
def test_every_network_that_claims_it_is_the_same_densely_and_in_windows(name, lengths, targets, pages, longer, seed):
    net, rng = any_network(name, pages, seed), np.random.default_rng(seed)
    segment = np.repeat(np.arange(len(lengths)), lengths)
    x = torch.from_numpy(rng.normal(0, 1, (len(segment), 8, pages)).astype(np.float32))
    dense = predict_dense(net, x, segment, targets=targets, batch=3)
    age, window = np.concatenate([np.arange(n) for n in lengths]), net.receptive_field + longer
    assert np.array_equal(np.isfinite(dense[:, 0]), age >= net.receptive_field-1)
    rows = np.flatnonzero(age >= window-1)[::11]
    if len(rows): assert np.abs(dense[rows] - windowed(net, x, rows, window)).max() < 1e-5


@pytest.mark.parametrize("name", NETS)
def test_no_network_sees_the_future_and_each_sees_all_of_its_past(name):
    net = any_network(name, 2, 1)
    x = torch.randn(1, 2, 180, 8)
    y = x.clone()
    y[:, :, 120:] += 1
    with torch.no_grad(): a, b = net(x), net(y)
    assert torch.equal(a[:, :120], b[:, :120]) and not torch.equal(a[:, 120:], b[:, 120:])
    if not net.stateful: assert measured_receptive_field(net, 200) == net.receptive_field


def test_sizes_by_hand():
    "Weights of each network at its default size, reckoned layer by layer"
    conv = lambda i, o, t=1, w=1: o*(i*t*w + 1)
    trunk = lambda c, levels: conv(1, c, w=2) + conv(c, c, w=2) + conv(c, c, w=levels) + 6*conv(c, c, t=4)
    eye = trunk(32, 10) + 2*conv(32, 64) + conv(64, 64, t=3) + conv(64, 64, t=5) + conv(32, 64)
    block = lambda i, o: conv(i, o, t=3) + conv(o, o, t=3) + 4*o + (conv(i, o) if i != o else 0)
    lstm = lambda i, h: 4*h*(i + h + 2)
    head = lambda c, n=2: conv(c, n)
    chain = lambda i, n: block(i, 64) + (n-1)*block(64, 64)
    band = 4*conv(64, 64) + 4*32
    want = {"deeplob_tcn": eye + chain(192, 4) + head(64), "tcn": chain(40, 4) + head(64), "lstm": lstm(40, 64) + head(64),
            "deeplob_lstm": eye + lstm(192, 64) + head(64), "deeplob_lstm_stateful": eye + lstm(192, 64) + head(64),
            "cnn_lstm": conv(40, 64, t=5) + conv(64, 64, t=5) + lstm(64, 64) + head(64),
            "hierarchical": eye + chain(192, 4) + chain(192, 5) + band + conv(128, 64) + 2*64 + 1 + 2*head(64, 1),
            "transformer": conv(40, 64) + 2*(4*64 + 4*conv(64, 64) + 4*50 + conv(64, 128) + conv(128, 64)) + 2*64 + head(64)}
    assert {n: weights(build(n, {})) for n in NETS} == want


def test_a_state_that_runs_on_is_run_from_the_start_of_each_segment():
    net, x = any_network("deeplob_lstm_stateful", 1, 0), torch.randn(300, 8, 1)
    segment = np.repeat([0, 1], [180, 120])
    got = predict_dense(net, x, segment, targets=17)
    with torch.no_grad(): want = [net(x[a:b][None].permute(0, 3, 1, 2))[0].numpy() for a, b in ((0, 180), (180, 300))]
    for g, w in zip((got[:180], got[180:]), want): assert np.abs(g[net.receptive_field-1:] - w[net.receptive_field-1:]).max() < 1e-6


@pytest.mark.parametrize("depth,want", [(1, 27), (2, 35), (3, 51), (4, 83), (5, 147)])
def test_receptive_field_is_what_the_gradient_says(depth, want):
    net = network(depth=depth)
    assert net.receptive_field == want
    assert measured_receptive_field(net, seconds=want+20) == want


def test_tcn_alone_sees_61_seconds():
    assert 1 + sum(ResidualBlock(4, 4, d).past for d in (1, 2, 4, 8)) == 61
    assert 1 + 6*3 + Inception.past + 60 == 83


@given(lengths=st.lists(st.integers(1, 260), min_size=1, max_size=4), targets=st.integers(1, 200), pages=st.integers(1, 2), seed=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_dense_equals_windowed_for_any_gaps(lengths, targets, pages, seed):
    net, rng = network(pages), np.random.default_rng(seed)
    segment = np.repeat(np.arange(len(lengths)), lengths)
    x = torch.from_numpy(rng.normal(0, 1, (len(segment), 8, pages)).astype(np.float32))
    dense = predict_dense(net, x, segment, targets=targets, batch=3)
    age = np.concatenate([np.arange(n) for n in lengths])  # seconds since the segment began
    assert np.array_equal(np.isfinite(dense[:, 0]), age >= net.receptive_field-1)  # only rows with full context are forecast
    rows = np.flatnonzero(age >= T-1)[::7]
    if len(rows): assert np.abs(dense[rows] - windowed(net, x, rows)).max() < 1e-5


def test_dense_equals_windowed_at_full_size():
    torch.manual_seed(3)
    net = build("deeplob_tcn", dict(pages=3)).eval()
    torch.nn.init.normal_(net.head.weight, std=.1)
    x = torch.randn(300, 40, 3)
    dense, rows = predict_dense(net, x, np.zeros(300)), np.arange(99, 300, 20)
    assert dense[rows].std() > .1
    assert np.abs(dense[rows] - windowed(net, x, rows)).max() < 1e-5


def test_depth_sets_the_number_of_blocks_and_the_file_keeps_it(tmp_path):
    net = network(depth=3)
    save_model(tmp_path/"m", net, "deeplob_tcn", seed=1)
    again, state = load_model(tmp_path/"m")
    assert len(again.tcn) == 3 and state["config"]["depth"] == 3 and state["seed"] == 1
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values()))
    assert not list(tmp_path.glob("*.p*t*"))  # no pickles


def test_a_causal_convolution_is_torch_s_own_shifted():
    torch.manual_seed(0)
    conv, x = CausalConv(3, 5, time=3, dilation=2), torch.randn(2, 3, 20, 4)
    plain = torch.nn.functional.conv2d(x, conv.weight, conv.bias, dilation=(2, 1))
    assert torch.allclose(conv(x)[:, :, 4:], plain, atol=1e-6)


def test_channel_norm_is_torch_s_layer_norm_second_by_second():
    x = torch.randn(2, 6, 5, 3)
    want = torch.stack([torch.stack([torch.nn.functional.layer_norm(x[:, :, t, w], (6,)) for w in range(3)], -1) for t in range(5)], 2)
    assert torch.allclose(ChannelNorm(6)(x), want, atol=1e-6)


def test_wrong_shapes_and_sizes_are_refused():
    with pytest.raises(ParameterError, match=r"takes \(batch, 1, seconds, 8\)"): network()(torch.zeros(1, 2, 90, 8))
    with pytest.raises(ParameterError, match="depth"): DeepLobTcn(depth=0)
    with pytest.raises(ParameterError, match="probe it with a longer stretch"): measured_receptive_field(network(), seconds=50)
