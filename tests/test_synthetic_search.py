"The search of codebook and prior: scored on validation alone, every trial logged, a score that can be worked by hand."
import json
from types import SimpleNamespace

import numpy as np
import pytest

from lobresearch.data.grid import grid_path, load_grid, write_grid
from lobresearch.errors import ParameterError, TooShortError
from lobresearch.forecast.trials import trials
from lobresearch.market.splits import load_split
from lobresearch.study import toy
from lobresearch.study.toy_synthetic import ensure
from lobresearch.synthetic import search
from lobresearch.synthetic.search import SPACES, knobs, ranking, run_trial, saved, seek, trial_item
from lobresearch.synthetic.vqvae import fit_codebook

TINY = dict(codes=4, dim=4, width=8, depth=2, warm=0)


def stage(root, seconds=None, name="smoke"):
    p = SimpleNamespace(data=SimpleNamespace(symbols=["TOY"]), labels=SimpleNamespace(horizons=[10]))
    st = SimpleNamespace(p=p, where=name, root=root, path=lambda *parts: _made(root.joinpath(*parts)))
    toy._grid(st, seconds or 900)
    toy._splits(st)
    return st


def _made(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_a_code_saves_half_the_log_of_what_it_leaves():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (20_000, 3))
    assert saved(x, x - .5*rng.normal(0, 1, x.shape)) == pytest.approx(3*.5*np.log(4), abs=.05)
    assert saved(x, 0*x) == 0 and saved(x, -x) < 0
    assert saved(np.c_[x, np.zeros(len(x))], np.c_[x*0, np.ones(len(x))]) == 0 # a channel that never moves is left out
    holes = x.copy(); holes[::2] = np.nan
    assert saved(holes, .5*x) == pytest.approx(3*.5*np.log(4), abs=1e-9)


def test_a_codebook_trial_sees_neither_test_nor_sealed_seconds(tmp_path):
    stage(tmp_path)
    item = trial_item(tmp_path, "TOY", "codebook", 0, 1, codebook=TINY)
    for k in "ab": (tmp_path/k).mkdir()
    a = run_trial(item, tmp_path/"a", tmp_path)
    grid, split = load_grid(tmp_path/"artifacts/grid", "TOY"), load_split(tmp_path/"artifacts/splits", "TOY")
    last = split.ts[split.role == "valid"].max()
    late = grid.index > last
    for c in grid.columns[grid.columns.str.contains("_sz_")]: grid.loc[late, c] = 7*grid.loc[late, c]
    path = next((tmp_path/"artifacts/grid").rglob("*.parquet"))
    write_grid(tmp_path/"artifacts/grid", "TOY", path.stem.removeprefix("date="), grid)
    assert grid_path(tmp_path/"artifacts/grid", "TOY", path.stem.removeprefix("date=")) == path
    assert trial_item(tmp_path, "TOY", "codebook", 0, 1, codebook=TINY)["data"] != item["data"] # it is another recording
    assert run_trial(item, tmp_path/"b", tmp_path) == a
    assert a["valid"][0] == pytest.approx(a["saved"] - a["cost"]) and 0 < a["cost"] < 2*np.log(4)


def test_the_epoch_told_of_is_one_with_codes(tmp_path, monkeypatch):
    "The first epochs pass vectors unquantised and lose less; no code is used in them"
    stage(tmp_path)
    def flattered(*args, **kw):
        net, history = fit_codebook(*args, **kw)
        return net, [h if h["quantised"] else h | dict(valid_loss=0.) for h in history]
    monkeypatch.setattr(search, "fit_codebook", flattered)
    r = run_trial(trial_item(tmp_path, "TOY", "codebook", 0, 2, codebook=dict(TINY, warm=1)), tmp_path, tmp_path)
    assert 1 <= r["used"] <= 4 and 1 <= r["perplexity"] <= 4


def test_a_search_of_the_prior_ranks_by_validation_nats_and_logs_every_trial(tmp_path):
    st = stage(tmp_path)
    ensure(st, "synthetic")
    item = trial_item(tmp_path, "TOY", "prior", 0, 1, net=dict(width=8, depth=2), train=dict(stretches=2, targets=64))
    found = seek(tmp_path, item, 2, {"net.depth": [2, 3], "net.dropout": dict(low=0., high=.4)}, batch=2)
    t, log = ranking(found), trials(tmp_path/"artifacts/trials/synthetic_search.jsonl")
    assert sorted(t.trial) == [0, 1, 2] and t.score.is_monotonic_decreasing
    np.testing.assert_allclose(t.score, -(t.code + t.spread + t.move), rtol=1e-6)
    assert len(log) == 3 and set(log.model) == {"prior_conv"} and set(log.study) == {"search_prior"}
    again = seek(tmp_path, item, 2, {"net.depth": [2, 3], "net.dropout": dict(low=0., high=.4)}, batch=2)
    assert ranking(again).equals(t) and len(trials(tmp_path/"artifacts/trials/synthetic_search.jsonl")) == 3


def test_off_means_off(tmp_path):
    stage(tmp_path)
    assert seek(tmp_path, trial_item(tmp_path, "TOY", "codebook", 0, 1, codebook=TINY), 0) is None
    assert not (tmp_path/"artifacts/trials").exists() and not (tmp_path/"artifacts/items").exists()


def test_spaces_name_what_exists_and_fit_json():
    for part, space in SPACES.items():
        for name in space: assert name.split(".")[1] in knobs(part)[name.split(".")[0]]
    json.dumps(SPACES)


def test_mistakes_are_told(tmp_path):
    stage(tmp_path, seconds=200)
    with pytest.raises(ParameterError, match="codebook or prior"): knobs("decoder")
    with pytest.raises(ParameterError, match="no codes of TOY yet"): trial_item(tmp_path, "TOY", "prior", 0, 1)
    with pytest.raises(ParameterError, match="does not exist"): seek(tmp_path, trial_item(tmp_path, "TOY", "codebook", 0, 1), 1, {"codebook.colour": [1]})
    with pytest.raises(TooShortError, match="too short for a search"): run_trial(trial_item(tmp_path, "TOY", "codebook", 0, 1), tmp_path, tmp_path)
