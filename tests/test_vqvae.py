"The VQ-VAE: no code knows the future, dense is windowed, only training rows shape the weights, and planted states come back."
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from lobresearch.errors import ParameterError, TooShortError
from lobresearch.synthetic.code_figures import code_means
from lobresearch.synthetic.vqvae import (
    REGIME, Block, Run, VqVae, by_kind, channel_weights, decode_mean, embed, encode, epoch, fit_codebook, load_codebook, reconstruction, regimes, save_codebook)

torch.set_num_threads(1)
TINY = dict(codes=8, dim=4, width=8, epochs=2, warm=1, stretches=2, targets=64, lr=.01)


def planted(rows=1200, seed=0):
    "Four states, each with a book of its own, that now and then give way to the next; two levels and the move of the mid"
    rng = np.random.default_rng(seed)
    state = np.cumsum(rng.random(rows) < .05) % 4
    x = 2*rng.normal(size=(4, 12))[state] + .3*rng.normal(size=(rows, 12))
    return ((x-x.mean(0))/x.std(0)).astype(np.float32), state


def blocks(rows): return np.repeat(["train", "valid", "test"], [rows//2, rows//4, rows-rows//2-rows//4])


def random_net(seed=0, **kw):
    torch.manual_seed(seed)
    return VqVae(12, 11, codes=16, dim=4, width=8, **kw).eval()


@pytest.fixture(scope="module")
def market():
    x, state = planted()
    return x, state, np.zeros(len(x), int), blocks(len(x))


@pytest.fixture(scope="module")
def fitted(market):
    x, _, segment, role = market
    return fit_codebook(x, segment, role, 3, **TINY)


def same(a, b): return all(torch.equal(v, w) for v, w in zip(a.state_dict().values(), b.state_dict().values()))


@pytest.mark.parametrize("at", [20, 57, 90])
def test_the_future_moves_no_code_and_no_mean(market, at):
    x, net, segment = market[0][:100], random_net(), np.zeros(100, int)
    other = x.copy()
    other[at:] = 3*other[at:][::-1] + 1
    a, b = (encode(net, v, segment) for v in (x, other))
    assert np.array_equal(a[:at], b[:at]) and not np.array_equal(a[at:], b[at:])
    assert np.array_equal(decode_mean(net, a, segment)[:at], decode_mean(net, b, segment)[:at], equal_nan=True)


@pytest.mark.parametrize("kw, seconds", [({}, (15, 3)), (dict(depth=2, past=2), (7, 7)), (dict(depth=1), (3, 3))])
def test_dense_is_windowed_and_the_field_is_as_long_as_it_says(market, kw, seconds):
    net, x = random_net(**kw), torch.from_numpy(market[0][:60])
    w = net.receptive_field
    assert (w, net.decoder_field) == seconds
    with torch.no_grad():
        dense = net.vectors(x[None])[0]
        assert len(dense) == 61-w and net.vectors(x[None, :w-1]).shape == (1, 0, 4)
        for t in range(w-1, 60, 7): assert torch.allclose(net.vectors(x[None, t-w+1:t+1])[0, -1], dense[t-w+1], atol=1e-5)
        far, near = x.clone(), x.clone()
        far[59-w] += 5; near[60-w] += 5
        assert torch.equal(net.vectors(far[None])[0, -1], dense[-1]) and not torch.equal(net.vectors(near[None])[0, -1], dense[-1])


def test_a_block_is_two_convolutions_and_a_way_around(market):
    torch.manual_seed(1)
    block, x = Block(12, 3), torch.from_numpy(market[0][:40])[None]

    def conv(layer, v): return F.conv1d(v, layer.weight.reshape(12, 2, 12).transpose(1, 2), layer.bias, dilation=3)  # channels in the middle

    def norm(layer, v): return F.relu((v-v.mean(1, keepdim=True))/(v.var(1, correction=0, keepdim=True)+layer.eps).sqrt())
    v = x.transpose(1, 2)
    want = v[..., 6:] + norm(block.norm_b, conv(block.b, norm(block.norm_a, conv(block.a, v))))
    assert torch.allclose(block(x), want.transpose(1, 2), atol=1e-5)


@pytest.fixture
def every_warning():
    was = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # not only the first of a kind
    yield
    torch.set_warn_always(was)


def test_arrays_that_may_only_be_read_are_taken(market, fitted, every_warning, recwarn):
    x, _, segment, role = market
    for v in (x := x.copy(), code := encode(fitted[0], x, segment)): v.flags.writeable = False
    assert np.array_equal(encode(fitted[0], x, segment), code) and np.isfinite(decode_mean(fitted[0], code, segment)).any()
    Run(x, segment, role, 0, **TINY)
    assert not [w for w in recwarn if "writable" in str(w.message)]


def test_training_sees_what_encoding_and_decoding_give(market, fitted):
    x, net = market[0][:200], fitted[0]
    with torch.no_grad(): got = net(torch.from_numpy(x)[None])
    code = encode(net, x, np.zeros(200, int))
    assert np.array_equal(code[14:], got.code[0].numpy())
    assert np.allclose(decode_mean(net, code, np.zeros(200, int))[16:], got.mean[0].numpy(), atol=1e-5)
    assert torch.equal(embed(net, code[14:]), net.quantiser.book[got.code[0]])


def test_nothing_crosses_a_segment_or_a_missing_second(market):
    x, net = market[0][:90].copy(), random_net()
    x[70, 3] = np.nan
    segment = np.repeat([4, 9], 45)
    code = encode(net, x, segment)
    assert np.array_equal(np.flatnonzero(code >= 0), np.r_[14:45, 59:70, 85:90])
    for a, b in ((0, 45), (45, 70), (71, 90)): assert np.array_equal(encode(net, x[a:b], np.zeros(b-a, int)), code[a:b])
    mean = decode_mean(net, code, segment)
    assert np.array_equal(np.flatnonzero(np.isfinite(mean[:, 0])), np.r_[16:45, 61:70, 87:90])


def test_long_recordings_are_cut_without_a_seam(market):
    x, net = np.tile(market[0], (4, 1)), random_net()
    code = encode(net, x, np.zeros(len(x), int))
    assert np.array_equal(code[1214:2400], encode(net, x[1200:2400], np.zeros(1200, int))[14:])
    assert (code[14:] >= 0).all()


def test_rows_that_are_not_for_training_shape_nothing(market, fitted):
    x, _, segment, role = market
    other = x.copy()
    other[role == "test"] = 100*other[role == "test"][::-1] - 7
    net, history = fit_codebook(other, segment, role, 3, **TINY)
    assert same(net, fitted[0])
    other[role == "valid"] = other[role == "valid"][::-1]*.5
    after, changed = (fit_codebook(v, segment, role, 3, **TINY)[1] for v in (x, other))
    assert [h["loss"] for h in after] == [h["loss"] for h in changed] and after[-1]["valid_loss"] != changed[-1]["valid_loss"]
    other[role == "train"] = other[role == "train"][::-1]
    assert not same(fit_codebook(other, segment, role, 3, **TINY)[0], net)


def test_the_same_seed_gives_the_same_bytes(market, fitted):
    x, _, segment, role = market
    assert same(fit_codebook(x, segment, role, 3, **TINY)[0], fitted[0])
    assert not same(fit_codebook(x, segment, role, 4, **TINY)[0], fitted[0])


def test_the_best_epoch_by_validation_is_kept(market):
    x, _, segment, role = market
    run = Run(x, segment, role, 3, **{**TINY, "epochs": 3})
    for _ in range(3): run.history.append(epoch(run))
    net, history = fit_codebook(x, segment, role, 3, **{**TINY, "epochs": 3})
    assert [h["valid_loss"] for h in history] == [h["valid_loss"] for h in run.history]
    best = int(np.argmin([h["valid_loss"] for h in history[1:]])) + 1
    assert (best == 2) == same(net, run.net)
    assert not history[0]["quantised"] and np.isnan(history[0]["perplexity"]) and history[1]["used"] > 1


def test_planted_states_come_back(market):
    x, state, segment, role = market
    net, history = fit_codebook(x, segment, role, 0, codes=8, dim=4, width=16, epochs=6, warm=2, stretches=1, targets=64, lr=.01, drop=0.)
    assert history[-1]["used"] >= 4
    code, ok = encode(net, x, segment), role == "test"
    both = pd.crosstab(code[ok & (code >= 0)], state[ok & (code >= 0)])
    assert both.max(axis=1).sum()/both.to_numpy().sum() > .9  # a code belongs to one state
    assert reconstruction(net, x, segment, ok).share.mean() > .6


def test_what_the_code_shall_say_by_hand():
    x = torch.zeros(1, 20, 12)
    x[0, :, -1] = torch.arange(20.) % 3 - 1
    x[0, 5, :4] = torch.tensor([1., 0., 4., 2.]); x[0, 5, 6:9] = torch.tensor([7., 6., 2.])
    r = dict(zip(REGIME, regimes(x, 3)[0, 5-2]))
    assert (r["queue imbalance"], r["depth imbalance"], r["signed volume"], r["spread"]) == (3, 3-.5, 4, 7)
    assert r["volatility"].item() == pytest.approx((2/3)**.5)
    assert r["next second's move"] == x[0, 6, -1] and r["next ten seconds' move"].item() == pytest.approx(x[0, 6:16, -1].mean().item(), abs=1e-6)
    assert torch.isnan(regimes(x, 3)[0, -1, 5]) and int(torch.isnan(regimes(x, 3)[0, :, 6]).sum()) == 10


def test_weights_of_channels():
    w = channel_weights(43, 3.)
    assert w.mean() == pytest.approx(1) and set(np.flatnonzero(w == w.max())) == {0, 10, 38, 39, 40, 41, 42}
    assert w.max()/w.min() == pytest.approx(3)


def test_share_of_the_variance_by_hand(market, fitted):
    x, _, segment, role = market
    mean = decode_mean(fitted[0], encode(fitted[0], x, segment), segment)
    rows = (role == "valid") & np.isfinite(mean[:, 0])
    r = reconstruction(fitted[0], x, segment, role == "valid", [f"c{j}" for j in range(12)])
    assert r.channel.tolist() == [f"c{j}" for j in range(11)]
    assert r.share[4] == pytest.approx(1 - ((x[rows, 4].clip(-8, 8)-mean[rows, 4])**2).sum()/(x[rows, 4].clip(-8, 8).astype(float)**2).sum(), rel=1e-4)
    t = pd.DataFrame(dict(channel=["ask_sz_1", "bid_sz_2", "ask_gap_2", "buy_n"], error=[1., 2., 3., 0.], square=[4., 4., 3., 1.]))
    assert by_kind(t).round(6).to_dict() == {"best": .75, "sizes": .625, "gaps": 0., "trades": 1.}


def test_saved_and_loaded(tmp_path, market, fitted):
    x, _, segment, _ = market
    save_codebook(tmp_path/"a"/"codebook", fitted[0], dict(levels=2))
    net, state = load_codebook(tmp_path/"a"/"codebook")
    assert state == dict(levels=2) and same(net, fitted[0]) and np.array_equal(encode(net, x, segment), encode(fitted[0], x, segment))
    with pytest.raises(ParameterError, match="fit the codebook first"): load_codebook(tmp_path/"b")


def test_mean_of_a_code_and_its_error():
    rng = np.random.default_rng(0)
    code, y = rng.integers(0, 3, 6000), rng.normal(size=6000)
    t = code_means(code, y, 1)
    for k in range(3): assert t.loc[k, ["seconds", "mean", "se"]].tolist() == pytest.approx(
        [(code == k).sum(), y[code == k].mean(), y[code == k].std()/(code == k).sum()**.5])
    slow = np.repeat(rng.normal(size=600), 10)  # ten seconds alike: the error is that of a tenth of the seconds
    ratio = code_means(np.zeros(6000), slow, 10).se[0]/code_means(np.zeros(6000), slow, 1).se[0]
    assert ratio == pytest.approx(10**.5, rel=1e-6)


@pytest.mark.parametrize("bad, words", [(dict(colour=1), "no parameter colour"), (dict(epochs=0), "whole numbers"), (dict(warm=2), "fewer than epochs"),
                                        (dict(lr=0), "above 0"), (dict(drop=1.), "drop lies"), (dict(top=0), "top must"), (dict(codes=1), "2 codes")])
def test_wrong_parameters_get_a_sentence(market, bad, words):
    x, _, segment, role = market
    with pytest.raises(ParameterError, match=words): fit_codebook(x, segment, role, 0, **{**TINY, **bad})


def test_a_recording_too_short_says_so(market):
    x, _, segment, role = market
    with pytest.raises(TooShortError, match="longer recording"): fit_codebook(x[:40], segment[:40], role[:40], 0, **TINY)
    with pytest.raises(TooShortError, match="full past"): reconstruction(random_net(), x[:10], segment[:10], np.ones(10, bool))
    assert (encode(random_net(), x[:10], segment[:10]) == -1).all()
    with pytest.raises(ParameterError, match="takes"): encode(random_net(), x[:, :5], segment)
    with pytest.raises(ParameterError, match="numbered from 0"): decode_mean(random_net(), [99], [0])
