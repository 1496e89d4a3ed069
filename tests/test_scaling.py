"Scaling against SciPy, scikit-learn, sums written out, and inputs that are hardly there."
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.preprocessing import PowerTransformer

from lobresearch.errors import ParameterError, TooShortError
from lobresearch.market import scaling as sc
from lobresearch.market.labels import SECOND
from lobresearch.market.scaling import SCALERS, TRANSFORMS, apply_scaling, choose_transform, coverage_table, fit_quantiser, fit_scaling, invert_scaling, \
    load_scaling, quantise, save_scaling, scaling_table, unquantise

quick = settings(max_examples=60, deadline=None)
numbers = st.floats(-1e6, 1e6, allow_subnormal=False)
anything = st.floats(-3e38, 3e38)


def table(n=900, seed=0, breaks=(300, 500)):
    "A positive, a signed, a counting and a walking column in three segments"
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(dict(size=np.exp(rng.standard_normal(n)), flow=rng.standard_t(3, n), count=rng.poisson(2., n), walk=100 + np.cumsum(rng.standard_normal(n))))
    step = 1 + 300*np.isin(np.arange(n), breaks)
    return X.astype(np.float32), np.cumsum(step)*SECOND, np.searchsorted(breaks, np.arange(n), side="right"), np.arange(n) < int(.6*n)


# ---------------------------------------------------------------------------------------------------------------- transforms

@pytest.mark.parametrize("name", TRANSFORMS)
@given(train=st.lists(numbers, min_size=2, max_size=30), other=st.lists(anything, min_size=2, max_size=30))
@quick
def test_a_transform_is_finite_and_increasing_on_whatever_comes(name, train, other):
    t = TRANSFORMS[name]
    s = t.fit(np.array(train))
    if s is None: assert name in ("log", "boxcox") and min(train) <= 0; return
    json.dumps(s, allow_nan=False)
    y = t.apply(np.sort(other), s)
    assert np.isfinite(y).all() and (np.diff(y) >= 0).all() and np.isfinite(t.inverse(y, s)).all()


@pytest.mark.parametrize("name", TRANSFORMS)
@given(train=st.lists(st.floats(.01, 100.), min_size=2, max_size=30), other=st.lists(st.floats(-100., 100.), min_size=1, max_size=30))
@quick
def test_the_inverse_gives_back_what_went_in(name, train, other):
    s = TRANSFORMS[name].fit(np.array(train))
    x = np.clip(other, -100, max(train)) if name in ("log", "boxcox") else np.array(other) # far above training a negative exponent is flat
    assert np.allclose(TRANSFORMS[name].inverse(TRANSFORMS[name].apply(x, s), s), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("draw", [lambda r: r.gamma(2, 3, 3000), lambda r: np.exp(r.standard_normal(3000)), lambda r: 5 + r.beta(5, 2, 3000)])
def test_box_cox_finds_the_exponent_of_scikit_learn(draw):
    x = draw(np.random.default_rng(1))
    theirs = PowerTransformer("box-cox", standardize=False).fit(x[:,None])
    s = TRANSFORMS["boxcox"].fit(x)
    assert s["lambda"] == pytest.approx(np.clip(theirs.lambdas_[0], -2, 2), abs=2e-3)
    if abs(theirs.lambdas_[0]) < 2: assert np.corrcoef(TRANSFORMS["boxcox"].apply(x, s), theirs.transform(x[:,None])[:,0])[0,1] == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("draw", [lambda r: r.standard_normal(3000), lambda r: r.gumbel(0, 2, 3000), lambda r: -r.gamma(1.5, 1, 3000) + 2])
def test_yeo_johnson_is_that_of_scikit_learn_on_values_in_units_of_their_median_size(draw):
    x = draw(np.random.default_rng(2))
    s = TRANSFORMS["yeojohnson"].fit(x)
    assert s["unit"] == np.median(np.abs(x))
    theirs = PowerTransformer("yeo-johnson", standardize=False).fit(x[:,None]/s["unit"])
    assert s["lambda"] == pytest.approx(theirs.lambdas_[0], abs=2e-3)
    theirs.lambdas_ = np.array([s["lambda"]])
    assert np.allclose(TRANSFORMS["yeojohnson"].apply(x, s), theirs.transform(x[:,None]/s["unit"])[:,0], rtol=1e-9)


def test_a_first_zero_after_positive_training_is_finite_and_the_curve_has_no_corner():
    for name in ("log", "boxcox"):
        s = TRANSFORMS[name].fit(np.array([2., 3, 5, 9]))
        below, at, above = TRANSFORMS[name].apply(np.array([2 - 1e-4, 2, 2 + 1e-4]), s)
        assert (above - at)/(at - below) == pytest.approx(1, abs=1e-3)
        assert np.isfinite(TRANSFORMS[name].apply(np.array([0., -7.]), s)).all()


def test_the_choice_is_by_scipys_probability_plot():
    x = np.random.default_rng(3).gamma(1.3, 1, 4000)
    got = choose_transform(x)
    for name, r in got["straightness"].items():
        assert r == pytest.approx(stats.probplot(TRANSFORMS[name].apply(np.sort(x), TRANSFORMS[name].fit(np.sort(x))))[1][2], abs=1e-9)
    best = max(got["straightness"].values())
    assert got["transform"] == next(n for n, r in got["straightness"].items() if r >= best - sc.MARGIN)


def test_what_is_normal_constant_or_two_rows_stays_as_it_is():
    z = np.random.default_rng(4).standard_normal(500)
    for x in (z, 1e6 + z, np.zeros(10), np.full(10, 7.), np.array([1., 2.]), np.array([3.])): assert choose_transform(x)["transform"] == "identity"


def test_a_long_column_is_thinned_evenly():
    x = np.random.default_rng(5).gamma(2, 1, 3*sc.THIN)
    assert choose_transform(x) == choose_transform(x[::3])


# ------------------------------------------------------------------------------------------------------------------- scalers

def ewma_by_hand(y, ts, new, mean, sd, half):
    "Each mean and variance as one weighted sum over the training level and the past values of the segment"
    z, gain = [], []
    for i in range(len(y)):
        j = max(k for k in range(i+1) if new[k])
        dt = [1. if k == j else (ts[k] - ts[k-1])/SECOND for k in range(j, i)]
        keep = [2**(-d/half) for d in dt]
        w = [np.prod(keep), *((1 - keep[k])*np.prod(keep[k+1:]) for k in range(len(keep)))]
        v = np.r_[mean, y[j:i]]
        m = np.dot(w, v)
        var = np.dot(w, (v - m)**2) + w[0]*sd**2
        u = max(var, (sc.FLOOR*sd)**2)
        z.append((y[i] - m)/np.sqrt(u))
        gain.append(-(np.log(u) + (y[i] - m)**2/u)/2)
    return np.array(z), np.mean(gain)


def test_ewma_is_the_weighted_mean_and_variance_of_what_came_before():
    rng = np.random.default_rng(6)
    n = 60
    ts, new = np.cumsum(rng.integers(1, 4, n))*SECOND, np.isin(np.arange(n), [0, 1, 25])
    y = rng.standard_normal(n)*2 + 1
    for half in (.5, 3., 40.):
        z, gain = sc._ewma(y, ts, new, .7, 1.9, sc.FLOOR*1.9, half, False)
        theirs = ewma_by_hand(y, ts, new, .7, 1.9, half)
        assert np.allclose(z, theirs[0], rtol=1e-10) and gain == pytest.approx(theirs[1], rel=1e-10)


def test_the_half_life_is_the_likeliest_over_training_rows_begun_afresh_at_each_hole():
    n = 700
    rng = np.random.default_rng(7)
    y = np.cumsum(rng.standard_normal(n))*.03 + rng.standard_normal(n)
    ts, segment = np.arange(n)*SECOND, np.arange(n)//400
    train = (np.arange(n) < 250) | ((np.arange(n) >= 300) & (np.arange(n) < 600))
    state = fit_scaling(pd.DataFrame({"y": y}), ts, segment, train, "identity", half_lives=(4, 20, 100, 500))["columns"]["y"]["scaler"]
    at = np.flatnonzero(train)
    new = np.isin(at, [0, 300, 400])
    gain = {h: ewma_by_hand(y[at], ts[at], new, y[at].mean(), y[at].std(), h)[1] for h in (4, 20, 100, 500)}
    assert state["half_life"] == max(gain, key=gain.get)
    assert (state["mean"], state["sd"]) == (pytest.approx(y[at].mean()), pytest.approx(y[at].std()))
    assert state["half_life"] not in (4, 500), "a choice at the edge of the candidates would test little"


def test_rolling_is_mean_and_variance_of_the_window_before_with_training_for_what_is_missing():
    rng = np.random.default_rng(8)
    n, w = 200, 7
    ts, new = np.cumsum(rng.integers(1, 4, n))*SECOND, np.isin(np.arange(n), [0, 90, 91])
    y = rng.standard_normal(n) + 5
    y[40] = 1e7 # leaves no trace once it is out
    z = SCALERS["rolling"].run(y, ts, new, dict(mean=5., sd=1., least=.1, window=float(w)))
    for i in range(n):
        j = max(k for k in range(i+1) if new[k])
        past = y[[k for k in range(j, i) if ts[k] >= ts[i] - w*SECOND]] - 5
        share = min(1, (ts[i] - ts[j])/SECOND/w) if len(past) else 0
        m = share*past.mean() if share else 0
        v = (share*(past**2).mean() if share else 0) + 1 - share - m*m
        assert z[i] == pytest.approx((y[i] - 5 - m)/np.sqrt(max(v, .01)), rel=1e-7), i


def test_zscore_and_minmax_of_training():
    X, ts, segment, train = table()
    z = apply_scaling(X, ts, segment, fit_scaling(X, ts, segment, train, "identity", "zscore"))
    assert np.allclose(z[train].mean(), 0, atol=1e-5) and np.allclose(z[train].std(ddof=0), 1, atol=1e-5)
    u = apply_scaling(X, ts, segment, fit_scaling(X, ts, segment, train, "identity", "minmax"))
    assert np.allclose(u[train].min(), 0) and np.allclose(u[train].max(), 1) and u[~train].to_numpy().max() > 1


@pytest.mark.parametrize("scaler", SCALERS)
def test_scaled_and_back(scaler):
    X, ts, segment, train = table()
    for t in (None, {"size": "log", "flow": "yeojohnson", "count": "sqrt", "walk": "boxcox"}):
        state = fit_scaling(X, ts, segment, train, t, scaler)
        if t: assert {c: s["transform"] for c, s in state["columns"].items()} == t
        Z = apply_scaling(X, ts, segment, state)
        assert set(Z.dtypes) == {np.dtype(np.float32)} and Z.index.equals(X.index)
        assert np.allclose(invert_scaling(Z, ts, segment, state), X, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scaler", ["ewma", "rolling"])
def test_a_running_scaler_knows_nothing_of_the_segment_before(scaler):
    X, ts, segment, train = table()
    state = fit_scaling(X, ts, segment, train, scaler=scaler)
    whole, alone = (apply_scaling(X[m], ts[m], segment[m], state) for m in (segment >= 0, segment == 1))
    assert whole[segment == 1].equals(alone)
    other = X.copy()
    other[segment == 0] = 9.
    assert apply_scaling(other, ts, segment, state)[segment == 1].equals(alone)


# ------------------------------------------------------------------------------------------------------------ state and table

@given(seed=st.integers(0, 2**32-1), scaler=st.sampled_from(list(SCALERS)))
@settings(max_examples=15, deadline=None)
def test_a_saved_state_comes_back_to_the_last_bit(tmp_path_factory, seed, scaler):
    X, ts, segment, train = table(200, seed, (90,))
    state = fit_scaling(X, ts, segment, train, scaler=scaler)
    back = load_scaling(save_scaling(state, tmp_path_factory.mktemp("s")/"deep"/"state.json"))
    assert back == state and json.dumps(back) == json.dumps(state)
    assert apply_scaling(X, ts, segment, back).equals(apply_scaling(X, ts, segment, state))


def test_other_columns_versions_and_files_are_refused_in_a_sentence(tmp_path):
    X, ts, segment, train = table()
    state = fit_scaling(X, ts, segment, train)
    with pytest.raises(ParameterError, match="it lacks walk; unknown are pace"): apply_scaling(X.rename(columns={"walk": "pace"}), ts, segment, state)
    assert apply_scaling(X[["walk", "flow", "size", "count"]], ts, segment, state).equals(apply_scaling(X, ts, segment, state))
    with pytest.raises(ParameterError, match="version 2"): save_scaling(state | dict(version=2), tmp_path/"x.json")
    with pytest.raises(ParameterError, match="uses cube"): apply_scaling(X, ts, segment, state | dict(scaler="cube"))
    (tmp_path/"y.json").write_text("{")
    with pytest.raises(ParameterError, match="y.json is not JSON"): load_scaling(tmp_path/"y.json")
    (tmp_path/"y.json").write_text("[1]")
    with pytest.raises(ParameterError, match="y.json is no scaling"): load_scaling(tmp_path/"y.json")
    with pytest.raises(ParameterError, match="no scaler 'z'"): fit_scaling(X, ts, segment, train, scaler="z")
    with pytest.raises(ParameterError, match="longer than 0 s"): fit_scaling(X, ts, segment, train, half_lives=(0,))
    with pytest.raises(ParameterError, match="comes twice"): fit_scaling(X.set_axis(["a", "a", "b", "c"], axis=1), ts, segment, train)
    with pytest.raises(ParameterError, match="exist for positive values only"): fit_scaling(X, ts, segment, train, ["log"])


def test_the_table_tells_the_shape_of_training_before_and_after():
    X, ts, segment, train = table()
    state = fit_scaling(X, ts, segment, train)
    t = scaling_table(state).set_index("feature")
    for c in X:
        x = X[c].to_numpy(float)[train]
        assert t.skew_raw[c] == pytest.approx(stats.skew(x)) and t.kurtosis_raw[c] == pytest.approx(stats.kurtosis(x))
        y = TRANSFORMS[t["transform"][c]].apply(x, state["columns"][c]["fitted"])
        assert t.kurtosis_transformed[c] == pytest.approx(stats.kurtosis(y))
    z = apply_scaling(X, ts, segment, state)[train]
    assert np.allclose(t.skew_scaled, stats.skew(z), atol=1e-4) # training is one run from the start of the first segment


# ----------------------------------------------------------------------------------------------------------- hardly any input

@pytest.mark.parametrize("scaler", SCALERS)
def test_constants_zeros_and_what_comes_after_them(scaler):
    n = 200
    ts, segment, train = np.arange(n)*SECOND, np.zeros(n), np.arange(n) < 100
    X = pd.DataFrame({"still": np.full(n, 7.), "zero": np.where(train, 0., 3.), "tiny": 1e5 + 1e-9*np.arange(n)})
    Z = apply_scaling(X, ts, segment, fit_scaling(X, ts, segment, train, scaler=scaler))
    assert (Z.still == 0).all() and (Z.zero[:100] == 0).all() and (np.abs(Z.tiny) < 1e-4).all()
    assert Z.zero[100] == 3, "what training never saw stays in its own unit; it is not made 0"
    t = scaling_table(fit_scaling(X, ts, segment, train, scaler=scaler))
    assert t.skew_raw.isna().all() and (t["transform"] == "identity").all()


@pytest.mark.parametrize("scaler", SCALERS)
def test_two_training_rows_every_row_its_own_segment_and_no_columns(scaler):
    X, ts, segment, train = table(120, breaks=(50,))
    for seg, mask in ((segment, np.arange(120) < 2), (np.arange(120), train)):
        assert np.isfinite(apply_scaling(X, ts, seg, fit_scaling(X, ts, seg, mask, scaler=scaler)).to_numpy()).all()
    for mask in (train & False, np.arange(120) == 5):
        with pytest.raises(TooShortError, match="at least two training rows"): fit_scaling(X, ts, segment, mask, scaler=scaler)
    state = fit_scaling(X[[]], ts, segment, train, scaler=scaler)
    assert apply_scaling(X[[]], ts, segment, state).shape == (120, 0)
    empty = apply_scaling(X[:0], ts[:0], segment[:0], fit_scaling(X, ts, segment, train, scaler=scaler))
    assert empty.shape == (0, 4)


def test_nan_is_refused_by_name_but_outside_training_the_fit_does_not_look():
    X, ts, segment, train = table()
    X.loc[899, "flow"] = np.nan
    state = fit_scaling(X, ts, segment, train)
    with pytest.raises(ParameterError, match="NaN or infinity in flow"): apply_scaling(X, ts, segment, state)
    X.loc[3, "count"] = np.inf
    with pytest.raises(ParameterError, match="NaN or infinity in count;"): fit_scaling(X, ts, segment, train)


@pytest.mark.parametrize("scaler", SCALERS)
@given(values=st.lists(anything, min_size=8, max_size=20))
@quick
def test_whatever_comes_the_output_is_finite(scaler, values):
    X, ts, segment, train = table(100 + len(values), breaks=(50,))
    X.iloc[100:] = np.repeat(np.array(values, np.float32)[:,None], 4, axis=1)
    z = apply_scaling(X, ts, segment, fit_scaling(X, ts, segment, np.arange(len(X)) < 100, scaler=scaler)).to_numpy()
    assert np.isfinite(z).all() and np.abs(z).max() <= sc.LIMIT


# ------------------------------------------------------------------------------------------------------------------ quantiser

@given(x=st.lists(st.floats(0, 1e5), min_size=1, max_size=60), bins=st.integers(2, 12), kind=st.sampled_from(["quantile", "unit"]),
       other=st.lists(numbers, max_size=20))
@quick
def test_every_value_has_a_bin_and_the_shares_add_up(x, bins, kind, other):
    s = fit_quantiser(x, bins, kind)
    assert 1 <= len(s["values"]) == len(s["edges"]) + 1 <= bins and json.loads(json.dumps(s, allow_nan=False)) == s
    values, train = np.r_[x, other], np.arange(len(x) + len(other)) < len(x)
    k = quantise(values, s)
    assert k.min() >= 0 and k.max() < len(s["values"]) and np.array_equal(k, [sum(v >= e for e in s["edges"]) for v in values])
    t = coverage_table(values, train, s)
    assert t.train.sum() == pytest.approx(1) and t.train.iloc[0] == t.train.iloc[-1] == 0
    assert np.isnan(t.elsewhere).all() if not other else t.elsewhere.sum() == pytest.approx(1)
    for b in set(k[train]): assert unquantise(b, s) == pytest.approx(np.array(x)[k[train] == b].mean())


def test_quantile_bins_share_training_equally_and_unit_bins_are_equally_wide():
    x = np.random.default_rng(9).gamma(1, 2, 10_000)
    t = coverage_table(x, np.ones(10_000, bool), fit_quantiser(x, 20))
    assert np.allclose(t.train[1:-1], .05, atol=1e-3)
    s = fit_quantiser(x, 20, "unit", cover=.95)
    assert np.allclose(np.diff(s["edges"]), s["edges"][0]) and (x < s["edges"][-1]).mean() == pytest.approx(.95, abs=1e-3)


def test_what_a_quantiser_refuses():
    with pytest.raises(TooShortError, match="there are none"): fit_quantiser([])
    with pytest.raises(ParameterError, match="whole number"): fit_quantiser([1.], 1)
    with pytest.raises(ParameterError, match="not negative"): fit_quantiser([-1.], 3, "unit")
    with pytest.raises(ParameterError, match="NaN has no bin"): quantise([np.nan], fit_quantiser([1., 2.]))
    with pytest.raises(ParameterError, match="from 0 to 1"): unquantise([2], fit_quantiser([1., 2.], 2))
    assert fit_quantiser([5., 5, 5], 8)["values"] == [5.], "ties leave one bin"
