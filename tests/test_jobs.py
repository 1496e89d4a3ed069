"Items of the study: folds that never see what they forecast, networks that symbols share, variants that change one thing."
import ast
import importlib
import inspect
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lobresearch.data.grid import load_grid, write_grid
from lobresearch.errors import ParameterError, TooShortError
from lobresearch.forecast.fitting import Sample, fit_model, memory, out_of_fold, widen
from lobresearch.forecast.items import item_key, map_items
from lobresearch.forecast.jobs import apart, code_fingerprint, collect, histories, make_items, make_variants, refusal, run_item
from lobresearch.market.features import random_grid
from lobresearch.market.splits import SECOND, chronological, load_split, write_splits

NET, TRAIN = dict(inputs="book+features", channels=4, depth=2, trunk=4), dict(epochs=1, targets=64)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    for i, s in enumerate(("A", "B")):
        grid = random_grid(5000, np.random.default_rng(i), levels=2, breaks=(1500,))
        write_grid(root/"artifacts/grid", s, "1970-01-01", grid)
        write_splits(root/"artifacts/splits", s, chronological(grid.index, horizon=10, lookback=100))
    return root


def split_of(root, s="A"): return load_split(root/"artifacts/splits", s)


def test_folds_walk_through_the_training_block_and_nothing_else(root):
    split = split_of(root)
    train, seen = set(split.ts[split.role == "train"]), []
    for k in range(3):
        f = out_of_fold(split, k, 3, horizon=10, lookback=70, embargo=7)
        assert set(f.ts) == train
        at = {r: f.ts[f.role == r].to_numpy() for r in ("train", "valid", "test")}
        assert all(len(v) for v in at.values())
        assert at["valid"].min() - at["train"].max() > (10+70+7)*SECOND and at["test"].min() - at["valid"].max() > (10+70+7)*SECOND
        seen.append(at["test"])
    assert len(np.unique(np.concatenate(seen))) == sum(map(len, seen))  # no second is forecast twice
    assert np.concatenate(seen).max() == max(train) and np.concatenate(seen).min() > min(train)


@pytest.mark.parametrize("model", ["ridge", "tcn"])
def test_a_fold_is_deaf_to_all_that_comes_after_its_block(root, tmp_path, model):
    grid, split = load_grid(root/"artifacts/grid", "A"), split_of(root)
    item = dict(symbol="A", horizons=[5, 10], model=model, seed=1, oof=dict(fold=0, folds=2), lambdas=[100.], net=NET, train=TRAIN)
    fold = out_of_fold(split, 0, 2, 10, memory(item, 2))
    end = fold.ts[fold.role == "test"].max()
    later = grid.copy()
    px = [c for c in later if "_px_" in c]
    later.loc[later.index > end, px] = later.loc[later.index > end, px] + 5.
    made = []
    for k, g in enumerate((grid, later)):
        (tmp_path/str(k)).mkdir()
        made.append(fit_model(item, tmp_path/str(k), [Sample("A", g, fold)])[0])
    assert len(made[0]) and made[0].equals(made[1]) and set(made[0].split) == {"oof"}
    assert set(made[0].ts) <= set(fold.ts[fold.role == "test"])


def test_folds_reach_the_table_and_keep_out_of_models_and_histories(root, tmp_path):
    todo = make_items(root, ["A"], [5, 10], 7, ["ridge", "tcn"], net=NET, train=TRAIN, oof=dict(models=["tcn"], folds=2, embargo=5))
    results = map_items(partial(run_item, root=root), todo, keep=tmp_path/"keep")
    table = collect(todo, tmp_path/"keep", tmp_path/"out")
    assert table.groupby("split").model.unique().map(list).to_dict() == {"oof": ["tcn"], "test": ["ridge", "tcn"], "valid": ["ridge", "tcn"]}
    assert not table.duplicated(["symbol", "ts", "horizon", "model", "seed"]).any()
    assert sorted(p.name for p in (tmp_path/"out/artifacts/models/symbol=A").iterdir()) == ["ridge_7.json", "tcn_7.json", "tcn_7.safetensors"]
    assert len(histories(results)) == 1 and [r.get("oof") for r in results] == [None, None, 0, 1]


def test_a_pooled_network_forecasts_every_symbol_in_its_own_units(root, tmp_path):
    "Twice the prices' moves in one symbol: the shared weights see the same, the forecasts in basis points double"
    grid = load_grid(root/"artifacts/grid", "A")
    split = widen(split_of(root), 10, 200)
    item = dict(symbol="pooled", variant="tcn_pooled", horizons=[5, 10], model="tcn", seed=1, net=dict(NET, inputs="book"), train=TRAIN)
    made, more = fit_model(item, tmp_path, [Sample("A", grid, split), Sample("C", grid, split)])
    a, c = (made[made.symbol == s].reset_index(drop=True) for s in "AC")
    assert len(a) and (a.y_hat == c.y_hat).all() and set(made.model) == {"tcn_pooled"} and more["weights"] > 0
    b = Sample("B", load_grid(root/"artifacts/grid", "B"), widen(split_of(root, "B"), 10, 200))
    (tmp_path/"two").mkdir()
    both, _ = fit_model(item, tmp_path/"two", [Sample("A", grid, split), b])
    assert set(both.symbol) == {"A", "B"} and both.groupby("symbol").y_hat.std().min() > 0
    with pytest.raises(ParameterError, match="one symbol at a time"): fit_model(dict(item, model="ridge", lambdas=[1.]), tmp_path, [b, b])


def test_only_headline_networks_get_several_seeds_and_only_where_asked(root):
    todo = make_items(root, ["A", "B"], [5], 7, ["ridge", "tcn", "lstm"], seeds=3, headline=["tcn"], several=["A"], net=NET, train=TRAIN, pooled=["tcn"])
    n = pd.DataFrame(todo).groupby(["symbol", "model"]).seed.agg(list).to_dict()
    assert n == {("A", "ridge"): [7], ("A", "tcn"): [7, 8, 9], ("A", "lstm"): [7], ("B", "ridge"): [7], ("B", "tcn"): [7], ("B", "lstm"): [7],
                 ("pooled", "tcn"): [7]}
    assert not [i for i in make_items(root, ["A"], [5], 7, ["zero"], pooled=["tcn"]) if i["symbol"] == "pooled"]  # one symbol has nothing to share


def test_a_variant_with_the_study_s_own_settings_forecasts_the_same(root, tmp_path):
    main = make_items(root, ["A"], [5, 10], 7, ["tcn"], net=NET, train=TRAIN)
    same = make_variants(root, ["A"], [5, 10], 7, {"twin": dict(model="tcn"), "wide": dict(model="tcn", net=dict(channels=6))}, NET, TRAIN)
    for todo in (main, same): map_items(partial(run_item, root=root), todo, keep=tmp_path/"keep")
    a, b, c = (pd.read_parquet(tmp_path/"keep"/item_key(i)/"predictions.parquet") for i in main + same)
    assert a.drop(columns="model").equals(b.drop(columns="model")) and set(b.model) == {"twin"}
    assert not np.allclose(a.y_hat, c.y_hat)
    out = collect(same, tmp_path/"keep", tmp_path/"out", "ablations")
    assert set(out.model) == {"twin", "wide"} and not (tmp_path/"out/artifacts/models").exists()


def test_the_hidden_state_is_refused_where_there_is_none(root):
    told = {"told": dict(model="tcn", net=dict(inputs="book+hidden"))}
    with pytest.raises(ParameterError, match="A has no hidden state"): make_variants(root, ["A"], [5], 7, told)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(60, 200)), min_size=1, max_size=4), st.integers(1, 20))
def test_no_symbol_teaches_of_the_time_on_which_another_is_judged(spans, h):
    "Blocks that begin at different seconds: what is learnt ends before anyone's validation begins, what is chosen by before anyone's test"
    made = []
    for start, n in spans:
        ts = (start + np.arange(n))*SECOND
        made.append(pd.DataFrame(dict(ts=ts, role=np.repeat(["train", "valid", "test"], [n - 2*(n//4), n//4, n//4]))))
    got = apart(made, h)
    for role, later in (("train", "valid"), ("valid", "test")):
        first = min(s.ts[s.role == later].min() for s in made)
        for s in got: assert not (s.ts[s.role == role] + h*SECOND >= first).any()
    for was, s in zip(made, got):
        assert (s.role[was.role == "test"] == "test").all() and ((s.role == was.role) | (s.role == "purged")).all()


def test_a_pooled_network_is_not_taught_by_a_symbol_that_comes_later(root, tmp_path):
    grid = load_grid(root/"artifacts/grid", "A")
    write_grid(tmp_path/"artifacts/grid", "A", "1970-01-01", grid)
    write_splits(tmp_path/"artifacts/splits", "A", split_of(root))
    later = grid.set_index(grid.index + 5000*SECOND)
    write_grid(tmp_path/"artifacts/grid", "LATER", "1970-01-01", later)
    write_splits(tmp_path/"artifacts/splits", "LATER", chronological(later.index, horizon=10, lookback=100))
    item, = make_items(tmp_path, ["A", "LATER"], [5], 7, [], pooled=["tcn"], net=NET, train=TRAIN)
    with pytest.raises(TooShortError, match="LATER is too short.* 0 train rows"): run_item(item, tmp_path, tmp_path)
    assert "LATER is too short" in refusal(item, tmp_path, 2)


def test_a_network_whose_memory_a_recording_cannot_fill_is_refused_before_any_work(tmp_path):
    "Thirty-five minutes: enough for the straight line, and for a short memory, but not for one of four minutes; and gaps of which no stretch is long enough"
    grid = random_grid(2100, np.random.default_rng(0), levels=2)
    for s, g in (("WHOLE", grid), ("TORN", grid[np.arange(2100) % 120 < 118])):
        write_grid(tmp_path/"artifacts/grid", s, "1970-01-01", g)
        write_splits(tmp_path/"artifacts/splits", s, chronological(g.index, horizon=60, lookback=61, embargo=20))
    todo = make_items(tmp_path, ["WHOLE", "TORN"], [10, 60], 7, ["ridge", "tcn", "transformer"], net=NET, train=TRAIN,
                      per_model=dict(transformer=dict(net=dict(depth=4))))
    told = {(i["symbol"], i["model"]): refusal(i, tmp_path, 2) for i in todo}
    assert not told["WHOLE", "ridge"] and not told["WHOLE", "tcn"] and "WHOLE is too short" in told["WHOLE", "transformer"]
    assert "TORN is too short" in told["TORN", "transformer"] and not told["TORN", "tcn"]
    for i in todo:
        if not told[i["symbol"], i["model"]]: assert run_item(i, tmp_path, tmp_path)["valid"]


def test_whatever_features_are_computed_with_is_part_of_the_code_of_an_item():
    "Every module of market/ that the features import, by name in the source"
    seen, todo = set(), ["features"]
    while todo:
        m = todo.pop()
        seen.add(m)
        tree = ast.parse(Path(importlib.import_module(f"lobresearch.market.{m}").__file__).read_text())
        near = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level == 1]
        todo += [m for n in near for m in ([n.module] if n.module else [a.name for a in n.names]) if m not in seen]
    assert "windows" in seen and seen <= set(inspect.getsource(code_fingerprint).split('"'))
