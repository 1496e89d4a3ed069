"Residuals by filtered historical simulation: a known autoregression comes back, paths stay stationary and still, nothing explodes, nothing but training is used."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lobresearch.errors import ParameterError, TooShortError
from lobresearch.synthetic.behaviour import behaviour
from lobresearch.synthetic.donors import AHEAD, Donors, about_paths, coming, sources
from lobresearch.synthetic.residuals import (
    BINS,
    LIMIT,
    LINEAR,
    atoms,
    fit_residuals,
    innovation,
    load_residuals,
    radius,
    ranks,
    regression,
    save_residuals,
    simulate,
)


def market(n=16_000, seed=0, phi=(.85, .5), stay=.4):
    "Codes that switch, a mean for each, two correlated autoregressions that stand still together, a count with many zeros, and trades"
    rng = np.random.default_rng(seed)
    codes = np.cumsum(rng.random(n) < .1) % 3
    move = np.where(rng.random(n) < .3, rng.choice([-1, 1], n), 0)
    mu = np.array([[-1, 0, 0, 0], [0, .5, 0, 0], [1, 0, 0, 0]], float)[codes]
    u, still = rng.multivariate_normal([0, 0], [[1, .6], [.6, 1]], n)*.5, (rng.random(n) < stay) & (move == 0)
    x = np.zeros((n, 4))
    for t in range(1, n):
        if still[t]: x[t, :3] = x[t-1, :3]
        else:
            x[t, :2] = mu[t, :2] + np.array(phi)*(x[t-1, :2] - mu[t-1, :2]) + u[t]
            gap = x[t-1, 2] # zero nine times of ten
            x[t, 2] = gap if rng.random() < .8 else (0 if gap else rng.integers(1, 4)*(rng.random() < .2))
    x[:, 3] = np.where(rng.random(n) < .3 + .2*codes/2, rng.exponential(1, n), 0)
    return x.astype(np.float32), mu.astype(np.float32), codes, move.astype(float)


@pytest.fixture(scope="module")
def made():
    x, mu, codes, move = market()
    return x, mu, codes, move, fit_residuals(x, mu, codes, move, np.zeros(len(x)), np.ones(len(x), bool), drawn=1)


def again(made, seed=0, paths=8):
    "Long paths on the codes of training"
    x, mu, codes, move, res = made
    cut = lambda a: a[:len(a)//paths*paths].reshape(paths, -1, *a.shape[1:])
    return simulate(res, cut(mu), cut(codes), cut(move), np.random.default_rng(seed))


def test_a_known_autoregression_comes_back():
    rng = np.random.default_rng(1)
    for phi in (-.4, .3, .9):
        x = np.zeros((12_000, 1), np.float32)
        for t in range(1, len(x)): x[t] = phi*x[t-1] + rng.normal()
        flat = np.zeros(len(x), int)
        res = fit_residuals(x, np.zeros_like(x), flat, flat, flat, np.ones(len(x), bool), drawn=0)
        assert res.phi[1, 0, 0] == pytest.approx(phi, abs=.03)
        y = simulate(res, np.zeros((10, 2000, 1)), np.zeros((10, 2000), int), np.zeros((10, 2000)), np.random.default_rng(2))[:, 50:]
        assert behaviour(y).acf_1[0] == pytest.approx(phi, abs=.04) and y.std() == pytest.approx(x.std(), rel=.06)


def test_simulated_paths_have_the_mean_spread_memory_and_stillness_of_training(made):
    x = made[0]
    a, b = behaviour(x, np.zeros(len(x))), behaviour(again(made))
    np.testing.assert_allclose(b["mean"], a["mean"], atol=.1) # one path's mean is known to .04
    np.testing.assert_allclose(b.sd, a.sd, rtol=.08)
    np.testing.assert_allclose(b.acf_1, a.acf_1, atol=.06)
    np.testing.assert_allclose(b.acf_10, a.acf_10, atol=.08)
    np.testing.assert_allclose(b.kept, a.kept, atol=.03)


def test_channels_stand_still_together_and_move_together(made):
    x, y = made[0], again(made)
    still = lambda v: (v[..., 1:, :3] == v[..., :-1, :3]).all(-1).mean()
    assert still(y) == pytest.approx(still(x), abs=.03)
    change = lambda v: np.diff(v, axis=-2).reshape(-1, 4)
    assert np.corrcoef(change(y)[:, :2].T)[0, 1] == pytest.approx(np.corrcoef(change(x)[:, :2].T)[0, 1], abs=.07)


def test_a_channel_with_an_atom_keeps_its_values_and_its_share_of_them(made):
    x, y = made[0][:, 2], again(made)[..., 2]
    assert set(np.unique(x)) == {0, 1, 2, 3} and (x == 0).mean() > .8
    assert (y == 0).mean() == pytest.approx((x == 0).mean(), abs=.03)


def test_trades_are_those_of_training_given_the_code(made):
    x, _, codes, _, _ = made
    y, c = again(made)[..., 3], codes[:len(codes)//8*8].reshape(8, -1)
    assert np.isin(y, x[:, 3]).all()
    for k in range(3): assert (y[c == k] > 0).mean() == pytest.approx((x[codes == k, 3] > 0).mean(), abs=.03)


def test_equal_seeds_give_equal_paths_and_other_seeds_others(made):
    a, b, c = again(made, 5), again(made, 5), again(made, 6)
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    x, mu, codes, move, res = made
    five = simulate(res, mu[None, :500], codes[None, :500], move[None, :500], np.random.default_rng(5))
    assert five.shape == (1, 500, 4) and np.isfinite(five).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.floats(.1, 30))
def test_nothing_explodes_whatever_the_regimes(seed, D, wild):
    "Growing series, all regimes, kept channels at random: row sums below one, and a path stays where training was"
    rng = np.random.default_rng(seed)
    n = 300
    x = (rng.normal(0, 1, (n, D))*wild*np.exp(np.linspace(0, 4, n))[:, None]).astype(np.float32)
    x[1:][rng.random((n-1, D)) < .3] = 0
    flat, move = np.zeros(n, int), rng.integers(-1, 2, n).astype(float)
    res = fit_residuals(x, np.zeros_like(x), flat, move, flat, np.ones(n, bool), drawn=0)
    assert (abs(res.phi).sum(-1) <= LIMIT + 1e-5).all() and res.radius < 1 and radius(res.phi) == res.radius
    y = simulate(res, np.zeros((3, 800, D)), np.zeros((3, 800), int), rng.integers(-1, 2, (3, 800)), rng)
    assert (y >= x.min(0)).all() and (y <= x.max(0)).all()


def test_only_training_seconds_are_used(made):
    x, mu, codes, move, _ = made
    train = np.arange(len(x)) < 6000
    fit = lambda *a: fit_residuals(*a, np.zeros(len(x)), train, drawn=1)
    rng = np.random.default_rng(0)
    other = [a.copy() for a in (x, mu, codes, move)]
    for a in other: a[6000:] = rng.permutation(a[6000:])
    other[3][6000:6020] = 1.
    other[0][6000:] *= 50
    for v, w in zip(vars(fit(x, mu, codes, move)).values(), vars(fit(*other)).values()): np.testing.assert_array_equal(v, w)


def test_no_pair_of_seconds_crosses_a_segment_or_a_hole(made):
    x, mu, codes, move, res = made
    n = 400
    segment, holes = np.arange(n)//100, x[:n].copy()
    holes[50] = np.nan
    r = fit_residuals(holes, mu[:n], np.where(np.arange(n) == 70, -1, codes[:n]), move[:n], segment, np.ones(n, bool), drawn=1)
    assert len(r.kind) == n - 4 - 2 - 2 # first rows, the hole and the row after it, the missing code and the row after it
    assert len(res.kind) == len(x) - 1


def test_sizes_are_followed_by_their_price():
    "Against a book kept as a dictionary of prices: random gaps, spreads and moves"
    rng, L = np.random.default_rng(4), 4
    for _ in range(200):
        book, raw = [], []
        m = rng.integers(1000, 1010) # half ticks
        for _ in range(2):
            spread, gaps = rng.integers(0, 4), rng.integers(1, 4, (2, L - 1))
            m += (m + spread) % 2
            ask, bid = np.r_[m + spread, m + spread + 2*gaps[0].cumsum()], np.r_[m - spread, m - spread - 2*gaps[1].cumsum()]
            book.append((m, ask, bid)); m += rng.integers(-6, 7)
            raw.append(np.r_[np.zeros(2*L), np.log(gaps.ravel()), np.log1p(spread), np.zeros(4)])
        (m0, *old), (m1, *new) = book
        got = sources(raw[1][None], raw[0][None], np.array([m1 - m0]), L)[0]
        for side in (0, 1):
            where = {p: i for i, p in enumerate(old[side])}
            assert got[side*L:(side+1)*L].tolist() == [where[p] + side*L if p in where else -1 for p in new[side]]
            for i, k in enumerate(got[2*L+side*(L-1):2*L+(side+1)*(L-1)]):
                own = 2*L + side*(L-1)
                both = new[side][i] in where and where.get(new[side][i+1]) == where[new[side][i]] + 1
                assert k == (own + where[new[side][i]] if both else own + i)
        assert got[-5:].tolist() == list(range(4*L - 2, 4*L + 3))


def test_a_book_that_only_shifts_is_simulated_by_shifting():
    "After each rise the ask's second size becomes the first: in the simulation too, exactly"
    rng, L, n = np.random.default_rng(3), 3, 3000
    size, move, raw = list(rng.integers(1, 1000, 3)), 2*rng.integers(0, 2, n), np.zeros((n, 4*L + 3)) # of one tick, two half ticks
    for t in range(n):
        if move[t]: size = [*size[1:], rng.integers(1, 1000)]
        raw[t, :L] = np.log(size)
    state = dict(levels=L, mean=np.linspace(4, 6, raw.shape[1]), std=np.linspace(1, 2, raw.shape[1]))
    x = ((raw - state["mean"])/state["std"]).astype(np.float32)
    flat = np.zeros(n, int)
    res = fit_residuals(x, np.zeros_like(x), flat, move, flat, np.ones(n, bool), state=state)
    up = 2*rng.integers(0, 2, (2, 500))
    y = simulate(res, np.zeros((2, 500, x.shape[1])), np.zeros((2, 500), int), up, rng)*state["std"] + state["mean"]
    moved, stood = up[:, 1:] == 2, up[:, 1:] == 0
    for a in (0, 1): assert (abs(y[:, 1:, a] - y[:, :-1, a+1])[moved] < 2e-5).mean() > .98 # the ends of a channel's range are its own
    assert (abs(y[:, 1:, :L] - y[:, :-1, :L])[stood] < 2e-5).mean() > .99


def test_donors_agree_in_all_that_they_can():
    rng = np.random.default_rng(0)
    about = np.stack([rng.integers(0, k, 6000) for k in (3, 2, 2, 2, 3, 2)], 1)[:, [0, 1, 2, 3, 4, 5, 4]] # the class of a move tells its sign
    d = Donors(about)
    first, count, level = d.of(about[:50])
    assert (level == 0).all()
    for a, f, n in zip(about[:50], first, count):
        assert (about[d.order[f:f+n]] == a).all() and n == (about == a).all(1).sum()


def test_what_comes_is_told_inside_the_segment_alone():
    rng = np.random.default_rng(1)
    sign, segment = rng.choice([-1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 500), np.sort(rng.integers(0, 30, 500))
    for t, got in enumerate(coming(sign, segment)):
        later = [(k, sign[t+k]) for k in range(1, AHEAD + 1) if t + k < 500 and segment[t+k] == segment[t] and sign[t+k]]
        assert got == (2 if not later else 2 + later[0][1]*(2 if later[0][0] == 1 else 1))


def test_a_book_that_leans_before_a_move_leans_in_the_simulation_too():
    "One channel is told the next move and noise; codes know nothing of it"
    rng, n = np.random.default_rng(8), 16_000
    move = rng.choice([-1, 0, 0, 1], n)
    x = (.8*np.r_[move[1:], 0] + rng.normal(size=n)).astype(np.float32)[:, None]
    flat = np.zeros(n, int)
    res = fit_residuals(x, np.zeros_like(x), flat, move, flat, np.ones(n, bool), drawn=0)
    up = rng.choice([-1, 0, 0, 1], (4, 3000))
    y = simulate(res, np.zeros((4, 3000, 1)), np.zeros((4, 3000), int), up, rng)[:, :-1, 0]
    assert np.corrcoef(y.ravel(), up[:, 1:].ravel())[0, 1] == pytest.approx(np.corrcoef(x[:-1, 0], move[1:])[0, 1], abs=.04)


def test_the_spread_keeps_to_its_token():
    "The last but four channels' spread is 0 or 1 as its token says, and so is the simulated one"
    rng, n = np.random.default_rng(5), 6000
    token = (np.cumsum(rng.random(n) < .2) % 2).astype(int)
    x = np.stack([token, rng.normal(size=n), *np.zeros((4, n))], 1).astype(np.float32)
    flat = np.zeros(n, int)
    res = fit_residuals(x, np.zeros_like(x), flat, flat, flat, np.ones(n, bool), spread=token)
    want = (np.cumsum(rng.random((2, 1000)) < .3, axis=1) % 2).astype(int)
    y = simulate(res, np.zeros((2, 1000, 6)), np.zeros((2, 1000), int), np.zeros((2, 1000)), rng, spread=want)
    assert (y[:, 1:, 0] == want[:, 1:]).mean() > .99


def test_innovations_of_the_same_rank_have_the_same_chance_after_any_number():
    "An innovation whose spread falls with the number before: distribution and conditional spread come back"
    rng, n = np.random.default_rng(6), 20_000
    old = rng.uniform(0, 1, n)
    u = rng.exponential(1, n)*(1.1 - old)
    rank, edge, table = ranks(u, old)
    assert np.isfinite(edge).all() and len(edge) == BINS - 1 and ((rank > 0) & (rank < 1)).all()
    back = np.array([innovation(r, np.float32(o), edge, table) for r, o in zip(rank, old)])
    assert np.corrcoef(back, u)[0, 1] > .99 # the quantiles give every innovation back
    drawn = np.array([innovation(r, np.float32(o), edge, table) for r, o in zip(rng.permutation(rank), old)])
    for a in (0, .25, .5, .75):
        m = (old >= a) & (old < a + .25)
        assert drawn[m].std() == pytest.approx(u[m].std(), rel=.1) and drawn[m].mean() == pytest.approx(u[m].mean(), rel=.05)
    assert ranks([], [])[0].shape == (0,)


def test_large_sizes_tremble_less():
    "Orders come and go one by one: the larger a size, the smaller the change of its logarithm, in the simulation too"
    rng, n = np.random.default_rng(7), 16_000
    size = np.zeros(n); size[0] = 20
    for t in range(1, n): size[t] = max(1, size[t-1] + rng.integers(-6, 7) + .05*(20 - size[t-1]))
    x, flat = np.log(size).astype(np.float32)[:, None], np.zeros(n, int)
    res = fit_residuals(x, np.full_like(x, x.mean()), flat, flat, flat, np.ones(n, bool), drawn=0)
    y = simulate(res, np.full((4, 4000, 1), x.mean()), np.zeros((4, 4000), int), np.zeros((4, 4000)), rng)[:, 100:, 0]
    shake = lambda v, a, b: np.diff(v)[(v[..., :-1] > a) & (v[..., :-1] < b)].std()
    small, large = (np.log(5), np.log(12)), (np.log(25), np.log(60))
    for where in (small, large): assert shake(y, *where) == pytest.approx(shake(x[:, 0], *where), rel=.12)
    assert shake(x[:, 0], *small) > 2*shake(x[:, 0], *large)


def test_a_book_that_stands_still_for_long_does_so_in_the_simulation():
    "Pauses of many seconds of which the codes know nothing"
    rng, n = np.random.default_rng(9), 16_000
    still, x = np.zeros(n, bool), rng.normal(size=(n, 2)).astype(np.float32)
    for t in range(1, n):
        still[t] = rng.random() < (.9 if still[t-1] else .03)
        if still[t]: x[t] = x[t-1]
    flat = np.zeros(n, int)
    res = fit_residuals(x, np.zeros_like(x), flat, flat, flat, np.ones(n, bool), drawn=0)
    y = simulate(res, np.zeros((4, 4000, 2)), np.zeros((4, 4000), int), np.zeros((4, 4000)), rng)
    s = (y[:, 1:] == y[:, :-1]).all(-1)
    assert s[:, 1:][s[:, :-1]].mean() == pytest.approx(.9, abs=.03) and s.mean() == pytest.approx(still.mean(), abs=.05)


def test_donors_agree_in_how_far_the_mid_went():
    a = about_paths(np.zeros((1, 5), int), None, np.array([[0, 2, -2, 4, 50.]]))[0]
    assert a[:, 4].tolist() == [1, 2, 0, 2, 2] and len(set(a[:, 6])) == 5
    assert a[0, 6] - a[2, 6] == a[1, 6] - a[0, 6]


def test_regression_against_least_squares_and_its_limit():
    rng = np.random.default_rng(2)
    A, m = rng.normal(size=(3000, 3)), rng.normal(size=(3000, 2))
    y = A @ [.4, .2, 0] + m @ [.5, -1] + rng.normal(0, .1, 3000)
    b = regression(A, y, 0, m, ridge=0)
    np.testing.assert_allclose(b, np.linalg.lstsq(np.c_[A, m], y, rcond=None)[0], atol=1e-6)
    b = regression(A, A @ [.8, .5, -.5], 0, ridge=0)
    np.testing.assert_allclose(b, [.8, .095, -.095, 0, 0], atol=1e-6) # its own stays, the others share what is left
    assert regression(np.zeros((0, 2)), np.zeros(0), 0).tolist() == [0]*4


def test_atoms_need_their_share():
    x = np.array([[1, 1, 1], [1, 2, 2], [1, 3, 2], [2, 4, 3]], np.float32)
    a = atoms(x, .5)
    assert a[0] == 1 and np.isnan(a[1]) and a[2] == 2


def test_what_was_saved_simulates_the_same(made, tmp_path):
    x, mu, codes, move, res = made
    save_residuals(tmp_path/"deep/residuals", res)
    back = load_residuals(tmp_path/"deep/residuals")
    assert back.drawn == 1 and back.radius == res.radius and (back.kind & 3 == LINEAR).any()
    assert np.array_equal(again((x, mu, codes, move, back)), again(made))


def test_behaviour_leaves_out_seams_and_holes():
    x = np.array([0, 1, np.nan, 1, 1, 3, 3], np.float32)[:, None]
    t = behaviour(x, [0, 0, 0, 0, 0, 1, 1], ["depth"])
    assert t.channel[0] == "depth" and t["mean"][0] == pytest.approx(1.5) and t.kept[0] == pytest.approx(2/3)
    assert isinstance(t, pd.DataFrame) and np.isnan(t.acf_10[0])


def test_mistakes_are_told(made, tmp_path):
    x, mu, codes, move, res = made
    flat, all_ = np.zeros(len(x)), np.ones(len(x), bool)
    with pytest.raises(ParameterError, match="same rows"): fit_residuals(x, mu[1:], codes, move, flat, all_)
    with pytest.raises(ParameterError, match="between 0 and the 4 channels"): fit_residuals(x, mu, codes, move, flat, all_, drawn=5)
    with pytest.raises(TooShortError, match="there are 9 where 20"): fit_residuals(x, mu, codes, move, flat, np.arange(len(x)) < 10)
    with pytest.raises(ParameterError, match=r"must be \(paths, steps, 4\)"): simulate(res, mu[None, :5, :3], codes[None, :5], move[None, :5], None)
    with pytest.raises(ParameterError, match="finite"): simulate(res, mu[None, :5]*np.nan, codes[None, :5], move[None, :5], None)
    with pytest.raises(ParameterError, match="fit the residuals first"): load_residuals(tmp_path/"nothing")
