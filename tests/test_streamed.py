"Streamed inputs against those made in memory: the same rows, whatever the days, gaps and overlaps."
import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lobresearch.data.grid import load_grid, write_grid
from lobresearch.errors import DataError, ParameterError, TooShortError
from lobresearch.forecast import streamed
from lobresearch.forecast.inputs import CLIP, statistics
from lobresearch.forecast.nets import build
from lobresearch.forecast.rows import prepare
from lobresearch.forecast.streamed import Moments, prepare_streamed, roles_at
from lobresearch.forecast.training import fit, predict_dense
from lobresearch.market.features import random_grid
from lobresearch.market.splits import chronological

T0 = 1_735_689_600_000_000
torch.set_num_threads(1)


def days(root, grid, cuts, overlap=0, symbol="A"):
    "Write a grid as days that are cut at the given rows; each day's file goes on `overlap` rows into the next"
    for k, (a, b) in enumerate(zip([0, *cuts], [*cuts, len(grid)], strict=True)):
        write_grid(root, symbol, f"2025-01-{k+1:02d}", grid.iloc[a:b+overlap], dict(max_stale=60))


def same(disk, ram, atol):
    assert all(np.array_equal(getattr(disk, k), getattr(ram, k)) for k in ("ts", "segment", "scale", "horizons"))
    playing = np.isin(ram.role, ["train", "valid", "test", "final"])
    assert np.array_equal(disk.role, np.where(playing, ram.role, ""))
    assert torch.equal(disk.y.nan_to_num(9), ram.y.nan_to_num(9)) and (disk.target is None) == (ram.target is None)
    if ram.target is not None: assert torch.equal(disk.target.nan_to_num(9), ram.target.nan_to_num(9))
    s, r = dict(disk.state), dict(ram.state)
    assert np.allclose(s.pop("mean"), r.pop("mean"), rtol=1e-6, atol=1e-6) and np.allclose(s.pop("sd"), r.pop("sd"), rtol=1e-5)
    assert s == r and json.loads(json.dumps(s)) == s
    assert disk.x.shape == ram.x.shape and float((disk.x.float() - ram.x).abs().max()) < atol


KINDS = ["book+features", "mass", "flow+features:desk30", "book+flow+features:all"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype,atol", [("float32", 2e-4), ("float16", 2.3e-3)])
def test_days_on_disk_give_what_memory_gives(tmp_path, kind, dtype, atol):
    grid = random_grid(2600, np.random.default_rng(1), levels=3, breaks=(300, 1400))
    grid.index += T0
    days(tmp_path, grid, (700, 1400, 2000))
    split, whole = chronological(grid.index, 10, 90), load_grid(tmp_path, "A")
    ram = prepare(whole, split, (5, 10), kind, 3, target="ema")
    disk = prepare_streamed(tmp_path, "A", split, tmp_path/"x", (5, 10), kind, 3, target="ema", dtype=dtype)
    same(disk, ram, atol)
    assert [p.name for p in (tmp_path/"x").iterdir()] == ["A.npy"] and disk.x.dtype == getattr(torch, dtype)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 999), cuts=st.sets(st.integers(1, 599), min_size=1, max_size=5), breaks=st.sets(st.integers(1, 599), max_size=4))
def test_whatever_the_days(tmp_path_factory, seed, cuts, breaks):
    root = tmp_path_factory.mktemp("days")
    grid = random_grid(600, np.random.default_rng(seed), levels=2, breaks=sorted(breaks))
    grid.index += T0
    days(root, grid, sorted(cuts))
    split = pd.DataFrame(dict(ts=grid.index, role=np.repeat(["train", "purged", "valid", "test"], [400, 50, 100, 50])))
    same(prepare_streamed(root, "A", split, root/"x", (5,), levels=2, dtype="float32"), prepare(load_grid(root, "A"), split, (5,), levels=2), 2e-4)


@pytest.mark.parametrize("chunk", [1, 7, 150])
def test_pieces_of_any_size_make_the_same_inputs(tmp_path, monkeypatch, chunk):
    grid = random_grid(300, np.random.default_rng(6), levels=2, breaks=(120,))
    grid.index += T0
    days(tmp_path, grid, (200,))
    split = pd.DataFrame(dict(ts=grid.index, role=np.repeat(["train", "valid"], 150)))
    monkeypatch.setattr(streamed, "CHUNK", chunk)
    disk = prepare_streamed(tmp_path, "A", split, tmp_path/"x", (5,), "book+flow+features", 2, dtype="float32")
    same(disk, prepare(load_grid(tmp_path, "A"), split, (5,), "book+flow+features", 2), 2e-4)


def test_days_that_overlap_and_days_with_a_short_seam(tmp_path):
    grid = random_grid(900, np.random.default_rng(2), levels=2)
    grid.index += T0
    write_grid(tmp_path, "A", "2025-01-01", grid.iloc[:320], dict(max_stale=60))
    write_grid(tmp_path, "A", "2025-01-02", grid.iloc[300:600], dict(max_stale=60))
    write_grid(tmp_path, "A", "2025-01-03", grid.iloc[630:], dict(max_stale=60))  # half a minute is carried
    whole = load_grid(tmp_path, "A")
    assert len(whole) == 900 and whole.segment.nunique() == 1 and whole.stale.sum() == 30
    split = chronological(whole.index, 5, 90)
    same(prepare_streamed(tmp_path, "A", split, tmp_path/"x", (5,), levels=2, dtype="float32"), prepare(whole, split, (5,), levels=2), 2e-4)


def test_a_sample_of_training_rows_is_enough_for_tick_and_unit(tmp_path):
    grid = random_grid(4000, np.random.default_rng(3), levels=2)
    grid.index += T0
    days(tmp_path, grid, (1500,))
    split = chronological(grid.index, 5, 90)
    full, part = (prepare_streamed(tmp_path, "A", split, tmp_path/f"{n}", (5,), "mass+book", 2, sample=n) for n in (10_000, 300))
    assert part.state["tick"] == full.state["tick"] and part.state["unit"] == pytest.approx(full.state["unit"], rel=.1)
    assert part.state["unit"] != full.state["unit"]
    other = grid.copy()
    other.loc[other.index > split.ts[split.role == "train"].max(), "ask_sz_1"] *= 9.
    days(tmp_path/"o", other, (1500,))
    assert prepare_streamed(tmp_path/"o", "A", split, tmp_path/"y", (5,), "mass+book", 2, sample=300).state == part.state


def test_training_and_forecasting_from_disk(tmp_path):
    grid = random_grid(2000, np.random.default_rng(4), levels=2)
    grid.index += T0
    days(tmp_path, grid, (900,))
    split = chronological(grid.index, 10, 90)
    ram = prepare(load_grid(tmp_path, "A"), split, (5, 10), levels=2)
    disk = prepare_streamed(tmp_path, "A", split, tmp_path/"x", (5, 10), levels=2)
    before = (tmp_path/"x/A.npy").read_bytes()
    nets = []
    for rows in (ram, disk):
        torch.manual_seed(0)
        nets.append(build("tcn", dict(pages=rows.x.shape[2], levels=2, channels=8)))
        h = fit(nets[-1], rows, 0, epochs=2)
        assert np.isfinite(h[-1]["loss"])
    a, b = (predict_dense(nets[0], rows.x, rows.segment) for rows in (ram, disk))
    assert np.isfinite(a).any() and np.allclose(a, b, atol=.02, equal_nan=True)
    disk.x[0] = 5  # a private mapping
    assert (tmp_path/"x/A.npy").read_bytes() == before


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), cuts=st.sets(st.integers(1, 79), max_size=6), shift=st.sampled_from([0., 1e6, -1e8]))
def test_moments_are_those_of_the_whole(seed, cuts, shift):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(80, 4))*[1, 10, 1e-3, 0] + shift
    x[rng.random(x.shape) < .2] = np.nan
    x[:, 2] = np.nan if seed % 3 == 0 else x[:, 2]
    m = Moments()
    for piece in np.split(x, sorted(cuts)): m.add(piece)
    got, want = m.state(), statistics(x)
    assert np.allclose(got["mean"], want["mean"], rtol=1e-12, atol=1e-12)
    if shift == 0: assert np.allclose(got["sd"], want["sd"], rtol=1e-9)
    else: assert np.allclose(got["sd"][:2], want["sd"][:2], rtol=1e-6)


def test_roles_by_the_clock():
    split = pd.DataFrame(dict(ts=[10, 20, 30, 40], role=["train", "purged", "valid", "test"]))
    assert roles_at(np.array([5, 10, 15, 20, 30, 40, 50]), split).tolist() == ["", "train", "", "", "valid", "test", ""]
    with pytest.raises(ParameterError, match="must increase"): roles_at(np.array([5]), split.iloc[::-1])
    with pytest.raises(ParameterError, match="there must be some"): roles_at(np.array([5]), split.iloc[:0])


def test_what_it_says_of_wrong_input(tmp_path):
    grid = random_grid(300, np.random.default_rng(5), levels=2)
    grid.index += T0
    days(tmp_path, grid, (150,))
    split = pd.DataFrame(dict(ts=grid.index, role="train"))
    make = lambda **k: prepare_streamed(tmp_path, k.pop("symbol", "A"), k.pop("split", split), tmp_path/"x", **{"horizons": (5,), "levels": 2, **k})
    with pytest.raises(DataError, match="there is no grid of B"): make(symbol="B")
    with pytest.raises(ParameterError, match="no input part 'tape'"): make(inputs="tape")
    with pytest.raises(ParameterError, match="float16 or float32; got 'int8'"): make(dtype="int8")
    with pytest.raises(TooShortError, match="of 0 training rows"): make(split=split.assign(role="test"))
    with pytest.raises(ParameterError, match="needs hidden="): make(inputs="book+hidden")
    assert not (tmp_path/"x").exists()  # nothing half made is left
    assert abs(make(inputs="book").x).max() <= CLIP
