"""Mistakes that published work has made, one test each: the wrong way is written out, and gives another number than ours.

Each has more tests where the right way lives: smoothed labels in test_label_audit and test_rows; columns of other people's files in test_readers;
gaps in test_labels; fits on training rows in test_causality_scaling and test_audit; look-ahead in test_audit; what a position earns, what fills pay
and what closing costs in test_accounting and test_environment; choices on validation in test_training and test_search; missing rows in test_scoring;
the clock of a year in test_measures; purging in test_folds; transfer to the real market in test_transfer."""
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import yaml
from house import ROOT, code
from lobresearch.data import fi2010, npy43
from lobresearch.errors import DataError, LeakError, ParameterError
from lobresearch.evidence.bootstrap import value
from lobresearch.evidence.superiority import best_of_many
from lobresearch.forecast.baselines import fit_ridge, predict_ridge
from lobresearch.forecast.scoring import score
from lobresearch.market.audit import audit_causality, audit_columns, audit_fit
from lobresearch.market.features import features, select
from lobresearch.market.folds import combinatorial
from lobresearch.market.label_audit import past_predictor
from lobresearch.market.labels import SECOND, apply_threshold, ema_return, fit_threshold, forward_return
from lobresearch.market.registry import random_grid
from lobresearch.synthetic.transfer import transfer
from lobresearch.trading.accounting import as_market, follow
from lobresearch.trading.environment import Environment, play
from lobresearch.trading.measures import checked, measures, per_period

CLOCK = np.arange(20_000)*SECOND
ONE = np.zeros(len(CLOCK), int)  # one segment


def walk(seed=0, n=20_000): return 100*np.exp(np.random.default_rng(seed).normal(0, 1e-4, n).cumsum())


def market(mids, half=.05, **columns):
    "A grid of one level around `mids`, deep enough for any order"
    mids = np.asarray(mids, float)
    g = pd.DataFrame(dict(ask_px_1=mids + half, ask_sz_1=1e6, bid_px_1=mids - half, bid_sz_1=1e6, low=np.nan, high=np.nan, buy_vol=0., sell_vol=0.,
                          segment=SECOND), pd.Index(SECOND*np.arange(1, len(mids) + 1), name="ts"))
    return g.assign(**columns)


def money(ledger, capital): return ledger*capital/1e4  # bps of the capital to currency


# ---- labels, columns, fits

def test_a_smoothed_label_is_not_scored_as_if_it_were_raw():
    mid = walk()
    known = past_predictor(CLOCK, ONE, mid, "ema", 10)  # knows past returns only, of a random walk: no skill
    raw = forward_return(CLOCK, ONE, mid, 10)
    smoothed = pd.Series(raw).ewm(alpha=.2, adjust=False).mean().to_numpy()
    ok = np.isfinite(raw)
    wrong = np.corrcoef(known[ok], smoothed[ok])[0, 1]
    assert wrong == pytest.approx(.485, abs=.03)
    np.testing.assert_allclose(ema_return(CLOCK, ONE, mid, 10)[ok], smoothed[ok], atol=1e-9)
    ours = score(raw, known, 100, 200, 0)
    assert abs(ours["pearson"]) < 3*ours["pearson_se"] and abs(ours["pearson"]) < .1


def test_the_target_is_not_the_column_beside_it(tmp_path):
    rng, n = np.random.default_rng(1), 400
    m = .26*np.exp(rng.normal(0, .0015, n).cumsum())
    x = rng.random((n, 144))
    for k in range(10): x[:, 4*k], x[:, 4*k+2] = m*(1.0002 + k/1e4), m*(.9998 - k/1e4)
    y = np.stack([np.where((r := fi2010.relabel(m, k)) > 0, r, 2) for k in fi2010.HORIZONS], 1)
    np.savetxt(tmp_path/"f.txt", np.column_stack([x, y]).T, fmt="%.9e")
    whole = np.loadtxt(tmp_path/"f.txt")
    f, ten = fi2010.read_fi2010(tmp_path/"f.txt"), fi2010.HORIZONS.index(10)
    assert (f.labels[:, ten] == whole[-5]).all() and (whole[-1] != whole[-5]).mean() > .2 and (whole[-4] != whole[-5]).mean() > .1
    assert fi2010.check_labels(f).agree[10] == 1
    for off in (-1, 1): assert fi2010.check_labels(f._replace(labels=np.roll(f.labels, off, axis=1))).agree[10] < .9
    a = np.column_stack([np.arange(50.) + 1_754_006_400, np.tile(np.r_[100.01 + np.arange(10)*.01, np.ones(10), 100 - np.arange(10)*.01, np.ones(10)], (50, 1)),
                         rng.normal(0, 1e-4, (50, 2))])
    np.save(tmp_path/"a.npy", a)
    got = npy43.read_npy43(tmp_path/"a.npy")
    assert (got.returns == a[:, 41:43]).all() and (got.book[:, -1] == a[:, 40]).all()  # one to the left is a size


def test_a_label_does_not_reach_across_a_gap_by_counting_rows():
    ts = np.r_[np.arange(20), np.arange(3600, 3620)]*SECOND  # an hour is missing
    segment = np.repeat([0, 1], 20)
    mid = np.r_[np.full(20, 100.), np.full(20, 110.)]  # and the price went somewhere meanwhile
    wrong = 1e4*np.log(mid[10:]/mid[:-10])
    ours = forward_return(ts, segment, mid, 10)
    assert wrong.max() > 900 and (wrong > 0).sum() == 10
    assert np.isnan(ours[10:20]).all() and np.isnan(ours[30:]).all() and (ours[np.isfinite(ours)] == 0).all() and np.isfinite(ours).sum() == 20


def test_scalers_and_thresholds_do_not_see_rows_outside_training():
    rng = np.random.default_rng(2)
    y = rng.normal(0, np.repeat([1., 4.], 5_000))  # volatility rises after training
    train = np.arange(10_000) < 5_000
    wrong, ours = fit_threshold(y, np.ones(10_000, bool)), fit_threshold(y, train)
    assert wrong["high"] > 1.5*ours["high"] and ours["high"] == pytest.approx(np.quantile(y[train], 2/3))
    assert (apply_threshold(y, wrong)[train] == 0).mean() > .45 and (apply_threshold(y, ours)[train] == 0).mean() == pytest.approx(1/3, abs=1e-3)
    X, valid = pd.DataFrame(dict(x=y)), (np.arange(10_000) >= 5_000) & (np.arange(10_000) < 6_000)
    state = fit_ridge(X, y, train, valid)
    assert state["sd"] == [y[train].std()] and y.std() > 2.5*state["sd"][0]
    table = pd.DataFrame(dict(y=y), pd.Index(CLOCK[:10_000], name="ts"))
    audit_fit(lambda g, t: fit_threshold(g.y.to_numpy(), t), table, train, np.random.default_rng(0), kinds=("noise", "wild", "drift"))
    with pytest.raises(LeakError, match="only rows outside training changed"):
        audit_fit(lambda g, t: fit_threshold(g.y.to_numpy(), np.ones(len(g), bool)), table, train, np.random.default_rng(0), kinds=("wild",))


def test_a_forward_return_among_the_features_is_found_out():
    g = random_grid(4_000, np.random.default_rng(3), 2)
    y = forward_return(g.index, g.segment.to_numpy(), ((g.ask_px_1 + g.bid_px_1)/2).to_numpy(), 10)
    wrong = lambda g: features(g, select(2, 61)).assign(target_10=((g.ask_px_1 + g.bid_px_1)/2).pct_change(10).shift(-10).fillna(0.))
    right = lambda g: features(g, select(2, 61))
    role = np.repeat(["train", "valid", "test"], [2_000, 1_000, 1_000])
    scores = []
    for make in (wrong, right):
        X = make(g)
        scores.append(value("pearson", y[role == "test"], predict_ridge(X, fit_ridge(X, y, role == "train", role == "valid"))[role == "test"]))
    assert scores[0] > .9 and abs(scores[1]) < .3
    with pytest.raises(LeakError, match="target_10"): audit_columns(wrong(g), pd.DataFrame(dict(r_10=y), g.index))
    with pytest.raises(LeakError, match="target_10 looks 10 s ahead"): audit_causality(wrong, g, np.random.default_rng(0), 1, ("noise",))
    audit_columns(right(g), pd.DataFrame(dict(r_10=y), g.index))


# ---- positions, fees, closing

def test_a_position_does_not_earn_the_second_before_it_was_opened():
    moves = np.random.default_rng(0).choice([-1., 1.], 20_000)
    mids = 5_000 + .1*moves.cumsum()
    wrong = (moves*np.diff(mids, prepend=5_000.)).sum()  # long where it rose
    ours = money(follow(as_market(market(mids)), moves, execution="mid", taker=0., capital=5_000.).gross, 5_000.)
    assert wrong == pytest.approx(2_000) and abs(ours.sum()) < 4*.1*len(ours)**.5


def test_profit_is_counted_in_seconds_without_a_trade_too():
    mids = 100 + .1*np.arange(101)
    busy = np.arange(101) % 10 == 0  # a trade every ten seconds
    g = market(mids, low=np.where(busy, mids, np.nan), high=np.where(busy, mids, np.nan), buy_vol=1.*busy)
    ours = money(follow(as_market(g), np.ones(101), execution="mid", taker=0., capital=100., end="cut").gross, 100.).sum()
    wrong = np.diff(mids, prepend=100.)[busy].sum()
    assert ours == pytest.approx(9.9) and wrong == pytest.approx(1.)  # held for 99 of 100 moves


def test_every_fill_pays_however_long_the_forecast_looks():
    mids = 100 + .01*np.random.default_rng(1).standard_normal(1_001).cumsum()
    turn = np.tile([1., -1.], 501)[:1_001]  # turned every second
    got = follow(as_market(market(mids)), turn, taker=10., capital=100.)
    ours, wrong = got.fee.sum(), got.fee.iloc[::10].sum()  # one fee for ten overlapping returns
    assert ours == pytest.approx(-10e-4*got.traded.sum()) and got.fills.sum() == 1_000
    assert ours == pytest.approx(10*wrong, rel=.02) and ours < -1.9*10*999
    ahead = 1e4*np.r_[mids[10:]/mids[:-10] - 1, np.zeros(10)]
    hold = follow(as_market(market(mids)), np.sign(ahead), execution="mid", taker=0., capital=100.)  # shown the future
    most = 1e4*abs(np.diff(mids)).sum()/mids[0]
    assert hold.gross.sum() < most < abs(ahead).sum()  # each move can be earned once; the forecasts' returns hold each ten times


def test_an_episode_that_ends_pays_for_closing():
    mids = np.full(3*3_600 + 1, 100.)
    m, x = as_market(market(mids)), np.zeros((len(mids), 1), np.float32)
    starts = np.arange(3)*3_600
    e = play(Environment(m, x, batch=3, length=3_600, starts=starts, taker=5., capital=100.), lambda obs: np.ones(len(obs)))
    opened = follow(m, np.ones(len(mids)), 0, 3_600, "cut", taker=5., capital=100.).net.sum()  # an hour that simply stops
    assert opened == pytest.approx(-5 - 5*1.0005) and e.terminated.all()
    np.testing.assert_allclose(e.net, -5 - 5*1.0005 - 5 - 5*.9995)
    assert e.net.sum() == pytest.approx(-60) and 3*opened == pytest.approx(-30, abs=.1)
    one = follow(m, np.ones(len(mids)), taker=5., capital=100.).net.sum()  # one path pays once
    assert one == pytest.approx(-20)


# ---- choosing and scoring

def test_what_is_chosen_is_not_chosen_on_test_rows():
    rng, role = np.random.default_rng(5), np.repeat(["train", "valid", "test"], [400, 200, 200])
    train, valid, test = (role == k for k in ("train", "valid", "test"))
    gain = []
    for _ in range(40):  # nothing to find
        X, y = pd.DataFrame(rng.standard_normal((800, 30))).add_prefix("x"), rng.standard_normal(800)
        lambdas = np.geomspace(1, 1e4, 30)
        wrong, ours = fit_ridge(X, y, train, test, lambdas), fit_ridge(X, y, train, valid, lambdas)
        other = np.where(test, rng.standard_normal(800), y)
        assert fit_ridge(X, other, train, valid, lambdas) == ours
        error = [((predict_ridge(X, s) - y)[test]**2).mean() for s in (wrong, ours)]
        gain.append(error[1] - error[0])
    assert min(gain) >= 0 and np.mean(gain) > 0 and sum(g > 1e-6 for g in gain) > 10
    found = []
    for _ in range(40):  # fifty epochs without skill
        y, tried = rng.standard_normal(200), rng.standard_normal((200, 50))
        first, second = ([value("pearson", y[k], tried[k, e]) for e in range(50)] for k in (slice(100), slice(100, None)))
        found.append([max(second), second[int(np.argmax(first))]])
    wrong, ours = np.mean(found, axis=0)
    assert wrong > .2 and abs(ours) < .06  # a standard error of an average is .016


def test_sealed_rows_are_opened_by_the_last_stage_alone():
    opens = {p.name for p in (ROOT/"nbs/study").glob("*.ipynb") if "open_final(" in (c := code(p.relative_to(ROOT))) or "allow_final" in c}
    knows = {p.relative_to(ROOT/"lobresearch").as_posix() for p in (ROOT/"lobresearch").rglob("*.py") if "allow_final" in p.read_text()}
    assert opens == {"09_luck.ipynb"} and knows == {"market/splits.py", "trading/sealed.py"}


def test_seconds_without_a_whole_window_are_left_out_and_not_scored_as_zeros():
    rng = np.random.default_rng(6)
    y = rng.standard_normal(1_000)
    y_hat = np.where(np.arange(1_000) % 2 == 0, .5*y + rng.standard_normal(1_000) + 2, np.nan)  # every other window is broken
    ok = np.isfinite(y_hat)
    ours, wrong = score(y, y_hat, 20, 50, 0), np.corrcoef(y, np.nan_to_num(y_hat))[0, 1]
    assert ours["n"] == 500 and ours["pearson"] == pytest.approx(np.corrcoef(y[ok], y_hat[ok])[0, 1])
    assert wrong < .6*ours["pearson"]
    m, x = as_market(market(walk(n=50))), np.ones((50, 1), np.float32)
    x[20:30] = np.nan
    env = Environment(m, x, starts=[10], length=30)
    assert play(env, lambda obs: np.ones(len(obs))).stop.tolist() == [19]  # closed where the windows end, not carried on with zeros
    led = follow(m, np.ones(50), capital=100.)
    with pytest.raises(ParameterError, match="missing values"): checked(led.assign(net=led.net.where(led.index % 2 > 0)))


# ---- clocks, universes, folds, generators

def test_seconds_are_not_annualised_by_252_days():
    rng = np.random.default_rng(7)
    r = rng.normal(.01, 1, 6*3_600)
    led = pd.DataFrame(dict(position=1., gross=r, spread=0., impact=0., fee=0., funding=0., net=r, traded=0.), pd.Index(SECOND*np.arange(1, len(r) + 1), name="ts"))
    p = per_period(led).net
    ours = measures(led, n=2).value.sharpe
    a_year = ours/(p.mean()/p.std())
    assert a_year == pytest.approx((365*24*60)**.5)
    for wrong in (252**.5, (252*6.5*60)**.5, (252*24*60)**.5): assert abs(a_year/wrong - 1) > .15
    assert ours/(p.mean()/p.std()*252**.5) == pytest.approx(45.67, abs=.01)  # sqrt(365*1440/252)


def test_times_are_not_kept_in_float32():
    t = 1_754_006_400 + np.arange(300.)
    wrong = np.diff(t.astype(np.float32))
    assert set(wrong.tolist()) <= {0., 128.} and (wrong == 0).mean() > .98  # 128 s is the unit of a float32 there
    with pytest.raises(DataError, match="exact to 128 s only"): npy43.times(t.astype(np.float32))
    with pytest.raises(DataError, match="were float32 once"): npy43.times(t.astype(np.float32).astype(float))
    ours = npy43.times(t)
    assert ours.dtype == np.int64 and (np.diff(ours) == SECOND).all()


def test_symbols_are_not_ranked_by_what_is_known_after_the_sample():
    rng = np.random.default_rng(8)
    pnl = pd.DataFrame(rng.standard_normal((720, 60))).add_prefix("S")  # sixty coins without drift
    best = pnl.sum().idxmax()
    t = pnl[best].mean()/pnl[best].std()*720**.5
    assert t > 2 and pnl[best].sum() > 50  # ranked by its own future, it looks certain
    assert best_of_many(pnl, block=5, n=300)["p"] > .1  # all that it was picked from counted
    before = pnl.iloc[:360].sum().idxmax()
    assert abs(pnl[before].iloc[360:].mean()) < 2.5/360**.5  # ranked before, it earns nothing
    named = yaml.safe_load((ROOT/"params.yaml").read_text())["data"]["symbols"]
    assert isinstance(named, list) and all(isinstance(s, str) for s in named)  # the study's symbols are named before it runs


def test_test_blocks_apart_leave_the_training_between_them():
    n, reach = 6_000, (10, 20, 5)
    split = combinatorial(np.arange(n)*SECOND, *reach, valid=0, final=0)
    fold = list(combinations(range(6), 2)).index((0, 5))  # the first and the last block are tested
    role = split[split.fold == fold].role.to_numpy()
    test = np.flatnonzero(role == "test")
    wrong = (np.arange(n) < test.min() - sum(reach)) | (np.arange(n) > test.max() + sum(reach))  # purged from the first test row to the last
    assert wrong.sum() == 0 and (role == "train").sum() == 4_000 - 2*sum(reach)


def queues(n, seed, sign, paths=1):
    "A market whose longer queue says where the mid goes next (sign 1), or where it does not go (-1)"
    rng = np.random.default_rng(seed)
    g = random_grid(n, rng, 2, breaks=range(n//paths, n, n//paths) if paths > 1 else ())
    lean = sign*(2*g.bid_sz_1/(g.bid_sz_1 + g.ask_sz_1) - 1).to_numpy()
    step = np.where(rng.random(n) < .5, np.sign(lean + rng.normal(0, .5, n)), 0)
    move = .1*np.r_[0, np.cumsum(step[:-1])] - (g.bid_px_1 - g.bid_px_1.iloc[0]).to_numpy()
    return g.assign(**{c: g[c] + move for c in g if "_px_" in c or c in ("vwap", "high", "low")})


def test_a_generated_market_is_not_validated_on_its_own_generator():
    real, role = queues(6_000, 0, 1.), np.repeat(["train", "valid", "test"], 2_000)
    t = transfer(real, role, queues(6_000, 1, -1., 10), (1,), block=60).set_index("way").pearson
    assert t["synthetic to synthetic"] > .3  # what judging on fresh draws of the generator says
    assert t["synthetic to real"] < -.3 and t["real to real"] > .3
