"The ceiling: the formula against closed forms, the replays against the recording."
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import toeplitz

from lobresearch.data import simulate as sim
from lobresearch.data.ceiling import Ceiling, ar1_r2, ceiling, latent_share, replay, share, share_se, take, true_ceiling
from lobresearch.errors import ParameterError


def ar1_futures(x, M, h, kappa, sigma, phi, rng):
    "M returns over h steps from each x: what the module's closed form describes"
    r, y = np.zeros((len(x), M)), np.repeat(x[:, None], M, 1)
    for _ in range(h):
        r += kappa * y + sigma * rng.standard_normal(r.shape)
        y = phi * y + (1 - phi**2)**.5 * rng.standard_normal(r.shape)
    return r


@pytest.mark.parametrize("h, phi", [(1, .5), (10, .97), (60, .97), (60, .2)])
def test_closed_form_is_the_covariance_matrix(h, phi):
    kappa, sigma, s = .3, 1.1, 1.7
    cov = s**2 * toeplitz(phi**np.arange(h))
    total = h * sigma**2 + kappa**2 * cov.sum()
    known = (kappa * (phi**np.arange(h)).sum())**2 * s**2
    assert ar1_r2(h, kappa, sigma, phi, s) == pytest.approx(known / total, rel=1e-12)


@pytest.mark.parametrize("h, kappa, phi", [(10, .3, .9), (10, .1, .97), (60, .1, .97), (10, 0., .9)])
def test_replays_of_an_ar1_find_its_closed_form(h, kappa, phi):
    rng = np.random.default_rng([h, int(100 * phi)])
    c = ceiling(ar1_futures(rng.standard_normal(4000), 32, h, kappa, 1., phi, rng))
    assert c.r2 == pytest.approx(ar1_r2(h, kappa, 1., phi), abs=.02)
    assert abs(c.ceiling - ar1_r2(h, kappa, 1., phi)**.5) < max(4 * c.se, .02) or kappa == 0


def test_the_correction_matters_and_is_right_for_few_replays():
    "With two replays a state the plain ratio is far off; the corrected one is not"
    rng = np.random.default_rng(0)
    r = ar1_futures(rng.standard_normal(40_000), 2, 10, .1, 1., .9, rng)
    exact, plain = ar1_r2(10, .1, 1., .9), r.mean(1).var() / (r.mean(1).var() + r.var(1, ddof=1).mean())
    assert plain > 3 * exact and ceiling(r).r2 == pytest.approx(exact, abs=.02)


def test_standard_error_is_the_scatter_over_repetitions():
    cs = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        cs.append(ceiling(ar1_futures(rng.standard_normal(300), 16, 5, .3, 1., .9, rng), block=1, n_boot=200))
    assert np.mean([c.se for c in cs]) == pytest.approx(np.std([c.ceiling for c in cs]), rel=.35)


def test_share_of_known_forecasters():
    rng = np.random.default_rng(2)
    x = rng.standard_normal(20_000)
    r = ar1_futures(x, 8, 10, .2, 1., .9, rng)
    c, m = ceiling(r), r.mean(1)
    for noise in (0., 1., 3.):
        y = x + noise * rng.standard_normal(x.size)
        assert share(y, m, c.S, c.W, c.M) == pytest.approx((1 + noise**2)**-.5, abs=.03)
    realised = ar1_futures(x, 1, 10, .2, 1., .9, rng)[:, 0]
    assert share(realised, m, c.S, c.W, c.M) == pytest.approx(c.ceiling, abs=.03)
    assert share_se(x[:400], r[:400]) < .2


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(.01, 100), shift=st.floats(-100, 100), seed=st.integers(0, 1000))
def test_share_knows_no_units(scale, shift, seed):
    rng = np.random.default_rng(seed)
    y, m = rng.standard_normal((2, 50))
    assert share(scale * y + shift, m, 1., 2., 4) == pytest.approx(share(y, m, 1., 2., 4), abs=1e-6)
    assert share(-y, m, 1., 2., 4) == pytest.approx(-share(y, m, 1., 2., 4), abs=1e-9)


def test_what_cannot_be_computed_is_said():
    with pytest.raises(ParameterError, match="three states"): ceiling(np.zeros(5))
    with pytest.raises(ParameterError, match="no signal"): share(np.ones(3), np.ones(3), 0., 1., 4)
    with pytest.raises(ParameterError, match="finite forecast"): share(np.array([1, np.nan, 2]), np.arange(3.), 1., 1., 4)


# ---- on the exchange

@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "An hour and a half of each market, with many saved states"
    path = tmp_path_factory.mktemp("lobsim")
    for s in ("SIM-SIGNAL", "SIM-NULL"): sim.write_simulated(path, s, hours=1.5, seed=1, every=8)
    return path


def test_replays_follow_from_the_seed_and_not_from_the_processes(folder):
    states = take(sim.read_states(folder, "SIM-SIGNAL"), slice(0, 12))
    r = replay(states, 4, (2, 5), seed=3)
    assert r.shape == (12, 4, 2)
    np.testing.assert_array_equal(r, replay(states, 4, (2, 5), seed=3, workers=2))
    assert (r != replay(states, 4, (2, 5), seed=4)).any()
    np.testing.assert_array_equal(r[:, :, 0], replay(states, 4, (2,), seed=3)[:, :, 0])      # a longer run has the shorter one in it


def test_replays_of_the_null_are_centred_on_nothing(folder):
    states = take(sim.read_states(folder, "SIM-NULL"), slice(0, 300))
    r = replay(states, 32, (1, 10), seed=0)
    m = r.mean(1)
    assert (np.abs(m.mean(0) / m.std(0) * len(m)**.5) < 4).all()
    z = m / (r.std(1) / 32**.5 + 1e-12)
    assert (np.abs((z**2).mean(0) - 1) < .4).all()                        # no state knows more than its neighbours
    for h in range(2): assert abs(ceiling(r[:, :, h]).r2) < .03


def test_ceiling_of_the_null_is_zero_and_says_how_many_states(folder):
    truth = true_ceiling(folder, "SIM-NULL", horizons=(10, 60), limit=50)
    assert len(truth.ts) == 50 and truth.returns.shape == (50, 0, 2)
    assert all(isinstance(c, Ceiling) and c.ceiling == c.se == c.S == 0 for c in truth.ceilings)


def test_replayed_returns_scatter_like_recorded_ones(folder):
    states = sim.read_states(folder, "SIM-SIGNAL")
    states = take(states, states.slot < 1.5 * 14_400 - 40)
    m = sim.market("SIM-SIGNAL")
    got = [(r.slots[:n], r.books[:n, :, 0, 0].sum(1)) for n, r, _ in sim.chunks(m, int(1.5 * 14_400), sim.branch(1, "SIM-SIGNAL", 0))]
    slots, mid = (np.concatenate(x) for x in zip(*got, strict=True))
    at = lambda s: mid[np.searchsorted(slots, s, side="right") - 1]
    realised = 1e4 * np.log(at(states.slot + 40) / at(states.slot))
    r = replay(states, 24, (10,), seed=0)[:, :, 0]
    c = ceiling(r)
    assert .6 < realised.var() / (c.S + c.W) < 1.6
    assert .1 < c.ceiling < .7
    se = (1 + c.W / (c.M * c.S))**.5 / len(realised)**.5
    assert abs(share(realised, r.mean(1), c.S, c.W, c.M) - c.ceiling) < 4 * se


@pytest.mark.filterwarnings("error")
def test_a_forecast_that_is_constant_in_some_resamples_has_a_standard_error():
    rng = np.random.default_rng(0)
    m = rng.standard_normal(40)
    r = m[:, None] + rng.standard_normal((40, 30))
    y_hat = np.where(np.arange(40) == 7, 1., 0.)  # many resamples miss the one state that differs
    assert 0 < share_se(y_hat, r, block=2) < 1


def test_a_market_without_latent_gives_it_no_share(folder):
    states = take(sim.read_states(folder, "SIM-SIGNAL"), slice(0, 300))
    states = states._replace(par=states.par._replace(latent=0.))
    r = replay(states, 24, (10,), seed=1)
    assert abs(latent_share(states, r, (10,), seed=2)[0]) < .25
    np.testing.assert_allclose(latent_share(states, r, (10,), seed=1)[0], -(r.var(1, ddof=1).mean() / 48) / ceiling(r[:, :, 0]).S)


def test_too_few_states_is_said(folder):
    with pytest.raises(ParameterError, match="simulate longer"): true_ceiling(folder, "SIM-SIGNAL", begin=2**61)


@pytest.mark.slow
def test_the_realised_return_has_the_ceiling_as_its_share(tmp_path):
    "Eight hours: replays and recording are the same market, at both horizons"
    sim.write_simulated(tmp_path, "SIM-SIGNAL", hours=8, seed=11, every=16)
    truth = true_ceiling(tmp_path, "SIM-SIGNAL", limit=1500, replays=32, seed=1)
    m = sim.market("SIM-SIGNAL")
    got = [(r.slots[:n], r.books[:n, :, 0, 0].sum(1)) for n, r, _ in sim.chunks(m, 8 * 14_400, sim.branch(11, "SIM-SIGNAL", 0))]
    slots, mid = (np.concatenate(x) for x in zip(*got, strict=True))
    t = (truth.ts - truth.ts[0]) // 250_000 + sim.read_states(tmp_path, "SIM-SIGNAL").slot[0]
    for i, h in enumerate(truth.horizons):
        ok = t + 4 * h <= 8 * 14_400
        at = lambda s: mid[np.searchsorted(slots, s, side="right") - 1]
        realised = 1e4 * np.log(at(t[ok] + 4 * h) / at(t[ok]))
        c = truth.ceilings[i]
        got = share(realised, truth.returns[ok, :, i].mean(1), c.S, c.W, c.M)
        assert abs(got - c.ceiling) < 4 * max(c.se, (h / 16 / ok.sum())**.5)


@pytest.mark.slow
def test_the_latent_carries_a_third_of_what_is_settled(tmp_path):
    "Flip the latent's sign in every state: the half of the mean future that flips with it is the latent's. A whole day: nights differ"
    sim.write_simulated(tmp_path, "SIM-SIGNAL", hours=24, seed=7, every=80)
    states, M = sim.read_states(tmp_path, "SIM-SIGNAL"), 32
    r = replay(states, M, (10,), seed=8)
    assert latent_share(states, r, (10,), seed=9)[0] > 1 / 3


@pytest.mark.parametrize("n", [20, 40])
def test_standard_error_of_the_ceiling_is_that_of_repeats_even_with_few_states(n):
    rng = np.random.default_rng(5)
    made = lambda: ceiling(rng.normal(0, .5, (n, 1)) + rng.normal(0, 1, (n, 32)))
    many = [made() for _ in range(60)]
    spread = np.std([c.ceiling for c in many], ddof=1)
    assert .5*spread < np.median([c.se for c in many]) < 1.6*spread


def test_too_few_states_give_no_standard_error():
    assert np.isnan(ceiling(np.random.default_rng(0).normal(0, 1, (15, 8))).se)
