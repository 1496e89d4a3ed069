"Forecasts as classes: against scikit-learn, against numbers worked by hand, and against what an interval promises."
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (accuracy_score, average_precision_score, brier_score_loss, f1_score, log_loss,
                             matthews_corrcoef, roc_auc_score)

from lobresearch.errors import ParameterError, TooShortError
from lobresearch.evidence.bootstrap import block_indices, block_starts, from_sums
from lobresearch.forecast.classes import (SCORES, calibration_error, chances, class_scores, class_table, direction, fig_direction,
                                          fig_reliability, fit_chances, reliability, studentised, _draws, _summands)


def smooth(n, h, rng): return np.convolve(rng.normal(0, 1, n+h-1), np.ones(h)/h**.5, "valid")


def series(n, rho, seed, h=5):
    rng = np.random.default_rng(seed)
    y, e = smooth(n, h, rng), smooth(n, h, rng)
    return y, rho*y + (1-rho**2)**.5*e


@given(seed=st.integers(0, 999), rows=st.integers(5, 200), values=st.integers(1, 40), still=st.floats(0, .8))
@settings(max_examples=60, deadline=None)
def test_the_areas_are_scikit_learn_s_with_ties_and_without(seed, rows, values, still):
    rng = np.random.default_rng(seed)
    y, y_hat = np.where(rng.random(rows) < still, 0, rng.normal(0, 1, rows)), rng.integers(0, values, rows)/7
    y[:2] = 1, -1
    s, moved = direction(y, y_hat, 50, 5, 0), y != 0
    assert s["auc"] == pytest.approx(roc_auc_score(y[moved] > 0, y_hat[moved]), abs=1e-12)
    assert s["ap"] == pytest.approx(average_precision_score(y[moved] > 0, y_hat[moved]), abs=1e-12)
    assert s["base"] == pytest.approx((y[moved] > 0).mean()) and s["moves"] == moved.sum()


def test_each_resample_is_scikit_learn_s_score_of_its_rows():
    y, y_hat = series(400, .4, 0)
    y_hat = np.round(y_hat, 1)
    y[::7] = 0
    y[3], y_hat[11] = np.nan, np.nan
    block, n = 30, 40
    draws = []
    ok = np.isfinite(y) & np.isfinite(y_hat) & (y != 0)
    for starts in block_starts(400, block, n, np.random.default_rng(5)):
        i = block_indices(starts, 400, block)
        i = i[ok[i]]
        draws.append((roc_auc_score(y[i] > 0, y_hat[i]), average_precision_score(y[i] > 0, y_hat[i])))
    at = np.full(400, -1)
    at[ok] = 2*np.unique(y_hat[ok], return_inverse=True)[1] + (y[ok] > 0)
    out, se = np.empty((2, n, 2))
    _draws(np.r_[at, at[:block]], at.max()//2 + 1, block_starts(400, block, n, np.random.default_rng(5)), block, 400, out, se)
    assert np.allclose(out, draws, atol=1e-12)
    assert (se > 0).all()


def test_the_standard_error_is_what_repeated_samples_show():
    many = [direction(*series(1200, .3, seed), 50, 2, 0) for seed in range(150)]
    for m in ("auc", "ap"):
        seen, said = np.std([s[m] for s in many]), np.mean([s[f"{m}_se"] for s in many])
        assert said == pytest.approx(seen, rel=.25)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    truth = direction(*series(300_000, .3, 12345), 50, 2, 0)
    many = [direction(*series(1200, .3, seed), 50, 99, seed) for seed in range(120)]
    for m in ("auc", "ap"):
        held = np.mean([s[f"{m}_lo"] < truth[m] < s[f"{m}_hi"] for s in many])
        assert .88 < held <= 1


def test_a_forecast_turned_round_has_one_less_the_area():
    y, y_hat = series(600, .3, 1)
    a, b = direction(y, y_hat, 50, 99, 0), direction(y, -y_hat, 50, 99, 0)
    assert a["auc"] + b["auc"] == pytest.approx(1) and a["auc_lo"] == pytest.approx(1 - b["auc_hi"])
    assert direction(y, np.exp(y_hat), 50, 99, 0) == a # only the order counts


def test_what_direction_does_where_there_is_nothing_to_order():
    constant = direction(np.tile([1., -1, 1], 100), np.full(300, 2.5), 10, 50, 0)
    assert constant["auc"] == .5 == constant["auc_lo"] == constant["auc_hi"] and constant["ap"] == pytest.approx(2/3)
    for y in (np.ones(300), np.zeros(300), np.full(300, np.nan)):
        s = direction(y, np.arange(300.), 10, 50, 0)
        assert np.isnan(s["auc"]) and np.isnan(s["auc_lo"]) and np.isnan(s["ap"])
    short = direction(*series(79, .3, 0), 10, 50, 0)
    assert 0 < short["auc"] < 1 and np.isnan(short["auc_lo"])
    empty = direction([], [], 10, 50, 0)
    assert np.isnan(empty["auc"]) and np.isnan(empty["base"]) and empty["moves"] == 0
    with pytest.raises(ParameterError): direction([1., 2.], [1.], 1, 10, 0)


@given(seed=st.integers(0, 999), rows=st.integers(20, 150))
@settings(max_examples=40, deadline=None)
def test_class_scores_are_scikit_learn_s(seed, rows):
    rng = np.random.default_rng(seed)
    k, p = rng.integers(-1, 2, rows), rng.dirichlet([1, 1, 1], rows)
    k[:3] = -1, 0, 1
    valid, train = np.array([.3, .3, .4]), np.array([.2, .5, .3])
    s, said = class_scores(k, p, valid, train, 50, 5, 0), p.argmax(1) - 1
    fixed = lambda q: brier_score_loss(k, np.tile(q, (rows, 1)), labels=[-1, 0, 1], scale_by_half=False)
    brier = brier_score_loss(k, p, labels=[-1, 0, 1], scale_by_half=False)
    assert s["accuracy"] == pytest.approx(accuracy_score(k, said))
    assert s["macro_f1"] == pytest.approx(f1_score(k, said, labels=[-1, 0, 1], average="macro", zero_division=0))
    if len(set(said)) > 1: assert s["mcc"] == pytest.approx(matthews_corrcoef(k, said))
    assert s["log_loss"] == pytest.approx(log_loss(k, p, labels=[-1, 0, 1]))
    assert s["brier"] == pytest.approx(brier) and s["brier_base"] == pytest.approx(fixed(valid))
    assert s["brier_skill"] == pytest.approx(1 - brier/fixed(valid)) and s["brier_skill_train"] == pytest.approx(1 - brier/fixed(train))
    assert s["log_base"] == pytest.approx(log_loss(k, np.tile(valid, (rows, 1)), labels=[-1, 0, 1]))
    assert s["majority"] == pytest.approx((k == 1).mean())
    assert s["said_down"] + s["said_flat"] + s["said_up"] == pytest.approx(1)


def test_studentised_intervals_lie_near_the_percentile_ones_and_move_with_the_data():
    y, y_hat = series(6000, .4, 3)
    k = np.sign(np.where(abs(y) < .4, 0, y))
    p = chances(y_hat, fit_chances(*(v[:3000] for v in (y_hat, k))))[3000:]
    shares = np.full(3, 1/3)
    s = class_scores(k[3000:], p, shares, shares, 50, 400, 0)
    for m in SCORES:
        assert s[f"{m}_lo"] < s[m] < s[f"{m}_hi"] and s[f"{m}_se"] > 0
    M = _summands(k[3000:], p, shares, shares)
    for m in ("macro_f1", "mcc", "brier_skill"):
        _, lo, hi = from_sums(SCORES[m], M, 50, 400, np.random.default_rng(0))
        assert s[f"{m}_hi"] - s[f"{m}_lo"] == pytest.approx(hi - lo, rel=.25)


def test_intervals_of_class_scores_hold_the_truth_about_as_often_as_they_say():
    def sums(n, seed):
        y, y_hat = series(n, .3, seed)
        return _summands(np.sign(np.where(abs(y) < .43, 0, y)), chances(y_hat, state), np.full(3, 1/3), np.full(3, 1/3))
    y, y_hat = series(50_000, .3, 77)
    state = fit_chances(y_hat, np.sign(np.where(abs(y) < .43, 0, y)))
    total = sums(300_000, 78).sum(0)
    many = [studentised(SCORES, sums(1000, seed), 50, 99, seed) for seed in range(100)]
    for m in ("accuracy", "macro_f1", "mcc", "brier_skill"):
        assert np.mean([s[f"{m}_lo"] < SCORES[m](total) < s[f"{m}_hi"] for s in many]) > .87


def test_the_studentised_interval_of_a_mean_has_the_standard_error_of_block_sums():
    x = smooth(2000, 5, np.random.default_rng(4))
    s = studentised({"mean": lambda S: S[..., 1]/S[..., 0]}, np.column_stack([np.ones(2000), x]), 20, 300, 0)
    blocks = np.array([np.roll(x, -i)[:20].sum() - 20*x.mean() for i in range(2000)])
    assert s["mean"] == pytest.approx(x.mean()) and s["mean_se"] == pytest.approx(np.sqrt((blocks**2).sum()/20)/2000, rel=1e-6)
    assert np.isnan(studentised({"mean": lambda S: S[..., 1]/S[..., 0]}, np.ones((100, 2)), 20, 10, 0)["mean_lo"])


def test_chances_are_scikit_learn_s_and_know_nothing_but_validation():
    y, y_hat = series(900, .5, 6)
    k = np.sign(np.where(abs(y) < .5, 0, y))
    state = fit_chances(y_hat, k)
    ref = LogisticRegression(C=np.inf, tol=1e-7, max_iter=1000).fit(y_hat[:, None]/y_hat.std(), k)
    assert np.allclose(chances(y_hat, state), ref.predict_proba(y_hat[:, None]/y_hat.std()), atol=1e-6)
    assert np.allclose(chances(1000*y_hat, fit_chances(1000*y_hat, k)), chances(y_hat, state), atol=1e-3) # units do not matter
    assert np.allclose(chances(y_hat, state).mean(0), [(k == c).mean() for c in (-1, 0, 1)], atol=1e-4)
    assert json.loads(json.dumps(state)) == state


def test_chances_of_two_classes_and_of_one():
    y_hat, k = np.r_[np.full(20, -1.), np.ones(20)], np.r_[np.full(15, -1.), np.ones(10), np.full(15, -1.)]
    p = chances([-1., 1.], fit_chances(y_hat, k))
    assert np.allclose(p[:, 0], [.75, .75], atol=1e-3) and (p[:, 1] < 1e-8).all() and np.allclose(p.sum(1), 1)
    with pytest.raises(TooShortError, match="rows of 1"): fit_chances(y_hat, np.ones(40))
    with pytest.raises(TooShortError): fit_chances(y_hat[:10], k[:10])


def test_a_perfect_and_a_useless_calibration():
    rng = np.random.default_rng(7)
    p = rng.uniform(.1, .6, 50_000)
    good, floor = calibration_error(reliability(rng.random(50_000) < p, p, 10, 1))
    off, _ = calibration_error(reliability(rng.random(50_000) < p + .1, p, 10, 1))
    assert good == pytest.approx(floor, rel=.7) and off == pytest.approx(.1, abs=.01)
    few, unknown = calibration_error(reliability([0, 1, 1, 1], np.full(4, .5), 10, 1))
    assert few == pytest.approx(.25) and np.isnan(unknown)


def parts(n=1500, rho=.4, h=5, seed=0):
    y, y_hat = series(3*n, rho, seed, h)
    cut = lambda a: (np.arange(a, a+n), {(m, h): (y[a:a+n], v[a:a+n]) for m, v in (("zero", 0*y), ("ridge", y_hat))})
    return dict(valid={"S": cut(n)}, test={"S": cut(2*n)}, known={"S": pd.DataFrame({f"r_{h}": y[:n]})}), y, y_hat


def test_nothing_is_fitted_on_test_rows():
    args, y, y_hat = parts()
    T, _ = class_table(**args, block=50, n=20)
    ts, pairs = args["test"]["S"]
    half = {k: (a[:700], b[:700]) for k, (a, b) in pairs.items()}
    H, _ = class_table(args["valid"], {"S": (ts[:700], half)}, args["known"], block=50, n=20)
    assert (T[["low", "high"]].values == H[["low", "high"]].values).all()
    assert np.allclose(T.loc[0, ["low", "high"]].astype(float), np.quantile(y[:1500], [1/3, 2/3]))
    assert T.accuracy[1] > T.majority[1] and T.brier_skill_lo[1] > 0
    assert T.auc[0] == .5 and np.isnan(T.mcc[0]) and abs(T.brier_skill[0]) < 1e-3 and T.accuracy[0] == T.majority[0]


def test_symbols_without_validation_or_with_a_price_that_stands_still():
    args, *_ = parts()
    T, B = class_table({}, args["test"], args["known"], block=50, n=10)
    assert len(B) == 0 and T.note.str.contains("no forecasts on validation").all() and (T.auc[1:] > .5).all()
    still = lambda d: {"S": (d["S"][0], {k: (0*y, v) for k, (y, v) in d["S"][1].items()})}
    T, B = class_table(still(args["valid"]), still(args["test"]), {"S": 0*args["known"]["S"]}, block=50, n=10)
    assert T.note.str.contains("two classes").all() and T.auc.isna().all() and len(B) == 0
    T, B = class_table({}, {}, {})
    assert len(T) == 0 and len(B) == 0


def test_figures_show_what_their_tables_say():
    args, *_ = parts()
    T, B = class_table(**args, block=50, n=20)
    fig, t = fig_direction(T)
    assert len(fig.axes) == 1 and list(t.columns) == ["symbol", "horizon", "model", "auc", "auc_lo", "auc_hi"]
    fig, t = fig_reliability(B, ["ridge"])
    assert set(t.model) == {"ridge"} and t.n.sum() == 1500
