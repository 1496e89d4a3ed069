"""The trading chapter from recording to record: what shapes a rule and an agent, what they may know when they decide, and how a path ends.

That sealed and test rows choose nothing, and that work done twice is the same: test_trading_jobs."""
import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from lobresearch.data.grid import load_grid, write_grid
from lobresearch.market.registry import random_grid
from lobresearch.market.splits import chronological, write_splits
from lobresearch.trading import jobs
from lobresearch.trading.accounting import as_market
from lobresearch.trading.agents import load_agent
from lobresearch.trading.jobs import agent_items, rule_items, run_item
from lobresearch.trading.observations import codes_of, forecasts_of, recording
from lobresearch.trading.rollouts import decisions, path
from lobresearch.trading.rules import record

ROWS, SEED, S = 6_000, 3, "TOY"
SCENARIOS = {"spread": dict(taker=0.), "maker": dict(execution="maker", taker=2.5, maker=-.25)}
SETTINGS = dict(envs=4, n_steps=32, batch=64, epochs=2, steps=1024, length=60, checkpoints=2)
PARTS = ["gross", "spread", "impact", "fee", "funding"]


def upset(grid, rows, seed=0):
    "The same with other prices, sizes, trades in some rows"
    rng, out, n = np.random.default_rng(seed), grid.copy(), int(rows.sum())
    step = .1*rng.integers(-300, 300, n)
    for c in out:
        v = out.loc[rows, c]
        if "_px_" in c or c in ("vwap", "high", "low"): v = (v + step).round(4)
        elif "_sz_" in c: v = (v*rng.integers(1, 90, n)).round(4)
        elif c.endswith("_vol"): v = (7*v).round(4)
        elif c.endswith("_n"): v = 3*v
        elif c.startswith("ofi"): v = -v
        out.loc[rows, c] = v.astype(out[c].dtype)
    return out


def recorded():
    g = random_grid(ROWS, np.random.default_rng(1), 3, breaks=(int(ROWS*.7),))  # the break lies in the test block
    return g.round({k: 4 for k in g if k not in ("segment", "stale")})


GRID = recorded()
SPLIT = chronological(GRID.index, 10, 61)
ROLE = SPLIT.role.to_numpy(str)


def root_of(path, grid):
    "A root with the grid, its split, forecasts and codes; those do not depend on the grid, so that nothing but the grid is upset"
    write_grid(path/"artifacts/grid", S, "1970-01-01", grid)
    write_splits(path/"artifacts/splits", S, SPLIT)
    rng, at = np.random.default_rng(2), np.isin(ROLE, ["train", "valid", "test"])
    split = np.where(ROLE[at] == "train", "oof", ROLE[at])
    made = [pd.DataFrame(dict(symbol=S, ts=GRID.index[at], horizon=h, model=m, seed=0, split=split, y_hat=rng.normal(0, 2, at.sum())))
            for h in (10, 60) for m in ("ridge", "tcn")]
    (path/"artifacts/predictions").mkdir(parents=True)
    pd.concat(made).to_parquet(path/"artifacts/predictions/predictions.parquet", index=False)
    (path/"artifacts/synthetic/codes").mkdir(parents=True)
    code = pd.DataFrame(dict(ts=GRID.index, code=rng.integers(0, 6, ROWS), spread=0, move=0))
    code.to_parquet(path/f"artifacts/synthetic/codes/symbol={S}.parquet", index=False)
    return path


def items_of(root):
    rules = rule_items(root, [S], SCENARIOS, SEED, ["flat", "buy_hold", "random", "momentum", "ofi", "forecast"])
    agents = agent_items(root, [S], SEED, {"spread": SCENARIOS["spread"]}, ["hybrid"], SETTINGS)
    return [i for i in rules if i["scenario"] == "spread" or i["name"] == "ofi"] + agents


def done(grid, folder):
    "Every item's params, settings tried, agent and records, by name"
    root, out = root_of(folder, grid), {}
    for k, i in enumerate(items_of(root)):
        at = folder/f"items/{k}"
        at.mkdir(parents=True)
        r = run_item(i, at, root)
        assert "failed" not in r, r
        f = pd.read_parquet(at/"ledger.parquet")
        name = i.get("name", f"agent {i.get('representation')}"), i["scenario"]
        tried = json.loads((at/"tried.json").read_text()) if (at/"tried.json").exists() else r["history"]
        agent = [hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((at/"agent").glob("*"))]
        out[name] = dict(params=r["params"], tried=tried, agent=agent, capital=r["account"]["capital"], item=i, folder=at, root=root,
                         **{s: f[f.split == s] for s in ("valid", "test")})
    return out


@pytest.fixture(scope="module")
def base(tmp_path_factory): return done(GRID, tmp_path_factory.mktemp("base"))


def same(a, b, *what):
    for k in what: assert a[k].equals(b[k]) if isinstance(a[k], pd.DataFrame) else a[k] == b[k], k


def test_validation_rows_tune_no_rule_and_train_no_agent(base, tmp_path):
    other = done(upset(GRID, ROLE == "valid"), tmp_path)
    for k, b in base.items():
        if b["item"]["kind"] == "rule": same(other[k], b, "params", "tried", "capital")
        else:
            for h, g in zip(other[k]["tried"], b["tried"], strict=True):
                seen = [c for c in h if not c.startswith("valid")]
                assert [h[c] for c in seen] == [g[c] for c in seen]
            assert [h["valid_net"] for h in other[k]["tried"]] != [g["valid_net"] for g in b["tried"]]


def test_training_rows_do_shape_them(base, tmp_path):
    other = done(upset(GRID, ROLE == "train"), tmp_path)
    assert all(other[k]["tried"] != b["tried"] for k, b in base.items() if len(b["tried"]) > 1 and k[0] != "flat")
    assert other["agent hybrid", "spread"]["agent"] != base["agent hybrid", "spread"]["agent"]


def frozen(b, root):
    "Grid, market, account; what a rule or an agent wants on the grid of `root`, nothing fitted; and a function from rows to its record"
    i, (grid, role) = b["item"], recording(root, S)
    market, account = as_market(grid), dict(i["account"], capital=b["capital"])
    if i["kind"] == "agent":
        agent, state = load_agent(b["folder"]/"agent"), json.loads((b["folder"]/"agent/observed.json").read_text())
        x = jobs.observe("hybrid", grid, None, forecasts_of(root, S), codes_of(root, S), state).x
        return decisions(agent, market, x, role == "test", account)[0], path(agent, market, x, role == "test", account)
    wish = jobs.targets(i["name"], b["params"], grid, forecasts_of(root, S) if i["name"] in ("forecast", "random") else None)
    return np.where(role == "test", wish, 0.), record(market, wish, role == "test", account)


@pytest.mark.parametrize("row", [*range(3_921, 4_170, 41), 4_500])
def test_what_comes_later_changes_no_earlier_decision(base, tmp_path, row):
    "With everything frozen: after a second of the test block all is different, and nothing that was decided at or before it"
    assert ROLE[row] == "test"
    root = root_of(tmp_path, upset(GRID, np.arange(ROWS) > row, row))
    for b in base.values():
        (was, whole), (now, part) = frozen(b, b["root"]), frozen(b, root)
        np.testing.assert_array_equal(now[:row+1], was[:row+1])
        pd.testing.assert_frame_equal(*(f[f.index <= GRID.index[row]] for f in (part, whole)))
        pd.testing.assert_frame_equal(whole.drop(columns="path"), b["test"].drop(columns=["path", "split"]))


def test_every_stretch_ends_flat_and_adds_up(base):
    for b in base.values():
        for f in (b["valid"], b["test"]):
            np.testing.assert_allclose(f[PARTS].sum(axis=1), f.net, atol=1e-6)
            assert (f.groupby("path").position.last() == 0).all()
        assert b["test"].path.nunique() == 2  # a break in the recording
