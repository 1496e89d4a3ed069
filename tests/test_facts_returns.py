"Facts of returns: the libraries' own answers, series with known parameters, and white noise in which there is nothing to find."
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.signal import lfilter
from statsmodels.stats.api import acorr_ljungbox, durbin_watson, het_arch, het_breuschpagan, het_white, normal_ad

from lobresearch.errors import TooShortError
from lobresearch.market.dependence_facts import lagged, regression_r2, squared_acf
from lobresearch.market.facts import SECOND, Sample, all_facts, false_discovery, measure, pieces, returns, unbroken
from lobresearch.market.registry import random_grid
from lobresearch.market.return_facts import anderson_darling, hill_plateau, root_interval


def sample(r, every=10, gap=None, **settings):
    "A symbol with a row every few seconds, whose returns (basis points) are given"
    grid = random_grid(len(r) + 1, np.random.default_rng(0), breaks=() if gap is None else (gap,))
    mid = 100*np.exp(1e-4*np.cumsum(np.r_[0, r]))
    grid = grid.assign(ask_px_1=mid + 1e-6, bid_px_1=mid - 1e-6)
    grid.index = pd.Index(np.arange(len(grid))*every*SECOND, name="ts")
    return Sample(grid, **{"resamples": 40, "block": 200, **settings})


def ar1(phi, n, rng): return lfilter([1], [1, -phi], rng.standard_normal(n))


def test_sizes_and_p_values_are_those_of_the_libraries():
    rng = np.random.default_rng(1)
    r = rng.standard_t(5, 1500)*np.repeat([1, 2, 1], 500)
    s = sample(r)
    got = {k: measure(s, k) for k in ("ljung_box_10", "mcleod_li_10", "durbin_watson_10", "arch_lm_10", "breusch_pagan_10", "white_10")}
    x = returns(s, 10)[1:]
    assert np.allclose(x, r)
    n = len(x)
    assert got["ljung_box_10"]["p"] == pytest.approx(acorr_ljungbox(x, lags=[10])["lb_pvalue"].iloc[0])
    assert got["mcleod_li_10"]["p"] == pytest.approx(acorr_ljungbox(x**2, lags=[10])["lb_pvalue"].iloc[0])
    assert got["ljung_box_10"]["value"]*n == pytest.approx(acorr_ljungbox(x, lags=[10])["lb_stat"].iloc[0], rel=.03)
    assert got["durbin_watson_10"]["value"] == pytest.approx(durbin_watson(x - x.mean()), rel=.005)
    lm, p, *_ = het_arch(x - x.mean(), nlags=5, result_object=False)
    assert got["arch_lm_10"]["value"] == pytest.approx(lm/(n - 5), rel=1e-3) and got["arch_lm_10"]["p"] == pytest.approx(p)
    slope, level = np.polyfit(x[:-1], x[1:], 1)
    e, one = x[1:] - level - slope*x[:-1], np.ones(n - 1)
    lm, p, *_ = het_white(e, np.column_stack([one, x[:-1]]))
    assert got["white_10"]["value"] == pytest.approx(lm/(n - 1), rel=1e-3) and got["white_10"]["p"] == pytest.approx(p)
    lm, p, *_ = het_breuschpagan(e, np.column_stack([one, x[:-1], np.arange(n - 1)]))
    assert got["breusch_pagan_10"]["value"] == pytest.approx(lm/(n - 1), rel=1e-3) and got["breusch_pagan_10"]["p"] == pytest.approx(p, rel=1e-6)


def test_distribution_is_that_of_the_libraries():
    r = np.random.default_rng(2).standard_t(4, 2000)
    s = sample(r, every=60)
    got = {k: measure(s, k) for k in ("jarque_bera_60", "anderson_darling_60", "skewness_60", "kurtosis_60", "sd_60", "mean_60")}
    jb = stats.jarque_bera(r)
    assert got["jarque_bera_60"]["value"]*len(r) == pytest.approx(jb.statistic) and got["jarque_bera_60"]["p"] == pytest.approx(jb.pvalue)
    a2, p = normal_ad(r)
    assert got["anderson_darling_60"]["value"]*len(r) == pytest.approx(a2, rel=1e-6) and got["anderson_darling_60"]["p"] == pytest.approx(p, abs=1e-9)
    assert got["skewness_60"]["value"] == pytest.approx(stats.skew(r)) and got["kurtosis_60"]["value"] == pytest.approx(stats.kurtosis(r, fisher=False))
    assert got["sd_60"]["value"] == pytest.approx(r.std()) and got["mean_60"]["value"] == pytest.approx(r.mean())
    assert all(m["lo"] < m["value"] < m["hi"] for m in got.values())


def test_anderson_darling_survives_what_the_library_does_not():
    x = np.r_[np.random.default_rng(0).standard_normal(500), 1000]
    assert np.isinf(normal_ad(x)[0]) and np.isfinite(anderson_darling(x))


@pytest.mark.parametrize("phi", [-.3, .4])
def test_an_ar1_is_recovered_by_all_who_look_at_it(phi):
    s = sample(ar1(phi, 6000, np.random.default_rng(3)), block=600, resamples=200)
    dw, lb = measure(s, "durbin_watson_10"), measure(s, "ljung_box_10")
    assert dw["lo"] < 2*(1 - phi) < dw["hi"] and dw["value"] == pytest.approx(2*(1 - phi), abs=.07)
    want = sum(phi**(2*k) for k in range(1, 11))
    assert lb["value"] == pytest.approx(want, abs=.04) and lb["lo"] < want < lb["hi"] and lb["p"] < 1e-6
    one = measure(sample(ar1(phi, 6000, np.random.default_rng(4)), every=1, resamples=200), "acf_r_1")
    assert one["lo"] - .01 < phi < one["hi"] + .01 and one["value"] == pytest.approx(phi, abs=.04)
    minute = measure(sample(ar1(phi, 3000, np.random.default_rng(5)), every=60), "adf_r")
    assert minute["lo"] < phi < minute["hi"] and minute["p"] < 1e-6
    assert measure(sample(ar1(phi, 3000, np.random.default_rng(5)), every=60), "pp_r")["value"] == pytest.approx(phi, abs=.05)


def test_a_price_that_comes_back_and_one_that_does_not():
    rng = np.random.default_rng(6)
    back, walk = (sample(np.diff(y), every=1) for y in (ar1(.98, 12_001, rng), rng.standard_normal(12_001).cumsum()))
    adf, pp, kpss = (measure(back, k) for k in ("adf_mid", "pp_mid", "kpss_mid"))
    assert adf["p"] < 1e-4 and pp["p"] < 1e-4 and pp["value"] == pytest.approx(.98**10, abs=.05) and kpss["p"] > .01 # log mids every 10 s
    assert measure(back, "variance_ratio_60")["hi"] < .9
    adf, pp, kpss = (measure(walk, k) for k in ("adf_mid", "pp_mid", "kpss_mid"))
    assert adf["p"] > .05 and pp["p"] > .05 and pp["lo"] < 1 < pp["hi"] + .002 and kpss["p"] < .01
    vr = measure(walk, "variance_ratio_10")
    assert vr["lo"] < 1 < vr["hi"] and vr["p"] > .01


@pytest.mark.parametrize("root", [.5, .97, 1.])
def test_root_interval_covers(root):
    held = []
    for seed in range(100):
        y = ar1(root, 1440, np.random.default_rng(seed))
        x, z = y[:-1] - y[:-1].mean(), y[1:] - y[1:].mean()
        lo, hi = root_interval((x*z).sum()/(x*x).sum(), 1440, 100, np.random.default_rng(1000 + seed))
        held.append(lo <= root <= hi)
    assert .84 <= np.mean(held) <= 1


@pytest.mark.parametrize("nu", [2, 3, 5])
def test_tail_of_a_student_distribution(nu):
    index, k1, k2, spread = hill_plateau(np.random.default_rng(0).standard_t(nu, 400_000), (.0005, .02))
    assert index == pytest.approx(nu, rel=.12) and 200 <= k1 < k2 <= 8000 and spread < .05


def test_a_pure_power_law_has_a_plateau_everywhere():
    x = np.random.default_rng(1).pareto(3, 20_000) + 1
    index, *_ , spread = hill_plateau(x)
    assert index == pytest.approx(3, rel=.06) and spread < .02
    s = sample(np.r_[-1, 1][np.random.default_rng(2).integers(2, size=len(x))]*x, resamples=100)
    m = measure(s, "hill_10")
    assert m["lo"] < 3 < m["hi"] and m["value"] == pytest.approx(3, rel=.08)


# ADF, Phillips-Perron and KPSS of the mid have nulls that white-noise returns make false
NULLS = ["jarque_bera_60", "anderson_darling_60", "kpss_r", "variance_ratio_10", "ljung_box_10", "mcleod_li_10", "runs_1", "bds_30",
         "arch_lm_10", "breusch_pagan_10", "white_10", "adf_mid", "pp_mid"]


@pytest.fixture(scope="module")
def noise():
    rng, rows = np.random.default_rng(7), []
    for i in range(25):
        one = sample(rng.standard_normal(3000), every=1, resamples=20)
        ten, sixty = (sample(rng.standard_normal(900), every=h, resamples=20) for h in (10, 60))
        thirty = sample(rng.standard_normal(400), every=30, resamples=20)
        for k in NULLS:
            s = one if k.endswith(("_1", "ratio_10", "mid")) else thirty if k.endswith("30") else ten if k.endswith("_10") else sixty
            rows.append(measure(s, k) | {"seed": i})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("key", NULLS)
def test_p_values_of_white_noise_are_uniform(noise, key):
    p = noise[noise.key == key].p
    assert p.notna().all() and stats.kstest(p, "uniform").pvalue > 1e-3 and (p < .05).sum() <= 5


def test_nothing_is_discovered_in_white_noise_and_everything_in_its_opposite(noise):
    assert not false_discovery(noise).rejected.any()
    planted = pd.concat([noise, noise.iloc[:20].assign(p=1e-8)])
    assert false_discovery(planted).rejected.sum() == 20


def test_false_discovery_by_hand():
    q = false_discovery(pd.DataFrame(dict(p=[.001, .02, np.nan, .8])))
    harmonic = 1 + 1/2 + 1/3
    assert np.allclose(q.q.dropna(), [.001*3*harmonic, .02*3/2*harmonic, 1])
    assert q.rejected.tolist()[:2] == [True, False] and q.rejected.isna().tolist() == [False, False, True, False]
    none = false_discovery(pd.DataFrame(dict(p=[np.nan])))
    assert none.q.isna().all() and none.rejected.isna().all()


def test_interval_of_a_share_of_variance_holds_nothing_for_noise_and_the_truth_for_a_line():
    rng, zero, held = np.random.default_rng(8), [], []
    for _ in range(40):
        x, e = rng.standard_normal((2, 800))
        zero.append(regression_r2(e, x[:, None], 10, 100, rng)[1] == 0)
        _, lo, hi = regression_r2(x + e, x[:, None], 10, 100, rng)
        held.append(lo < .5 < hi)
    assert np.mean(zero) > .85 and np.mean(held) > .85


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_pieces_and_lags_stay_in_a_segment(rows, k):
    segment, x = np.cumsum([new for new, _ in rows]), np.array([math.nan if gone else float(i) for i, (_, gone) in enumerate(rows)])
    starts, lengths = pieces(x, segment)
    inside = np.zeros(len(x), bool)
    for a, n in zip(starts, lengths):
        assert np.isfinite(x[a:a+n]).all() and len(set(segment[a:a+n])) == 1 and not inside[a:a+n].any()
        inside[a:a+n] = True
    assert (inside == np.isfinite(x)).all()
    best = unbroken(x, segment)
    assert best.stop - best.start == max(lengths, default=0)
    for i, v in enumerate(lagged(x, segment, k)):
        want = x[i-k] if i >= k and segment[i] == segment[i-k] else math.nan
        assert v == want or (math.isnan(v) and math.isnan(want))


def test_a_gap_takes_the_pair_across_it_away():
    x = np.array([5., -5, 5, -5, 5, -5])
    whole = squared_acf(x, np.zeros(6), 1, 1, 20, np.random.default_rng(0))[0]
    alone = squared_acf(x[:2], np.array([0, 1]), 1, 1, 20, np.random.default_rng(0))[0]
    assert whole == pytest.approx(1, abs=.1) and math.isnan(alone)
    r = np.random.default_rng(0).standard_normal(2000)
    assert len(returns(sample(r, every=1, gap=700), 1)) == 2001 and np.isnan(returns(sample(r, every=1, gap=700), 1)[[0, 700]]).all()


def test_what_cannot_be_had_says_why():
    for k in all_facts():
        m = measure(sample(np.zeros(3000), every=1, resamples=20), k)
        assert np.isfinite(m["value"]) == (m["reason"] == "")
        m = measure(sample(np.zeros(30), every=1, resamples=20), k)
        assert np.isfinite(m["value"]) == (m["reason"] == "")
    with pytest.raises(TooShortError, match="never changes"): regression_r2(np.ones(9), np.ones((9, 1)), 1, 20, np.random.default_rng(0))
