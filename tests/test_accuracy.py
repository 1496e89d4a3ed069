"Comparisons of forecasts against statsmodels, and their size where there is nothing to find."
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from lobresearch.errors import ParameterError, TooShortError
from lobresearch.evidence.accuracy import clark_west, diebold_mariano, hac_variance, mean_test, model_confidence_set


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(12, 300), lags=st.integers(0, 10))
def test_the_standard_error_is_that_of_statsmodels(seed, n, lags):
    d = np.cumsum(np.random.default_rng(seed).standard_normal(n))*.1 + 1
    fit = sm.OLS(d, np.ones(n)).fit(cov_type="HAC", cov_kwds=dict(maxlags=lags, use_correction=False))
    assert np.isclose(np.sqrt(hac_variance(d, lags)), fit.bse[0])
    assert np.isclose(mean_test(d, lags)["t"], fit.tvalues[0]) and np.isclose(mean_test(d, lags)["p"], fit.pvalues[0])


def test_a_forecast_tested_against_itself_and_mirrored():
    e = np.random.default_rng(0).standard_normal((500, 2))**2
    assert np.isnan(diebold_mariano(e[:, 0], e[:, 0], 5)["t"]) and diebold_mariano(e[:, 0], e[:, 0], 5)["mean"] == 0
    a, b = diebold_mariano(e[:, 0], e[:, 1], 5), diebold_mariano(e[:, 1], e[:, 0], 5)
    assert a["t"] == -b["t"] and a["p"] == b["p"]


def test_the_size_of_diebold_mariano_with_overlapping_outcomes():
    "Two useless forecasts of ten-second returns: without the overlap in the standard error one in three would be 'different'"
    rng, hits, naive = np.random.default_rng(1), [], []
    for _ in range(300):
        y = np.convolve(rng.standard_normal(1509), np.ones(10), "valid")
        f, g = (np.convolve(rng.standard_normal(1509), np.ones(10), "valid")*.5 for _ in range(2))
        hits.append(diebold_mariano((y-f)**2, (y-g)**2, 10)["p"] < .1)
        naive.append(diebold_mariano((y-f)**2, (y-g)**2, 1)["p"] < .1)
    assert .06 < np.mean(hits) < .22 and np.mean(naive) > .3


def test_slow_forecasts_of_overlapping_outcomes_are_not_taken_for_knowledge():
    "With the overlap's own lags Bartlett's weights lose a third of its variance, and knowledge is found more often than it should be"
    rng, hits, few, h, n = np.random.default_rng(4), [], [], 20, 6000
    for _ in range(400):
        walk = np.r_[0, rng.standard_normal(n + h)].cumsum()
        y, f = (walk[h:] - walk[:-h])[:n], .1*lfilter([1], [1, -.99], rng.standard_normal(2*n))[n:]
        hits.append(clark_west(y, 0*f, f, h)["p"] < .05)
        few.append(mean_test(y**2 - ((y-f)**2 - f**2), h-1)["p_above"] < .05)
    assert .03 < np.mean(hits) < .08 and np.mean(few) > np.mean(hits) + .01


def test_clark_west_finds_a_true_slope():
    rng = np.random.default_rng(2)
    x, y0 = rng.standard_normal((2, 4000))
    assert clark_west(.1*x + y0, 0*x, .1*x, 1)["p"] < 1e-4
    assert clark_west(y0, 0*x, 0*x, 1)["mean"] == 0


def test_the_confidence_set_holds_the_best_and_is_reproducible():
    rng = np.random.default_rng(3)
    e = rng.standard_normal((3000, 4))
    L = pd.DataFrame(e**2 + np.array([0, 0, .3, 1.]), columns=list("abcd"))
    t = model_confidence_set(L, 30, 300, 5)
    assert t.inside["a"] and t.inside["b"] and not t.inside["c"] and not t.inside["d"]
    assert t.equals(model_confidence_set(L, 30, 300, 5)) and list(t.loss) == sorted(t.loss)
    assert model_confidence_set(L[["a"]], 30).p["a"] == 1


def test_wrong_input_gets_a_sentence():
    with pytest.raises(ParameterError, match="same seconds"): diebold_mariano(np.ones(4), np.ones(5), 1)
    with pytest.raises(TooShortError, match="too few"): clark_west(np.ones(4), np.ones(4), np.ones(4), 60)
    with pytest.raises(TooShortError, match="eight blocks"): model_confidence_set(pd.DataFrame(np.ones((50, 2))), 10)
