"Scores taken apart by when they were earned: the parts, the rows they hold, and a test that says when they differ."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import t as student, ttest_ind

from lobresearch.errors import ParameterError, TooShortError
from lobresearch.evidence.bootstrap import intervals
from lobresearch.forecast.breakdown import (KINDS, TERCILES, breakdown, cell_scores, cells, fig_breakdown, fit_terciles, homogeneity,
                                            homogeneity_table)

HOUR = 3_600_000_000


def smooth(n, h, rng): return np.convolve(rng.normal(0, 1, n+h-1), np.ones(h)/h**.5, "valid")


def hours(rho, seed, n=900, h=10):
    rng = np.random.default_rng(seed)
    e, r = smooth(len(rho)*n, h, rng), np.repeat(rho, n)
    return e, r*e + (1-r**2)**.5*smooth(len(rho)*n, h, rng), np.repeat([f"{i:02d}" for i in range(len(rho))], n)


def test_terciles_look_at_training_rows_only():
    vol, train = np.r_[np.arange(1., 10), 1e6, 1e6], np.arange(11) < 9
    assert fit_terciles(vol, train) == pytest.approx([11/3, 19/3])
    vol[9:] = np.nan
    assert fit_terciles(vol, train) == pytest.approx([11/3, 19/3])
    with pytest.raises(TooShortError): fit_terciles(vol, ~train)


def test_day_and_hour_are_utc_and_every_second_has_one():
    ts = 1_735_689_600_000_000 + np.arange(0, 30*3600, 60)*1_000_000  # from 2025-01-01 00:00 UTC
    c = cells(ts, np.linspace(0, 3, len(ts)), [1., 2.])
    assert c.day.iloc[0] == "2025-01-01" and c.day.iloc[-1] == "2025-01-02" and (c.day == "2025-01-01").sum() == 24*60
    assert c.hour.iloc[60] == "01" and c.hour.nunique() == 24 and (c["all"] == "all").all()
    assert [c.volatility.iloc[i] for i in (0, len(ts)//2, -1)] == list(TERCILES)


def test_a_volatility_on_the_cut_is_below_it_and_one_that_is_missing_is_nowhere():
    c = cells([0, 1, 2, 3], [1., 1.5, 2., np.nan], [1., 2.])
    assert c.volatility.tolist() == ["low", "middle", "middle", ""]
    with pytest.raises(ParameterError): cells([0, 1], [1.], [1., 2.])


@given(seed=st.integers(0, 999), parts=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_a_cell_s_score_is_that_of_its_rows_alone(seed, parts):
    rng = np.random.default_rng(seed)
    y, y_hat, cell = rng.normal(0, 1, 500), rng.normal(0, 1, 500), rng.integers(0, parts, 500).astype(str)
    y[::9] = np.nan
    t = cell_scores(y, y_hat, cell, 5, 20, 1)
    assert t.n.sum() == np.isfinite(y).sum() and t.cell.tolist() == sorted(set(cell))
    for r in t.itertuples():
        i = (cell == r.cell) & np.isfinite(y)
        assert r.pearson == pytest.approx(np.corrcoef(y[i], y_hat[i])[0, 1])
        assert r.r2 == pytest.approx(1 - ((y[i] - y_hat[i])**2).sum()/(y[i]**2).sum())
        s = intervals(y[i], y_hat[i], 5, 20, 1, ("pearson", "r2"))
        assert (r.pearson_lo, r.r2_hi) == pytest.approx((s["pearson_lo"], s["r2_hi"]), nan_ok=True)


def test_short_cells_and_constant_forecasts_say_why_they_have_nothing():
    y = np.random.default_rng(0).normal(0, 1, 100)
    t = cell_scores(y, y, np.repeat(["a", "b"], [79, 21]), 10, 10, 0)
    assert t.note.tolist() == ["too few blocks for an interval"]*2 and t.blocks.tolist() == [7, 2] and t.pearson_lo.isna().all()
    assert cell_scores(y, 0*y, np.repeat("a", 100), 10, 10, 0).note[0] == "a constant series has no correlation"
    assert len(cell_scores(y, y, np.repeat("", 100), 10, 10, 0)) == 0


def test_terciles_come_in_order_of_size():
    y = np.arange(9.)
    assert cell_scores(y, y, np.tile(["high", "low", "middle"], 3), 1, 2, 0).cell.tolist() == ["low", "middle", "high"]


@given(a=st.floats(-.5, .5), b=st.floats(-.5, .5), s=st.floats(.01, .2), t=st.floats(.01, .2), n=st.integers(8, 200), m=st.integers(8, 200))
@settings(max_examples=40, deadline=None)
def test_two_cells_are_welch_s_t_test(a, b, s, t, n, m):
    got = homogeneity(pd.DataFrame(dict(blocks=[n, m], pearson=[a, b], pearson_se=[s, t])), draws=10)
    se = np.hypot(s, t)
    df = se**4/(s**4/(n-1) + t**4/(m-1))
    assert got["statistic"] == pytest.approx(((a-b)/se)**2, rel=1e-6, abs=1e-9)
    assert got["p"] == pytest.approx(2*student.sf(abs(a-b)/se, df), rel=1e-5, abs=1e-12)


def test_the_test_of_means_is_scipy_s_when_blocks_are_single_values():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 1, 30), rng.normal(.5, 2, 40)
    table = pd.DataFrame(dict(blocks=[30, 40], pearson=[a.mean(), b.mean()], pearson_se=[a.std(ddof=1)/30**.5, b.std(ddof=1)/40**.5]))
    assert homogeneity(table, draws=10)["p"] == pytest.approx(ttest_ind(a, b, equal_var=False).pvalue)


def test_the_test_rejects_equal_cells_about_as_often_as_it_says_and_finds_unequal_ones():
    p = lambda rho, seed: homogeneity(cell_scores(*hours(rho, seed), 100, 2, 0), draws=10)["p"]
    equal = np.array([p([.3]*5, s) for s in range(200)])
    assert .01 <= (equal < .05).mean() <= .12 and .3 < (equal < .5).mean() < .7
    assert np.mean([p([.1, .3, .3, .5], s) < .05 for s in range(30)]) > .8


def test_chance_spreads_equal_cells_beyond_its_bound_about_once_in_twenty():
    got = [homogeneity(cell_scores(*hours([.3]*5, s), 100, 2, 0), draws=500) for s in range(150)]
    assert .01 <= np.mean([h["spread"] > h["by_chance"] for h in got]) <= .12


def test_cells_without_an_interval_take_no_part():
    t = pd.DataFrame(dict(blocks=[50, 50, 3], pearson=[.1, .1, .9], pearson_se=[.05, .05, np.nan]))
    assert homogeneity(t)["cells"] == 2 and homogeneity(t)["spread"] == 0
    assert np.isnan(homogeneity(t.iloc[1:])["p"])


def study(rho_wild=.5, n=3*3600, h=10, seed=0):
    rng, ts = np.random.default_rng(seed), (np.arange(n) + 23*3600)*1_000_000
    wild = (np.arange(n)//1200) % 2 == 1
    e, x = smooth(n, h, rng), smooth(n, h, rng)
    return {"S": (ts, {("ridge", h): (e, np.where(wild, rho_wild, 0)*e + x), ("zero", h): (e, 0*e)})}, {"S": cells(ts, 1.*wild, [-.5, .5])}


def test_all_kinds_take_the_same_seconds_apart_and_differences_are_found_where_they_are():
    test, where = study()
    T = breakdown(test, where, {("S", 10): ["ridge", "zero"]}, n=50)
    assert T.groupby(["model", "kind"]).n.sum().unique().tolist() == [3*3600] and set(T.kind) == set(KINDS)
    assert T[(T.kind == "day")].cell.unique().tolist() == ["1970-01-01", "1970-01-02"]
    H = homogeneity_table(T).set_index(["model", "kind"])
    assert H.p_holm["ridge", "volatility"] < .01 and H.p["zero"].isna().all() and H.p_holm["zero"].isna().all()
    ok = H.p.notna()
    assert (H.p_holm[ok] >= H.p[ok]).all() and H.p_holm[ok].min() == pytest.approx(min(1, ok.sum()*H.p[ok].min()))


def test_only_the_models_asked_for_and_nothing_where_there_is_nothing():
    test, where = study()
    assert set(breakdown(test, where, {("S", 10): ["zero"]}, n=5).model) == {"zero"}
    none = breakdown(test, where, {("S", 60): ["ridge"]}, n=5)
    assert len(none) == 0 and len(homogeneity_table(none)) == 0 and len(breakdown({}, {}, {})) == 0


def test_the_figure_has_a_panel_a_symbol_and_kind():
    test, where = study()
    test, where = {s: test["S"] for s in "AB"}, {s: where["S"] for s in "AB"}
    T = breakdown(test, where, {(s, 10): ["ridge"] for s in "AB"}, n=20)
    fig, t = fig_breakdown(T, 10)
    assert len(fig.axes) == 4 and len(t) == len(T) and [x.get_text() for x in fig.axes[3].get_xticklabels()] == ["middle", "high"]
    fig, _ = fig_breakdown(T, 10, ["day", "hour", "volatility"])
    assert len(fig.axes) == 6
