"Rules and agents fitted anew in other folds, sealed rows opened once, and what a record has to show: nothing fitted sees what it is judged on."
import json
import math

import numpy as np
import pandas as pd
import pytest

from lobresearch.data.grid import write_grid
from lobresearch.errors import SealedError, TooShortError
from lobresearch.forecast.items import item_key
from lobresearch.forecast.jobs import collect as collect_forecasts, make_items as forecast_items, run_item as run_forecast
from lobresearch.market.features import features, grid_levels, select
from lobresearch.market.folds import combinatorial, paths, recombine, walk_forward
from lobresearch.market.labels import labels
from lobresearch.market.registry import random_grid
from lobresearch.market.splits import chronological, load_split, write_splits
from lobresearch.trading import sealed, validation as va, verdicts as ve
from lobresearch.trading.accounting import as_market
from lobresearch.trading.agents import fit_agent, save_agent
from lobresearch.trading.observations import capital_of, observe, recording
from lobresearch.trading.rollouts import path as follow_agent
from lobresearch.trading.rules import record, targets, tune
from lobresearch.trading.trials import line, log_lines, trading_trials

HORIZONS, REACH = [2, 3], (3, 61, 5)
TINY = dict(steps=256, envs=4, n_steps=32, batch=64, epochs=1, length=60, checkpoints=1)
MID = dict(execution="mid", taker=0.)


@pytest.fixture(scope="module")
def grid():
    g = random_grid(4000, np.random.default_rng(3))
    return g.round({k: 4 for k in g if k not in ("segment", "stale")})


@pytest.fixture(scope="module")
def root(grid, tmp_path_factory):
    home = tmp_path_factory.mktemp("study")
    write_grid(home/"artifacts/grid", "TOY", "1970-01-01", grid)
    made = [chronological(grid.index, *REACH), combinatorial(grid.index, *REACH), walk_forward(grid.index, *REACH)]
    write_splits(home/"artifacts/splits", "TOY", made)
    return home


def shaken(grid, rows):
    "The grid with the books, moves and trades of some rows made up anew"
    g, rng = grid.copy(), np.random.default_rng(9)
    price = [c for c in g if "_px_" in c]
    g.loc[rows, price] = g.loc[rows, price]*1.01 + .01*np.round(50*rng.random((rows.sum(), 1)))
    for c in [c for c in g if "_sz_" in c or c.startswith("ofi") or c in ("buy_vol", "sell_vol", "n_updates")]: g.loc[rows, c] = g.loc[rows, c]*3 + 1
    return g


def fitted(grid, role, horizons=HORIZONS):
    "All that a fold fits: ridges, the rule's settings, scales, size of a full position, the agent's weights"
    market, train = as_market(grid), role == "train"
    X, Y = features(grid, select(grid_levels(grid), va.LOOKBACK)), labels(grid, horizons)
    states, F = va.fold_forecasts(X, Y, role, [10., 1000.])
    account = dict(MID, capital=capital_of(grid, train))
    params, tried = va.fit_rule(grid, market, F, role, account)
    _, agent = va.agent_pieces(grid, market, role, np.full(len(grid), -1), account, TINY, 1)
    seen = observe("features", grid, va.looking_away(grid.index.to_numpy(), role, 360) == "train")
    weights = np.concatenate([v.detach().numpy().ravel() for v in agent.policy.state_dict().values()])
    return dict(ridge=states, params=params, net=tried.net.tolist(), scales=seen.state, capital=account["capital"], own=agent.scales.own.tolist(), weights=weights)


def same(a, b): return {k: np.array_equal(a[k], b[k]) if k == "weights" else a[k] == b[k] for k in a}


# ---- Folds and paths

@pytest.mark.parametrize("scheme, shape", [("combinatorial", (5, 6)), ("walk_forward", (1, 5))])
def test_each_path_holds_every_tested_row_once(root, grid, scheme, shape):
    roles = va.load_folds(root, "TOY", scheme, grid.index)
    group, take = va.plan(roles)
    assert take.shape == shape and len(roles) == {5: 15, 1: 5}[shape[0]]
    if scheme == "combinatorial": np.testing.assert_array_equal(take, paths(6, 2))
    seconds = lambda rows: pd.DataFrame(dict(net=1.), index=grid.index[rows])
    made = [f.assign(fold=k, group=g) for k, r in enumerate(roles) for g, f in va.pieces(seconds, r, group).items()]
    whole = va.whole_paths(pd.concat(made))
    tested = grid.index[group >= 0]
    assert len(whole) == shape[0]
    for k, p in enumerate(whole):
        assert p.index.tolist() == tested.tolist() # all of them, in order, each once
        assert p.groupby("group").fold.unique().map(list).tolist() == [[f] for f in take[k]]


def test_paths_are_those_of_the_splits(root, grid):
    split = pd.concat([load_split(root/"artifacts/splits", "TOY", "combinatorial", k) for k in range(15)])
    roles = va.load_folds(root, "TOY", "combinatorial", grid.index)
    value = {k: pd.Series(1000.*k + np.arange(len(grid)), grid.index) for k in range(15)}
    group, _ = va.plan(roles)
    made = [pd.DataFrame(dict(net=value[k][rows])).assign(fold=k, group=g)
            for k, r in enumerate(roles) for g in range(6) if (rows := (r == "test") & (group == g)).any()]
    ours, theirs = va.whole_paths(pd.concat(made)), recombine(split, value)
    for k in range(5): assert ours[k].net.tolist() == theirs[k].tolist()


def test_folds_hold_no_sealed_row(root, grid):
    end = grid.index[round(.8*len(grid)):]
    for scheme in va.SCHEMES:
        for r in va.load_folds(root, "TOY", scheme, grid.index): assert set(r[grid.index.isin(end)]) <= {"", "purged"} and "final" not in r


def test_a_groups_record_starts_and_ends_flat(root, grid):
    market, role = as_market(grid), va.load_folds(root, "TOY", "combinatorial", grid.index)[0] # groups 0 and 1, neighbours
    group, _ = va.plan(va.load_folds(root, "TOY", "combinatorial", grid.index))
    made = va.pieces(lambda rows: record(market, np.ones(len(grid)), rows, dict(taker=1., capital=100.)), role, group)
    assert set(made) == {0, 1}
    for f in made.values(): assert f.position.iloc[-1] == 0 and f.traded.iloc[-1] > 0 and f.position.iloc[:-1].gt(0).sum() > len(f) - 5


# ---- Nothing fitted sees a test row

def test_no_fit_of_a_combinatorial_fold_sees_its_test_rows(root, grid):
    roles = va.load_folds(root, "TOY", "combinatorial", grid.index)
    role = roles[4] # groups 0 and 5: training rows lie between them
    assert (role[:600] == "test").any() and (role == "train").sum() > 600
    before, after = fitted(grid, role), fitted(shaken(grid, role == "test"), role)
    assert same(before, after) == dict.fromkeys(before, True)


def test_no_fit_of_walk_forward_sees_what_comes_after(root, grid):
    role = va.load_folds(root, "TOY", "walk_forward", grid.index)[3]
    later = np.arange(len(grid)) >= np.flatnonzero(role == "test")[0]
    assert not np.isin(role[later], ["train", "valid"]).any()
    before, after = fitted(grid, role), fitted(shaken(grid, later), role)
    assert same(before, after) == dict.fromkeys(before, True)


def test_the_check_would_see_it(root, grid):
    role = va.load_folds(root, "TOY", "combinatorial", grid.index)[4]
    moved = same(fitted(grid, role), fitted(shaken(grid, role == "train"), role))
    assert not any(moved[k] for k in ("ridge", "scales", "capital", "weights"))
    chosen = same(fitted(grid, role), fitted(shaken(grid, role == "valid"), role))
    assert not chosen["net"] and chosen["scales"] and chosen["capital"]


def test_the_rule_is_shown_no_forecast_of_a_row_its_ridge_was_fitted_on(root, grid):
    role = va.load_folds(root, "TOY", "combinatorial", grid.index)[7]
    F = va.fold_forecasts(features(grid, select(10, va.LOOKBACK)), labels(grid, HORIZONS), role, [10.])[1]
    known = F.notna().all(axis=1).to_numpy()
    np.testing.assert_array_equal(known, (role == "valid") | (role == "test"))


# ---- Items

def test_items_from_start_to_paths(root, tmp_path):
    how = dict(scenario="mid", settings=TINY, symbols=1, schemes=["walk_forward"])
    items = va.make_items(root, ["TOY"], HORIZONS, 7, dict(mid=MID, spread=dict(taker=0.)), how, [10., 1000.])
    items = [i for i in items if i["scheme"] == "walk_forward"]
    assert [i["kind"] for i in items] == ["rule", *["agent"]*5]
    items, results = items[:1] + items[-1:], []
    for i in items:
        folder = tmp_path/item_key(i); folder.mkdir()
        results.append(json.loads(json.dumps(va.run_item(i, folder, root))))
    M = va.collect(items, tmp_path)
    rule = M[(M.kind == "rule") & (M.scenario == "mid")]
    assert rule.fold.nunique() == 5 and np.allclose(rule.net, rule.gross) and (M[M.scenario == "spread"].spread <= 1e-12).all()
    (whole,) = va.whole_paths(rule)
    tested = va.plan(va.load_folds(root, "TOY", "walk_forward", recording(root, "TOY")[0].index))[0] >= 0
    assert whole.rows.sum() == tested.sum() - 5 # a group's first second opens it
    o = va.over_paths([whole], block=2, n=50)
    assert o["low"] < o["net_day"] < o["high"] and o["worst"] == o["best"] == pytest.approx(o["net_day"])
    lines = va.trial_lines(items, results, tmp_path, "x")
    assert len(lines) == sum(len(r["tried"]) for r in results) and {v["model"] for v in lines} == {"forecast", "agent features"}
    log_lines(tmp_path/"t.jsonl", lines)
    t = trading_trials(tmp_path/"t.jsonl")
    chosen = [v for v in results[0]["tried"] if v["chosen"]]
    assert len(t) == len(lines) and len(chosen) == 10 # one a fold and scenario
    for v in chosen: assert v["net"] == max(u["net"] for u in results[0]["tried"] if (u["fold"], u["scenario"]) == (v["fold"], v["scenario"]))


def test_folds_too_short_for_an_agent_say_so(root, tmp_path):
    item = va.make_items(root, ["TOY"], HORIZONS, 7, dict(mid=MID), dict(scenario="mid", settings=dict(TINY, length=3000), symbols=1, schemes=["walk_forward"]))[-1]
    r = va.run_item(item, tmp_path, root)
    assert "long enough" in r["failed"] and r["tried"] == [] and not len(pd.read_parquet(tmp_path/"minutes.parquet"))
    with pytest.raises(TooShortError, match="too short for the scheme"): va.plan([])


# ---- Sealed rows

def test_sealed_rows_are_opened_with_a_reason_and_logged_once(root, grid, tmp_path, capsys):
    log = tmp_path/"openings.jsonl"
    for _ in range(2): _, last = sealed.open_final(root, "TOY", "to test", "p1", log)
    sealed.open_final(root, "TOY", "to test", "p2", log)
    assert sealed.openings(root, log).to_dict("records") == [dict(symbol="TOY", reason="to test", parameters=p) for p in ("p1", "p2")]
    assert capsys.readouterr().out.count("Opened the final rows of TOY: to test") == 3
    assert last.any() and not last[:round(.8*len(grid))].any()
    assert not (recording(root, "TOY")[1][last] != "").any() # they stay sealed for everybody else
    with pytest.raises(SealedError): load_split(root/"artifacts/splits", "TOY", allow_final=True, log=log)


@pytest.fixture(scope="module")
def models(root):
    "A study's models and forecasts"
    net = dict(inputs="book+features", depth=1, trunk=4, channels=4, dropout=0.)
    train = dict(epochs=1, patience=1, stretches=4, targets=64, lr=.001, select="loss", precision="fp32")
    items = forecast_items(root, ["TOY"], HORIZONS, 7, ["ridge", "last_return", "tcn"], 1, net, train, [10.])
    for i in items:
        folder = root/"items"/item_key(i); folder.mkdir(parents=True)
        run_forecast(i, folder, root)
    return collect_forecasts(items, root/"items", root)


@pytest.mark.parametrize("model", ["ridge", "last_return", "tcn"])
def test_saved_models_forecast_as_they_did(root, models, model):
    grid, role = recording(root, "TOY")
    F = sealed.apply_model(root, "TOY", grid, role == "test", model, 7)
    for h in HORIZONS:
        p = models[(models.model == model) & (models.horizon == h) & (models.split == "test")].set_index("ts").y_hat
        assert len(p) > 100 and F[f"{model}_{h}"].reindex(p.index).to_numpy() == pytest.approx(p.to_numpy(), abs=1e-9)


def test_a_saved_model_takes_nothing_from_the_rows_it_forecasts(root, models):
    grid, role = recording(root, "TOY")
    last = np.arange(len(grid)) >= len(grid) - 300
    rows, cut = last & (np.arange(len(grid)) < len(grid) - 100), np.arange(len(grid)) >= len(grid) - 100
    for m in ("ridge", "tcn"): # what comes after moves nothing before it
        a, b = (sealed.apply_model(root, "TOY", g, rows, m, 7) for g in (grid, shaken(grid, cut)))
        np.testing.assert_array_equal(a.to_numpy(), b.to_numpy())


def test_frozen_policies_earn_what_they_earned(root, models):
    grid, role = recording(root, "TOY")
    market, test, train = as_market(grid), role == "test", role == "train"
    account = dict(MID, latency=1, capital=capital_of(grid, train))
    F = models[models.model == "ridge"].pivot(index="ts", columns="horizon", values="y_hat").set_axis(["ridge_2", "ridge_3"], axis=1)
    params, _ = tune("forecast", grid, market, role == "valid", account, F)
    seen = observe("features", grid, train)
    agent = fit_agent(market, seen.x, train, role == "valid", 3, account, TINY)
    home = root/"artifacts/trading/agents/a"
    save_agent(agent, home)
    (home/"observed.json").write_text(json.dumps(seen.state))
    told = dict(account=json.dumps(account), representation="")
    chosen = pd.DataFrame([dict(told, key="r", kind="rule", name="forecast", params=json.dumps(params)),
                           dict(told, key="a", kind="agent", name="features", representation="features", params="{}")])
    again = sealed.final_forecasts(root, "TOY", grid, test, ["ridge_2", "ridge_3"], 7)
    made = {r.key: sealed.replay(root, r, grid, market, test, again) for r in chosen.itertuples()}
    pd.testing.assert_frame_equal(made["r"], record(market, targets("forecast", params, grid, F), test, account))
    pd.testing.assert_frame_equal(made["a"], follow_agent(agent, market, seen.x, test, account))
    cut = np.arange(len(grid)) >= np.flatnonzero(test)[-1] + 70 # and what comes after does not matter
    again = sealed.replay(root, next(chosen.iloc[1:].itertuples()), (g := shaken(grid, cut)), as_market(g), test)
    pd.testing.assert_frame_equal(made["a"], again)


# ---- What a record has to show

def test_what_counts_as_a_trial():
    t = pd.DataFrame([dict(symbol=s, model=m, configuration=c, seed=k) for s, m, c, k in
                      [("A", "ridge", "1", 7), ("A", "ridge", "1", 7), ("A", "ridge", "1", 8), ("A", "tcn", "2", None), ("A", "tcn", "2", None),
                       ("pooled", "tcn", "3", 7), ("B", "tcn", "4", 7), ("A", "control future", "5", 7)]])
    assert len(ve.counted(t, "A")) == 4 # two seeds of the ridge, a network, the pooled one


def test_every_line_of_every_log_counts(tmp_path):
    from lobresearch.forecast.trials import log_trials, trials
    log_trials(tmp_path/"05a_train.jsonl", [dict(model="ridge", seed=s, symbol="A") for s in range(3)], [dict(valid=[.1]) for _ in range(3)], "x")
    pnl = np.random.default_rng(0).standard_normal((5, 50))
    log_lines(tmp_path/"08a_agents.jsonl", [line("y", "ofi", dict(threshold=k), "A", None, "mid", "train", p, "d") for k, p in enumerate(pnl)]
              + [line("y", "agent", {}, "A", 7, "mid", "valid", [], "d", failed="too short")])
    everything, trading = (ve.counted(f(tmp_path), "A") for f in (trials, trading_trials))
    T = ve.tried(trading, "mid", len(everything))
    assert (T.trials, T.scored) == (9, 5) and T.sd == pytest.approx(np.std(pnl.mean(1)/pnl.std(1, ddof=1), ddof=1), rel=1e-4)
    assert ve.tried(trading, "other", 9)[:2] == (9, 0)


@pytest.mark.parametrize("kind", ["dsr", "noise"])
def test_the_more_was_tried_the_less_a_record_says(kind):
    x = np.random.default_rng(1).standard_normal(300) + .2
    T = ve.Trials(2, 2, 2., .05, .3)
    d = [ve.sharpe_evidence(x, T._replace(trials=n))[kind] for n in (1, 2, 10, 100, 10_000)]
    assert (np.diff(d) < 0).all() and d[0] == ve.sharpe_evidence(x, T)["psr"]


def day(v, half): return dict(net_day=v, lo=v - half, hi=v + half)


def judged(x, valid, final, trials, level=.99):
    "Verdict on the column that validation would choose"
    t = ve.scenario_tests(valid, x, level, 199, 0, 8)
    key = valid.mean().idxmax()
    e = ve.Evidence(ve.day_of(pd.DataFrame(dict(net=x[key], rows=60)), 10, 199), ve.day_of(pd.DataFrame(dict(net=final[key], rows=60)), 10, 199),
                    ve.sharpe_evidence(x[key], ve.Trials(trials, 2, trials, .1, .1)), t.step.p[key], True)
    return ve.verdict(e, level)


def blocks(seed, gain=0., k=8, rows=200):
    r = np.random.default_rng(seed)
    return [pd.DataFrame(r.standard_normal((rows, k))).add_prefix("p") + gain*(np.arange(k) == 3) for _ in range(3)]


def test_of_noise_nothing_stands_and_a_planted_winner_does():
    assert sum(judged(b, a, c, 100)[0] == ve.STANDS for a, b, c in map(blocks, range(15))) == 0
    for seed in range(2):
        a, b, c = blocks(seed, .6)
        assert judged(b, a, c, 100)[0] == ve.STANDS
        assert judged(b, a, c - .6, 100)[1] == "It is not shown that it earns on the sealed rows too."
        assert "best of so many tries" in judged(b, a, c, 10**12)[1]


@pytest.mark.parametrize("change, word, says", [
    (dict(), ve.STANDS, "and earns on the sealed rows too"),
    (dict(p=.011), ve.NOT_SHOWN, "earns more than nothing"),
    (dict(test=day(-5., 1.), p=.001), ve.NOT_SHOWN, "earns more than nothing"), # a stepwise test would not name it either
    (dict(random=day(1., 2.)), ve.NOT_SHOWN, "more than trading at random"),
    (dict(sharpe=dict(noise=.94)), ve.NOT_SHOWN, "best of so many tries"),
    (dict(final=day(5., 6.)), ve.NOT_SHOWN, "sealed rows"),
    (dict(final=dict(net_day=5., lo=math.nan, hi=math.nan)), ve.NOT_TESTED, "Too few minutes"),
    (dict(moved=False), ve.NOT_SHOWN, "never trades")])
def test_verdicts(change, word, says):
    good = ve.Evidence(day(5., 1.), day(5., 1.), dict(noise=.96), .01, True, day(2., 1.))
    got = ve.verdict(good._replace(**change))
    assert got[0] == word and says in got[1]


def test_minutes_of_two_records_are_compared_where_either_traded():
    a = pd.DataFrame(dict(ts=[60, 120, 120], net=[1., 2., 3.], rows=[60, 30, 30])) # a gap inside the second minute
    b = pd.DataFrame(dict(ts=[120, 180], net=[1., 7.], rows=[60, 60]))
    d = ve.less(a, b)
    assert d.index.tolist() == [60, 120, 180] and d.net.tolist() == [1., 4., -7.] and d.rows.tolist() == [60, 60, 60]
