"Rules and agents as items: what they may know, what makes them run again, and that every trial is in the log once."
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from house import closure
from hypothesis import given, settings
from hypothesis import strategies as hs

from lobresearch.data.grid import grid_dates, load_grid, write_grid
from lobresearch.errors import ParameterError
from lobresearch.forecast.items import item_key, map_items
from lobresearch.market.splits import load_split
from lobresearch.run import Stage
from lobresearch.study import toy, toy_trading
from lobresearch.trading import jobs
from lobresearch.trading.agents import load_agent
from lobresearch.trading.jobs import agent_items, late_items, missing, reward_arms, rule_items, run_item
from lobresearch.trading.measures import checked, per_period
from lobresearch.trading.records import choose, collect, load_ledger, load_minutes, record_table, trial_lines
from lobresearch.trading.trials import log_lines, trading_trials

SCENARIOS = {"mid": {"execution": "mid", "taker": 0.}, "lowest tier": {"taker": 5.}}
TINY = dict(toy_trading.TINY, steps=512)
PLUMBING = {"errors", "plots", "run", "forecast.items", "forecast.jobs", "forecast.trials"}  # say nothing about a trade


def write_codes(root, symbol, seed=0):
    ts = load_grid(root/"artifacts/grid", symbol, columns=["segment"]).index
    rng, path = np.random.default_rng(seed), root/f"artifacts/synthetic/codes/symbol={symbol}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(dict(ts=ts, code=np.where(np.arange(len(ts)) < 15, -1, rng.integers(0, 6, len(ts))), spread=0, move=0)).to_parquet(path, index=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    st = Stage("x", "smoke", data={"symbols": ["A"]}, labels={"horizons": [2, 3]})
    toy.ensure(st, "grid", "splits", "predictions")
    write_codes(st.root, "A")
    return Path(shutil.copytree(st.root, tmp_path_factory.mktemp("study")/"root"))


def rules(root, names=("random", "momentum", "forecast", "hindsight")):
    return rule_items(root, ["A"], SCENARIOS, 3, names, forecasts=["ridge"])


def agents(root, shown=("features", "hybrid"), **more):
    return agent_items(root, ["A"], 3, {"mid": SCENARIOS["mid"]}, shown, TINY, forecasts=["ridge"], **more)


def work(items, root, keep): return dict(zip(map(item_key, items), map_items(partial(run_item, root=root), items, 1, keep)))


@pytest.fixture(scope="module")
def done(root, tmp_path_factory):
    "All once: parts, results, where they are kept"
    keep, parts = tmp_path_factory.mktemp("keep"), dict(rules=rules(root), matrix=agents(root, seeds=2))
    return parts, work([i for p in parts.values() for i in p], root, keep), keep


def test_an_items_code_is_all_that_bears_on_it():
    for kind in ("rule", "bound", "agent"):
        mine = {f"lobresearch/{m.replace('.', '/')}.py" for m in jobs.MODULES[kind]}
        source = "\n".join(f"from lobresearch.{m.rpartition('.')[0]} import {m.rpartition('.')[2]}" for m in jobs.MODULES[kind] if m != "trading.jobs")
        made = {f"lobresearch/{n}.py" for n in ("data/exchange", "data/martingale", "data/simulate", "data/tape", "data/parse", "data/seconds", "data/tardis",
                                                "evidence/bootstrap")}
        over = closure(source) - mine - {f"lobresearch/{p.replace('.', '/')}.py" for p in PLUMBING} - made  # raw data and intervals: nothing an item uses
        assert over == set(), over
    own = Path(jobs.__file__).read_text()
    everything = {f"lobresearch/{m.replace('.', '/')}.py" for k in jobs.MODULES.values() for m in k}
    direct = {f for f in closure(own, "lobresearch.trading") if f.startswith("lobresearch/trading/")}
    assert direct <= everything, direct - everything


def fitting_keys(root): return {(i["kind"], i.get("name") or i["representation"]): item_key(i) for i in rules(root) + agents(root, jobs.READS | {"features": ()})}


def copied(root, tmp_path): return Path(shutil.copytree(root, tmp_path/"copy"))


def test_only_what_is_read_makes_an_item_run_again(root, tmp_path):
    was, other = fitting_keys(root), copied(root, tmp_path)
    path = other/"artifacts/predictions/predictions.parquet"
    p = pd.read_parquet(path)
    p[p.model != "ridge"].assign(y_hat=0.).pipe(lambda q: pd.concat([q, p[p.model == "ridge"]])).to_parquet(path, index=False)
    assert fitting_keys(other) == was  # of models that nobody reads
    p.assign(y_hat=-p.y_hat).to_parquet(path, index=False)
    changed = {k for k, v in fitting_keys(other).items() if v != was[k]}
    assert changed == {("rule", "forecast"), ("rule", "random"), ("agent", "forecasts"), ("agent", "hybrid")}
    p.to_parquet(path, index=False)
    write_codes(other, "A", seed=1)
    assert {k for k, v in fitting_keys(other).items() if v != was[k]} == {("agent", "codes"), ("agent", "hybrid")}


def rewritten(root, tmp_path, roles):
    "The same study with other prices, sizes and forecasts in the rows of some roles"
    other = copied(root, tmp_path)
    day = grid_dates(other/"artifacts/grid", "A")[0]
    g, split = load_grid(other/"artifacts/grid", "A"), load_split(other/"artifacts/splits", "A")
    role = split.set_index("ts").role.astype(object).reindex(g.index).fillna("final").to_numpy(str)
    rows, rng = np.isin(role, roles), np.random.default_rng(9)
    step = .1*rng.integers(-50, 50, rows.sum())
    for c in g:
        if "_px_" in c or c in ("vwap", "high", "low"): g.loc[rows, c] = (g.loc[rows, c] + step).round(4)
        elif "_sz_" in c: g.loc[rows, c] = (g.loc[rows, c]*rng.integers(1, 90, rows.sum())).round(4)
    write_grid(other/"artifacts/grid", "A", day, g)
    path = other/"artifacts/predictions/predictions.parquet"
    p = pd.read_parquet(path)
    p.loc[p.ts.isin(g.index[rows]), "y_hat"] *= -3
    p.to_parquet(path, index=False)
    return other


def told(results, items, *what): return [[results[item_key(i)][k] for k in what] for i in items]


def test_the_sealed_rows_change_nothing(root, done, tmp_path):
    parts, results, _ = done
    other = rewritten(root, tmp_path, ["final"])
    items = rules(other) + agents(other, seeds=2)
    again = work(items, other, tmp_path/"keep")
    assert told(again, items, "params", "valid", "test") == told(results, parts["rules"] + parts["matrix"], "params", "valid", "test")
    assert not set(again) & set(results)  # they did run anew


def test_validation_and_test_teach_nothing(root, done, tmp_path):
    parts, results, keep = done
    other = rewritten(root, tmp_path, ["test"])
    items = rules(other) + agents(other)
    again = work(items, other, tmp_path/"keep")
    mine = parts["rules"] + [i for i in parts["matrix"] if i["seed"] == 3]
    assert told(again, items, "params", "valid") == told(results, mine, "params", "valid")
    assert told(again, items, "test") != told(results, mine, "test")
    for a, b in zip(items, mine):
        if a["kind"] != "agent": continue
        one, two = (load_agent(k/item_key(i)/"agent").policy.state_dict() for k, i in ((tmp_path/"keep", a), (keep, b)))
        assert all((one[n] == two[n]).all() for n in one)
    both = rewritten(root, tmp_path/"more", ["valid", "test"])
    items = [i for i in rules(both) if i["name"] != "hindsight"]
    again = work(items, both, tmp_path/"keep")
    for a, b in zip(items, [i for i in parts["rules"] if i["name"] != "hindsight"]):
        assert again[item_key(a)]["params"] == results[item_key(b)]["params"]
        assert (tmp_path/"keep"/item_key(a)/"tried.json").read_text() == (keep/item_key(b)/"tried.json").read_text()


def test_work_is_done_once_and_twice_alike(root, done, tmp_path):
    parts, results, keep = done
    when = {p: p.stat().st_mtime_ns for p in keep.rglob("*.parquet")}
    assert work(parts["rules"] + parts["matrix"], root, keep) == results
    assert {p: p.stat().st_mtime_ns for p in keep.rglob("*.parquet")} == when
    i = parts["matrix"][0]
    assert work([i], root, tmp_path)[item_key(i)]["history"] == results[item_key(i)]["history"]
    for f in ("ledger", "episodes"): pd.testing.assert_frame_equal(*(pd.read_parquet(k/item_key(i)/f"{f}.parquet") for k in (keep, tmp_path)))


def test_records_hold_their_block_and_add_up(root, done, tmp_path):
    parts, results, keep = done
    home = copied(root, tmp_path)
    table = collect(parts, results, keep, home)
    split = load_split(home/"artifacts/splits", "A")
    for key in table.key[table.chosen | (table.kind != "agent")]:
        for r in ("valid", "test"):
            one, ledger = table[table.key == key].iloc[0], load_ledger(home, "A", key, r)
            checked(ledger)
            assert set(ledger.index) <= set(split.ts[split.role == r])
            assert one[f"{r}_net_day"] == pytest.approx(ledger.net.sum()*86_400/len(ledger))
            assert load_minutes(home, "A", r, [key])[key].sum() == pytest.approx(ledger.net.sum())
            for _, path in ledger.groupby("path"): assert path.position.iloc[-1] == pytest.approx(0)  # each is closed, at cost
    wide = load_minutes(home, "A", "test")
    assert list(wide) == sorted(table.key.unique()) and wide.notna().all().all() and wide.index.is_monotonic_increasing
    assert {p.name for p in (home/"artifacts/trading/agents").iterdir()} == set(table.key[table.chosen & (table.kind == "agent")])


def test_a_later_book_at_the_same_latency_gives_the_same(root, done):
    parts, _, keep = done
    for i in [parts["rules"][1], parts["matrix"][0]]:
        late = late_items([i], [1, 3])[0]
        work([late], root, keep)
        made, base = (pd.read_parquet(keep/item_key(j)/"minutes.parquet") for j in (late, i))
        same = made[made.latency == 1].drop(columns="latency").reset_index(drop=True)
        pd.testing.assert_frame_equal(same, base[base.split == "test"].drop(columns="split").reset_index(drop=True))
        assert not np.allclose(made[made.latency == 3].net.sum(), same.net.sum(), atol=1e-9)


def test_every_setting_and_agent_is_in_the_log_once(root, done, tmp_path):
    parts, results, keep = done
    items = parts["rules"] + parts["matrix"]
    lines = trial_lines(items, results, keep, "08a_agents")
    settings = sum(len(json.loads((keep/item_key(i)/"tried.json").read_text())) for i in parts["rules"])
    rules_once = sum(i["kind"] == "rule" for i in parts["rules"])
    assert settings > 50 and len(lines) == settings + rules_once + len(parts["matrix"])
    log = tmp_path/"log.jsonl"
    assert log_lines(log, lines) == len(lines) and log_lines(log, trial_lines(items[::-1], results, keep, "08a_agents")) == 0
    t = trading_trials(log)
    assert len(t) == len(lines) and "hindsight" not in set(t.model)
    recoded = [dict(i, code="other") for i in items]  # other code, the same outcome: no new trial
    named = {item_key(b): results[item_key(a)] for a, b in zip(items, recoded)}
    for a, b in zip(items, recoded): shutil.copytree(keep/item_key(a), tmp_path/"keep"/item_key(b))
    assert log_lines(log, trial_lines(recoded, named, tmp_path/"keep", "08a_agents")) == 0
    for i in parts["matrix"]:
        mine, minutes = t[(t.model == f"agent {i['representation']}") & (t.seed == i["seed"])], pd.read_parquet(keep/item_key(i)/"minutes.parquet")
        assert mine.split.tolist() == ["valid"] and len(mine.pnl.iloc[0]) == minutes.ts[minutes.split == "valid"].nunique()
        assert np.nan_to_num(mine.score.iloc[0]) == pytest.approx(results[item_key(i)]["valid"]["sharpe"], rel=1e-4, abs=1e-9)


def test_the_setting_that_a_rule_takes_is_one_of_those_it_tried(done):
    parts, results, keep = done
    for i in parts["rules"]:
        tried = json.loads((keep/item_key(i)/"tried.json").read_text())
        if i["name"] == "hindsight": assert tried == []; continue
        assert results[item_key(i)]["params"] in [t["params"] for t in tried]
        best = max(tried, key=lambda t: sum(t["pnl"]))
        assert sum(best["pnl"]) == pytest.approx(sum(next(t for t in tried if t["params"] == results[item_key(i)]["params"])["pnl"]), abs=1e-3)


def test_what_is_too_short_is_told_and_never_chosen(root, tmp_path):
    items = agents(root, ("features",), seeds=1)
    long = [dict(i, settings=dict(i["settings"], length=5000)) for i in items]  # no stretch is that long
    results = work(long, root, tmp_path)
    assert "long enough" in results[item_key(long[0])]["failed"]
    table = collect(dict(matrix=long), results, tmp_path, tmp_path)
    assert table.chosen.sum() == table.best.sum() == 0 and "long enough" in table.failed[0]
    assert [t["failed"] is None for t in trial_lines(long, results, tmp_path, "x")] == [False]
    assert "too short for anything" in missing(root, "A", 10**6, ["features"], ["ridge"])
    assert "no forecasts" in missing(root, "A", 100, ["features"], ["tcn"])
    assert "B was not ingested" in missing(root, "B", 100, ["features"], ["ridge"])
    assert missing(root, "A", 100, ["hybrid"], ["ridge"]) == ""
    (gone := copied(root, tmp_path)/"artifacts/synthetic/codes/symbol=A.parquet").unlink()
    assert "symbol=A.parquet is missing" in missing(gone.parents[3], "A", 100, ["codes"], ["ridge"])
    assert missing(gone.parents[3], "A", 100, ["features"], ["ridge"]) == ""


def test_names_are_checked(root):
    with pytest.raises(ParameterError, match="There is no rule luck"): rules(root, ["luck"])
    with pytest.raises(ParameterError, match="There is no reward fame"): agents(root, rewards=["fame"])
    with pytest.raises(ParameterError, match="no setting speed"): agent_items(root, ["A"], 0, SCENARIOS, ["features"], dict(speed=1))


def test_each_reward_leaves_out_one_term():
    arms = reward_arms()
    assert arms["default"] is None
    for name, w in arms.items():
        if name.startswith("without "): assert {**w, name.removeprefix("without "): arms["weighted"][name.removeprefix("without ")]} == arms["weighted"]


record = hs.tuples(hs.sampled_from(["rules", "matrix", "rewards"]), hs.sampled_from("ab"), hs.sampled_from(["flat", "x", "y", "hindsight"]),
                   hs.booleans(), hs.integers(-3, 3))


@settings(max_examples=30)
@given(hs.lists(record, max_size=12))
def test_validation_chooses_the_highest_net_result_in_its_group(rows):
    t = pd.DataFrame(rows, columns=["part", "scenario", "name", "bad", "valid_net_day"])
    t["kind"] = np.where(t.part != "rules", "agent", np.where(t.name == "hindsight", "bound", "rule"))
    t = t.assign(symbol="S", representation=np.where(t.kind == "agent", t.name, ""), policy="", reward="", failed=np.where(t.bad.astype(bool), "why", ""))
    out = choose(t)
    may = out[(out.failed == "") & ((out.kind == "agent") | (out.kind == "rule") & (out.name != "flat"))]
    assert not out.chosen.drop(may.index).any() and (out.best <= out.chosen).all()
    for _, g in may.groupby(["part", "scenario", "representation"]):
        assert g.chosen.sum() == 1 and g.valid_net_day[g.chosen].iloc[0] == g.valid_net_day.max()
    for _, g in may[may.part != "rewards"].groupby(["kind", "scenario"]):
        assert g.best.sum() == 1 and g.valid_net_day[g.best].iloc[0] == g.valid_net_day.max()


def test_no_record_at_all_gives_empty_tables(tmp_path):
    table = collect({}, {}, tmp_path, tmp_path)
    assert len(table) == 0 and len(record_table({}, {})) == 0
    for f in ("records", "histories", "episodes", "latencies"): assert len(pd.read_parquet(tmp_path/f"artifacts/trading/{f}.parquet")) == 0


def test_minutes_of_the_clock_are_those_of_the_measures(done):
    parts, _, keep = done
    folder = keep/item_key(parts["rules"][0])
    ledger, minutes = pd.read_parquet(folder/"ledger.parquet"), pd.read_parquet(folder/"minutes.parquet")
    want = per_period(ledger[ledger.split == "valid"].drop(columns="split"))
    np.testing.assert_allclose(minutes[minutes.split == "valid"].net, want.net)
