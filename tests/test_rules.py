"Rules: what they decide, by hand and by the plainest code; causal; tuned on training rows alone by what they earned there net of costs"
import json
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings as hyp, strategies as st
from lobresearch.data.book import book_columns
from lobresearch.data.grid import ingest_all, load_grid
from lobresearch.data.simulate import VENUE, write_simulated
from lobresearch.errors import DataError, ParameterError, TooShortError
from lobresearch.market.labels import labels
from lobresearch.market.registry import random_grid
from lobresearch.trading.accounting import as_market, follow
from lobresearch.trading.measures import per_period
from lobresearch.trading.rules import (RULES, SIGNALS, by_minute, columns_of, hidden_forecast, hold, matched, record, round_trip, settings, signal, sized,
                                       stretches_of, targets, tune, worth)

N, CUT = 1500, 900


def made(seed=0, **more):
    "A grid, a market, training rows and forecasts with some sense in them"
    rng = np.random.default_rng(seed)
    g = random_grid(N, rng, **more)
    y = labels(g, (5, 20)).fillna(0).to_numpy()
    said = pd.DataFrame({f"{m}_{h}": .3*y[:, k] + rng.normal(0, y[:, k].std(), N) for m in ("a", "b") for k, h in enumerate((5, 20))}, index=g.index)
    said.iloc[:100] = np.nan
    return g, as_market(g), np.arange(N) < CUT, said


def plain(signal, enter, leave, size, segment, patience=0):
    "The same rule, told once more"
    out, p, asked = [], 0., []
    for t, s in enumerate(signal):
        if np.isnan(s) or (t and segment[t] != segment[t-1]): p = 0.
        if not np.isnan(s):
            if p > 0 and s < leave*enter[t] or p < 0 and -s < leave*enter[t]: p = 0.
            if p <= 0 and s > enter[t]: p = size[t]
            elif p >= 0 and s < -enter[t]: p = -size[t]
            if s > enter[t]: asked.append((t, 1))
            if s < -enter[t]: asked.append((t, -1))
            if patience and p and not any(side == np.sign(p) and u >= t - patience for u, side in asked): p = 0.
        out.append(p)
    return out


@hyp(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([-1., -.5, 0., .5, 1.]), st.sampled_from([0, 1, 4]))
def test_holding_is_what_the_plainest_code_says(seed, leave, patience):
    rng = np.random.default_rng(seed)
    s = rng.choice([-3, -2, -1, -.5, 0, .5, 1, 2, 3, np.nan], 60)
    e, size, seg = rng.choice([0., .5, 1., 2.], 60), rng.choice([.25, 1.], 60), np.repeat([0, 1, 2], 20)
    np.testing.assert_array_equal(hold(s, e, leave, size, seg, patience), plain(s, e, leave, size, seg, patience))


@hyp(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([-1., 0., 1.]))
def test_short_is_the_mirror_of_long_and_a_stricter_exit_never_holds_longer(seed, leave):
    rng = np.random.default_rng(seed)
    s, e, full, seg = rng.normal(size=80), np.full(80, .7), np.ones(80), np.zeros(80, int)
    p = hold(s, e, leave, full, seg)
    np.testing.assert_array_equal(hold(-s, e, leave, full, seg), -p)
    assert (abs(hold(s, e, 1., full, seg)) <= abs(p)).all() and (abs(p) <= abs(hold(s, e, -1., full, seg))).all()
    assert (p[abs(s) > .7] == np.sign(s[abs(s) > .7])).all()


def test_a_position_is_sized_by_the_chance_that_its_sign_is_right():
    # 2 Phi(x) - 1 is .25, .5, .75 at x = .3186, .6745, 1.1503
    np.testing.assert_array_equal(sized([.3, .33, -.67, .68, 1.14, -1.16, 9.], 1.), [.25, .5, .5, .75, .75, 1., 1.])
    np.testing.assert_array_equal(sized([.6, .66], 2.), [.25, .5])


def test_averages_of_the_mid_are_those_of_pandas_inside_each_segment():
    g, *_ = made(breaks=(700,))
    mid = (g.ask_px_1 + g.bid_px_1)/2
    by = mid.groupby(g.segment)
    fast, slow = (by.transform(lambda x, w=w: x.rolling(w, min_periods=1).mean()) for w in (10, 60))
    np.testing.assert_allclose(signal("sma_10_60", g), 1e4*(fast - slow)/mid, atol=1e-8)
    before = np.log(mid).groupby(g.segment).transform(lambda x: x - x.shift(30).fillna(x.iloc[0]))
    np.testing.assert_allclose(signal("ret_30", g), 1e4*before, atol=1e-3)


def test_a_forecast_is_followed_only_where_it_promises_more_than_a_round_trip_costs():
    g, *_ = made()
    cost = round_trip(g, True, 2.)
    np.testing.assert_allclose(cost, 1e4*(g.ask_px_1 - g.bid_px_1)/((g.ask_px_1 + g.bid_px_1)/2) + 4)
    said = pd.DataFrame(dict(a_5=np.where(np.arange(N) % 2, cost*1.01, -cost*.99)), index=g.index)
    p = dict(column="a_5", sign=1, threshold=0., cost=1., crosses=True, fee=2., leave=1., scale=0., patience=0)
    np.testing.assert_array_equal(targets("forecast", p, g, said), np.arange(N) % 2)
    assert (targets("forecast", dict(p, fee=2.1), g, said) == 0).all()
    assert (round_trip(g, False, -.25) == 0).all() # a rebate is no reason to believe a forecast of nothing


@pytest.mark.parametrize("name", SIGNALS)
def test_what_comes_later_changes_no_decision(name):
    g, m, train, said = made(3)
    changed, later = g.copy(), said.copy()
    changed.loc[~train, book_columns(10)] *= 1.2
    changed.loc[~train, [c for c in g if c.startswith("ofi") or c.endswith("_vol")]] += 5
    later.loc[~train] = 50.
    account = dict(taker=.1, capital=100.)
    best, tried = tune(name, g, m, train, account, said)
    again, retried = tune(name, changed, as_market(changed), train, account, later)
    assert best == again and list(tried.net) == list(retried.net)
    a, b = targets(name, best, g, said), targets(name, best, changed, later)
    np.testing.assert_array_equal(a[:CUT], b[:CUT])
    assert abs(a).max() <= 1 and len(set(a)) > 1


@pytest.mark.parametrize("name", RULES)
def test_parameters_survive_json_and_the_best_setting_is_the_one_that_earned_most(name):
    g, m, train, said = made(1)
    account = dict(taker=.5, capital=100., latency=2)
    best, tried = tune(name, g, m, train, account, said)
    assert json.loads(json.dumps(best)) == best and list(tried.params).count(best) == 1
    rerun = worth(record(m, targets(name, json.loads(json.dumps(best)), g, said), train, account))
    assert rerun["net"] == pytest.approx(tried.net.max()) and len(rerun["pnl"]) == CUT//60
    assert set(tried) == {"params", "net", "sharpe", "pnl"}


def test_at_least_tens_of_settings_each_once_and_dear_trades_ask_for_thresholds():
    g, _, _, said = made()
    for name, n in dict(momentum=50, sma_cross=40, ofi=40, imbalance=30, forecast=96, hidden=96).items():
        columns = columns_of(name, 10, said)
        s = settings(name, columns, dict.fromkeys(columns, 2.), dict(taker=5.))
        assert len(s) == n and len({json.dumps(p) for p in s}) == n
    free = settings("forecast", ["a_5"], {"a_5": 2.}, dict(execution="mid", taker=0.))
    assert free[0]["threshold"] == free[0]["cost"] == 0 and all(p["cost"] == 0 for p in free)
    assert all(p["patience"] == 600 for p in free) and all(p["patience"] == 0 for p in settings("momentum", ["ret_5"], {"ret_5": 2.}, {}))
    assert all(p["fee"] == 2.5 and p["crosses"] for p in settings("forecast", ["a_5"], {"a_5": 2.}, dict(taker=2.5)))
    assert all(p["threshold"] > 0 or p["cost"] > 0 for p in settings("forecast", ["a_5"], {"a_5": 2.}, dict(taker=2.5)))


def test_a_rule_on_forecasts_may_follow_the_mean_of_models():
    g, _, _, said = made()
    assert columns_of("forecast", 10, said) == ["a_5", "a_20", "b_5", "b_20", "a_5+b_5", "a_20+b_20"]
    np.testing.assert_allclose(signal("a_20+b_20", g, said), (said.a_20 + said.b_20)/2)
    assert columns_of("imbalance", 1) == ["imb_1", "wmid_1"] # one level has no imbalance of five


def test_the_random_rule_trades_as_often_as_the_one_it_is_matched_to_and_knows_nothing():
    g, m, train, said = made()
    like = targets("forecast", tune("forecast", g, m, train, dict(execution="mid", taker=0.), said)[0], g, said)
    p, _ = tune("random", g, m, train, dict(execution="mid", taker=0.), like=like, seed=5)
    lot = np.concatenate([targets("random", dict(p, seed=k), g) for k in range(10)])
    changes = lambda x: (np.diff(x) != 0).mean()
    assert changes(lot) == pytest.approx(changes(like[train][100:]), rel=.15)
    other = made(9)[0]
    np.testing.assert_array_equal(targets("random", p, g), targets("random", p, other)) # whatever the market does
    np.testing.assert_array_equal(matched(-like, train)["enter"], matched(like, train)["enter"])


def test_a_record_follows_each_stretch_by_itself():
    g, m, _, said = made(breaks=(700,))
    rows = np.ones(N, bool)
    rows[[200, 202, 1100]] = False # row 201 stands alone and cannot be traded
    assert stretches_of(m.segment, rows) == [(0, 199), (203, 699), (700, 1099), (1101, 1499)]
    t, account = np.where(np.arange(N) % 50 < 25, 1., -1.), dict(taker=1., capital=100.)
    r = record(m, t, rows, account)
    alone = [follow(m, t, a, b, **account) for a, b in stretches_of(m.segment, rows)]
    np.testing.assert_allclose(r.net, np.concatenate([f.net for f in alone]))
    assert (r.position.groupby(r.path).last() == 0).all()
    np.testing.assert_allclose(by_minute(r), per_period(r).net)
    np.testing.assert_allclose(by_minute(r, "traded"), per_period(r).traded)
    assert by_minute(r).sum() == pytest.approx(r.net.sum())


def test_a_planted_forecast_is_found_and_earns_where_it_was_not_tuned():
    g, m, train, said = made(2)
    account = dict(execution="mid", taker=0., capital=100.)
    best, _ = tune("forecast", g, m, train, account, said)
    assert worth(record(m, targets("forecast", best, g, said), ~train, account))["net"] > 0


def test_the_hidden_state_forecasts_rows_it_was_not_fitted_on(tmp_path):
    write_simulated(tmp_path/"data", "SIM-SIGNAL", .5, seed=5)
    ingest_all(tmp_path/"data", tmp_path/"grid", VENUE, ["SIM-SIGNAL"], ["2025-01-01"])
    g = load_grid(tmp_path/"grid", "SIM-SIGNAL")
    first = np.arange(len(g)) < 1000
    f = hidden_forecast(tmp_path, "SIM-SIGNAL", g, first, (10,))
    y = labels(g, [10])["r_10"]
    assert f.hidden_10.isna().sum() == 0 and f.hidden_10[~first].corr(y[~first]) > .1
    changed = g.copy()
    changed.loc[~first, book_columns(10)] *= 1.1
    pd.testing.assert_series_equal(hidden_forecast(tmp_path, "SIM-SIGNAL", changed, first & (np.arange(len(g)) < 980), (10,)).hidden_10[:980],
                                   hidden_forecast(tmp_path, "SIM-SIGNAL", g, first & (np.arange(len(g)) < 980), (10,)).hidden_10[:980])
    with pytest.raises(DataError, match="No hidden state"): hidden_forecast(tmp_path, "BTC-USD", g, first)
    with pytest.raises(TooShortError, match="too few to fit"): hidden_forecast(tmp_path, "SIM-SIGNAL", g, np.arange(len(g)) < 5)


def test_what_cannot_be_meant_gets_a_sentence():
    g, m, train, said = made()
    with pytest.raises(ParameterError, match="no rule 'magic'"): targets("magic", {}, g)
    with pytest.raises(ParameterError, match="needs forecasts"): tune("forecast", g, m, train, {})
    with pytest.raises(ParameterError, match="neither a feature nor"): signal("c_5", g, said)
    with pytest.raises(TooShortError, match="No training row has a signal"): tune("forecast", g, m, np.arange(N) < 100, {}, said)
    with pytest.raises(TooShortError, match="no record to join"): tune("flat", g, m, np.arange(N) < 1, {})
