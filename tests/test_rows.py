"Rows: training targets beside raw labels, several symbols as one, and what a batch is made of."
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lobresearch.errors import ParameterError, TooShortError
from lobresearch.forecast.rows import Rows, gather, in_bps, pool, prepare, smoothed, stretches
from lobresearch.market.labels import labels, make_label, mid_price
from lobresearch.market.features import random_grid
from lobresearch.market.splits import chronological

N = 1500


def symbol(seed, breaks=(700,), levels=2, n=N):
    grid = random_grid(n, np.random.default_rng(seed), levels=levels, breaks=breaks)
    return grid, chronological(grid.index, horizon=10, lookback=90)


@pytest.fixture(scope="module")
def one(): return symbol(0)


@pytest.fixture(scope="module")
def raw(one): return prepare(*one, (5, 10), levels=2)


def test_eight_fields_make_a_row_set_of_one_symbol(raw):
    r = Rows(*raw[:8])
    assert r.target is None and r.part is None and r.names is None


def test_roles_may_be_categories(one, raw):
    grid, split = one
    some = split.iloc[5:].assign(role=split.role.astype("category"))  # the first rows have no role
    r = prepare(grid, some, (5, 10), levels=2)
    assert r.role.dtype.kind == "U" and np.array_equal(r.role[5:], raw.role[5:]) and not (r.role[:5] != "").any()


def test_raw_labels_over_their_training_deviation(one, raw):
    grid, _ = one
    y = labels(grid, (5, 10)).to_numpy()
    assert np.allclose(raw.scale, np.nanstd(y[raw.role == "train"], 0), rtol=1e-12)
    assert np.allclose(raw.y.numpy()*raw.scale, y, rtol=1e-6, equal_nan=True)


@pytest.mark.parametrize("alpha", [.05, .2, 1.])
def test_ema_target_leaves_what_is_scored_alone(one, raw, alpha):
    grid, _ = one
    soft = prepare(*one, (5, 10), levels=2, target="ema", ema_alpha=alpha)
    assert torch.equal(soft.y.nan_to_num(9), raw.y.nan_to_num(9)) and np.array_equal(soft.scale, raw.scale) and torch.equal(soft.x, raw.x)
    assert soft.state == raw.state and soft.target.shape == soft.y.shape
    want = np.stack([make_label("ema", grid.index, grid.segment, mid_price(grid), h, alpha=alpha) for h in (5, 10)], 1)
    train = raw.role == "train"
    first_block = train & (np.cumsum(~train) == 0)  # the training rows that nothing else lies before
    assert first_block.sum() > 300
    assert np.allclose(soft.target.numpy()[first_block]*soft.scale, want[first_block], rtol=1e-5, equal_nan=True)
    if alpha == 1: assert np.allclose(soft.target.numpy(), soft.y.numpy(), equal_nan=True)
    else: assert np.nanstd(soft.target.numpy()[train]) < np.nanstd(soft.y.numpy()[train])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), alpha=st.floats(.05, 1))
def test_the_smoothing_holds_no_other_blocks_labels(seed, alpha):
    rng = np.random.default_rng(seed)
    n = 60
    ts = np.cumsum(1 + 20*(rng.random(n) < .1))*1_000_000
    role = np.array(["train", "test", ""])[np.repeat(rng.integers(0, 3, 12), 5)]
    r = np.where(rng.random(n) < .2, np.nan, rng.normal(size=n))
    a = smoothed(ts, np.zeros(n, int), role, r, alpha)
    b = smoothed(ts, np.zeros(n, int), role, np.where(role == "train", r, r*7 + 3), alpha)
    assert np.array_equal(a[role == "train"], b[role == "train"], equal_nan=True)
    assert np.array_equal(np.isnan(a), np.isnan(r))


def test_smoothing_by_hand_over_a_gap():
    "alpha 1/2: after 2 s without a label the old average keeps a quarter"
    ts = np.array([0, 1, 3])*1_000_000
    assert np.allclose(smoothed(ts, np.zeros(3), np.array(["train"]*3), np.array([8., 0., 4.]), .5), [8, 4, .25*4 + .75*4])
    assert np.allclose(smoothed(ts, np.array([0, 0, 1]), np.array(["train"]*3), np.array([8., 0., 4.]), .5), [8, 4, 4])


def test_a_batch_holds_the_target_and_float32(raw):
    which = np.array([[0, 6], [5, 9]])
    soft = raw._replace(target=raw.y + 1)
    x, y = gather(raw, which, 2)
    assert torch.equal(gather(soft, which, 2)[1].nan_to_num(-9), (y + 1).nan_to_num(-9)) and torch.equal(gather(soft, which, 2)[0], x)
    half = gather(raw._replace(x=raw.x.half()), which, 2)[0]
    assert half.dtype == torch.float32 and torch.allclose(half, x, atol=4e-3)
    assert torch.equal(y[0], raw.y[2:6]) and y[1, 2:].isnan().all()


@pytest.fixture(scope="module")
def pooled(raw):
    quiet = prepare(*symbol(1, breaks=()), (5, 10), levels=2)
    return raw, quiet, pool([raw, quiet], ["A", "B"])


def test_pooled_symbols_keep_their_own_numbers(pooled):
    a, b, both = pooled
    assert both.names == ("A", "B") and np.array_equal(both.part, np.repeat([0, 1], N)) and both.state == {"A": a.state, "B": b.state}
    assert torch.equal(both.x[:N], a.x) and torch.equal(both.x[N:], b.x) and torch.equal(both.y[N:].nan_to_num(), b.y.nan_to_num())
    assert np.array_equal(both.role, np.r_[a.role, b.role]) and np.array_equal(both.ts, np.r_[a.ts, b.ts]) and both.target is None
    assert np.array_equal(in_bps(both, np.ones((2*N, 2))), np.r_[np.tile(a.scale, (N, 1)), np.tile(b.scale, (N, 1))])
    assert np.array_equal(in_bps(a, np.ones((N, 2))), np.tile(a.scale, (N, 1)))


def test_no_stretch_holds_two_symbols_or_segments(pooled):
    a, b, both = pooled
    got = stretches(both.segment, both.role == "train", 20, 32)
    apart = [stretches(r.segment, r.role == "train", 20, 32) + k*N for k, r in enumerate((a, b))]
    assert np.array_equal(got, np.concatenate(apart))


def test_pooling_the_same_clock_keeps_segments_apart(raw):
    twice = pool([raw, raw], ["A", "B"])
    assert len(np.unique(twice.segment)) == 2*len(np.unique(raw.segment))


def test_pooling_targets(one, raw):
    soft = prepare(*one, (5, 10), levels=2, target="ema")
    both = pool([soft, soft], ["A", "B"])
    assert torch.equal(both.target.nan_to_num(), torch.cat([soft.target]*2).nan_to_num())
    with pytest.raises(ParameterError, match="the same inputs, levels, horizons and kind of target"): pool([raw, soft], ["A", "B"])


def test_what_cannot_be_pooled_gets_a_sentence(one, raw):
    with pytest.raises(ParameterError, match="2 names and 1 symbols"): pool([raw], ["A", "B"])
    with pytest.raises(ParameterError, match="0 names and 0 symbols"): pool([], [])
    for other in (prepare(*one, (5,), levels=2), prepare(*one, (5, 10), "flow", levels=2), prepare(*one, (5, 10), levels=1)):
        with pytest.raises(ParameterError, match="the same inputs"): pool([raw, other], ["A", "B"])


def test_targets_and_labels_that_are_not_there(one):
    grid, split = one
    with pytest.raises(ParameterError, match="target must be one of raw, ema; got 'mean'"): prepare(grid, split, (5,), levels=2, target="mean")
    with pytest.raises(ParameterError, match="alpha must lie"): prepare(grid, split, (5,), levels=2, target="ema", ema_alpha=0)
    with pytest.raises(ParameterError, match="at least one horizon"): prepare(grid, split, (), levels=2)
    with pytest.raises(TooShortError, match="of 3 training rows 0 have one 300 s ahead"):
        prepare(grid.iloc[:100], pd.DataFrame(dict(ts=grid.index[:3], role="train")), (5, 300), levels=2)
