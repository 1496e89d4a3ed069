"Comparisons of forecasts: by hand, against statsmodels, arch and scipy; right about made-up models of known order."
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from arch.bootstrap import MCS, CircularBlockBootstrap
from hypothesis import given, settings, strategies as st
from statsmodels.stats.multitest import multipletests

from lobresearch.forecast.ranking import LEVEL, SIZE, additions, against, chosen, confidence_sets, difference, failures, finding, holm, nested, relation, verdict
from lobresearch.forecast.scoring import COLUMNS, score_table, sides
from lobresearch.plots import FAMILY, color, family, label, marker, ordered

SEC = 1_000_000


def overlapping(n, h, seed=0):
    return np.convolve(np.random.default_rng(seed).normal(0, 1, n + h - 1), np.ones(h), "valid")


def study(n=6000, symbols=("A", "B"), horizons=(5, 20), seed=0, nets=("tcn",)):
    "Models of a known order: a network above ridge above ridge_ofi above a forest that knows nothing"
    rng, ts, P, Y = np.random.default_rng(seed), np.arange(n)*SEC, [], {}
    for k, s in enumerate(symbols):
        y = {h: overlapping(n, h, 10*k + h) for h in horizons}
        Y[s] = pd.DataFrame({f"r_{h}": v for h, v in y.items()}, index=pd.Index(ts, name="ts"))
        for h in horizons:
            for m, skill, seeds in (("zero", 0, 1), ("ridge_ofi", .1, 1), ("ridge", .2, 1), ("forest", 0, 1), *((m, .4, 2) for m in nets)):
                for j in range(seeds):
                    z = .2*(skill*y[h] + .3*h**.5*(m != "zero")*rng.normal(0, 1, n))
                    P.append(pd.DataFrame(dict(symbol=s, ts=ts, horizon=h, model=m, seed=j, split="test", y_hat=z)))
    return pd.concat(P)[COLUMNS], Y


@pytest.fixture(scope="module")
def made():
    P, Y = study()
    return P, Y, sides(P, Y)


def test_a_difference_of_correlations_is_numpy_s_and_its_interval_arch_s():
    rng = np.random.default_rng(1)
    y = overlapping(3000, 10)
    a, b = y + rng.normal(0, 6, 3000), y + rng.normal(0, 9, 3000)
    corr = lambda y, a, b: np.corrcoef(a, y)[0, 1] - np.corrcoef(b, y)[0, 1]  # noqa: E731
    d, lo, hi = difference(y, a, b, 100, 2000, 0)
    assert d == pytest.approx(corr(y, a, b))
    ref = CircularBlockBootstrap(100, y, a, b, seed=np.random.default_rng(2)).conf_int(corr, 2000, method="percentile")[:, 0]
    assert lo == pytest.approx(ref[0], abs=.006) and hi == pytest.approx(ref[1], abs=.006)


@given(seed=st.integers(0, 999), a=st.floats(.1, 10), c=st.floats(-5, 5))
@settings(max_examples=25, deadline=None)
def test_a_difference_turns_its_sign_with_the_order_and_does_not_see_scale(seed, a, c):
    rng = np.random.default_rng(seed)
    y, u, v = rng.normal(0, 1, (3, 400))
    one, other, scaled = (difference(y, *p, 20, 50, seed) for p in ((u, v), (v, u), (a*u + c, v)))
    assert other[0] == pytest.approx(-one[0]) and other[1] == pytest.approx(-one[2]) and scaled == pytest.approx(one, abs=1e-9)
    assert difference(y, u, u, 20, 50, seed) == (0, 0, 0)


def test_too_few_blocks_give_no_interval_and_a_constant_no_difference():
    y, a = np.random.default_rng(0).normal(0, 1, (2, 100))
    assert np.isnan(difference(y, a, -a, 20, 50, 0)[1:]).all()
    assert np.isnan(difference(y, a, 0*a, 5, 50, 0)).all()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_holm_by_its_definition(p):
    "The smallest of the larger ones, each as large as those before it; a missing test changes nothing"
    for i, x in enumerate(p):
        before = [q for j, q in enumerate(p) if (q, j) <= (x, i)]
        assert holm(p)[i] == pytest.approx(min(1, max((len(p) - k)*q for k, q in enumerate(sorted(before)))))
    assert np.array_equal(holm([np.nan, *p, np.nan])[1:-1], holm(p)) and np.isnan(holm([np.nan, *p])[0])


def test_holm_is_statsmodels_s():
    p = np.random.default_rng(0).beta(.3, 3, 40)
    assert np.allclose(holm(p), multipletests(p, method="holm")[1])


def test_no_test_no_p(): assert np.isnan(holm([np.nan, np.nan])).all() and len(holm([])) == 0


def test_who_contains_whom():
    models = ["zero", "last_return", "ridge_ofi", "ridge", "tcn", "deeplob_tcn_pooled"]
    assert [p for p in nested(models) if p[0] != "zero"] == [("ridge_ofi", "ridge")]
    assert [p for p in nested(models, True) if p[0] == "ridge"] == [("ridge", "tcn"), ("ridge", "deeplob_tcn_pooled")]
    assert {b for a, b in nested(models) if a == "zero"} == set(models) - {"zero"}


def newey_west(d, lags):
    "t of the mean by statsmodels"
    return sm.OLS(d, np.ones(len(d))).fit(cov_type="HAC", cov_kwds=dict(maxlags=lags, use_correction=False)).tvalues[0]


def test_additions_are_clark_and_west_s_with_statsmodels_errors_and_holm_s_p(made):
    P, Y, S = made
    A = additions(S, straight=True)
    y, w = S["A", 20]["y"].to_numpy(), S["A", 20]
    r, t = w["ridge", 0].to_numpy(), (w["tcn", 0] + w["tcn", 1]).to_numpy()/2
    row = A[(A.symbol == "A") & (A.horizon == 20) & (A.small == "ridge")].iloc[0]
    f = (y-r)**2 - (y-t)**2 + (r-t)**2
    assert row.gain == pytest.approx(f.mean()) and row.t == pytest.approx(newey_west(f, 38))
    from scipy.stats import norm
    raw = norm.sf(A[A.symbol == "A"].t)
    assert np.allclose(A[A.symbol == "A"].p, multipletests(raw, method="holm")[1])
    knows = A[(A.small == "zero") & (A.large != "forest")]
    assert (knows.p < LEVEL).all() and (A[A.large == "forest"].p > LEVEL).all()


def test_against_a_reference_is_diebold_and_mariano_s_test(made):
    P, Y, S = made
    R = against(S, "ridge", 200, 100)
    w, h = S["B", 5], 5
    y = w["y"].to_numpy()
    d = (y - w["ridge", 0].to_numpy())**2 - (y - w["ridge_ofi", 0].to_numpy())**2
    row = R[(R.symbol == "B") & (R.horizon == h) & (R.model == "ridge_ofi")].iloc[0]
    n = len(y)
    assert row.gain == pytest.approx(d.mean()) and row.gain < 0
    assert row.t == pytest.approx(newey_west(d, 2*(h-1))*((n + 1 - 2*h + h*(h-1)/n)/n)**.5)
    assert row["diff"] == pytest.approx(np.corrcoef(w["ridge_ofi", 0], y)[0, 1] - np.corrcoef(w["ridge", 0], y)[0, 1])
    assert (R[R.model == "tcn"].diff_lo > 0).all() and (R[R.model == "forest"].diff_hi < 0).all()
    assert set(R.model) == {"zero", "ridge_ofi", "forest", "tcn"} and R[R.model == "zero"]["diff"].isna().all()


def test_absolute_errors_have_their_own_test():
    "One forecast is far off once, the other a little off always: the squares prefer the one, the absolutes the other"
    y = np.zeros(400)
    w = pd.DataFrame({"y": y, ("ridge", 0): np.where(np.arange(400) % 20 == 0, 10., 0.), ("tcn", 0): 1.}, index=np.arange(400)*SEC)
    r = against({("S", 1): w}, "ridge", 10, 50).iloc[0]
    assert r.gain == pytest.approx(5 - 1) and r.gain_abs == pytest.approx(.5 - 1)


def test_the_reference_may_differ_by_symbol_and_horizon(made):
    R = against(made[2], {("A", 5): "tcn", ("B", 20): "gone"}, 200, 50)
    assert set(zip(R.symbol, R.horizon)) == {("A", 5)} and set(R.reference) == {"tcn"}


def test_the_confidence_set_is_arch_s_and_holds_the_best(made):
    P, Y, S = made
    M = confidence_sets(S, 200, 200, 3)
    assert M[M.inside].groupby(["symbol", "horizon"]).model.apply(list).map(lambda m: m == ["tcn"]).all()
    y, w = S["A", 5]["y"].to_numpy(), S["A", 5]
    say = {m: w[[c for c in w if c != "y" and c[0] == m]].to_numpy().mean(axis=1) for m in ("zero", "ridge_ofi", "ridge", "forest", "tcn")}
    L = pd.DataFrame({m: (y - v)**2 for m, v in say.items()})
    ref = MCS(L, SIZE, reps=200, block_size=200, method="R", bootstrap="circular", seed=np.random.default_rng(3))
    ref.compute()
    mine = M[(M.symbol == "A") & (M.horizon == 5)].set_index("model")
    assert mine.set_p.to_dict() == ref.pvalues["Pvalue"].to_dict() and mine.loss.to_dict() == pytest.approx(L.mean().to_dict())


def test_where_nothing_can_be_known_zero_is_in_the_set_about_as_often_as_it_promises():
    held = []
    for seed in range(30):
        P, Y = study(1200, ("A",), (5,), seed)
        Y["A"]["r_5"] = overlapping(1200, 5, 1000 + seed)
        held.append(bool(confidence_sets(sides(P, Y), 50, 200, seed).query("model == 'zero'").inside.iloc[0]))
    assert np.mean(held) >= .8  # 1 - SIZE, less what thirty draws scatter


def test_chosen_is_the_best_on_validation_among_those_with_a_test_forecast(made):
    P, Y, _ = made
    T = score_table(P, Y, block=200, n_boot=50)
    V = T.assign(pearson=-T.pearson)
    assert chosen(T, T) == {(s, h): "tcn" for s in "AB" for h in (5, 20)}
    assert all(m != "tcn" for m in chosen(V, T).values())
    assert set(chosen(T, T[(T.model != "tcn") & (T.symbol == "A")])) == {("A", 5), ("A", 20)}


@pytest.fixture(scope="module")
def table(made):
    P, Y, S = made
    T = score_table(P, Y, block=200, n_boot=100)
    shares = pd.DataFrame(dict(symbol="A", horizon=5, model=["tcn", "ridge"], share=[.8, .5], share_se=.05))
    return verdict(T, S, chosen(T, T), 200, 100, 0, shares, dict(tcn=1234))


def test_the_verdict_has_each_model_once_best_first(table, made):
    P, _, _ = made
    assert len(table) == len(P.groupby(["symbol", "horizon", "model"])) and not table.duplicated(["symbol", "horizon", "model"]).any()
    for _, g in table.groupby(["symbol", "horizon"]):
        assert g.pearson.dropna().is_monotonic_decreasing and g.chosen.sum() == 1 and g.model.iloc[-1] == "zero"
    assert table[table.model == "tcn"].weights.eq(1234).all() and table[table.model == "ridge"][["diff", "p"]].isna().all(axis=None)
    assert table.share.notna().sum() == 2 and (table[table.model == "zero"][["zero_p", "share"]].isna()).all(axis=None)


def test_a_verdict_on_a_few_seconds_says_that_it_does_not_know():
    P, Y = study(40)
    T = score_table(P, Y, block=200, n_boot=10)
    v = verdict(T, sides(P, Y), chosen(T, T), 200, 10)
    assert v.inside.isna().all() and v.diff_lo.isna().all()
    text = finding(v[(v.symbol == "A") & (v.horizon == 20)])
    assert "too few for a confidence set" in text and "beyond chance" not in text and "nan" not in text.lower() and "Diebold" not in text


def test_a_verdict_without_ridge_or_with_one_model_alone():
    P, Y = study(2000)
    P = P[P.model.isin(["forest"])]
    T = score_table(P, Y, block=100, n_boot=20)
    v = verdict(T, sides(P, Y), chosen(T, T), 100, 20)
    assert v["diff"].isna().all() and v.inside.all() and "ridge" not in finding(v[(v.symbol == "A") & (v.horizon == 5)])


def row(model="tcn", **over):
    base = dict(model=model, chosen=False, pearson=.2, pearson_lo=.1, pearson_hi=.3, r2=.01, zero_p=.001, diff=.02, diff_lo=.01, diff_hi=.03,
                p=.01, gain=.1, inside=True, share=np.nan, share_se=np.nan, detectable=.05)
    return {**base, **over}


def words(*rows):
    v = pd.DataFrame(rows)
    return v.assign(inside=v.inside.astype("boolean"))


def test_the_finding_says_what_the_row_says():
    ridge = row("ridge", pearson=.18, diff=np.nan, diff_lo=np.nan, diff_hi=np.nan, p=np.nan, inside=False)
    text = finding(words(row(chosen=True), ridge))
    assert "DeepLOB" not in text and "Chosen on validation: TCN. On test its correlation is 0.200 [0.100, 0.300], its R² 1.00 %." in text
    assert "higher than ridge's, beyond chance (0.180): the difference is 0.020 [0.010, 0.030]; the squared error is smaller, p = 0.010" in text
    assert "smallest squared error: TCN." in text and "Best on test" not in text
    alike = finding(words(row(chosen=True, diff_lo=-.01), {**ridge, "pearson": .25, "inside": True}))
    assert "cannot be told apart from ridge's" in alike and "Best on test, which could not be known before: ridge on features, 0.250." in alike
    assert "smallest squared error: TCN and ridge on features." in alike
    assert "Nothing did better on validation" in finding(words({**ridge, "chosen": True}, row()))
    assert "Zero is in it" in finding(words(row(chosen=True), row("zero", pearson=np.nan, zero_p=np.nan)))


def test_many_models_are_named_by_those_that_are_missing():
    ridge = row("ridge", diff=np.nan, diff_lo=np.nan, diff_hi=np.nan, p=np.nan)
    many = [row(chosen=True, diff_lo=-.01, p=.5), ridge, *(row(m, r2=-.01) for m in ("lstm", "cnn_lstm", "forest", "lightgbm")), row("transformer", inside=False)]
    text = finding(words(*many))
    assert "squared error: all 7 models but Transformer." in text and "nor can the squared errors, p = 0.500 by" in text
    better = finding(words({**many[0], "diff_lo": .01}, ridge))
    assert "beyond chance" in better and "the squared errors cannot be told apart, p = 0.500 by" in better
    assert "zero's: LSTM, CNN-LSTM, random forest and LightGBM." in finding(words(*many, *(row(m) for m in ("tcn_a", "tcn_b", "tcn_c"))))


def test_relation_needs_an_interval():
    assert [relation(row(diff_lo=lo, diff_hi=hi)) for lo, hi in ((.1, .2), (-.2, -.1), (-.1, .1), (np.nan, np.nan))] == ["better", "worse", "alike", "untested"]


def test_failures_are_named_and_counted():
    v = words(row("tcn", diff_lo=-.03, diff_hi=-.01), row("lstm", pearson=np.nan, zero_p=1., diff_lo=np.nan, diff_hi=np.nan), row("forest", zero_p=.2, r2=-.01),
              row("ridge"), row("zero", pearson=np.nan, zero_p=np.nan, r2=0.))
    assert failures(v) == ["Constant, and so without a correlation: LSTM.", "Not shown to add anything to zero: random forest.",
                           "Networks below ridge, by the 95 % interval of the difference: TCN.", "A larger squared error than zero's: random forest."]
    assert failures(words(row("tcn"), row("ridge"))) == []
    assert failures(words(*(row(m, r2=-.1) for m in ("ridge", "tcn", "forest")))) == ["A larger squared error than zero's: all 3 models."]


@given(st.permutations([*FAMILY, "deeplob_tcn_book", "unheard_of"]))
@settings(max_examples=20, deadline=None)
def test_models_stand_in_the_same_order_family_by_family(models):
    got = ordered(models)
    assert got == [m for m in FAMILY if m != "deeplob_tcn_pooled"][:13] + got[13:] and sorted(got) == sorted(models)
    assert got[-1] == "unheard_of" and len([1 for a, b in zip(got, got[1:]) if family(a) != family(b)]) == len({family(m) for m in models}) - 1
    assert label("unheard_of") == "unheard of" and marker("unheard_of") == "x" and color("deeplob_tcn_book") == color("deeplob_tcn")


def test_no_p_value_from_fewer_rows_than_an_interval_needs():
    "A model that knows the return, on 79 and on 80 horizons of rows"
    rng = np.random.default_rng(0)
    for n, tested in ((399, False), (400, True)):
        y = rng.standard_normal(n)
        w = pd.DataFrame({"y": y, ("ridge", 0): .1*rng.standard_normal(n), ("tcn", 0): y/2})
        A, R = additions({("A", 5): w}), against({("A", 5): w}, "ridge", 50, 50)
        assert A[A.large == "tcn"].p.notna().all() == tested and R[R.model == "tcn"].p.notna().all() == tested
        if tested: assert A[A.large == "tcn"].p.iloc[0] < LEVEL and R[R.model == "tcn"].p.iloc[0] < LEVEL
