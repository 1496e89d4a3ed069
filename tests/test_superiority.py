import numpy as np
import pandas as pd
import pytest
from arch.bootstrap import SPA, StationaryBootstrap, StepM
from hypothesis import given, settings, strategies as st
from lobresearch.errors import ParameterError, TooShortError
from lobresearch.evidence.superiority import best_of_many, fig_step_down, gains, long_run_sd, mean_block, step_down


def noise(rows=200, k=5, seed=0, common=0.):
    r = np.random.default_rng(seed)
    return pd.DataFrame(r.standard_normal((rows, k)) + common*r.standard_normal((rows, 1))).add_prefix("p")


@pytest.fixture(scope="module")
def sizes():
    "p-values of 250 studies in which nothing is better"
    return pd.DataFrame([best_of_many(noise(120, 6, s, 1.), block=3, n=100, seed=s) for s in range(250)])


@pytest.mark.parametrize("kind", ("p", "p_upper", "p_reality"))
def test_size_is_near_nominal(sizes, kind):
    assert .06 < (sizes[kind] <= .1).mean() < .145  # three standard errors are .057
    assert .4 < sizes[kind].mean() < .6


def test_bounds_hold_the_consistent_p(sizes):
    assert ((sizes.p_lower <= sizes.p) & (sizes.p <= sizes.p_upper)).all()


def test_stepm_names_nobody_without_reason():
    named = [step_down(noise(120, 6, s), block=2, n=100, seed=s, level=.1).superior.any() for s in range(150)]
    assert .03 < np.mean(named) < .18


@pytest.mark.parametrize("seed", range(3))
def test_white_is_arch(seed):
    x = noise(seed=seed); x["p2"] += .15
    plain = SPA(np.zeros(200), -x.to_numpy(), block_size=4, reps=200, seed=np.random.default_rng(5)); plain.compute()
    got = best_of_many(x, block=4, n=200, seed=5)
    assert got["p_reality"] == pytest.approx((1 + 200*plain.pvalues["upper"])/201)


@pytest.mark.parametrize("seed", range(8))
def test_names_are_those_of_archs_stepm_on_studentised_gains(seed):
    x = noise(seed=seed, k=6)
    x["p1"] += .4; x["p4"] += .22
    scaled = x/long_run_sd(x, 4)
    step = StepM(np.zeros(200), -scaled, size=.05, block_size=4, reps=400, seed=np.random.default_rng(3)); step.compute()
    s = step_down(x, block=4, n=400, seed=3)
    assert set(s.index[s.p <= .045]) <= set(step.superior_models) <= set(s.index[s.p <= .055]) # counts of draws are rounded otherwise
    assert 'p1' in step.superior_models


def test_all_may_be_better():
    "The step-down goes on to the last policy"
    x = noise(400, 2) + [1., .12]
    s = step_down(x, block=1, n=300)
    assert s.superior.tolist() == [True, True] and s.index.tolist() == ["p0", "p1"]


def test_adjusted_p_rises_down_the_table_and_starts_at_the_tests():
    x = noise(seed=3, k=8)
    s, b = step_down(x, block=3, n=300, seed=1), best_of_many(x, block=3, n=300, seed=1)
    assert (np.diff(s.p) >= 0).all() and s.p.iloc[0] == b["p"] and s.index[0] == b["best"] and s.t.iloc[0] == pytest.approx(b["t"])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 100), st.lists(st.floats(.01, 100.), min_size=4, max_size=4))
def test_a_policys_stake_does_not_matter(seed, stakes):
    x = noise(100, 4, seed); x["p3"] += .2
    a, b = (best_of_many(v, block=2, n=60, seed=1) for v in (x, x*stakes))
    assert (a["best"], a["p"]) == (b["best"], b["p"]) and a["t"] == pytest.approx(b["t"])


def test_a_wild_policy_hides_a_quiet_one_from_white_only():
    x = noise(600, 2, 1)
    x["p0"] = 30*(x.p0 - x.p0.mean()); x["p1"] += .2
    b = best_of_many(x, block=1, n=300)
    assert b["best"] == "p1" and b["p"] < .01 and b["p_reality"] > .2


def test_long_run_sd_is_the_bootstraps():
    x = noise(300, 3, 2).rolling(5).sum().dropna()
    drawn = np.array([d[0][0].mean(0) for d in StationaryBootstrap(10, x.to_numpy(), seed=np.random.default_rng(0)).bootstrap(3000)])
    np.testing.assert_allclose(long_run_sd(x, 10), drawn.std(0)*len(x)**.5, rtol=.06)
    assert (long_run_sd(x, 10) > 1.5*x.std().to_numpy()).all()


def test_benchmark_is_subtracted_and_itself_never_better():
    x = noise(seed=4)
    g = gains(x, x.p1)
    assert "p1" not in g and np.allclose(g.p0, x.p0 - x.p1)
    s = step_down(x, x.p1, block=2, n=50)
    assert s.p["p1"] == 1 and not s.superior["p1"] and len(s) == 5


def test_who_earns_less_than_the_benchmark_has_p_one():
    x = noise(seed=2) - [5., 1., .5, 1., 1.]
    b = best_of_many(x, block=2, n=50)
    assert b["t"] < 0 and {b[k] for k in ("p", "p_lower", "p_upper", "p_reality")} == {1.} and (step_down(x, block=2, n=50).p == 1).all()


def test_only_flat_policies():
    flat = pd.DataFrame(dict(a=np.zeros(50), b=np.zeros(50)))
    assert best_of_many(flat)["p"] == 1 and best_of_many(flat)["best"] is None and not step_down(flat).superior.any()
    with pytest.raises(ParameterError, match="nothing to draw"): fig_step_down(step_down(flat))


def test_block_follows_memory():
    x = noise(800, 2, 6)
    assert mean_block(x) < 6 < mean_block(x.rolling(30).sum().dropna()) <= 100


def test_a_policy_that_traded_once():
    x = noise(60, 2, 3).assign(once=np.r_[np.zeros(30), 1., np.zeros(29)])
    b, s = best_of_many(x, n=50), step_down(x, n=50)
    assert 1 <= mean_block(gains(x)) <= 60/8 and np.isfinite(b["t"]) and np.isfinite(s.p).all() and not s.superior["once"]


def test_same_seed_same_answer():
    x = noise(seed=9)
    assert best_of_many(x, n=50, seed=1) == best_of_many(x, n=50, seed=1)
    assert len({best_of_many(x, n=50, seed=k)["p_reality"] for k in range(5)}) > 1


@pytest.mark.parametrize("call, error, says", [
    (lambda: best_of_many(noise(30_000, 1)), ParameterError, "sum seconds to minutes"),
    (lambda: best_of_many(noise(100), block=20), TooShortError, "too few for blocks of 20"),
    (lambda: best_of_many(noise(10)), TooShortError, "too few"),
    (lambda: best_of_many(noise().to_numpy()), ParameterError, "data frame"),
    (lambda: best_of_many(noise().replace(noise().iloc[0, 0], np.nan)), ParameterError, "missing values"),
    (lambda: best_of_many(noise(), np.zeros(7)), ParameterError, "same rows"),
    (lambda: best_of_many(noise().assign(sure=.1)), ParameterError, "same amount"),
    (lambda: best_of_many(pd.concat([noise(), noise()], axis=1)), ParameterError, "same name"),
    (lambda: step_down(noise(), level=0), ParameterError, "between 0 and 1")])
def test_wrong_input_gets_a_sentence(call, error, says):
    with pytest.raises(error, match=says): call()


def test_figure_shows_the_best_first():
    import matplotlib.pyplot as plt
    x = noise(seed=1, k=9); x["p5"] += .6
    fig, t = fig_step_down(step_down(x, block=2, n=100), 4)
    assert len(t) == 4 and t.index[0] == "p5" and [v.get_text() for v in fig.axes[0].get_yticklabels()] == t.index.tolist()
    plt.close("all")
