"Facts: against series with a known answer, and on recordings that lack what a fact needs."
import math
import warnings

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from statsmodels.tsa.stattools import acf as statsmodels_acf

from lobresearch.errors import ParameterError, TooShortError
from lobresearch.market.fact_figures import fig_acf, fig_ofi_impact, fig_order_signs, fig_returns, fig_spread_depth, samples
from lobresearch.market.book_facts import impact_r2
from lobresearch.market.facts import (GROUPS, VERSIONS, Sample, acf, acf_interval, all_facts, block_sensitivity, ewma_volatility, facts_by_day, facts_table,
                                      facts_versions, past_returns, returns, spread_over_days)
from lobresearch.market.memory_facts import decay_exponent, exponent_interval, fractional_noise
from lobresearch.market.registry import random_grid
from lobresearch.market.return_facts import hill, kurtosis_from_sums

matplotlib.use("Agg")


def with_mid(grid, mid, tick=.1):
    "The grid with its book moved to another mid"
    for i in range(1, 11): grid = grid.assign(**{f"ask_px_{i}": mid + tick*(i-.5), f"bid_px_{i}": mid - tick*(i-.5)})
    return grid


@pytest.fixture(scope="module")
def chance(): return random_grid(8000, np.random.default_rng(0), breaks=(3000,))


def test_acf_is_that_of_statsmodels():
    x = np.random.default_rng(0).standard_normal(500).cumsum()
    n = len(x)
    theirs = statsmodels_acf(x, nlags=20, adjusted=True)
    assert np.allclose(acf(x, np.zeros(n), 20), theirs, atol=1e-9)


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(-10, 10)), min_size=3, max_size=60), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_acf_over_pairs_in_one_segment(rows, longest):
    segment, x = np.cumsum([s for s, _ in rows]), np.array([v for _, v in rows])
    x[::7] = np.nan
    got, ok = acf(x, segment, longest), np.isfinite(x)
    z = x - (x[ok].mean() if ok.any() else 0)
    if not ok.any() or np.nanvar(x) < 1e-8: return
    for k in range(1, longest+1):
        pairs = [z[i]*z[i+k] for i in range(len(x)-k) if segment[i] == segment[i+k] and ok[i] and ok[i+k]]
        want = np.mean(pairs)/np.nanvar(x) if pairs else math.nan
        assert got[k] == pytest.approx(want, abs=1e-6, nan_ok=True)


def test_acf_interval_covers():
    held = []
    for seed in range(120):
        e = np.random.default_rng(seed).standard_normal(4001)
        _, lo, hi = acf_interval(e[1:] + .5*e[:-1], np.zeros(4000), 1, 50, 200, np.random.default_rng(seed))
        held.append(lo <= .4 <= hi)
    assert .88 <= np.mean(held) <= .99


def test_tails():
    rng = np.random.default_rng(0)
    for nu in (2, 4): assert np.median(hill(rng.pareto(nu, 300_000) + 1, (.005, .05))[1]) == pytest.approx(nu, rel=.03)
    x = rng.standard_t(8, 10_000)
    from scipy.stats import kurtosis
    assert kurtosis_from_sums(np.stack([x**p for p in range(5)], 1).sum(0)) == pytest.approx(kurtosis(x, fisher=False))


@pytest.mark.parametrize("hurst", [.6, .8])
def test_fractional_noise_has_its_autocovariance(hurst):
    x = np.array([fractional_noise(2000, hurst, np.random.default_rng(i)) for i in range(400)])
    k = np.arange(4.)
    want = .5*((k+1)**(2*hurst) - 2*k**(2*hurst) + abs(k-1)**(2*hurst))
    assert np.allclose([(x[:, :2000-j]*x[:, j:2000]).mean() for j in range(4)], want, atol=.01)


def test_exponent_of_a_known_memory():
    x = fractional_noise(60_000, .75, np.random.default_rng(1))
    fit = lambda rho: decay_exponent(rho, 2, 200)
    g, level = fit(acf(x, np.zeros(len(x)), 200))
    lo, hi = exponent_interval(g, level, len(x), fit, 200, 40, np.random.default_rng(2))
    assert g == pytest.approx(.5, abs=.08) and lo < .5 < hi and hi - lo < .4
    assert np.isnan(exponent_interval(1.5, .1, 1000, fit, 200, 20, np.random.default_rng(0))).all()


def test_order_flow_impact_of_a_planted_line(chance):
    "Half of the variance of a return is its order flow, by construction"
    rng = np.random.default_rng(3)
    q = rng.standard_normal(len(chance))
    grid = with_mid(chance, 1000*np.exp(1e-4*np.cumsum(q + rng.standard_normal(len(q)))), tick=.001)
    for i in range(1, 11): grid[f"ask_sz_{i}"] = grid[f"bid_sz_{i}"] = 1.
    s = Sample(grid.assign(ofi_1=q), resamples=100, block=100)
    for seconds in (1, 10):
        r2, lo, hi = impact_r2(s, seconds, np.random.default_rng(0))
        assert r2 == pytest.approx(.5, abs=.07) and lo < r2 < hi


def test_returns_do_not_cross_gaps(chance):
    s = Sample(chance)
    assert np.isnan(past_returns(s, 10, overlapping=True)[[*range(10), *range(3000, 3010)]]).all()
    assert np.isfinite(past_returns(s, 1)).sum() == 7998


def test_table(chance):
    t = facts_table(chance, resamples=60, block=200, seed=1)
    assert list(t.key) == list(all_facts())
    assert list(t.columns) == ["key", "group", "fact", "value", "lo", "hi", "interval", "p", "null", "published_lo", "published_hi", "inside", "unit",
                               "source", "reason"]
    have = t[t.value.notna() & t.lo.notna()]
    assert len(have) >= 25 and (have.lo <= have.hi).all() and (have.reason == "").all()
    assert (t[t.value.isna()].reason != "").all() and t[t.value.isna()].inside.isna().all()
    pd.testing.assert_frame_equal(t, facts_table(chance, resamples=60, block=200, seed=1))
    v = t.set_index("key").value
    assert v["spread_tick"] == 1 and v["zero_1"] == pytest.approx(1 - .4*2/3, abs=.02) and abs(v["acf_r_1"]) < .04


def test_a_book_that_never_moves_has_no_tick():
    grid = random_grid(50, np.random.default_rng(0))
    assert Sample(grid).tick == pytest.approx(.1)
    assert math.isnan(Sample(grid.assign(**{c: 1.0 for c in grid if c.startswith(("ask_px", "bid_px"))})).tick)


def test_every_fact_says_what_it_is():
    for k, f in all_facts().items():
        assert f.group in GROUPS and f.label and f.unit and set(f.versions) <= set(VERSIONS) and "raw" in f.versions, k
        assert f.method in ("block bootstrap", "parametric bootstrap", "spread over parts", "asymptotic", "none"), k
        if not callable(f.published) and np.isfinite(f.published).any(): assert f.published[0] < f.published[1] and f.source, k
    assert [f.group for f in all_facts().values()] == sorted((f.group for f in all_facts().values()), key=GROUPS.index)


def test_a_p_value_stands_where_a_null_is_stated_and_nowhere_else(chance):
    t = facts_table(chance, resamples=20, block=200)
    assert t[t.null == ""].p.isna().all()
    have = t[t.value.notna() & (t.group != "season")]
    assert have[have.null != ""].p.notna().all() and len(have[have.p.notna()]) >= 11


def test_versions(chance):
    t = facts_versions(chance, resamples=20, block=200)
    assert list(t.version.unique()) == list(VERSIONS) and t.columns[0] == "version"
    raw, other = t[t.version == "raw"], t[t.version != "raw"]
    assert list(raw.key) == list(all_facts()) and not set(other.group) & {"book"} and other.published_lo.isna().all() and "bps" not in set(other.unit)
    pd.testing.assert_frame_equal(raw.drop(columns="version"), facts_table(chance, resamples=20, block=200))
    z = t[t.version == "standardised"].reset_index(drop=True).drop(columns="version")
    pd.testing.assert_frame_equal(z, facts_table(chance, resamples=20, block=200, version="standardised"))


def test_standardised_returns_know_only_the_past(chance):
    changed = chance.copy()
    changed.iloc[5000:, changed.columns.get_loc("ask_px_1")] += .05
    for h in (1, 10):
        a, b = (returns(Sample(g, version="standardised"), h, True) for g in (chance, changed))
        assert np.array_equal(a[:5000], b[:5000], equal_nan=True)
    z = returns(Sample(chance, version="standardised"), 1)
    assert np.isnan(z[3000:3020]).all() # the volatility starts anew after a gap
    flat = ewma_volatility(chance.index, chance.segment, np.where(np.arange(8000) == 5, 1., 0.), 20)
    assert flat[2999] == pytest.approx(math.sqrt(.1/3000)) and np.isnan(flat[3500])


def test_transformed_returns_keep_sign_and_order(chance):
    raw, t = (returns(s := Sample(chance, version=v), 1) for v in ("raw", "transformed"))
    ok = np.isfinite(raw)
    assert (np.sign(raw[ok]) == np.sign(t[ok])).all() and np.array_equal(np.argsort(raw[ok], kind="stable"), np.argsort(t[ok], kind="stable"))
    assert np.median(np.abs(t[ok & (raw != 0)])) == pytest.approx(np.arcsinh(1)) and s.version == "transformed"


def test_days_are_apart():
    day = 86_400
    grid = random_grid(9000, np.random.default_rng(3))
    grid.index = pd.Index(grid.index.to_numpy() + (3*day - 4000)*1_000_000, name="ts")
    t = facts_by_day(grid, 20, 200, keys=["sd_1", "acf_r_1", "spread_mean"])
    assert list(t.date.unique()) == ["1970-01-03", "1970-01-04"] and t.columns[:2].tolist() == ["date", "version"]
    second = facts_table(grid.iloc[4000:], 20, 200, keys=["sd_1"])
    assert t[(t.date == "1970-01-04") & (t.key == "sd_1")].value.iloc[0] == second.value.iloc[0]
    over = spread_over_days(t).set_index("key")
    assert over.days.eq(2).all() and over.lo.isna().all() and over.loc["sd_1", "mean"] == pytest.approx(t[t.key == "sd_1"].value.mean())
    three = spread_over_days(pd.DataFrame(dict(version="raw", key="k", fact="f", value=[1., 2, 3]))).iloc[0]
    assert three.hi - three["mean"] == pytest.approx(4.302653/math.sqrt(3)) # Student's 97.5 % with two degrees of freedom
    with pytest.raises(TooShortError, match="no day"): facts_by_day(grid.iloc[:0])


def test_longer_blocks_widen_intervals_where_seconds_hang_together():
    rng = np.random.default_rng(4)
    grid = random_grid(12_000, rng)
    wide = np.repeat(rng.uniform(.1, .5, 40), 300) # the spread stays for five minutes
    grid = grid.assign(ask_px_1=100 + wide, bid_px_1=100 - wide)
    t = block_sensitivity(grid, ["spread_mean"], (.1, 1, 2), resamples=300, block=600)
    assert t.ratio.iloc[0] < .7 and t.ratio.iloc[1] == 1 and t.block.tolist() == [60, 600, 1200] and (t.value == t.value[0]).all()
    assert np.isnan(block_sensitivity(grid, ["spread_mean"], (4,), resamples=20, block=600).half_width[0]) # five blocks are too few
    with pytest.raises(ParameterError, match="has no blocks"): block_sensitivity(grid, ["hurst_dfa_r"])


def degenerate(name, grid):
    if name == "empty": return grid.iloc[:0]
    if name == "ten rows": return grid.iloc[:10]
    if name == "two minutes": return grid.iloc[:120]
    if name == "constant": return with_mid(grid, np.full(len(grid), 100.))
    if name == "no trades": return grid.assign(buy_vol=0, sell_vol=0, buy_n=0, sell_n=0, vwap=np.nan)
    if name == "one side trades": return grid.assign(buy_n=1, sell_n=0)
    if name == "one-sided": return grid.assign(**{f"ask_{k}_{i}": np.nan for k in ("px", "sz") for i in range(1, 11)})
    if name == "all gaps": return grid.assign(segment=grid.index)
    if name == "single trade":
        one = np.arange(len(grid)) == 700
        return grid.assign(buy_vol=1.*one, sell_vol=0., buy_n=one.astype(int), sell_n=0)
    if name == "NaNs": return grid.mask(pd.Series(np.arange(len(grid)) % 3 == 1, grid.index), np.nan).assign(segment=grid.segment)
    if name == "one move": return with_mid(grid, np.where(np.arange(len(grid)) < 1200, 100., 101.))
    return grid.assign(**{c: np.nan for c in grid if c.startswith(("ask", "bid"))}) # no book


NAMES = ["empty", "ten rows", "two minutes", "constant", "no trades", "one side trades", "one-sided", "all gaps", "single trade", "NaNs", "one move",
         "no book"]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_crashes_and_every_absence_has_its_reason(name):
    grid = degenerate(name, random_grid(2500, np.random.default_rng(5)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        t = facts_versions(grid, resamples=20, block=100)
        names = samples({name: grid, "other": random_grid(2500, np.random.default_rng(6))}, resamples=20, block=100)
        for draw in (fig_returns, fig_acf, fig_spread_depth, fig_order_signs, fig_ofi_impact):
            fig, table = draw(names)
            assert "other" in set(table.symbol)
            matplotlib.pyplot.close(fig)
    assert (t[t.value.isna()].reason != "").all() and (t[t.value.notna()].reason == "").all()
    assert t[t.value.isna()][["lo", "hi", "p"]].isna().all(axis=None) and np.isfinite(t.value.dropna()).all()
    assert (t.lo.isna() == (t.interval == "none")).all() and not (t.lo > t.hi).any() and (t.p.dropna().between(0, 1)).all()
    if name == "constant": assert t.set_index("key").value["zero_1"] == 1
    if name in ("empty", "one-sided", "no book"): assert t[~t.key.str.contains("sign")].value.isna().all() # signs are those of trades
    if name == "all gaps": assert t[t.group != "book"].value.isna().all()


def test_three_symbols_share_their_axes(chance):
    names = samples({k: chance.iloc[:3000] for k in "ABC"}, resamples=20, block=100)
    fig, table = fig_acf(names)
    assert len(fig.axes) == 6 and len({ax.get_ylim() for ax in fig.axes[:3]}) == 1 and set(table.symbol) == set("ABC")
    a, b = (table[table.symbol == k].drop(columns="symbol").reset_index(drop=True) for k in "AB")
    pd.testing.assert_frame_equal(a, b)
    matplotlib.pyplot.close(fig)


def test_wrong_input_gets_a_sentence(chance):
    with pytest.raises(ParameterError, match="At least 20 resamples"): facts_table(chance, resamples=1)
    with pytest.raises(ParameterError, match="no grid to draw"): samples({})
