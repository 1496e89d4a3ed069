"Facts of memory and clock: fractional noise, GARCH, a planted season, planted leverage."
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from lobresearch.errors import TooShortError
from lobresearch.market.facts import SECOND, Sample, measure, pieces, returns
from lobresearch.market.memory_facts import (DAY, anis_lloyd, deseasonalised, fluctuation, fractional_noise, garch, garch_interval, hour_share, hurst,
                                             hurst_interval, hurst_points, power_law, season, simulate_garch, windows)
from lobresearch.market.registry import random_grid


def sample(r, every=10, **settings):
    "A symbol with a row every few seconds, whose returns (basis points) are given"
    grid = random_grid(len(r) + 1, np.random.default_rng(0))
    mid = 100*np.exp(1e-4*np.cumsum(np.r_[0, r]))
    grid = grid.assign(ask_px_1=mid + 1e-6, bid_px_1=mid - 1e-6)
    grid.index = pd.Index(np.arange(len(grid))*every*SECOND, name="ts")
    return Sample(grid, **{"resamples": 100, "block": 600, **settings})


@pytest.mark.parametrize("how", ["dfa", "rs"])
@pytest.mark.parametrize("h", [.4, .5, .7, .85])
def test_hurst_exponent_of_fractional_noise(how, h):
    got = [hurst(fractional_noise(20_000, h, np.random.default_rng(i)), np.arange(20_000)//9000, how) for i in range(4)]
    short = .06 if how == "rs" and h > .8 else 0 # the rescaled range falls short of strong memory
    assert np.mean(got) == pytest.approx(h - short, abs=.04)


@pytest.mark.parametrize("how,h", [("dfa", .7), ("rs", .85)])
def test_hurst_interval_covers(how, h):
    held = []
    for i in range(25):
        got = hurst(fractional_noise(1200, h, np.random.default_rng(i)), np.zeros(1200), how)
        lo, hi = hurst_interval(got, 1200, how, 40, np.random.default_rng(100 + i))
        held.append(lo <= h <= hi)
        assert lo <= got <= hi
    assert (.8 if how == "dfa" else .7) <= np.mean(held) <= 1
    assert np.isnan(hurst_interval(1.2, 1000, how, 20, np.random.default_rng(0))).all()


def test_hurst_facts_and_their_published_ranges():
    s = sample(fractional_noise(8000, .7, np.random.default_rng(3)))
    for k in ("hurst_dfa_r", "hurst_rs_r"):
        m = measure(s, k)
        assert m["value"] == pytest.approx(.7, abs=.07) and m["lo"] < .7 < m["hi"] and m["inside"] is False and m["interval"] == "parametric bootstrap"
    assert measure(s, "hurst_dfa_abs")["value"] < .65 # the size of such noise remembers far less than its sign


@pytest.mark.parametrize("n", [5, 20, 100])
def test_anis_lloyd_is_what_independent_values_do(n):
    w = np.random.default_rng(0).standard_normal((40_000, n))
    y = np.cumsum(w - w.mean(1, keepdims=True), 1)
    ranges = (np.maximum(y.max(1), 0) - np.minimum(y.min(1), 0))/w.std(1)
    assert ranges.mean() == pytest.approx(anis_lloyd(n), rel=.01)


def test_fluctuation_is_that_of_polyfit():
    w = np.random.default_rng(1).standard_normal((7, 30))
    y, t = np.cumsum(w - w.mean(), 1), np.arange(30)
    want = np.sqrt(np.mean([(v - np.polyval(np.polyfit(t, v, 1), t))**2 for v in y]))
    assert fluctuation(w) == pytest.approx(want)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60), st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_windows_never_cross_a_gap(rows, size):
    segment, x = np.cumsum([new for new, _ in rows]), np.array([math.nan if gone else float(i) for i, (_, gone) in enumerate(rows)])
    w = windows(x, pieces(x, segment), size)
    assert (np.diff(w, axis=1) == 1).all() and all(len(set(segment[v.astype(int)])) == 1 for v in w)
    assert len(np.unique(w)) == w.size and len(w) == sum(n//size for n in pieces(x, segment)[1])


def test_garch_with_known_parameters():
    x = simulate_garch((0, .05, .1, .85), np.random.default_rng(5).standard_normal((6500, 1)))[:, 0]
    params, e = garch(x)
    lo, hi = garch_interval(params, e, 40, np.random.default_rng(0))
    assert params[2] == pytest.approx(.1, abs=.03) and params[3] == pytest.approx(.85, abs=.05)
    assert (lo < [.1, .85, .95]).all() and ([.1, .85, .95] < hi).all()
    s = sample(5*x, every=60)
    assert measure(s, "garch_sum_60")["value"] == pytest.approx(params[2] + params[3], abs=.02) # a season is taken out of noise
    assert measure(s, "garch_alpha_60")["lo"] < .1 < measure(s, "garch_alpha_60")["hi"]
    assert "200 are needed" in measure(sample(x[:100], every=60), "garch_sum_60")["reason"]


def test_simulated_garch_has_its_variance():
    x = simulate_garch((0, .1, .1, .8), np.random.default_rng(0).standard_normal((1500, 400)))
    assert x.var() == pytest.approx(1, rel=.05)


def planted(days, rng, depth=.6):
    ts = np.arange(0, days*DAY, 10)
    return (1 - depth*np.cos(2*np.pi*ts/DAY))*rng.standard_normal(len(ts))


def fives(r):
    "Mean size of five minutes, and the hour"
    return np.abs(r).reshape(-1, 30).mean(1), np.arange(len(r)//30)//12 % 24


def test_a_planted_season_is_explained_and_taken_out():
    rng = np.random.default_rng(6)
    assert hour_share(*fives(planted(3, rng))) > .8 and abs(hour_share(*fives(rng.standard_normal(3*8640)))) < .1
    x, segment = deseasonalised(s := sample(planted(3, rng)[1:]), 10)
    assert abs(hour_share(*fives(np.nan_to_num(x)))) < .1 and len(x) == len(s.ts)
    short = sample(planted(1, rng)[:6000])
    assert np.array_equal(deseasonalised(short, 10)[0][1:], returns(short, 10)[1:]) # under twenty hours nothing is done


def test_one_day_has_a_share_and_no_p_value_two_days_have_both():
    rng = np.random.default_rng(7)
    second = lambda days, depth: np.repeat((1 - depth*np.cos(2*np.pi*np.arange(0, days*DAY, 60)/DAY)), 60)*rng.standard_normal(days*DAY)
    one, two, flat = (measure(sample(second(d, k)[1:], every=1), "season_hour") for d, k in ((1, .6), (2, .6), (2, 0)))
    assert one["value"] > .8 and math.isnan(one["p"]) and one["interval"] == "none"
    assert two["value"] > .8 and two["p"] < 1e-6
    assert abs(flat["value"]) < .1 and flat["p"] > .001


def test_season_of_a_short_or_still_recording_says_why():
    assert "24 are needed" in measure(sample(np.ones(100), every=1), "season_hour")["reason"]
    assert measure(sample(np.zeros(9000), every=1), "season_hour")["reason"] != ""
    ts = np.arange(0, DAY, 60)*SECOND
    assert np.allclose(season(ts, np.where(np.arange(len(ts)) % 2, 3., math.nan), 2), 1)


def test_leverage_is_found_where_it_is_planted():
    rng = np.random.default_rng(8)
    e = rng.standard_normal(6001)
    r = e[1:]*np.exp(-.4*e[:-1])
    m = measure(sample(r, block=100), "leverage_10")
    assert m["hi"] < -.05 and m["value"] == pytest.approx(np.corrcoef(r[:-1], np.abs(r[1:]))[0, 1], abs=1e-6)
    none = measure(sample(e, block=100), "leverage_10")
    assert none["lo"] < 0 < none["hi"]


def test_heavy_tails_fade_with_the_horizon():
    rng = np.random.default_rng(9)
    heavy, normal = (measure(sample(r, every=1), "aggregation") for r in (rng.standard_t(4.5, 20_000), rng.standard_normal(20_000)))
    assert heavy["hi"] < -.02 and normal["lo"] < 0 < normal["hi"] and abs(normal["value"]) < .05


def test_power_law_of_fractional_noise_has_its_exponent():
    x = fractional_noise(40_000, .8, np.random.default_rng(10))
    g, lo, hi = power_law(x, np.zeros(len(x)), 2, 200, 30, np.random.default_rng(0))
    assert g == pytest.approx(.4, abs=.1) and lo < .4 < hi


def test_hurst_says_what_it_lacks():
    with pytest.raises(TooShortError, match="windows reach"): hurst_points(np.ones(100), np.zeros(100))
    with pytest.raises(TooShortError, match="never moves"): hurst_points(np.ones(2000), np.zeros(2000))
    with pytest.raises(TooShortError, match="windows reach 0"): hurst_points(np.full(9, math.nan), np.zeros(9))
