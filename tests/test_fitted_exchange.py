"The embedded exchange as a bar: its record is the exchange's own, its moments are matched roughly"
import numpy as np
import pandas as pd
import pytest
from lobresearch.data.exchange import Exchange
from lobresearch.data.grid import grid_columns, ingest
from lobresearch.data.martingale import Martingale
from lobresearch.data.simulate import LOT, TICK, VENUE, branch, market, write_simulated
from lobresearch.errors import ParameterError, TooShortError
from lobresearch.synthetic import fitted_exchange as fe
from lobresearch.synthetic.channels import snapshot_form
from lobresearch.synthetic.decode import check_books
from lobresearch.synthetic.fitted_exchange import MATCHED, Fitted, compare, exchange_market, fit_exchange, moments, seconds

DAYLONG = (0, 86_400_000_000)


def truth(par=None, **kw): return Fitted(**(dict(par=par or Exchange(), tick=TICK, coarse=1, lot=LOT, mid=2000., clock=DAYLONG, truth=True) | kw))


@pytest.mark.parametrize("symbol", ["SIM-SIGNAL", "SIM-NULL"])
def test_a_path_is_what_recording_and_ingesting_the_same_run_gives(tmp_path, symbol):
    "The market's rows against the Tardis files of the same seed, read back: books bit by bit, trade sums to rounding"
    write_simulated(tmp_path, symbol, hours=.25, seed=11)
    g, _ = ingest(tmp_path, VENUE, symbol, "2025-01-01", progress=False)
    fit = truth(market(symbol).par)
    book, flow = fe._path(fit, branch(11, symbol, 0), 900, 0, 10)
    ours = pd.DataFrame(book, columns=g.columns[:40]).assign(**flow)
    g = g.iloc[:-1] # the book at the very end of a recording is the next one's first
    row = g.index % 86_400_000_000//1_000_000 - 1
    assert len(g) > 890
    pd.testing.assert_frame_equal(ours.iloc[row].set_axis(g.index).iloc[:, :40], g.iloc[:, :40])
    for c in flow: np.testing.assert_allclose(ours[c].to_numpy()[row], g[c], rtol=1e-12, atol=1e-12, err_msg=c)


def test_a_trade_stamped_after_the_last_second_belongs_to_the_one_that_follows():
    "Two seconds from midnight: trades at .5 s, 2 s and, as the martingale may stamp its last, 2.000001 s"
    trades = np.array([[500_000, 1, 100, 3], [2_000_000, -1, 99, 2], [2_000_001, 1, 101, 7]])
    f = fe._sums(trades, 0, 2, .1, .01)
    assert f["buy_vol"].tolist() == [.03, 0] and f["sell_vol"].tolist() == [0, .02]
    assert f["buy_n"].tolist() == [1, 0] and f["high"].tolist() == [10., 9.9]


@pytest.mark.parametrize("par", [Exchange(), Martingale()])
def test_rules_contract_and_seed(par):
    fit = truth(par)
    a, b, c = (exchange_market(fit, 2, 300, seed=s) for s in (1, 1, 2))
    pd.testing.assert_frame_equal(a, b)
    assert not a.equals(c) and list(a.columns) == grid_columns(10) and a.segment.nunique() == 2
    assert {k for k, v in check_books(a, TICK, LOT).items() if v} == {"books"}
    pd.testing.assert_frame_equal(a, snapshot_form(a))
    one, two = (p.to_numpy() for _, p in a.filter(like="_sz_").groupby(a.segment))
    assert (one != two).any() # paths are independent histories
    assert exchange_market(fit, 1, 300, seed=1).filter(like="_sz_").equals(a.filter(like="_sz_").iloc[:300]) # and do not depend on how many there are


def test_moments_by_hand():
    g = pd.DataFrame(dict(ask_px_1=[1.02, 1.03, 1.03, 2.00], ask_sz_1=[5., 5, 7, 1], bid_px_1=[1.00, 1.01, 1.03, 2.00], bid_sz_1=[1., 3, 9, 1],
                          ask_px_2=[1.04, 1.05, 1.06, 2.02], ask_sz_2=2., bid_px_2=.9, bid_sz_2=4., buy_vol=[0., 2, 0, 0], sell_vol=[0., 0, 4, 0],
                          buy_n=[0, 1, 0, 0], sell_n=[0, 0, 2, 0], segment=[0, 0, 0, 9]))
    m = moments(g, .01, 1.)
    # mids 101, 102, 103 ticks, then another segment: moves 1 and 1
    assert m["variance of the 1 s move"] == pytest.approx(1) and m["seconds in which the mid moves"] == 1 and m["kurtosis of the 1 s move"] == pytest.approx(1)
    assert m["mean spread"] == pytest.approx(1) and m["median spread"] == 1 and m["locked seconds"] == .5
    assert m["trades a second"] == .75 and m["volume a second"] == 1.5 and m["seconds with trades"] == .5
    assert m["median size at the touch"] == 4 and m["median size at the deepest level"] == 3 and m["mean gap between levels"] == pytest.approx(9/4)
    assert np.isnan(m["60 s variance to 60 times the 1 s variance"])


def test_the_simulated_symbols_get_their_true_parameters():
    g = exchange_market(truth(), 1, 120)
    for symbol, par in (("SIM-SIGNAL", Exchange()), ("SIM-NULL", Martingale())):
        fit = fit_exchange(g, np.ones(120, bool), symbol)
        assert fit.par == par and fit.truth and (fit.tick, fit.lot, fit.coarse) == (TICK, LOT, 1)


@pytest.fixture(scope="module")
def record():
    "A recording in coarse steps of another exchange, and its fit"
    made = Exchange(limit=8., cancel=12., market=.5, taker=60., size=40., cap=250., latent=0., season=0., fast=.3, middle=.3, slow=0.)
    return exchange_market(truth(made, tick=.01, coarse=3, lot=1., mid=50.), 4, 3000, seed=1)


def test_matched_moments_match_and_rows_outside_training_change_nothing(record):
    train = np.arange(len(record)) < 9000
    fit = fit_exchange(record, train, rounds=15, steps=2000)
    ratio = compare(fit, record[train], exchange_market(fit, 4, 3000, seed=2)).query("matched").set_index("moment").pipe(lambda t: t.fitted/t.recorded)
    assert set(ratio.index) == set(MATCHED) and ratio.between(.6, 1.7).all(), ratio
    assert fit.tick*fit.coarse == pytest.approx(.03) and not fit.truth
    other = record.copy()
    other.loc[other.index[~train], "ask_sz_1"] *= 50
    other.loc[other.index[~train], ["ask_px_1", "bid_px_1"]] += 10
    assert fit_exchange(other, train, rounds=2, steps=500) == fit_exchange(record, train, rounds=2, steps=500)


def test_a_cheap_symbol_does_not_fall_to_zero():
    g = exchange_market(truth(mid=1.), 1, 200)
    assert g.bid_px_10.min() > 50


def test_the_corners_of_the_knobs_come_to_an_end():
    "The slowest and the fastest, the thinnest and the thickest books: none empties a side for good"
    for x in np.array(np.meshgrid(*zip(fe.LEAST, fe.MOST, strict=True))).reshape(4, -1).T:
        for size in (200., 800.):
            par = fe._knobs(x, size)
            for scale in (1., .001): # queues of a lot or two, where rounding makes every market order a whole lot
                m = fe._simulated(fe._scaled(par, scale), 150, 0)
                assert np.isfinite(m).all() and m[1] >= 1


def test_a_symbol_whose_queues_are_a_lot_each(record):
    g = record.copy()
    g[[c for c in g if "_sz_" in c]] = 1.
    for c in ("buy", "sell"): g[f"{c}_vol"] = (g[f"{c}_n"] > 0)*1.
    fit = fit_exchange(g, np.ones(len(g), bool), rounds=2, steps=500)
    m = exchange_market(fit, 1, 600)
    assert {k for k, v in check_books(m, fit.tick, fit.lot).items() if v} == {"books"} and m.ask_sz_1.median() <= 10


def test_wrong_input_is_told_in_a_sentence(record):
    with pytest.raises(TooShortError, match="10 training seconds are too few"): fit_exchange(record, np.arange(len(record)) < 10)
    with pytest.raises(ParameterError, match="1 to 25 levels"): exchange_market(truth(), 1, 10, levels=26)
    with pytest.raises(ParameterError, match="an embedded market"): next(seconds((1, 2), 0, 5))
