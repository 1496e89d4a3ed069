import math
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from lobresearch.errors import ParameterError, TooShortError
from lobresearch.trading.accounting import PARTS
from lobresearch.trading.measures import (DAY, RATIOS, YEAR, break_even, checked, cost_split, join, measures, net_at_fees, per_period, ratios,
                                          trade_measures, trades)


def record(position, gross, spread=0., fee=0., impact=0., funding=0., start=1, traded=None):
    "A record from its parts; what is traded is the change of the position"
    position = np.asarray(position, float)
    t = pd.DataFrame(dict(position=position, gross=gross, spread=spread, impact=impact, fee=fee, funding=funding),
                     index=pd.Index((start + np.arange(len(position)))*1_000_000, name="ts")).astype(float)
    return t.assign(net=t[list(PARTS)].sum(axis=1), traded=1e4*abs(np.diff(position, prepend=0.)) if traded is None else traded)


def random_record(seed, rows=600, hold=.1, edge=0., start=1, close=True):
    r = np.random.default_rng(seed)
    p = np.zeros(rows)
    for t in range(1, rows): p[t] = r.choice([-1., -.5, 0, .5, 1]) if r.random() < hold else p[t-1]
    if close: p[-1] = 0
    side = abs(np.diff(p, prepend=0.))
    return record(p, np.r_[0, p[:-1]]*(r.standard_normal(rows) + edge), -.3*side, -1.*side, -.05*side*r.random(rows), -.001*abs(p), start)


TWO = record([1, 1, 0, -1, -1, 0, 0, 0], [0, 3, 2, 0, -1, -4, 0, 0], [-.5, 0, -.5, -.5, 0, -.5, 0, 0], [-1, 0, -1, -1, 0, -1, 0, 0])


def test_two_trades_by_hand():
    t = trades(TWO)
    # long from 1 s to 3 s: 3 + 2 less two sides of 1.5; short from 4 s to 6 s: -1 - 4 less two sides
    assert t.net.tolist() == [2, -8] and t.gross.tolist() == [5, -5] and t.costs.tolist() == [-3, -3]
    assert t.seconds.tolist() == [2, 2] and t.side.tolist() == [1, -1] and t.whole.all()
    assert t.opened.tolist() == [1_000_000, 4_000_000] and t.closed.tolist() == [3_000_000, 6_000_000]
    m = trade_measures(t, 8).value
    assert (m.hit_rate, m.profit_factor, m.average_trade, m.holding, m.trades_day) == (.5, .25, -3, 2, 2*DAY/8)
    m = measures(TWO, seconds=1).value
    assert m.net_day == pytest.approx(-6*DAY/8) and m.gross_day == 0 and m.turnover == pytest.approx(4*DAY/8)
    assert (m.exposure, m.inside, m.long) == (.5, .5, 0)  # in four of eight seconds, two of each sign
    assert m.drawdown == 8  # from the top, 2 after the first trade, to -6
    assert m.break_even == pytest.approx(-.5)  # -2 bps before fees over four sides
    assert m.sharpe == pytest.approx(np.mean(TWO.net)/np.std(TWO.net, ddof=1)*math.sqrt(YEAR))


def test_two_trades_through_the_accounting():
    "A market of one unit's depth, mids 100 to 102 and back: each part as worked out on paper"
    from lobresearch.trading.accounting import Market, follow
    mid = np.array([100., 100, 101, 102, 102, 101, 101, 101, 101])
    book = np.stack([mid + .5, mid*0 + 100, mid - .5, mid*0 + 100], 1)
    m = Market((1 + np.arange(9))*1_000_000, np.zeros(9, np.int64), book, np.stack([mid, mid, mid*0, mid*0], 1), np.zeros(9))
    led = follow(m, np.array([1., 1, 0, -1, -1, 0, 0, 0, 0]), latency=1, taker=10., capital=1_000.)
    t, units = trades(led), 10.
    # orders of a second meet the next second's book: bought at 100.5 and sold at 101.5, sold short at 101.5 and bought back at 101.5
    fee = lambda *px: 1e-3*units*sum(px)/1_000*1e4
    assert len(t) == 2 and t.whole.all()
    px = [(mid[1] + .5, mid[3] - .5), (mid[4] - .5, mid[6] + .5)]
    want = [(px[0][1] - px[0][0])*units/1_000*1e4 - fee(*px[0]), (px[1][0] - px[1][1])*units/1_000*1e4 - fee(*px[1])]
    assert t.net.tolist() == pytest.approx(want) and t.net.sum() == pytest.approx(led.net.sum())
    b = break_even(led, seconds=1)
    free = follow(m, np.array([1., 1, 0, -1, -1, 0, 0, 0, 0]), latency=1, taker=b["fee"], capital=1_000.)
    assert free.net.sum() == pytest.approx(0, abs=1e-9)  # followed at its break-even fee it earns nothing


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([0, 1]))
def test_trades_add_up_to_the_record(seed, close, latency):
    a, b = random_record(seed, 200, .2, close=close), random_record(seed + 1, 150, .2, start=5000)
    both = join({"a": a, "b": b})
    t = trades(both, latency)
    held = both.position.ne(0) | both.position.shift(fill_value=0.).ne(0)
    assert t.net.sum() == pytest.approx(both.net[held].sum()) and t.traded.sum() == pytest.approx(both.traded.sum())
    assert (t.closed >= t.opened).all() and t.whole[t.path == "b"].all() and (~t.whole).sum() == int(a.position.iloc[-1] != 0)
    alone = trades(a, latency)
    np.testing.assert_allclose(t[t.path == "a"].net, alone.net)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([-1, 0, 1]), min_size=2, max_size=40))
def test_as_many_trades_as_runs_of_one_sign(signs):
    led = record(signs, np.zeros(len(signs)))
    runs = sum(s != 0 and (k == 0 or signs[k-1] != s) for k,s in enumerate(signs))
    t = trades(led)
    assert len(t) == runs and t.side.tolist() == [s for k,s in enumerate(signs) if s and (k == 0 or signs[k-1] != s)]


def test_a_turn_is_shared_by_units():
    led = record([1, -.5, 0], [0, 4, 3], [-1, -3, -1])
    assert trades(led).net.tolist() == [-1 + 4 - 2, -1 + 3 - 1]  # of 1.5 units one closes and half a one opens
    early = trades(led, latency=0)
    assert early.gross.tolist() == [0, 7] and early.net.sum() == led.net.sum()


def test_opened_and_closed_within_a_second():
    led = record([0, 0, 1, 0], [0, 0, 0, 1], [0, -2, -1, -1], traded=[0, 2e4, 1e4, 1e4])
    t = trades(led)
    assert t.net.tolist() == [-2, -1] and t.seconds.tolist() == [0, 1] and t.whole.all()


def test_resizing_is_one_trade():
    t = trades(record([.5, 1, .25, 0], [0, 1, 2, 1]))
    assert len(t) == 1 and t.net.iloc[0] == 4 and t.traded.iloc[0] == 2e4


# ---- ratios

def skfolio_portfolio(x, periods):
    from skfolio import Portfolio
    days = pd.date_range("2025-01-01", periods=len(x), freq="min")
    return Portfolio(X=pd.DataFrame({"a": x}, days), weights=[1.], annualization_factor=periods)


@pytest.mark.parametrize("seed", range(3))
def test_ratios_are_skfolios_portfolio(seed):
    x = np.random.default_rng(seed).standard_t(4, 900)*1e-4 + 1e-5
    mine, p = dict(zip(RATIOS, ratios(x, 60))), skfolio_portfolio(x, 525_600)
    assert mine["sharpe"] == pytest.approx(p.annualized_sharpe_ratio)
    assert mine["drawdown"] == pytest.approx(p.max_drawdown)
    assert mine["var"] == pytest.approx(p.value_at_risk) and mine["shortfall"] == pytest.approx(p.cvar)
    assert mine["calmar"] == pytest.approx(p.calmar_ratio*525_600)
    assert mine["net_day"] == pytest.approx(p.mean*1440)


def test_ratios_by_hand():
    r = dict(zip(RATIOS, ratios(np.array([1., -2, 3, -1]), 60)))
    assert r["sharpe"] == pytest.approx(.25/math.sqrt(14.75/3)*math.sqrt(525_600))
    assert r["sortino"] == pytest.approx(.25/math.sqrt(5/3)*math.sqrt(525_600))
    assert (r["drawdown"], r["var"], r["shortfall"]) == (2, 2, 2)
    x = np.arange(1., 101)  # of 100 periods five lie beyond the value at risk
    r = dict(zip(RATIOS, ratios(-x, 60)))
    assert (r["var"], r["shortfall"]) == (95, 98)


def test_the_clock_never_stops():
    "A year has 365 days of 24 hours: 252 days or trading hours would give another ratio"
    x = np.random.default_rng(0).standard_normal(500) + .1
    sharpe = lambda s: ratios(x, s)[1]/(x.mean()/x.std(ddof=1))
    assert sharpe(1) == pytest.approx(math.sqrt(365*86_400)) and sharpe(60) == pytest.approx(math.sqrt(365*1440)) and sharpe(DAY) == pytest.approx(math.sqrt(365))


def test_a_policy_that_never_trades():
    m = measures(record(np.zeros(600), np.zeros(600)), n=20, block=1)
    assert m.value[["net_day","gross_day","drawdown","var","shortfall","turnover","exposure","inside","trades_day"]].abs().max() == 0
    assert m.value[["sharpe","sortino","calmar","break_even","hit_rate","profit_factor","average_trade","holding"]].isna().all()


def test_information_ratio():
    a, b = random_record(1, 3600), random_record(2, 3600)
    d = per_period(a).net - per_period(b).net
    m = measures(a, benchmark=b, n=20, block=5).value
    assert m.information == pytest.approx(d.mean()/d.std()*math.sqrt(YEAR/60))
    assert measures(a, benchmark=record(np.zeros(3600), np.zeros(3600)), n=20, block=5).value.information == pytest.approx(m.sharpe)
    with pytest.raises(ParameterError, match="other seconds"): measures(a, benchmark=b[:1800], n=20)


# ---- periods and parts

@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1, 7, 60, 3600]), st.integers(0, 200))
def test_periods_add_up(seed, seconds, start):
    led = join([random_record(seed, 150, start=1 + start), random_record(seed + 1, 90, start=400 + start)])
    p = per_period(led, seconds)
    for c in (*PARTS, "net", "traded"): assert p[c].sum() == pytest.approx(led[c].sum())
    assert p.rows.sum() == 240 and (p.rows*p.exposure).sum() == pytest.approx(abs(led.position).sum())
    assert (p.index.to_numpy() % (seconds*1_000_000) == 0).all() and (p.groupby("path").rows.sum() == [150, 90]).all()


def test_the_second_that_ends_a_minute_belongs_to_it():
    p = per_period(record(np.zeros(61), np.arange(61.), start=60), 60)
    assert p.gross.tolist() == [0, sum(range(1, 61))]


@pytest.mark.parametrize("call, error, says", [
    (lambda: checked(TWO.assign(fee=0.)), ParameterError, "add up"),
    (lambda: checked(TWO.drop(columns=["traded", "net"])), ParameterError, "no column net, traded"),
    (lambda: checked(TWO[::-1]), ParameterError, "order of time"),
    (lambda: checked(TWO[:0]), TooShortError, "empty"),
    (lambda: checked(TWO.assign(net=np.nan)), ParameterError, "missing values"),
    (lambda: checked(pd.concat([TWO, TWO])), ParameterError, "order of time"),
    (lambda: join([]), TooShortError, "no record"),
    (lambda: per_period(TWO, 0), ParameterError, "a second or more"),
    (lambda: measures(TWO), TooShortError, "no two periods")])
def test_wrong_input_gets_a_sentence(call, error, says):
    with pytest.raises(error, match=says): call()


def test_costs_split():
    c = cost_split(TWO)
    assert c.bps.tolist() == [0, -2, 0, -4, 0, -6] and c.side["fee"] == -1 and c.day["net"] == pytest.approx(-6*DAY/8)


# ---- break-even fee

@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(-2, 12))
def test_break_even_is_exact_whatever_fee_was_paid(seed, fee):
    led = random_record(seed)
    at = led.assign(fee=-fee*led.traded/1e4)
    at["net"] = at[list(PARTS)].sum(axis=1)
    b = break_even(at, n=5)["fee"]
    assert b == pytest.approx(break_even(led, n=5)["fee"])
    assert net_at_fees(at, [b, fee], n=5).net.tolist() == pytest.approx([0, at.net.sum()*DAY/len(at)], abs=1e-6)


def test_interval_of_the_fee_is_where_the_band_crosses_zero():
    led = random_record(3, 6*3600, edge=.5)
    b = break_even(led, 10, 400, 1)
    band = net_at_fees(led, [b["low"], b["high"]], 10, 400, 1)
    scale = b["traded"]*4
    assert band.low[0]/scale == pytest.approx(0, abs=2e-3) and band.high[1]/scale == pytest.approx(0, abs=2e-3) and b["low"] < b["fee"] < b["high"]


def test_interval_of_the_fee_covers():
    "100 made-up half days, true break-even fee .2 bps a side"
    r, hits = np.random.default_rng(0), 0
    T = 720*60
    p = (np.arange(T)//60 % 2 == 0).astype(float)
    side, on = abs(np.diff(p, prepend=0.)), np.roll(p, 1)
    for k in range(100):
        led = record(p, on*(.4/60 + r.standard_normal(T)*2/60**.5), start=1)
        b = break_even(led, 12, 200, k)
        hits += b["low"] < .2 < b["high"]
    assert side.sum() == 720 and 88 <= hits <= 100


def test_short_records_have_no_interval():
    m = measures(random_record(0, 600), n=10)
    assert m.loc[["net_day","sharpe","break_even","turnover"], ["low","high"]].isna().all().all() and np.isfinite(m.value["sharpe"])


def test_seeded():
    led = random_record(1, 3600)
    a, b, c = (measures(led, n=30, block=5, seed=s) for s in (1, 1, 2))
    pd.testing.assert_frame_equal(a, b)
    assert not a.low.equals(c.low)


def test_each_second_counts_once():
    "A forecast for ten seconds is held ten seconds: its P&L is the sum of one-second moves, not of ten overlapping returns"
    r = np.random.default_rng(0).standard_normal(100)
    led = record(np.r_[np.ones(99), 0], np.r_[0, r[1:]])
    assert measures(led, seconds=10, n=5, block=1).value.net_day == pytest.approx(r[1:].sum()*DAY/100)


def test_the_position_earns_only_after_it_was_opened():
    led = record([0, 1, 0], [0, 0, 5])
    assert trades(led).gross.tolist() == [5] and trades(led).opened.tolist() == [2_000_000]
