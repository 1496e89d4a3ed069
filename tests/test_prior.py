"The prior: what a second may depend on, entropies that are known, and files that come back."
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lobresearch.errors import DataError, ParameterError, TooShortError
from lobresearch.synthetic.prior import HALVES, PRIORS, Drift, load_prior, make_prior, save_prior
from lobresearch.synthetic.prior_training import cut, fit_prior, gather, nats, scorable, starts_of

torch.set_num_threads(1)
SIZES = dict(codes=6, spreads=3, moves=5, width=8)
SMALL = {"conv": SIZES | dict(depth=3), "attention": SIZES | dict(window=4, layers=2, heads=2)}
kinds = pytest.mark.parametrize("kind", list(PRIORS))


def some(rows, seed=0, batch=1): # made-up tokens
    g = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(n, (batch, rows), generator=g) for n in (6, 3, 5)], -1)


def stirred(net, seed=0):
    "The same network with slow sums that count, as after training"
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for w in (net.drift.code[:-1], net.drift.move[:-1], net.drift.tilt.weight): w.normal_(generator=g)
    return net


def chain(P, n, seed):
    "Codes of a Markov chain"
    edges, c = P.cumsum(1), [0]
    for u in np.random.default_rng(seed).random(n-1): c.append(min(int(np.searchsorted(edges[c[-1]], u)), len(P)-1))
    return np.array(c)


def entropy_rate(P):
    "Nats a step of a chain in its stationary distribution"
    w, v = np.linalg.eig(P.T)
    pi = np.real(v[:, np.argmax(np.real(w))])
    return float(-(pi/pi.sum()) @ (P*np.log(P)).sum(1))


def roles(n): return np.repeat(["train", "valid", "test"], [n//2, n//4, n - n//2 - n//4])


@kinds
@pytest.mark.parametrize("which", [0, 1, 2])
@given(at=st.integers(0, 39), seed=st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_a_token_moves_only_what_comes_after_it(kind, which, at, seed):
    net, a = stirred(make_prior(kind, SMALL[kind], seed).eval(), seed), some(40, seed)
    b = a.clone()
    b[0, at, which] = (b[0, at, which] + 1) % net.sizes[which]
    changed = [(x != y).any(-1)[0].nonzero()[:, 0].tolist() for x, y in zip(net(a), net(b))]
    reach = range(at+1, min(40, at + net.receptive_field + 1))
    allowed = [list(reach), sorted({*reach, at} if which == 0 else reach), sorted({*reach, at} if which < 2 else reach)]
    for rows, may in zip(changed, allowed): assert set(rows) <= set(may)
    if which == 0: assert at in changed[1] and at in changed[2] # the declared conditioning is there
    if which == 1: assert at in changed[2]
    if at < 39: assert at+1 in changed[0]


@kinds
def test_the_field_is_as_long_as_it_says(kind):
    net, a = stirred(make_prior(kind, SMALL[kind], 1)).double().eval(), some(40)
    b = a.clone()
    b[0, 0, 0] = (b[0, 0, 0] + 1) % 6
    rows = (net(a)[0] != net(b)[0]).any(-1)[0].nonzero()[:, 0].tolist()
    assert rows == list(range(1, net.receptive_field + 1))


@kinds
def test_codes_only_sees_codes_only(kind):
    net, a = make_prior(kind, SMALL[kind] | dict(codes_only=True), 1).eval(), some(30)
    b = a.clone()
    b[..., 1:] = -1
    assert torch.equal(net(a)[0], net(b)[0])
    assert not torch.equal(net(a)[0], make_prior(kind, SMALL[kind], 1).eval()(a)[0])


@kinds
def test_the_clock_is_the_coming_seconds(kind):
    net, a = make_prior(kind, SMALL[kind] | dict(clock=True), 1).eval(), some(30)
    t = torch.arange(30.)[None] + 1000
    x, y = net(a, t), net(a, t + 86_400)
    assert all(torch.allclose(p, q, atol=1e-4) for p, q in zip(x, y))
    late = t.clone()
    late[0, 20] += 40_000
    rows = (net(a, late)[0] != x[0]).any(-1)[0].nonzero()[:, 0].tolist()
    assert rows[0] == 20
    with pytest.raises(ParameterError, match="made with one"): net(a)


@given(breaks=st.sets(st.integers(1, 59), max_size=5), targets=st.integers(1, 25), offset=st.integers(0, 24), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_stretches_hold_each_wanted_row_once_and_stay_inside(breaks, targets, offset, seed):
    segment = np.searchsorted(sorted(breaks), np.arange(60), side="right")
    wanted = np.random.default_rng(seed).random(60) < .3
    tokens = torch.arange(60)[:, None].expand(60, 3)
    which = cut(segment, wanted, targets, offset % targets)
    if not len(which): return
    t, rows = gather(tokens, segment, which, 7, targets)
    got, many = np.unique(rows[rows >= 0], return_counts=True)
    assert set(np.flatnonzero(wanted)) <= set(got)
    if not offset % targets: assert (many == 1).all()
    for line, first in zip(t[..., 0].numpy(), which):
        here = line[line >= 0]
        assert (segment[here] == segment[first]).all() and (np.diff(here) == 1).all()


def test_slow_sums_are_those_of_pandas():
    d, t = stirred(make_prior("conv", SMALL["conv"], 1)).drift.double(), some(300)
    t[0, 100] = -1
    s = d.sums(torch.nn.functional.pad(t, (0, 0, d.memory-1, 0), value=-1))[0]
    for i, (v, k) in enumerate(((d.code, 0), (d.move, 2))):
        x = pd.Series(v[t[0, :, k]].numpy())
        for j, h in enumerate(HALVES):
            want = x.rolling(d.memory, min_periods=1).apply(lambda w, h=h: (w*.5**(np.arange(len(w))[::-1]/h)).sum(), raw=True)
            np.testing.assert_allclose(s[:, i*len(HALVES)+j], want, atol=1e-9)


def test_values_come_from_what_the_mid_did():
    d = Drift(3, 5, 4)
    d.learn(torch.tensor([[0, 0, 1], [1, 0, 3], [2, 0, 2], [2, 0, 2]]*200))
    np.testing.assert_allclose(d.move[:-1], np.array([-2, -1, 0, 1, 2])*2**.5, atol=1e-5) # half the moves are one bin up or down
    np.testing.assert_allclose(d.code, [-2**.5, 2**.5, 0, 0], atol=1e-5)
    still = Drift(3, 5, 4)
    still.learn(torch.tensor([[0, 0, 1], [1, 0, 1], [2, 0, 1]]))
    assert not still.code.any() and not still.move.any() # a mid that never moves goes no way


def test_a_slow_direction_is_learnt():
    "Codes fall or rise with a hidden direction that stays for minutes; what many weak signs say together must be found"
    rng, n = np.random.default_rng(3), 12_000
    way = np.repeat(rng.choice([-1, 1], n//200), 200)
    up = (rng.random(n) < .5 + .08*way).astype(int)
    codes = 2*rng.integers(3, size=n) + up
    tokens, segment, role = np.stack([codes, np.zeros(n, int), 2*up], 1), np.zeros(n, int), roles(n)
    net = make_prior("conv", SMALL["conv"] | dict(depth=6), 1)
    fit_prior(net, tokens, segment, role, 1, epochs=5, stretches=4, targets=128, lr=1e-2)
    with torch.no_grad(): p = net(torch.from_numpy(tokens)[None])[0][0].softmax(-1)[:, 1::2].sum(-1).numpy()
    test = role == "test"
    assert p[test & (way > 0)].mean() - p[test & (way < 0)].mean() > .03 # of .16 to one that knows the direction


def test_which_rows_are_scored():
    codes, segment = np.array([1, 2, 0, -1, 1, 1, 2, 3, 1, 1]), np.array([0]*7 + [1]*3)
    assert np.flatnonzero(scorable(codes, segment)).tolist() == [2, 6, 9]
    assert starts_of(segment).tolist() == [0]*7 + [7]*3
    assert scorable(codes[:1], segment[:1]).tolist() == [False]


@kinds
def test_nats_do_not_depend_on_the_stretches(kind):
    net, a = stirred(make_prior(kind, SMALL[kind], 1)), some(90)[0].numpy()
    a[40] = -1
    segment = np.repeat([0, 1], [50, 40])
    n = nats(net, a, segment)
    np.testing.assert_allclose(n, nats(net, a, segment, targets=11, batch=2), atol=1e-5)
    whole = torch.from_numpy(a[None, :50])
    want = -torch.log_softmax(net(whole)[0], -1)[0, torch.arange(50), whole[0, :, 0].clamp(min=0)].detach().numpy()
    ok = scorable(a[:, 0], segment)[:50]
    np.testing.assert_allclose(n[:50, 0][ok], want[ok], atol=1e-5)
    assert np.isnan(n[:50, 0][~ok]).all()


P = np.array([[.7, .1, .1, .1], [.05, .05, .8, .1], [.1, .1, .1, .7], [.4, .4, .1, .1]])
FIT = dict(epochs=10, stretches=4, targets=128, lr=1e-2, average=.98)


@kinds
def test_a_known_chain_costs_its_entropy_rate(kind):
    codes = chain(P, 8_000, 1)
    tokens = np.stack([codes, codes//2, np.zeros(8_000, int)], 1)
    net = make_prior(kind, SMALL[kind] | dict(codes=4, width=16, dropout=0.), 1)
    fit_prior(net, tokens, np.zeros(8_000, int), roles(8_000), 1, **FIT)
    n, test = nats(net, tokens, np.zeros(8_000, int)), roles(8_000) == "test"
    least = -np.log(P[codes[:-1], codes[1:]])[test[1:]] # the true chain on the same rows
    assert abs(least.mean() - entropy_rate(P)) < .05
    assert -.01 < n[test, 0].mean() - least.mean() < .02 # nats
    assert n[test, 1].mean() < .06 and n[test, 2].mean() < .03 # of ln 2 and ln 5: a spread that the code says, a move that never changes


def test_independent_codes_cost_their_entropy_and_no_less():
    rng, p = np.random.default_rng(2), np.array([.5, .2, .15, .1, .04, .01])
    tokens = np.stack([rng.choice(6, 8000, p=p), rng.integers(3, size=8000), rng.integers(5, size=8000)], 1)
    net = make_prior("conv", SMALL["conv"], 1)
    fit_prior(net, tokens, np.zeros(8000, int), roles(8000), 1, **FIT)
    n, test = nats(net, tokens, np.zeros(8000, int)), roles(8000) == "test"
    for k, q in enumerate((p, np.full(3, 1/3), np.full(5, 1/5))):
        over = n[test, k].mean() + np.log(q)[tokens[test, k]].mean() # against the true probabilities on the same rows
        assert -.005 < over < .03


def test_a_fit_is_its_seed_and_sees_training_rows_only():
    tokens, segment, role = some(1500)[0].numpy(), np.zeros(1500, int), roles(1500)
    other = tokens.copy()
    other[role == "test", 0] = 5 - other[role == "test", 0]

    def weights(t, seed=3, **kw):
        net = make_prior("conv", SMALL["conv"] | dict(hide=.1), 1)
        h = fit_prior(net, t, segment, role, seed, epochs=2, stretches=2, targets=100, **kw)
        return h, torch.cat([w.flatten() for w in net.state_dict().values()])

    (h, a), (g, b), (_, c), (_, d) = weights(tokens), weights(tokens), weights(tokens, 4), weights(other)
    assert h == g and torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(a, d)
    other = tokens.copy()
    other[role == "valid", 0] = 5 - other[role == "valid", 0]
    assert weights(other)[0][0]["loss"] == h[0]["loss"] # validation rows choose, and teach nothing


def test_files_come_back_and_faults_say_so(tmp_path):
    for kind in PRIORS:
        net = make_prior(kind, SMALL[kind], 1).eval()
        save_prior(tmp_path/"a"/f"prior_{kind}", net)
        again = load_prior(tmp_path/"a"/f"prior_{kind}")
        assert type(again) is type(net) and torch.equal(again(some(9))[2], net(some(9))[2])
    file = tmp_path/"a"/"prior_conv.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="no whole prior"): load_prior(tmp_path/"a"/"prior_conv")


def test_too_little_and_wrong_input():
    net, t = make_prior("conv", SMALL["conv"], 1), some(60)[0].numpy()
    with pytest.raises(TooShortError, match="validation rows"): fit_prior(net, t, np.zeros(60), np.full(60, "train"), 1)
    with pytest.raises(TooShortError, match="training rows"): fit_prior(net, t, np.zeros(60), np.full(60, "valid"), 1)
    with pytest.raises(ParameterError, match="no parameter momentum"): fit_prior(net, t, np.zeros(60), roles(60), 1, momentum=1)
    with pytest.raises(ParameterError, match="epochs"): fit_prior(net, t, np.zeros(60), roles(60), 1, epochs=0)
    with pytest.raises(ParameterError, match="below their number"): nats(net, t + 6, np.zeros(60))
