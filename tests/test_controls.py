"Controls of the trading chapter: moves in another order, accounts to the last unit, intervals that hold together, added markets, planted rewards."
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers_trading import announced, market
from house import closure
from hypothesis import given, settings
from hypothesis import strategies as st
from lobresearch.data.grid import write_grid
from lobresearch.errors import ParameterError, TooShortError
from lobresearch.market.registry import random_grid
from lobresearch.market.splits import chronological, write_splits
from lobresearch.synthetic.bars import bootstrap_market
from lobresearch.trading import augment as au, control_pages as pg, controls as co
from lobresearch.trading.accounting import as_market, follow
from lobresearch.trading.environment import Environment, play, tiles
from lobresearch.trading.jobs import MODULES
from lobresearch.trading.measures import per_period
from lobresearch.trading.rules import record

S, SEED = "TOY", 3
QUICK = dict(envs=4, n_steps=32, batch=64, epochs=1, length=60, checkpoints=2)
SCENARIOS = {"mid": dict(execution="mid", taker=0.), "spread": dict(taker=0.), "lowest tier": dict(taker=5.), "maker": dict(execution="maker", taker=2.5)}


def parts(n):
    "Training, a gap, test, then sealed rows without a role"
    return np.repeat(["train", "", "test", ""], [n//2, n//10, n//5, n - n//2 - n//10 - n//5])


# moves in another order

@given(st.integers(0, 50), st.sampled_from([1, 2, 7]))
@settings(max_examples=15, deadline=None)
def test_shuffled_moves_are_the_same_moves_between_the_same_ends(seed, block):
    m, role = market(200, seed, gaps=(60,)), parts(200)
    s = co.shuffled(m, role, seed, block)
    for a, b in ((0, 60), (60, 100), (120, 160)): # a run is one segment and one part
        assert np.allclose(np.sort(np.diff(np.log(s.mid[a:b]))), np.sort(np.diff(np.log(m.mid[a:b]))), atol=1e-12)
        assert np.allclose(s.mid[[a, b - 1]], m.mid[[a, b - 1]], rtol=1e-12)
    out = role == ""
    assert np.array_equal(s.book[out], m.book[out]) and np.array_equal(s.tape[out], m.tape[out])
    k = (s.mid/m.mid)[:, None]
    assert np.allclose(s.book[:, ::2], k*m.book[:, ::2]) and np.allclose(s.tape[:, :2], k*m.tape[:, :2])
    assert np.array_equal(s.book[:, 1::2], m.book[:, 1::2]) and np.array_equal(s.tape[:, 2:], m.tape[:, 2:])
    assert np.array_equal(s.ts, m.ts) and np.array_equal(s.segment, m.segment)


def test_shuffled_moves_keep_blocks_whole():
    m = market(101, 1)
    s = co.shuffled(m, np.full(101, "train"), 0, 10)
    was, now = (np.round(np.diff(np.log(x.mid)), 12).reshape(10, 10).tolist() for x in (m, s))
    assert sorted(was) == sorted(now) and was != now


def test_what_knew_the_next_move_knows_nothing_of_shuffled_ones():
    m = market(4000, 2)
    target = announced(m)[:, 0]
    rows = np.ones(4000, bool)
    free = dict(execution="mid", taker=0., capital=1000.)
    knew = record(m, target, rows, free)
    blind = [per_period(record(co.shuffled(m, np.full(4000, "test"), k), target, rows, free)).net.mean() for k in range(20)]
    each = per_period(knew).net.mean()
    assert each > 50*np.std(blind) and abs(np.mean(blind)) < 4*np.std(blind)/20**.5


@given(st.integers(0, 30), st.sampled_from([dict(execution="mid", taker=0.), dict(taker=0.), dict(taker=5., latency=2), dict(taker=-1., latency=0)]))
@settings(max_examples=20, deadline=None)
def test_net_is_gross_less_costs_on_shuffled_moves(seed, account):
    m = co.shuffled(market(150, seed), np.full(150, "test"), seed)
    t = follow(m, np.random.default_rng(seed).integers(-1, 2, 150).astype(float), capital=500., **account)
    assert co.gap(t) < 1e-9
    if account.get("execution") == "mid": assert np.allclose(t.net, t.gross, atol=1e-9)


def test_a_record_that_does_not_add_up_is_refused():
    t = follow(market(50), np.ones(50), capital=500.)
    with pytest.raises(ParameterError, match="must add up"): co.gap(t.assign(net=t.net + 1.))


# intervals that hold together

def test_one_record_alone_has_the_interval_of_its_block_means():
    x = pd.DataFrame(dict(a=np.random.default_rng(0).standard_normal(600)))
    t = co.together(x, 1, 4000, level=.95)
    from scipy.stats import t as student
    reach = student.isf(.025, 599)*x.a.std(ddof=0)/600**.5
    assert t.value["a"] == pytest.approx(x.a.mean()) and t.hi["a"] - t.value["a"] == pytest.approx(reach, rel=.06)


@given(st.floats(.01, 1000), st.integers(0, 5))
@settings(max_examples=10, deadline=None)
def test_intervals_scale_with_money_and_widen_with_company(scale, seed):
    x = pd.DataFrame(np.random.default_rng(seed).standard_normal((240, 12)))
    t, s, alone = co.together(x, 10, 300), co.together(scale*x, 10, 300), co.together(x[[0]], 10, 300)
    assert np.allclose(s[["value", "lo", "hi"]], scale*t[["value", "lo", "hi"]])
    assert t.hi[0] - t.lo[0] > alone.hi[0] - alone.lo[0]


def test_a_record_that_traded_once_does_not_spoil_a_winner():
    x = pd.DataFrame(dict(winner=np.random.default_rng(0).normal(.5, 1, 900), rare=0., flat=0.))
    x.loc[400:405, "rare"] = -1.
    t = co.together(x)
    assert t.survives.tolist() == [True, False, False] and t.loc["flat", ["lo", "hi"]].tolist() == [0, 0] and t.holds_zero["flat"]


def test_noise_survives_in_about_one_study_of_two_hundred():
    rng, bad = np.random.default_rng(1), 0
    for _ in range(200):
        x = .7*rng.standard_normal((150, 1)) + rng.standard_normal((150, 8))
        bad += bool(co.together(pd.DataFrame(x), 10, 200, int(rng.integers(1e9))).survives.any())
    assert bad <= 6 # at 1 % two-sided 1 is expected; 7 or more have a chance of one in ten thousand at 1 %


# the planted reward

def test_who_is_paid_to_trade_is_flagged_and_who_is_paid_in_money_is_not():
    grid = random_grid(900, np.random.default_rng(0), 2)
    m, x, acc = as_market(grid), np.zeros((900, 1)), dict(taker=2.5, capital=100.)
    turn = lambda obs: np.where(obs[:, 1] > 0, -1., 1.) # always to the other side
    def earns(weighted):
        env = Environment(m, x, 4, length=100, starts=tiles(Environment(m, x, length=100, **acc)), weighted=weighted, **acc)
        return co.hacking(play(env, turn))
    half = 1e4*.05/grid.ask_px_1.mean()
    paid = co.churn_reward(m, np.arange(900) < 400, acc)
    assert paid["trades"] == pytest.approx(4*(2.5 + half), rel=.02) # the capital is too small to walk the book
    planted, honest = earns(paid), earns(None)
    assert planted["flagged"] and planted["share"] == 1 and planted["net"] == pytest.approx(honest["net"])
    assert not honest["flagged"] and honest["share"] == 0 and honest["reward"] == pytest.approx(honest["net"]) and honest["net"] < 0


# one market out of two

def test_half_of_the_episodes_begin_on_added_rows_and_none_crosses():
    real, added = market(3000, 0, gaps=(1000,)), market(900, 1, gaps=(300, 600))
    x, y = np.zeros((3000, 2), np.float32), np.ones((900, 2), np.float32)
    y[:5] = np.nan
    train = np.arange(3000) < 2000
    m, z, learn = au.side_by_side(real, x, train, added, y, 60, 3)
    env = Environment(m, z, 200, window=3, length=60, rows=learn, capital=500.)
    assert (env.starts < 3000).sum() == (env.starts >= 3000).sum() and not learn[2000:3000].any()
    start, stop = env.starts, env.starts + 60
    assert np.array_equal(m.segment[start], m.segment[stop]) and np.isfinite(z[learn]).all()
    assert np.array_equal(m.book[:3000], real.book) and np.array_equal(z[:3000], x)
    env.reset()
    assert .35 < (env.start >= 3000).mean() < .65


def test_added_rows_are_taken_as_often_as_needed():
    segment = np.repeat([0, 1], 50)
    take = au.enough(segment, np.ones(100, bool), 95, 10)
    assert take == [(0, 50), (50, 100), (0, 25)] # 40 + 40 + 15 beginnings
    with pytest.raises(TooShortError, match="long enough"): au.enough(segment, np.ones(100, bool), 5, 50)


# gains

def test_gains_by_hand():
    rng = np.random.default_rng(0)
    base = rng.standard_normal((3, 240))
    T = au.gains({"real": base, "vqvae": base + .5, "bootstrap": base + .3*rng.standard_normal((3, 240)), "exchange": base - .5}).set_index("arm")
    assert T.value["vqvae"] == pytest.approx(.5) and T.value["exchange"] == pytest.approx(-.5) and T.net["real"] == pytest.approx(base.mean())
    d = T.loc["bootstrap"]
    assert d.holm == pytest.approx(min(1, d.p)) # the other generator's difference never varies, so it has no p-value
    assert d.se == pytest.approx(math.hypot(d.se_rows, d.se_seeds)) and d.verdict == "not told apart"


def test_the_bound_is_no_member_of_the_generators_family():
    rng = np.random.default_rng(1)
    base = rng.standard_normal((4, 300))
    T = au.gains({a: base + v + .2*rng.standard_normal((4, 300)) for a, v in (("real", 0), ("vqvae", .3), ("bootstrap", 0), ("exchange", .3))}).set_index("arm")
    assert T.holm["exchange"] == pytest.approx(T.p["exchange"]) and T.holm["vqvae"] == pytest.approx(min(1, 2*T.p["vqvae"]))
    with pytest.raises(ParameterError, match="held against"): au.gains({"vqvae": base})


# from recording to verdict

def recorded(seconds=6000, seed=1):
    g = random_grid(seconds, np.random.default_rng(seed), 3)
    return g.round({k: 4 for k in g if k not in ("segment", "stale")})


GRID = recorded()
SPLIT = chronological(GRID.index, 10, 61)
ROLE = SPLIT.set_index("ts").role.reindex(GRID.index).fillna("").to_numpy(str)


def root_of(path, grid, added=True):
    write_grid(path/"artifacts/grid", S, "1970-01-01", grid)
    write_splits(path/"artifacts/splits", S, SPLIT)
    made = bootstrap_market(recorded(3000, 5), np.ones(3000, bool), 4, 400, 30, 0) # whatever the grid, the same market
    for part in [made] if added else []: write_grid(path/"artifacts/synthetic/markets/vqvae", S, "1970-01-01", part)
    return path


def upset(grid, rows):
    out, rng, n = grid.copy(), np.random.default_rng(9), int(rows.sum())
    step = .1*rng.integers(-30, 30, n)
    for c in out:
        if "_px_" in c or c in ("vwap", "high", "low"): out.loc[rows, c] = (out.loc[rows, c] + step).round(4)
        elif "_sz_" in c: out.loc[rows, c] = (out.loc[rows, c]*rng.integers(1, 90, n)).round(4)
    return out


def outcome(root, folder):
    "What a control and an arm come to"
    c = co.control_items(root, [S], SCENARIOS, {"shuffled": ["mid"]}, {"mid": 512}, QUICK, SEED)[0]
    a = [i for i in au.arm_items(root, S, "mid", SCENARIOS["mid"], dict(QUICK, steps=512), SEED, 1, ("real", "vqvae")) if i["arm"] == "vqvae"][0]
    out = {}
    for name, i, run in (("control", c, co.run_control), ("arm", a, au.run_arm)):
        (folder/name).mkdir(parents=True)
        r = run(i, folder/name, root)
        assert "failed" not in r, r
        out[name] = json.dumps(r["history"]), pd.read_parquet(folder/name/"minutes.parquet"), r
    return out


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    at = tmp_path_factory.mktemp("base")
    return outcome(root_of(at, GRID), at)


@pytest.mark.parametrize("rows", ["final", "test"])
def test_neither_sealed_nor_test_rows_shape_a_control_or_an_arm(base, tmp_path, rows):
    hidden = np.arange(len(ROLE)) > np.flatnonzero(ROLE == "test").max() if rows == "final" else ROLE == "test"
    assert hidden.sum() > 500
    other = outcome(root_of(tmp_path, upset(GRID, hidden)), tmp_path)
    for k, (history, minutes, _) in base.items():
        assert other[k][0] == history
        m = other[k][1]
        assert m[m.split == "valid"].equals(minutes[minutes.split == "valid"])
        assert m[m.split == "test"].equals(minutes[minutes.split == "test"]) == (rows == "final")


def test_an_arm_trains_on_both_and_tells_so(base):
    r = base["arm"][2]
    assert r["rows"]["real"] == (ROLE == "train").sum() and r["rows"]["added"] > 500 and r["test"]["gap"] < 1e-6
    assert list(base["control"][1].split.unique()) == ["valid", "test"] and base["control"][2]["test"]["fee"] == 0


def test_shown_the_future_an_agent_wins_and_on_shuffled_moves_it_does_not(tmp_path):
    g = recorded(12_000, 2)
    root, split = tmp_path, chronological(g.index, 10, 61)
    write_grid(root/"artifacts/grid", S, "1970-01-01", g)
    write_splits(root/"artifacts/splits", S, split)
    plan = {"future": ["mid"], "shuffled": ["mid"], "churn": ["spread"]}
    items = co.control_items(root, [S], SCENARIOS, plan, {"mid": 12_000, "spread": 6_000}, dict(QUICK, envs=16, batch=128, epochs=4, checkpoints=3), SEED)
    results = []
    for i in items:
        at = root/"items"/co.item_key(i)
        at.mkdir(parents=True)
        results.append(co.run_control(i, at, root))
    minutes = co.minutes_of(items, results, root/"items")
    T = pg.judge(minutes, results, block=2, n=300, seed=0, level=.99).set_index("control")
    assert T.holds.tolist() == [True, True, True], T.T
    assert T.net["future"] > 5*abs(T.net["shuffled"]) and T.flagged["churn"] and T.net["churn"] < 0
    lines = pg.trial_lines("x", items, results, minutes, "control")
    assert [l["model"] for l in lines] == ["control churn"] and lines[0]["split"] == "valid"
    assert len(co.histories_of(items, results)) == sum(len(r["history"]) for r in results)
    assert not pg.holds(dict(T.loc["future"].to_dict(), control="future", net_lo=-1.))


def test_a_change_of_a_module_that_trains_makes_controls_and_arms_run_again():
    covered = {f"lobresearch/{m.replace('.', '/')}.py" for m in (*MODULES["agent"], "trading.controls", "trading.augment")}
    for module in (co, au):
        used = {f for f in closure(Path(module.__file__).read_text(), "lobresearch.trading") if f.startswith("lobresearch/trading/")}
        rest = {f"lobresearch/trading/{n}.py" for n in ("rules", "hindsight", "trials")} # come along with the jobs, whose list of modules is read
        assert used - covered <= rest, used - covered - rest


def test_wrong_plans_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(ParameterError, match="no control or scenario magic"): co.control_items(tmp_path, [], SCENARIOS, {"magic": ["mid"]}, {"mid": 1}, {}, 0)
    with pytest.raises(ParameterError, match="leave out maker"): co.control_items(tmp_path, [], SCENARIOS, {"shuffled": ["maker"]}, {"maker": 1}, {}, 0)
    with pytest.raises(ParameterError, match="hold real"): au.arm_items(tmp_path, S, "mid", {}, {}, 0, arms=("vqvae",))


def test_a_recording_without_room_says_so(tmp_path):
    g = recorded(1200, 3)
    write_grid(tmp_path/"artifacts/grid", S, "1970-01-01", g)
    write_splits(tmp_path/"artifacts/splits", S, chronological(g.index, 10, 61))
    i = co.control_items(tmp_path, [S], SCENARIOS, {"nothing": ["mid"]}, {"mid": 512}, dict(QUICK, length=600), SEED)
    (tmp_path/"i").mkdir()
    r = [co.run_control(i[0], tmp_path/"i", tmp_path)]
    assert "long enough" in r[0]["failed"]
    m = co.minutes_of(i, r, tmp_path)
    assert len(m) == 0 and len(pg.judge(m, r)) == 0 and pg.trial_lines("x", i, r, m, "control") == []
