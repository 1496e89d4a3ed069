"Pictures of the book: nothing is lost, nothing looks ahead, and the far past does not matter."
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lobresearch.data.book import book_columns, event_ofi
from lobresearch.market.images import book_image, distance_edges, distance_mass, flow_image
from lobresearch.market.registry import random_grid

SIZES = [c for c in book_columns(10) if "_sz_" in c]
IMAGES = {"book": lambda g: book_image(g, .1, 2.), "flow": lambda g: flow_image(g, 2.), "mass": lambda g: distance_mass(g, bins=101).toarray()}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), half=st.integers(1, 400), nearest=st.floats(1e-3, 5), ratio=st.floats(1.5, 1e4))
def test_every_size_falls_into_one_bin_whatever_the_bins(seed, half, nearest, ratio):
    g = random_grid(50, np.random.default_rng(seed))
    D = distance_mass(g, 10, 2*half + 1, nearest, nearest*ratio).toarray()
    assert np.allclose(D.sum(1), g[SIZES].sum(axis=1), rtol=1e-5)
    d = 1e4*(g.ask_px_3/((g.ask_px_1 + g.bid_px_1)/2) - 1) # a level looked up by numpy's own histogram
    one = g.copy()
    one[[c for c in SIZES if c != "ask_sz_3"]] = 0.
    edges = np.r_[-np.inf, distance_edges(2*half + 1, nearest, nearest*ratio), np.inf]
    got = distance_mass(one, 10, 2*half + 1, nearest, nearest*ratio).toarray()
    want = np.array([np.histogram([x], edges, weights=[q])[0] for x, q in zip(d, one.ask_sz_3)])
    assert np.allclose(got, want, rtol=1e-5)


def test_sides_differ_by_the_order_flow_imbalance_of_the_snapshots():
    g = random_grid(800, np.random.default_rng(4), breaks=(300,))
    g.loc[g.index[100:130], ["bid_px_9", "bid_sz_9"]] = np.nan
    f = flow_image(g, 1.)
    raw = (np.sign(f)*np.expm1(np.abs(f))).reshape(800, 10, 3)
    want = np.concatenate([event_ofi(p[book_columns(10)].to_numpy()) for _, p in g.groupby("segment")])
    assert np.allclose(raw[:, :, 0] - raw[:, :, 1], want, atol=1e-9)
    assert np.allclose(raw[:, :, 2], g[[f"ofi_{i}" for i in range(1, 11)]])


def test_no_picture_looks_ahead_or_beyond_the_second_before():
    g = random_grid(400, np.random.default_rng(2), breaks=(200,))
    for row in (50, 199, 200, 333):
        late, early = g.astype(float), g.astype(float)
        late.iloc[row+1:, :] = late.iloc[row+1:] * 1.3
        early.iloc[:row-1, :] = early.iloc[:row-1] * 1.3
        late["segment"] = early["segment"] = g.segment
        for name, make in IMAGES.items():
            x = make(g)
            assert np.array_equal(make(late)[:row+1], x[:row+1], equal_nan=True), name
            assert not np.array_equal(make(late)[row+1:], x[row+1:], equal_nan=True), name
            assert np.array_equal(make(early)[row:], x[row:], equal_nan=True), name


def test_books_without_a_side_and_no_books_at_all():
    g = random_grid(20, np.random.default_rng(0))
    g.loc[g.index[5], [c for c in book_columns(10) if c.startswith("ask")]] = np.nan
    assert distance_mass(g).toarray()[5].sum() == 0 and np.isfinite(flow_image(g, 1.)).all()
    empty = g.iloc[:0]
    assert distance_mass(empty).shape == (0, 1001) and flow_image(empty, 1.).shape == (0, 30) and book_image(empty, .1, 1.).shape == (0, 40)
    gaps = g.assign(segment=g.index)
    assert (flow_image(gaps, 1.).reshape(20, 10, 3)[:, :, :2] == 0).all() # every second alone: no flow between any two
