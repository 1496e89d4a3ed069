"Ridge against scikit-learn; scores against numpy, scipy and hand-worked numbers; the same rows for all models."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import Ridge

from lobresearch.errors import ParameterError, TooShortError
from lobresearch.forecast.baselines import fit_ridge, predict_ridge, solve, standardise
from lobresearch.forecast.scoring import COLUMNS, calibration, fig_calibration, fig_learning, fig_scores, pairs, rows_of, score, score_table
from lobresearch.plots import FAMILY, label

SEC = 1_000_000


@given(seed=st.integers(0, 99), k=st.integers(1, 6), penalty=st.floats(1e-2, 1e4))
@settings(max_examples=30, deadline=None)
def test_ridge_is_scikit_learn_s(seed, k, penalty):
    rng = np.random.default_rng(seed)
    Z, y = rng.normal(0, 1, (80, k)), rng.normal(1, 2, 80)
    w, b = solve(Z, y, [penalty])
    ref = Ridge(alpha=penalty).fit(Z, y)
    assert np.allclose(w[0], ref.coef_, atol=1e-8) and b[0] == pytest.approx(ref.intercept_, abs=1e-8)


def test_twin_features_and_constant_ones_do_no_harm():
    rng = np.random.default_rng(0)
    a = rng.normal(0, 1, 400)
    X = pd.DataFrame(dict(a=a, twin=a, constant=7., missing=np.nan))
    y, train = 2*a + rng.normal(0, .1, 400), np.arange(400) < 300
    with np.errstate(all="ignore"):
        import warnings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # numpy, on a column that is NaN throughout
            s = fit_ridge(X, y, train, ~train, [1e-3, 1.])
    assert np.corrcoef(predict_ridge(X, s), y)[0, 1] > .99
    assert s["weights"][0] == pytest.approx(s["weights"][1]) and s["weights"][2:] == [0, 0]


def test_the_penalty_is_the_one_with_the_least_error_on_validation():
    rng = np.random.default_rng(1)
    X = pd.DataFrame(rng.normal(0, 1, (300, 20)), columns=[f"f{i}" for i in range(20)])
    y, train = .2*X["f0"].to_numpy() + rng.normal(0, 1, 300), np.arange(300) < 150
    s = fit_ridge(X, y, train, ~train)
    assert s["penalty"] == float(min(s["tried"], key=s["tried"].get))
    e = ((predict_ridge(X, s) - y)[~train]**2).mean()
    assert e == pytest.approx(min(s["tried"].values()))


def test_a_row_with_a_missing_label_is_no_row():
    rng = np.random.default_rng(2)
    X = pd.DataFrame(rng.normal(0, 1, (200, 3)), columns=list("abc"))
    y, train = X["a"].to_numpy().copy(), np.arange(200) < 120
    y[::5] = np.nan
    keep = np.isfinite(y)
    assert fit_ridge(X, y, train, ~train) == fit_ridge(X[keep], y[keep], train[keep], ~train[keep])
    with pytest.raises(TooShortError): fit_ridge(X, y*np.nan, train, ~train)


def test_extreme_features_are_cut(): assert standardise([[1e9, -1e9]], np.zeros(2), np.ones(2)).tolist() == [[5, -5]]


def test_scores_are_numpy_s_and_scipy_s():
    rng = np.random.default_rng(3)
    y = rng.standard_t(3, 4000)
    p = .2*y + rng.normal(0, 1, 4000)
    s = score(y, p, 100, 200, 0)
    assert s["pearson"] == pytest.approx(pearsonr(p, y)[0]) and s["rank_ic"] == pytest.approx(spearmanr(p, y)[0])
    assert s["r2"] == pytest.approx(1 - ((y-p)**2).sum()/(y**2).sum())  # against the zero forecast, not the mean
    assert s["mae"] == pytest.approx(np.abs(y-p).mean()) and s["rmse"] == pytest.approx(((y-p)**2).mean()**.5)
    assert s["pearson_lo"] < s["pearson"] < s["pearson_hi"] and s["n"] == 4000


def test_the_smallest_detectable_correlation_is_that_of_the_textbook_for_independent_rows():
    "2.8 standard errors of 1/sqrt(n)"
    rng = np.random.default_rng(4)
    s = score(rng.normal(0, 1, 10_000), rng.normal(0, 1, 10_000), 10, 500, 0)
    assert s["detectable"] == pytest.approx(2.8/100, rel=.15)


def test_a_constant_forecast_has_no_correlation_and_says_why():
    y = np.random.default_rng(5).normal(0, 1, 2000)
    s = score(y, np.zeros(2000), 50, 100, 0)
    assert np.isnan(s["pearson"]) and np.isnan(s["detectable"]) and s["r2"] == 0 and "constant forecast" in s["note"]


def frame(rows): return pd.DataFrame(rows, columns=COLUMNS)


def study(n=3000, seed=0):
    rng, ts = np.random.default_rng(seed), np.arange(n)*SEC
    y = pd.DataFrame({"r_10": rng.normal(0, 1, n), "r_60": rng.normal(0, 2, n)}, index=pd.Index(ts, name="ts"))
    P = [pd.DataFrame(dict(symbol="S", ts=ts, horizon=h, model=m, seed=s, split="test", y_hat=.3*y[f"r_{h}"].to_numpy() + rng.normal(0, 1, n)))
         for h in (10, 60) for m, seeds in (("ridge", [1]), ("deeplob_tcn", [1, 2])) for s in seeds]
    return pd.concat(P)[COLUMNS], {"S": y}


def test_all_models_are_scored_on_the_same_rows():
    P, Y = study()
    hard = (P.model == "ridge") & (P.horizon == 10) & (P.ts < 1000*SEC)  # ridge abstains from these
    T = score_table(P[~hard], Y, block=100, n_boot=50)
    assert T[T.horizon == 10].n.tolist() == [2000, 2000] and T[T.horizon == 60].n.tolist() == [3000, 3000]
    alone = score_table(P[P.ts >= 1000*SEC], Y, block=100, n_boot=50)
    pd.testing.assert_frame_equal(T[T.horizon == 10], alone[alone.horizon == 10])


def test_seeds_count_by_the_mean_of_their_forecasts():
    P, Y = study()
    T = score_table(P, Y, block=100, n_boot=50).set_index(["model", "horizon"])
    g = P[(P.model == "deeplob_tcn") & (P.horizon == 10)].pivot(index="ts", columns="seed", values="y_hat")
    y = Y["S"]["r_10"]
    assert T.loc[("deeplob_tcn", 10), "pearson"] == pytest.approx(pearsonr(g.mean(axis=1), y)[0])
    each = [pearsonr(g[s], y)[0] for s in (1, 2)]
    assert T.loc[("deeplob_tcn", 10), "seed_sd"] == pytest.approx(np.std(each, ddof=1))
    assert np.isnan(T.loc[("ridge", 10), "seed_sd"])


def test_the_order_of_the_rows_does_not_matter():
    P, Y = study()
    shuffled = P.sample(frac=1, random_state=0)
    a, b = (score_table(p, Y, block=100, n_boot=50).set_index(["model", "horizon"]).sort_index() for p in (P, shuffled))
    pd.testing.assert_frame_equal(a, b)


def test_pairs_share_their_rows_and_have_nan_where_there_is_no_label():
    P, Y = study()
    Y["S"].loc[Y["S"].index[-60:], "r_60"] = np.nan
    ts, pr = pairs(P, Y, "S")
    assert len(ts) == 3000 and set(pr) == {("ridge", 10), ("deeplob_tcn", 10), ("ridge", 60), ("deeplob_tcn", 60)}
    assert np.isnan(pr[("ridge", 60)][0][-60:]).all() and np.isfinite(pr[("ridge", 10)][0]).all()


def test_wrong_tables_are_refused():
    P, Y = study(50)
    with pytest.raises(ParameterError, match="lack y_hat"): score_table(P.drop(columns="y_hat"), Y)
    with pytest.raises(ParameterError, match="there twice"): score_table(pd.concat([P, P]), Y)
    with pytest.raises(ParameterError, match="no label r_10 of S"): score_table(P, {})
    with pytest.raises(ParameterError, match="split 'final'"): score_table(P, Y, "final")


def test_calibration_is_by_hand():
    c = calibration([0., 4, 2, 4], [1., 3, 1, 3], bins=2, block=1)
    assert c[["forecast", "realised", "n"]].values.tolist() == [[1, 1, 2], [3, 4, 2]] and c.se.tolist() == pytest.approx([.5**.5, 0])
    assert len(calibration(np.arange(9.), np.zeros(9), bins=3, block=1)) == 1  # equal forecasts cannot be told apart


def test_the_same_second_twice_is_refused_only_where_it_is_scored():
    P, Y = study(50)
    both = pd.concat([P, P[P.model == "ridge"].assign(split="oof")])  # an out-of-fold forecast of the same second is another split
    assert len(score_table(both, Y, block=10, n_boot=10)) == 4


def test_a_model_that_is_missing_for_a_horizon_leaves_the_others_alone():
    P, Y = study()
    part = P[~((P.model == "deeplob_tcn") & (P.horizon == 60))]
    T = score_table(part, Y, block=100, n_boot=50)
    assert list(zip(T.model, T.horizon)) == [("ridge", 10), ("deeplob_tcn", 10), ("ridge", 60)]
    whole = score_table(P, Y, block=100, n_boot=50)
    pd.testing.assert_frame_equal(T[T.horizon == 10], whole[whole.horizon == 10])


def test_the_figures_show_what_their_tables_say():
    P, Y = study()
    T = score_table(P, Y, block=100, n_boot=50)
    fig, t = fig_scores(T, pd.DataFrame(dict(symbol=["S"], horizon=[10], ceiling=[.5], ceiling_se=[.01])), {("S", 10): "ridge"})
    assert len(t) == 4 and len(fig.axes) == 2
    assert "ceiling, ± 2 se" in fig.axes[0].get_legend_handles_labels()[1] and not fig.axes[1].get_legend_handles_labels()[1]
    fig, t = fig_calibration(P, Y, block=100)
    assert set(zip(t.model, t.horizon)) == {("ridge", 10), ("ridge", 60), ("deeplob_tcn", 10), ("deeplob_tcn", 60)} and t.n.sum() == 4*3000
    with pytest.raises(ParameterError, match="None of the models"): fig_calibration(P, Y, ("forest",))


def test_every_row_of_a_figure_bears_its_model_s_name_and_score():
    T = pd.concat([pd.DataFrame(dict(symbol=[s], horizon=[h], model=[m], pearson=[.1*k], pearson_lo=[.1*k-.05], pearson_hi=[.1*k+.05]))
                   for s in ("A", "B") for h in (10, 60) for k, m in enumerate(FAMILY, 1) if not (s == "B" and m == "ridge")])
    fig, _ = fig_scores(T)
    at = rows_of(FAMILY)
    assert [x.get_text() for x in fig.axes[0].get_yticklabels()] == [label(m) for m in at] and fig.axes[0].get_yticks().tolist() == list(at.values())
    dots = {line.get_ydata()[0]: line.get_xdata()[0] for line in fig.axes[0].lines if line.get_marker() not in ("None", None, "")}
    assert dots == {at[m]: pytest.approx(.1*k) for k, m in enumerate(FAMILY, 1)}
    assert at["ridge"] - at["ridge_ofi"] == 1 and at["lightgbm"] - at["logistic"] > 2  # families stand apart


@pytest.mark.parametrize("select, kept", [("correlation", 3), ("loss", 2)])
def test_the_learning_curves_mark_the_epoch_that_was_kept(select, kept):
    nets = ("tcn", "lstm", "deeplob_tcn", "transformer", "hierarchical")
    H = pd.DataFrame([dict(symbol=s, model=m, seed=k, epoch=e, train_loss=1/e, loss=abs(e-2)+.5, correlation=-abs(e-3))
                      for s in "ST" for m in nets for k in (1, 2) for e in (1, 2, 3, 4)])
    fig, t = fig_learning(H, "T", select)
    assert set(t.symbol) == {"T"} and len(t) == 5*2*4
    marks = [line.get_xdata()[0] for ax in fig.axes for line in ax.lines if line.get_marker() == "o"]
    titles = [t for ax in fig.axes for loc in ("left", "center") if (t := ax.get_title(loc=loc))]  # where they stand is the style's affair
    assert marks == [kept]*10 and titles == ["LSTM", "TCN", "DeepLOB-TCN", "Transformer", "two-scale TCN"]
