"One set of books: parts add up, fills are what a plain ledger says, makers wait their turn, and the known faults of back-tests are not here"
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from lobresearch.errors import ParameterError, TooShortError
from lobresearch.trading.accounting import GO, PARTS, Accounts, Market, as_market, follow, funding_rate, walk

PARTS = list(PARTS)
LATE = dict(deadline=None, max_examples=60)


def toy(mids, size=10., half=.05, levels=2, **columns):
    "A grid around `mids`: a spread of twice `half`, levels .1 apart, `size` at the best, twice that behind it, ..."
    n = len(mids)
    g = pd.DataFrame({f"{s}_{v}_{l}": np.asarray(mids) + sign*(half + .1*(l - 1)) if v == "px" else np.broadcast_to(size, n)*float(l)
                      for l in range(1, levels + 1) for s, sign in (("ask", 1), ("bid", -1)) for v in ("px", "sz")})
    g = g.assign(low=np.nan, high=np.nan, buy_vol=0., sell_vol=0.).assign(**columns)
    g.index = pd.Index(1_000_000*np.arange(1, n + 1), name="ts")
    return g.assign(segment=g.index[0])


def random_market(rng, n=60, levels=3):
    "Integers in ticks of .5, locked books, missing levels, trades on a side or on both, funding now and then"
    bid = 400 + rng.integers(-2, 3, n).cumsum()
    ask = bid + rng.integers(0, 4, n)
    book = np.empty((n, 4*levels))
    for l in range(levels):
        book[:, 4*l], book[:, 4*l+2] = .5*(ask + l), .5*(bid - l)
        book[:, 4*l+1:4*l+4:2] = rng.integers(1, 6, (n, 2))
    if levels > 1: book[rng.random(n) < .2, 4*(levels-1):] = np.nan
    buys, sells = (rng.random(n) < .4)*rng.integers(1, 12, n)*1., (rng.random(n) < .4)*rng.integers(1, 12, n)*1.
    traded = buys + sells > 0
    low, high = np.where(traded, .5*(bid - rng.integers(-1, 2, n)), np.nan), np.where(traded, .5*(ask + rng.integers(-1, 2, n)), np.nan)
    tape = np.stack([np.fmin(low, high), np.fmax(low, high), buys, sells], 1)
    return Market(1_000_000*np.arange(n), np.zeros(n, int), book, tape, np.where(rng.random(n) < .1, rng.normal(size=n)*1e-3, 0.))


def bought(m, q, t, everything):
    "Units done and money paid, fee aside, for `q` units at row `t`, level by level"
    levels = [(p, s) for p, s in m.book[t].reshape(-1, 2)[(0 if q > 0 else 1)::2] if s > 0]
    left, paid = abs(q), 0.
    for p, s in levels:
        paid, left = paid + p*min(left, s), left - min(left, s)
    if everything and left > 1e-12:
        paid, left = paid + left*(levels[-1][0] + np.sign(q)*abs(levels[-1][0] - levels[0][0])*left/2/sum(s for _, s in levels)), 0.
    return np.sign(q)*(abs(q) - left), np.sign(q)*paid


def ledger(m, target, start, stop, taker, capital, latency, close):
    "A plain taker: units held and what they and the cash are worth after every second"
    size, units, cash, out = capital/m.mid[start], 0., 0., []
    def trade(q, t, everything=False):
        nonlocal units, cash
        if abs(q) < 1e-9*size: return
        done, paid = bought(m, q, t, everything)
        units, cash = units + done, cash - paid - taker*1e-4*abs(paid)
    for t in range(start, stop):
        if latency == 0: trade(target[t]*size - units, t)
        cash -= m.funding[t+1]*units*m.mid[t+1]
        last = close and t + 1 == stop
        if latency > 0 and t + 1 - latency >= start and not last: trade(target[t+1-latency]*size - units, t + 1)
        if last: trade(-units, t + 1, True)
        out.append((units/size, cash + units*m.mid[t+1]))
    return np.array(out)


@settings(**LATE)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["taker", "maker", "mid"]), st.integers(0, 3), st.sampled_from(["close", "cut"]),
       st.sampled_from([100., 2_000., 20_000.]), st.floats(-1, 10), st.booleans())
def test_parts_sum_to_the_change_of_equity_in_every_second(seed, execution, latency, end, capital, fee, discrete):
    rng = np.random.default_rng(seed)
    m = random_market(rng, levels=int(rng.integers(1, 4)))
    target = rng.integers(-1, 2, len(m))*1. if discrete else rng.uniform(-1, 1, len(m))
    got = follow(m, target, 2, end=end, execution=execution, latency=latency, taker=fee, maker=-fee/4, capital=capital)
    np.testing.assert_allclose(got[PARTS].sum(axis=1)/1e4, got.net/1e4, rtol=0, atol=1e-9)
    assert abs(got[PARTS].to_numpy().sum() - got.net.sum())/1e4 < 1e-9
    if end == "close": assert got.position.iloc[-1] == 0


@settings(**LATE)
@given(st.integers(0, 2**32 - 1), st.integers(0, 3), st.booleans(), st.sampled_from([500., 5_000.]), st.floats(-1, 10))
def test_a_taker_is_worth_what_a_plain_ledger_says(seed, latency, close, capital, fee):
    rng = np.random.default_rng(seed)
    m = random_market(rng)
    target = rng.integers(-1, 2, len(m))*1.
    got = follow(m, target, 0, end="close" if close else "cut", latency=latency, taker=fee, capital=capital)
    want = ledger(m, target, 0, len(m) - 1, fee, capital, latency, close)
    np.testing.assert_allclose(got.position, want[:len(got), 0], atol=1e-9)
    np.testing.assert_allclose(got.net.cumsum()/1e4, want[:len(got), 1]/capital, atol=1e-9)


@settings(**LATE)
@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_gross_is_the_mids_change_times_the_position_already_held(seed, latency):
    rng = np.random.default_rng(seed)
    m = random_market(rng)
    for execution in ("taker", "maker", "mid"):
        got = follow(m, rng.uniform(-1, 1, len(m)), latency=latency, execution=execution)
        if latency > 0: # without latency the position is changed before the second passes
            before = np.r_[0, got.position[:-1]]
            np.testing.assert_allclose(got.gross, 1e4*before*np.diff(m.mid)[:len(got)]/m.mid[0], atol=1e-7)
        # every fill pays the fee of its value, once
        fee = 2. if execution == "maker" else 5.
        inner = got.iloc[:-1] # a maker's forced close is a taker's
        np.testing.assert_allclose(inner.fee, -fee*1e-4*inner.traded, atol=1e-9)
        assert ((got.fee == 0) == (got.fills == 0)).all()


def test_walking_the_levels_by_hand():
    book = as_market(toy([100.]*3, levels=3)).book[0]
    assert walk(book, 25., False) == pytest.approx((25, 10*100.05 + 15*100.15, 100.05))
    assert walk(book, -60., False) == pytest.approx((-60, -(10*99.95 + 20*99.85 + 30*99.75), 99.95))
    assert walk(book, 100., False)[0] == pytest.approx(60)
    book[8:] = np.nan
    assert walk(book, 100., False)[0] == pytest.approx(30)
    assert walk(book, 45., True)[1] == pytest.approx(10*100.05 + 20*100.15 + 15*(100.15 + .1*15/60))


def test_what_the_book_does_not_hold_stays_undone_until_asked_again():
    m = as_market(toy([100.]*6, size=1.))
    got = follow(m, np.ones(6), capital=500., taker=0., end="cut") # 5 units wanted, 3 shown a second
    np.testing.assert_allclose(got.position, [.6, 1, 1, 1, 1])
    np.testing.assert_allclose(got.missed, [2, 0, 0, 0, 0])


@pytest.mark.parametrize("latency", [0, 1, 2, 5])
def test_an_order_meets_the_book_latency_seconds_later(latency):
    mids = 100 + .5*np.arange(12)
    got = follow(as_market(toy(mids)), np.r_[0, 0, np.ones(10)], latency=latency, taker=0., capital=500., end="cut")
    first = 2 + latency # the row at whose book it is filled; rows of `got` start at row 1
    assert (got.position.to_numpy() > 0).argmax() == max(first, 3) - 1
    paid = got.traded[got.fills > 0].iloc[0]*500/1e4
    assert paid == pytest.approx(5*(mids[first] + .05))
    assert got.gross.sum()*500/1e4 == pytest.approx(5*(mids[-1] - mids[first]))


def test_funding_is_paid_by_the_position_held_into_its_second():
    g = toy([100.]*6)
    rate = np.array([0, 0, 1e-3, 0, 2e-3, 0])
    for side in (1, -1):
        got = follow(as_market(g, rate), np.full(6, 1.*side), latency=2, taker=0., capital=500., end="cut") # held from row 2 on
        np.testing.assert_allclose(got.funding*500/1e4, [0, 0, 0, -side*2e-3*500, 0], atol=1e-12)
    due = funding_rate(1_000_000*np.arange(86_400), 1., hours=8)
    assert due.nonzero()[0].tolist() == [0, 28_800, 57_600] and due.max() == 1e-4


def test_an_account_is_closed_at_cost_when_it_has_lost_what_it_may():
    got = follow(as_market(toy(np.r_[100, 100, 99, 98, 97, 96, 95])), np.ones(7), taker=0., capital=500., loss=.015)
    assert len(got) == 3 and got.position.iloc[-1] == 0 # down 5 + 5 + spread of 7.5 allowed after the third second
    assert got.net.sum()*500/1e4 == pytest.approx(-5*(100.05 - 97.95))


def traded(n, **at):
    "Columns low, high, sell_vol, buy_vol with trades in some seconds: row -> (price, sold, bought)"
    low, sell, buy = np.full(n, np.nan), np.zeros(n), np.zeros(n)
    for row, (price, sold, bgt) in at.items():
        i = int(row[1:])
        low[i], sell[i], buy[i] = price, sold, bgt
    return dict(low=low, high=low, sell_vol=sell, buy_vol=buy)


def make(mids, target=1., half=.05, size=10., **kw):
    n = len(mids)
    m = as_market(toy(mids, half=half, size=size, **kw))
    return follow(m, np.full(n, 1.*target), execution="maker", maker=0., capital=500., end="cut") # 5 units, posted at row 1


def test_a_maker_waits_its_turn():
    flat = [100.]*6
    assert make(flat).fills.sum() == 0
    got = make(flat, **traded(6, r1=(99.95, 100, 0))) # in the second in which it arrives: not seen
    assert got.fills.sum() == 0
    got = make(flat, **traded(6, r2=(99.95, 10, 0))) # takes the queue and no more
    assert got.fills.sum() == 0
    got = make(flat, **traded(6, r2=(99.95, 10, 0), r3=(99.95, 3, 0), r4=(99.95, 7, 0)))
    np.testing.assert_allclose(got.position, [0, 0, .6, 1, 1])
    got = make(flat, **traded(6, r2=(99.95, 4, 0), r3=(99.95, 5, 0), r4=(99.95, 3, 0))) # nine of ten, then one and two for us
    np.testing.assert_allclose(got.position, [0, 0, 0, .4, .4])
    got = make(flat, **traded(6, r2=(100.05, 0, 50))) # others buy
    assert got.fills.sum() == 0
    got = make(flat, -1, **traded(6, r2=(100.05, 0, 13)))
    np.testing.assert_allclose(got.position, [0, -.6, -.6, -.6, -.6])


def test_cancellations_help_only_as_far_as_they_can_be_seen():
    size = np.array([10, 10, 4, 30, 30, 30.])
    got = make([100.]*6, size=size, **traded(6, r3=(99.95, 6, 0))) # four before it at most, then 26 behind it
    np.testing.assert_allclose(got.position, [0, 0, .4, .4, .4])


def test_a_trade_or_a_quote_strictly_through_fills_at_the_resting_price_and_one_that_touches_does_not():
    got = make([100.]*4, **traded(4, r2=(99.9, 1, 0)))
    np.testing.assert_allclose(got.position, [0, 1, 1])
    assert got.traded.sum()*500/1e4 == pytest.approx(5*99.95)
    got = make([100., 100., 99.85, 99.85]) # the ask comes down to 99.90, under the bid that waits at 99.95
    np.testing.assert_allclose(got.position, [0, 1, 1])
    assert got.spread.sum()*500/1e4 == pytest.approx(5*(99.85 - 99.95)) # run over: a loss from the start
    got = make([100., 100., 99.90, 99.90]) # to 99.95: touched
    assert got.fills.sum() == 0


def test_a_maker_left_behind_is_posted_again_at_the_end_of_the_queue():
    mids = [100., 100., 100.1, 100.1, 100.1]
    got = make(mids, **traded(5, r3=(100.05, 12, 0))) # posted at 100.05 at row 2, ten before it
    np.testing.assert_allclose(got.position, [0, 0, .4, .4])
    got = make(mids, **traded(5, r2=(99.95, 12, 0))) # its price was not the best at the end
    assert got.fills.sum() == 0
    got = make([100., 100., 99.9, 100.], **traded(4, r3=(99.95, 50, 0))) # nor here at the start
    assert got.fills.sum() == 0


def test_a_maker_posts_nothing_in_a_locked_book_and_takes_its_order_back_when_it_is_not_wanted():
    flat = [100.]*6
    assert make(flat, half=0., **traded(6, r2=(99., 50, 0))).fills.sum() == 0
    m = as_market(toy(flat, **traded(6, r4=(90., 50, 0))))
    assert follow(m, np.array([1, 1, 0, 0, 0, 0.]), execution="maker", capital=500.).fills.sum() == 0
    assert follow(m, np.array([1, 1, 1, 0, 0, 0.]), execution="maker", capital=500., end="cut").fills.sum() == 1 # arrives too late to take it back


@settings(**LATE)
@given(st.integers(0, 2**32 - 1))
def test_a_maker_is_filled_only_where_the_tape_or_the_other_side_reached_its_price(seed):
    rng = np.random.default_rng(seed)
    m = random_market(rng, n=200, levels=3)
    acc = Accounts(m, 1, execution="maker", capital=500.)
    acc.open(np.array([0]), np.array([0]))
    s, filled = acc.state, 0
    for t in range(199):
        price, units, ahead, was = s["price"][0], s["quantity"][0], s["ahead"][0], s["position"][0]
        acc.advance(np.array([float(rng.integers(-1, 2))]), np.array([GO]))
        done = s["position"][0] - was
        if done == 0: continue
        filled += 1
        assert done*units > 0 and abs(done) <= abs(units)*(1 + 1e-9)
        low, high, buys, sells = m.tape[t+1]
        if units > 0: reached, through, volume = low <= price, low < price or m.book[t+1, 0] < price, sells
        else: reached, through, volume = high >= price, high > price or m.book[t+1, 2] > price, buys
        assert through or (reached and abs(done) <= volume - ahead + 1e-9)
        assert s["traded"][0] == pytest.approx(abs(done)*price)
    assert filled > 0


def test_a_batch_is_its_accounts_one_by_one():
    rng = np.random.default_rng(0)
    m = random_market(rng, n=100)
    wishes, fees, starts = rng.uniform(-1, 1, (80, 4)), np.array([0., 1., 5., 10.]), np.array([0, 3, 10, 17])
    many = Accounts(m, 4, taker=fees, latency=2)
    many.open(np.arange(4), starts)
    ones = [Accounts(m, 1, taker=f, latency=2) for f in fees]
    for a, s in zip(ones, starts): a.open(np.array([0]), np.array([s]))
    for w in wishes:
        many.advance(w, np.zeros(4, int))
        for i, a in enumerate(ones):
            a.advance(w[i:i+1], np.zeros(1, int))
            assert a.state[0] == many.state[i] and (a.parts[0] == many.parts[i]).all()


def test_entry_is_the_average_price_and_age_counts_from_the_open():
    acc = Accounts(as_market(toy([100., 100., 101., 101., 101., 101.])), 1, taker=0., capital=500.)
    acc.open(np.array([0]), np.array([0]))
    seen = []
    for wish in (.5, 1., .25, -.5, 0.):
        acc.advance(np.array([wish]), np.array([GO]))
        seen.append((acc.state["position"][0], acc.state["entry"][0], acc.state["age"][0]))
    np.testing.assert_allclose(seen, [(2.5, 100.05, 0), (5, (100.05 + 101.05)/2, 1), (1.25, (100.05 + 101.05)/2, 2), (-2.5, 100.95, 0), (0, 0, 0)])


def test_an_account_opened_anew_has_no_orders_under_way():
    acc = Accounts(as_market(toy([100.]*12)), 1, latency=3)
    acc.open(np.array([0]), np.array([0]))
    for _ in range(2): acc.advance(np.array([1.]), np.array([GO]))
    acc.open(np.array([0]), np.array([4]))
    for _ in range(5): acc.advance(np.array([0.]), np.array([GO]))
    assert acc.state["position"][0] == 0 and acc.state["equity"][0] == 0


# Mistakes found in published back-tests: none of them here

def test_a_position_does_not_earn_the_second_before_it_was_opened():
    mids = np.r_[np.full(5, 100.), np.full(5, 101.)] # one jump, seen at row 5
    seen = np.r_[np.zeros(5), np.ones(5)]
    for latency in (0, 1, 2): assert follow(as_market(toy(mids)), seen, latency=latency, execution="mid", end="cut").gross.sum() == 0
    rng = np.random.default_rng(0)
    moves = rng.choice([-1., 1.], 20_000)
    m = as_market(toy(5_000 + .1*moves.cumsum()))
    gross = follow(m, moves, execution="mid", taker=0., capital=500.).gross # long after a rise
    assert abs(gross.mean()) < 4*gross.std()/np.sqrt(len(gross)) # the fault would earn every single move
    assert 1e4*.1/5_000*20_000 > 50*abs(gross.sum())


def test_a_position_earns_in_seconds_without_a_trade_too():
    mids = 100 + .1*np.arange(11)
    quiet = follow(as_market(toy(mids)), np.ones(11), execution="mid", taker=0., capital=500., end="cut")
    busy = follow(as_market(toy(mids, **traded(11, r5=(100.5, 1, 1)))), np.ones(11), execution="mid", taker=0., capital=500., end="cut")
    np.testing.assert_allclose(quiet.gross*500/1e4, [0] + [.5]*9)
    pd.testing.assert_frame_equal(quiet, busy)


def test_every_fill_pays_its_fee():
    target = np.tile([1., -1.], 6)[:11]
    got = follow(as_market(toy([100.]*11)), target, taker=10., capital=500.)
    assert got.fills.sum() == 10 # one to open, eight to turn, one to close
    assert got.fee.sum() == pytest.approx(-10*1e-4*got.traded.sum())
    assert got.traded.sum()*500/1e4 == pytest.approx(5*100.05 + 4*10*99.95 + 4*10*100.05 + 5*99.95, rel=1e-3)


def test_each_second_s_return_counts_once_however_long_the_horizon_of_the_forecast():
    mids = 100 + .1*np.arange(31)
    m = as_market(toy(mids))
    forecast = np.r_[mids[10:] - mids[:-10], np.zeros(10)] # ten seconds ahead, overlapping
    got = follow(m, np.sign(forecast), execution="mid", taker=0., capital=500.)
    assert got.gross.sum()*500/1e4 == pytest.approx(5*.1*21) # held for 21 seconds
    assert forecast.sum()*5 == pytest.approx(105) # what adding the forecasts' returns up would claim


def test_an_hour_that_ends_costs_what_closing_costs():
    m = as_market(toy([100.]*3601))
    got = follow(m, np.ones(3601), taker=5., capital=500.)
    assert got.position.iloc[-1] == 0 and got.fills.iloc[-1] == 1
    assert got.net.sum()*500/1e4 == pytest.approx(-5*.1 - 5e-4*5*200)
    cut = follow(m, np.ones(3601), taker=5., capital=500., end="cut")
    assert cut.position.iloc[-1] == 1
    assert (cut.net.sum() - got.net.sum())*500/1e4 == pytest.approx(5*.05 + 5e-4*5*99.95)


def test_wrong_input_gets_a_sentence():
    g = toy([100.]*5)
    m = as_market(g)
    faults = [(dict(execution="limit"), "taker, maker, mid"), (dict(latency=.5), "whole number"), (dict(capital=0), "positive"), (dict(loss=0), "positive")]
    for kw, words in faults:
        with pytest.raises(ParameterError, match=words): follow(m, np.ones(5), **kw)
    with pytest.raises(ParameterError, match="close or cut"): follow(m, np.ones(5), end="open")
    with pytest.raises(ParameterError, match="from -1 to 1"): follow(m, np.full(5, np.nan))
    with pytest.raises(ParameterError, match="a target a row"): follow(m, np.ones(4))
    with pytest.raises(TooShortError, match="two rows"): follow(m, np.ones(5), 4)
    with pytest.raises(ParameterError, match="one segment"): follow(as_market(g.assign(segment=[1, 1, 1, 2, 2])), np.ones(5))
    with pytest.raises(ParameterError, match="1 to 2 levels"): as_market(g, levels=3)
    with pytest.raises(ParameterError, match="do not cross"): as_market(g.assign(bid_px_1=np.nan))
    with pytest.raises(ParameterError, match="a rate a row"): as_market(g, np.zeros(3))
