"Generation: the rings give what recomputing gives, a seed gives the same market, and draws follow the network's probabilities."
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lobresearch.errors import ParameterError
from lobresearch.synthetic import sampling
from lobresearch.synthetic.prior import PRIORS, make_prior
from lobresearch.synthetic.sampling import draw_token, generate, generate_naive

torch.set_num_threads(1)
SIZES = dict(codes=30, spreads=4, moves=7, width=16)
SMALL = {"conv": SIZES | dict(depth=5), "attention": SIZES | dict(window=12, layers=3, heads=2)}
kinds = pytest.mark.parametrize("kind", list(PRIORS))


def prompts(paths, rows, seed=0): return np.stack([np.random.default_rng(seed).integers(n, size=(paths, rows)) for n in (30, 4, 7)], -1)


def lively(kind, seed=1, **kw):
    "A network whose scores are far from flat, so that the past counts"
    net = make_prior(kind, SMALL[kind] | kw, seed)
    with torch.no_grad():
        for w in net.parameters(): w.mul_(1.7)
        if net.drift is not None: # as after training: codes and moves have values and tilt the scores
            g = torch.Generator().manual_seed(seed)
            for w in (net.drift.code, net.drift.move): w[:-1].normal_(generator=g)
            net.drift.tilt.weight.normal_(std=.1, generator=g)
            net.drift.scale.fill_(2.)
    return net


@kinds
def test_ten_thousand_steps_are_those_of_recomputing(kind):
    "Each second drawn from its own receptive field alone is the second that the rings drew: so, one after another, are all of them"
    net, p, steps = lively(kind), prompts(1, 50), 10_000
    a, u = generate(net, steps, p, seed=3)[0], np.random.default_rng([3, 0]).random((steps, 3))
    net.double().eval()
    R, both = net.receptive_field, torch.from_numpy(np.concatenate([p[0], a]))
    windows = both[50-R:].unfold(0, R+1, 1).transpose(1, 2) # (steps, R + 1, 3)
    with torch.no_grad(): scores = [torch.cat(s)[:, 0].numpy() for s in zip(*(net.valid(w) for w in windows.split(500)))]
    for k in range(3): np.testing.assert_array_equal([draw_token(s, v, 1.) for s, v in zip(scores[k], u[:, k])], a[:, k])
    assert len(np.unique(a[:, 0])) > 10 # a market, not a standstill


@pytest.mark.slow
@kinds
def test_ten_thousand_steps_one_after_another(kind):
    net, p = lively(kind), prompts(1, 50)
    np.testing.assert_array_equal(generate(net, 10_000, p, seed=3), generate_naive(net, 10_000, p, seed=3))


@kinds
def test_sixty_four_paths_are_those_of_recomputing(kind):
    net, p = lively(kind), prompts(64, 50)
    np.testing.assert_array_equal(generate(net, 50, p, seed=3), generate_naive(net, 50, p, seed=3))


@kinds
def test_blocks_and_chunks_leave_no_seam(kind, monkeypatch):
    net, p = lively(kind), prompts(8, 50)
    whole = generate(net, 60, p, seed=3)
    monkeypatch.setattr(sampling, "CHUNK", 7)
    monkeypatch.setattr(sampling, "PATHS", 3)
    np.testing.assert_array_equal(whole, generate(net, 60, p, seed=3))


@kinds
@given(rows=st.integers(0, 60), steps=st.integers(1, 40), seed=st.integers(0, 9), temperature=st.sampled_from([0., .3, 1., 2.]))
@settings(max_examples=6, deadline=None)
def test_any_prompt_and_temperature(kind, rows, steps, seed, temperature):
    net, p = lively(kind, seed), prompts(2, rows, seed)
    p[:, rows//2:rows//2+2] = -1 # seconds without tokens
    np.testing.assert_array_equal(generate(net, steps, p, seed, temperature), generate_naive(net, steps, p, seed, temperature))


@kinds
@pytest.mark.parametrize("kw", [dict(clock=True), dict(codes_only=True), dict(hide=.2)])
def test_every_kind_of_input(kind, kw):
    net, p = lively(kind, **kw), prompts(3, 40)
    clock = [10, 40_000, 86_390] if kw.get("clock") else None
    a = generate(net, 60, p, 1, clock=clock)
    np.testing.assert_array_equal(a, generate_naive(net, 60, p, 1, clock=clock))
    if clock: assert (a != generate(net, 60, p, 1, clock=[50_000, 1, 2])).any()


@kinds
def test_the_slow_sums_count_in_what_is_drawn(kind):
    net, p = lively(kind), prompts(3, 40)
    a = generate(net, 60, p, 1)
    with torch.no_grad(): net.drift.tilt.weight.zero_()
    assert (a != generate(net, 60, p, 1)).any()


@kinds
def test_a_seed_is_a_market_and_paths_do_not_meet(kind):
    net, p = lively(kind), prompts(20, 30)
    a = generate(net, 100, p, 1)
    np.testing.assert_array_equal(a, generate(net, 100, p, 1))
    np.testing.assert_array_equal(a[:3, :40], generate(net, 40, p[:3], 1))
    assert (a != generate(net, 100, p, 2)).any()
    same = generate(net, 100, np.repeat(p[:1], 5, 0), 1)
    assert len(np.unique(same.reshape(5, -1), axis=0)) == 5 # one prompt, five markets


@kinds
def test_cold_is_the_mode(kind):
    net, p = lively(kind).double().eval(), prompts(2, 40)
    a = generate(net, 30, p, 1, temperature=0.)
    np.testing.assert_array_equal(a, generate(net, 30, p, 9, temperature=0.)) # no chance in it
    np.testing.assert_array_equal(a, generate(net, 30, p, 1, temperature=1e-9))
    scores = net(torch.from_numpy(np.concatenate([p, a], 1)))
    for k in range(3): np.testing.assert_array_equal(scores[k][:, 40:].argmax(-1).numpy(), a[..., k])


@kinds
def test_draws_follow_the_networks_probabilities(kind):
    net, many = lively(kind).double().eval(), 4000
    p = np.repeat(prompts(1, 40), many, 0)
    first = generate(net, 1, p, 1)[:, 0]
    with torch.no_grad():
        q = net(torch.from_numpy(np.concatenate([p[:1], first[:1, None]], 1)))[0][0, -1].softmax(-1).numpy()
    got = np.bincount(first[:, 0], minlength=30)/many
    assert (abs(got - q) < 4.5*np.sqrt(q*(1-q)/many) + 1e-3).all()


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=20), st.floats(0, 1, exclude_max=True), st.floats(.05, 5))
@settings(max_examples=100, deadline=None)
def test_a_draw_inverts_the_cumulative_distribution(scores, u, temperature):
    s = np.array(scores)
    p = np.exp((s - s.max())/temperature)
    edges = np.cumsum(p)/p.sum()
    k = draw_token(s, u, temperature)
    assert 0 <= k < len(s) and u <= edges[k] + 1e-12 and (k == 0 or u >= edges[k-1] - 1e-12)


def test_wrong_input():
    net, p = lively("conv"), prompts(1, 5)
    for bad, word in ((dict(steps=0), "steps must be 1"), (dict(temperature=-1.), "temperature 0 or more"),
                      (dict(temperature=float("nan")), "temperature 0 or more"), (dict(prompts=p[0]), "paths, seconds, 3"),
                      (dict(prompts=p + 40), "below their number"), (dict(clock=[1]), "made with one")):
        with pytest.raises(ParameterError, match=word): generate(**(dict(net=net, steps=5, prompts=p, seed=1) | bad))
    with pytest.raises(ParameterError, match="one second a path"): generate(lively("conv", clock=True), 5, p, 1, clock=[1, 2])
