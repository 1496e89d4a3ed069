import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from lobresearch.errors import DataError, ParameterError, TooShortError
from lobresearch.trading import action_maps as maps
from lobresearch.trading import results as rs
from lobresearch.trading import trading_figures as figs
from lobresearch.trading import trading_words as words
from lobresearch.trading.accounting import PARTS
from lobresearch.trading.environment import STATE
from lobresearch.trading.measures import break_even, net_at_fees, per_period


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def ledger(rows=7200, edge=.6, seed=0, fee=.1):
    r = np.random.default_rng(seed)
    p = (np.arange(rows)//60 % 2 == 0).astype(float); p[-1] = 0
    side = abs(np.diff(p, prepend=0.))
    t = pd.DataFrame(dict(position=p, gross=np.r_[0, p[:-1]]*(edge/60 + .3*r.standard_normal(rows)), spread=-.05*side, impact=0., fee=-fee*side, funding=0.),
                     index=pd.Index((1 + np.arange(rows))*1_000_000, name="ts"))
    return t.assign(net=t[list(PARTS)].sum(axis=1), traded=1e4*side)


def minutes(led, key="a"):
    return per_period(led).reset_index().assign(key=key, split="test")


def record(kind, name, scenario, net, best=True, part=None, turnover=10., reach=10., **kw):
    t = dict(symbol="S", kind=kind, name=name, representation=name if kind == "agent" else "", scenario=scenario,
             part=part or ("matrix" if kind == "agent" else "rules"), chosen=kind != "bound",
             best=best, turnover=turnover, exposure=.3, seconds=14_400, valid_net_day=net)
    for k,v,r in (("net_day", net, reach), ("break_even", net/10, reach/10), ("gross_day", net, reach), ("turnover", turnover, 0.)):
        t |= {k: v, f"{k}_lo": v - r, f"{k}_hi": v + r}
    return t | kw


SCENARIOS = {"mid": {"execution": "mid", "taker": 0}, "spread": {"taker": 0}, "fee": {"taker": 2.5}}


def test_a_day_is_what_measures_say():
    led = ledger()
    d = rs.daily(minutes(led), block=5, n=50, seed=3).loc["a"]
    b = break_even(led, 5, 50, 3)
    assert [d.break_even, d.break_even_lo, d.break_even_hi] == pytest.approx([b["fee"], b["low"], b["high"]])
    f = net_at_fees(led, [.1e-4*1e4], 5, 50, 3) # a fee of .1 bps of the capital where 10,000 bps are traded is .1 bps a side
    assert [d.net_day, d.net_day_lo, d.net_day_hi] == pytest.approx(f[["net","low","high"]].iloc[0].tolist())
    assert d.net_day == pytest.approx(led.net.sum()/7200*86400) and d.turnover == pytest.approx(led.traded.sum()/1e4*12)
    assert d.gross_day + d.spread_day + d.impact_day + d.fee_day + d.funding_day == pytest.approx(d.net_day)


def test_the_difference_of_a_record_to_itself_is_nothing_and_to_another_antisymmetric():
    m = pd.concat([minutes(ledger(seed=1)), minutes(ledger(seed=2), "b")])
    assert rs.less(m, "a", "a", 5, 50) == (0, 0, 0)
    x, y = rs.less(m, "a", "b", 5, 50), rs.less(m, "b", "a", 5, 50)
    assert x == pytest.approx((-y[0], -y[2], -y[1]))


def test_too_few_minutes_give_no_interval_and_no_claim():
    d = rs.daily(minutes(ledger(600)), block=15, n=20)
    assert d[["net_day_lo","net_day_hi","break_even_lo"]].isna().all(axis=None) and np.isfinite(d.net_day["a"])
    assert words.verdict(dict(turnover=1., exposure=.1, seconds=600, net_day_lo=np.nan, net_day_hi=np.nan)) == "short"


def test_regimes_add_up_to_the_record():
    led, r = ledger(), np.random.default_rng(0)
    parts = pd.Series(r.choice(["calm","lively"], 7201), np.arange(7201)*1_000_000)
    b = rs.by_regime(led, parts, block=5, n=20)
    assert b.share.sum() == pytest.approx(1) and b.earned.sum() == pytest.approx(led.net.sum())
    assert (b.net*b.share*2).sum() == pytest.approx(led.net.sum()) # two hours
    one = rs.by_regime(led, parts[parts.index < 3_600_000_000], block=5, n=20)
    assert one.share.sum() < .51 # seconds without a regime belong to none


def test_a_regime_knows_nothing_of_what_comes_after():
    r = np.random.default_rng(1)
    n = 400
    mid = 100 + np.cumsum(r.choice([-.5, 0, .5], n))
    ts = pd.Index(np.arange(n)*1_000_000, name="ts")
    g = pd.DataFrame(dict(ask_px_1=mid + .5, bid_px_1=mid - .5, ask_sz_1=r.random(n) + 1, bid_sz_1=r.random(n) + 1, segment=0), ts)
    train, other = np.arange(n) < 200, g.copy()
    other.iloc[300:, :4] *= 3
    a, b = rs.regimes(g, train, 20), rs.regimes(other, train, 20)
    pd.testing.assert_frame_equal(a[:300], b[:300])
    assert not a[300:].equals(b[300:])
    assert a[train].volatility.value_counts(normalize=True).to_numpy() == pytest.approx(1/3, abs=.02)


def test_two_winners_are_refused():
    t = pd.DataFrame([record("rule", n, "mid", 1.) for n in ("ofi", "momentum")])
    with pytest.raises(DataError, match="there can be one"): rs.winner(t, "mid", "rule")
    assert rs.winner(t.assign(best=[False, True]), "mid", "rule")["name"] == "momentum" and rs.winner(t, "mid", "agent") is None


def test_the_matrix_colours_by_interval_and_frames_the_choice():
    t = [dict(record("agent", n, "mid", v, best=n == "codes"), row=n) for n,v in (("features", 50.), ("codes", -50.), ("hybrid", 5.))]
    t = pd.DataFrame(t + [dict(record("agent", "forecasts", "mid", 0., False, turnover=0., reach=0.), row="forecasts")])
    fig, _ = figs.fig_matrix(t, ["mid"])
    hues = [p.get_facecolor()[:3] for p in fig.axes[0].patches]
    assert len(set(hues)) == 4 and [p.get_linewidth() > 1 for p in fig.axes[0].patches] == [False, True, False, False]
    assert "never trades" in [v.get_text() for v in fig.axes[0].texts]
    with pytest.raises(TooShortError): figs.fig_matrix(t[:0], ["mid"])


def test_axes_of_net_results_reach_both_ends():
    fig, ax = plt.subplots()
    figs.net_axis(ax, -60_000., 4_000.)
    lo, hi = ax.get_xlim()
    assert lo < -60_000 and hi > 4_000 and 0 in ax.get_xticks()
    figs.net_axis(ax, 0., 0., "y")
    lo, hi = ax.get_ylim()
    assert lo < 0 < hi


def test_the_fee_curve_has_a_dot_for_each_fee_it_was_made_for():
    records = {"chosen rule": ledger(), "chosen agent": ledger(seed=5)}
    tuned = pd.DataFrame([dict(name=n, fee=f, net_day=v, net_day_lo=v - 5, net_day_hi=v + 5) for n in records for f,v in ((0., 50.), (2.5, 0.))])
    fig, curves = figs.fig_fee_curve(records, tuned, {"fee": 2.5}, {"chosen rule": "k", "chosen agent": "b"}, n=20, block=5)
    dots = [li for li in fig.axes[0].lines if li.get_marker() == "o"]
    assert [len(d.get_xdata()) for d in dots] == [2, 2] and dots[0].get_ydata() == pytest.approx([50, 0])
    lo, hi = fig.axes[0].get_ylim()
    assert lo < curves.net.min() and hi > 50


def test_costs_stack_to_net():
    t = pd.DataFrame([dict(row="rule", gross_day=30., spread_day=-20., impact_day=-2., fee_day=3., funding_day=0., net_day=11.)])
    fig, _ = figs.fig_costs(t)
    ends = [p.get_x() + max(p.get_width(), 0) for p in fig.axes[0].patches] + [p.get_x() + min(p.get_width(), 0) for p in fig.axes[0].patches]
    assert max(ends) == pytest.approx(33) and min(ends) == pytest.approx(-22) # gains to the right, costs to the left: 33 − 22 = 11


@pytest.mark.parametrize("net,said", [(50., "Something is left after costs"), (5., "Nothing earns after costs"), (-50., "Nothing earns after costs")])
def test_the_answer_follows_the_interval(net, said):
    t = pd.DataFrame([record("rule", "ofi", c, net) for c in SCENARIOS] + [record("agent", "codes", c, -1., reach=5.) for c in SCENARIOS])
    assert said in words.earns_words(t, SCENARIOS)[0]


def test_whoever_holds_on_has_the_drift_and_no_earnings():
    t = pd.DataFrame([record("rule", "buy_hold", "spread", 500., turnover=6., exposure=1.)])
    assert "Nothing earns" in words.earns_words(t, SCENARIOS)[0] and "holds on" in words.answer_table(t, SCENARIOS).loc["spread"].iloc[1]
    assert "no break-even fee" in words.even_words(t, SCENARIOS)[-1]
    assert "Something is left" in words.earns_words(t.assign(turnover=600.), SCENARIOS)[0]


def test_fills_at_mid_without_a_fee_are_no_earnings():
    t = pd.DataFrame([record("rule", "ofi", "mid", 500.), record("rule", "ofi", "spread", 0.)])
    assert "Nothing earns" in words.earns_words(t, SCENARIOS)[0]


def test_what_nobody_can_know_is_never_the_answer():
    t = pd.DataFrame([record("rule", "ofi", "spread", 0.), record("bound", "hindsight", "spread", 900., False), record("bound", "hidden", "spread", 900., False)])
    assert "Nothing earns" in words.earns_words(t, SCENARIOS)[0] and "hindsight" not in " ".join(words.earns_words(t, SCENARIOS))


def test_agents_of_other_networks_and_rewards_are_no_part_of_the_matrix():
    t = pd.DataFrame([record("agent", "codes", "mid", 5.), record("agent", "hybrid", "mid", 500., False, "rewards")])
    assert words.matrix_words(t, SCENARIOS)[0].startswith("1 agents, 1 representations")
    assert rs.matrix(t)["name"].tolist() == ["codes"]


def test_break_even_is_told_against_the_lowest_fee():
    t = pd.DataFrame([record("rule", "ofi", "spread", 5., reach=3.)])
    assert "0.50 [0.20, 0.80] bps a side. The lowest fee in the study is 2.5 bps, above every interval." in words.even_words(t, SCENARIOS)[-1]
    assert "above every interval" not in words.even_words(t.assign(break_even_hi=3.), SCENARIOS)[-1]


class Follows:
    "Goes with the last second's first feature, and stays where it is when that is small"
    def __init__(self, features, window): self.at = (window - 1)*features
    def act(self, obs): x = obs[:, self.at]; return np.where(abs(x) > .5, np.sign(x), obs[:, -len(STATE)])


@pytest.mark.parametrize("window", [1, 3])
def test_a_map_finds_what_an_agent_listens_to(window):
    x = np.random.default_rng(2).standard_normal((300, 3)).astype(np.float32)
    x[100] = np.nan
    at = maps.sample(x, np.arange(300) > 20, window, 100)
    assert at.min() >= 20 + window - 1 and not set(range(100, 100 + window)) & set(at.tolist())
    seen, agent = maps.windows(x, at, window), Follows(3, window)
    t = maps.sensitivity(agent, seen, ["a","b","c"])
    assert t.feature[0] == "a" and t.change.tolist() == pytest.approx([2, 0, 0])
    m = maps.action_map(agent, seen, ["a","b","c"], ("b","a"), points=5)
    assert (m[abs(m.y) < .5].wanted == m[abs(m.y) < .5].held).all() and (m[m.y > .5].wanted == 1).all()
    q = maps.lines(agent, seen, ["a","b","c"], "b")
    assert q.groupby("held").wanted.nunique().max() == 1 # it does not see b


def test_own_state_of_the_account_that_asks():
    o = maps.asked(np.zeros((2, 1)), 1., age=.5)
    own = dict(zip(STATE, o[0, 1:]))
    assert own["position"] == own["target"] == own["left"] == 1 and own["age"] == .5 and own["unrealised"] == own["drawdown"] == 0
    assert maps.asked(np.zeros((1, 1)), 0.)[0, 1 + STATE.index("age")] == 0


def test_wrong_minutes_are_refused(tmp_path):
    (tmp_path/"artifacts/trading/minutes").mkdir(parents=True)
    minutes(ledger(120)).drop(columns="traded").to_parquet(tmp_path/"artifacts/trading/minutes/symbol=S.parquet")
    with pytest.raises(DataError, match="lacks the column traded"): rs.read_minutes(tmp_path, "S")
    with pytest.raises(ParameterError): rs.less(pd.concat([minutes(ledger(120)), minutes(ledger(240), "b")]), "a", "b")
