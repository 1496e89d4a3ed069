"What a network is shown: parts by name, the numbers of before, statistics of training rows alone, and nothing from the future."
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lobresearch.data.book import book_columns, tick_size
from lobresearch.data.simulate import make_simulated, read_hidden
from lobresearch.data.grid import ingest
from lobresearch.errors import ParameterError, TooShortError
from lobresearch.forecast.inputs import (CLIP, HIDDEN, KINDS, LOOKBACK, feature_names, fit_inputs, hidden_columns, inputs_lookback, make_inputs,
                                         parts, raw_columns, statistics)
from lobresearch.forecast.rows import prepare
from lobresearch.market.features import SETS, features, random_grid, select
from lobresearch.market.images import book_image, distance_mass, flow_image

N, L = 700, 3
ALL = (*KINDS, "book+mass", "mass+flow+book", *(f"book+features:{s}" for s in SETS))


def frozen(grid, train, names, levels):
    "The inputs as they were before there were parts: one picture, and features beside it"
    sizes = grid[[c for c in book_columns(levels) if "_sz_" in c]].to_numpy(float)[train]
    x = book_image(grid, tick_size(grid[train]), float(np.nanmedian(sizes)) or 1., levels)
    if names: x = np.concatenate([x, features(grid, names).to_numpy(float)], axis=1)
    mean, sd = np.nanmean(x[train], 0), np.nanstd(x[train], 0)
    x = np.clip(np.nan_to_num((x - mean)/np.where(sd > 1e-9, sd, 1.)), -8, 8).astype(np.float32)
    pages = -(-x.shape[1]//(4*levels))
    x = np.pad(x, ((0, 0), (0, pages*4*levels - x.shape[1])))
    return x.reshape(len(x), pages, 4*levels).transpose(1, 0, 2)


@pytest.fixture(scope="module")
def grid():
    g = random_grid(N, np.random.default_rng(5), levels=L, breaks=(90, 91, 400))
    g.loc[g.index[30:33], ["ask_px_3", "ask_sz_3"]] = np.nan  # a level that is missing
    return g


@pytest.mark.parametrize("kind,names", [("book", []), ("book+features", select(L, LOOKBACK)), ("book+features", ["imb_1", "ret_300"])])
def test_old_inputs_are_what_they_were(grid, kind, names):
    train = np.arange(N) < 300
    state = fit_inputs(grid, train, kind, L, names or None)
    assert np.array_equal(make_inputs(grid, state), frozen(grid, train, names, L))


def test_features_without_names_are_the_core_set_up_to_a_minute():
    assert feature_names("book+features") == select(10, LOOKBACK) and "ret_300" not in feature_names("book+features")
    assert feature_names("book+features:book18", names=["imb_1"]) == select(10, LOOKBACK, "book18")
    assert feature_names("flow") == []
    assert [inputs_lookback(k) for k in ("mass", "flow", "mass+book", "book+features:desk30")] == [0, 1, 1, 61]


@pytest.mark.parametrize("kind", ALL)
def test_shape_state_and_training_statistics(grid, kind):
    train = np.arange(N) < 500
    state = fit_inputs(grid, train, kind, L)
    x = make_inputs(grid, json.loads(json.dumps(state)))
    assert x.dtype == np.float32 and x.shape[1:] == (N, 4*L) and np.isfinite(x).all() and abs(x).max() <= CLIP
    raw = raw_columns(grid, state)
    assert x.shape[0] == -(-raw.shape[1]//(4*L)) and len(state["mean"]) == len(state["sd"]) == raw.shape[1]
    z = (raw - state["mean"])/state["sd"]
    assert np.allclose(np.nanmean(z[train], 0), 0, atol=1e-6)
    sd = np.nanstd(z[train], 0)
    assert np.all(np.isclose(sd, 1) | (np.nanstd(raw[train], 0) <= 1e-9))


@pytest.mark.parametrize("kind", ALL)
def test_the_state_takes_nothing_from_outside_training(grid, kind):
    train = (np.arange(N) < 300) | (np.arange(N) > 600)
    other = grid.copy()
    inner = np.arange(N)
    reach = (inner >= 300) & (inner < 600 - LOOKBACK - 1)  # the seconds that no training row's features reach back to
    number = [c for c in other if c not in ("segment", "stale", "buy_n", "sell_n", "n_updates")]
    other.loc[other.index[reach], number] *= 1.5
    assert fit_inputs(other, train, kind, L) == fit_inputs(grid, train, kind, L)


@settings(max_examples=25, deadline=None)
@given(kind=st.sampled_from(ALL), row=st.integers(0, 248), seed=st.integers(0, 99), breaks=st.sets(st.integers(1, 249), max_size=6))
def test_the_future_moves_nothing_whatever_the_gaps(kind, row, seed, breaks):
    rng = np.random.default_rng(seed)
    grid = random_grid(250, rng, levels=2, breaks=sorted(breaks))
    state = fit_inputs(grid, np.arange(250) < 250, kind, 2)
    other = grid.astype(float)
    other.iloc[row+1:] = other.iloc[row+1:]*rng.lognormal(0, .4, (249-row, grid.shape[1]))
    other["segment"] = grid["segment"]
    a, b = make_inputs(grid, state), make_inputs(other, state)
    assert np.array_equal(a[:, :row+1], b[:, :row+1]) and not np.array_equal(a[:, row+1:], b[:, row+1:])


@pytest.mark.parametrize("kind", ALL)
def test_a_segment_does_not_know_the_one_before(grid, kind):
    state = fit_inputs(grid, np.arange(N) < 300, kind, L)
    alone = make_inputs(grid.iloc[400:], state)
    assert np.allclose(make_inputs(grid, state)[:, 400:], alone, atol=2e-5)  # the same up to the rounding of running sums


def test_flow_picture_leaves_the_fourth_place_of_a_level_empty(grid):
    state = fit_inputs(grid, np.arange(N) < 300, "flow+book", L)
    x = raw_columns(grid, state)[:, :4*L].reshape(N, L, 4)
    assert not x[..., 3].any()
    assert np.array_equal(x[..., :3].reshape(N, 3*L), flow_image(grid, state["unit"], L))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), levels=st.integers(1, 6))
def test_mass_holds_all_that_stands_and_keeps_sides_apart(seed, levels):
    grid = random_grid(40, np.random.default_rng(seed), levels=levels)
    state = fit_inputs(grid, np.ones(40, bool), "mass", levels)
    x = np.expm1(raw_columns(grid, state)).reshape(40, levels, 2, 2)*state["unit"]
    for side, name in enumerate(("ask", "bid")):
        want = grid[[f"{name}_sz_{i+1}" for i in range(levels)]].to_numpy().sum(1)
        assert np.allclose(x[:, :, side].sum((1, 2)), want, rtol=1e-5)


def test_no_mass_is_lost_where_the_spread_was_never_so_narrow_in_training():
    grid = random_grid(400, np.random.default_rng(0), levels=2)
    state = fit_inputs(grid, np.arange(400) < 200, "mass", 2)
    later = grid.iloc[200:].copy()
    later["ask_px_1"] = later["bid_px_1"] + np.where(np.arange(200) % 2, .001, 0.)  # next to nothing, and locked
    x = np.expm1(raw_columns(later, state)).reshape(200, 2, 2, 2)*state["unit"]
    assert np.allclose(x[:, 0, 0, 0], later.ask_sz_1) and np.allclose(x[:, 0, 1, 0], later.bid_sz_1)
    assert np.allclose(x.sum((1, 2, 3)), later[["ask_sz_1", "ask_sz_2", "bid_sz_1", "bid_sz_2"]].sum(axis=1))


def test_mass_agrees_with_the_fine_form():
    "Bins between the same edges hold what distance_mass puts there"
    grid = random_grid(300, np.random.default_rng(7), levels=4)
    edges = [2., 9.]
    got = np.expm1(raw_columns(grid, dict(kind="mass", levels=4, tick=.1, unit=1., features=[], edges=edges))).reshape(300, 4, 2, 2)
    fine = distance_mass(grid, 4, 17, *edges).toarray()
    for side, bins in enumerate((fine[:, 9:], fine[:, 7::-1])):
        mine = got[:, :, side].reshape(300, 8)
        assert np.allclose(mine[:, 1:], bins[:, 1:], rtol=1e-5) and mine[:, 1:].any()


def test_mass_by_hand():
    "Asks of 2 at 1 bp and 5 at 4 bps, bids of 1 at 1 bp and 7 at 30 bps; edges 0.9, 1.8, 3.6, 7.2 bps and 4 bins a side"
    g = pd.DataFrame(dict(ask_px_1=[100.01], ask_sz_1=[2.], bid_px_1=[99.99], bid_sz_1=[1.], ask_px_2=[100.04], ask_sz_2=[5.], bid_px_2=[99.7], bid_sz_2=[7.],
                          segment=0), index=pd.Index([0], name="ts"))
    x = raw_columns(g, dict(kind="mass", levels=2, tick=.01, unit=1., features=[], edges=[.9, 7.2]))
    # level by level: two bins of asks, two of bids; the first holds 0.9-1.8 and 1.8-3.6, the second 3.6-7.2 and beyond
    assert np.allclose(np.expm1(x), [[2, 0, 1, 0, 5, 0, 0, 7]], rtol=1e-6)


def test_statistics_of_columns_that_are_empty_or_constant():
    x = np.array([[1., np.nan, 3., 2.], [1., np.nan, 5., np.nan]])
    assert statistics(x) == dict(mean=[1., 0., 4., 2.], sd=[1., 1., 1., 1.])


@pytest.mark.parametrize("kind,sentence", [("tape", "no input part 'tape'; inputs are made of book, flow, mass, hidden, features"),
                                           ("features", "first part is the picture"),
                                           ("hidden+book", "first part is the picture"), ("book+book", "may stand once"), ("book+features:none", "features:none"),
                                           ("", "no input part ''"), ("book:10", "no input part 'book:10'"), ("book+features+features:all", "may stand once")])
def test_what_is_no_input_gets_a_sentence(grid, kind, sentence):
    with pytest.raises(ParameterError, match=sentence): fit_inputs(grid, np.arange(N) < 300, kind, L)


def test_too_little_training(grid):
    with pytest.raises(TooShortError, match="at least two training rows"): fit_inputs(grid, np.arange(N) < 1, "flow", L)
    with pytest.raises(ParameterError, match="mask of training rows 3"): fit_inputs(grid, np.ones(3, bool), "flow", L)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sim")
    made = make_simulated(folder, hours=.5, symbols=("SIM-SIGNAL",), seed=0)
    assert made
    grid, _ = ingest(folder, "lobsim", "SIM-SIGNAL", "2025-01-01", progress=False)
    return grid, read_hidden(folder, "SIM-SIGNAL")


def test_hidden_state_joins_by_the_clock(simulated):
    grid, hidden = simulated
    part = grid.iloc[100:900]
    shuffled = hidden.sample(frac=1, random_state=0)
    h = hidden_columns(part, shuffled)
    want = hidden.loc[part.index]
    assert np.array_equal(h[:, 0], want.latent) and np.allclose(h[:, list(HIDDEN).index("side_log_left")], want.side*np.log(want.left + 1.))
    train = np.arange(len(grid)) < 900
    state = fit_inputs(grid, train, "book+features+hidden", hidden=hidden)
    x = make_inputs(grid, state, hidden)
    without = fit_inputs(grid, train, "book+features")
    n = len(without["mean"])
    assert state["mean"][:n] == without["mean"] and len(state["mean"]) == n + len(HIDDEN)
    z = (np.asarray(want.latent) - state["mean"][n])/state["sd"][n]
    assert np.allclose(x[n//40, 100:900, n % 40], np.clip(z, -8, 8), atol=1e-6)


def test_hidden_state_that_does_not_fit_gets_a_sentence(simulated):
    grid, hidden = simulated
    with pytest.raises(ParameterError, match=f"lacks 7 of the grid's {len(grid):,} seconds, the first at ts {grid.index[-7]}"):
        hidden_columns(grid, hidden[hidden.index < grid.index[-7]])
    with pytest.raises(ParameterError, match="no column left"): hidden_columns(grid, hidden.drop(columns="left"))
    split = pd.DataFrame(dict(ts=grid.index, role="train"))
    with pytest.raises(ParameterError, match="needs hidden="): prepare(grid, split, inputs="book+hidden")
    assert prepare(grid, split, inputs="book+hidden", hidden=hidden).x.shape[2] == 2
