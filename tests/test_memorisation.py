"Memorisation: neighbours against scikit-learn, copies found with noise on them, fresh draws of the same process let go."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.signal import lfilter
from sklearn.neighbors import NearestNeighbors

from lobresearch.errors import TooShortError
from lobresearch.synthetic.memorisation import COPIED, copied, memorisation, nearest, ratio_of, scale_of, stretches

SEC = 1_000_000


def process(n, seed, scale=1., shift=0.):
    "Four columns with a memory of twenty seconds"
    x = scale*lfilter([1], [1, -.95], np.random.default_rng(seed).normal(0, 1, (n + 200, 4)), axis=0)[200:] + shift
    return pd.DataFrame(x, columns=list("abcd"), index=pd.Index(np.arange(n)*SEC, name="ts")), np.zeros(n)


def copier(train, n, seed, amount=0., block=100):
    "Pieces of the training seconds, in any order, with noise of so many standard deviations on them"
    rng = np.random.default_rng(seed)
    rows = (rng.integers(len(train) - block, size=n//block)[:, None] + np.arange(block)).ravel()
    x = train.to_numpy()[rows] + rng.normal(0, amount, (len(rows), 4))*train.std().to_numpy()
    return pd.DataFrame(x, columns=train.columns, index=pd.Index(np.arange(len(rows))*SEC, name="ts")), np.zeros(len(rows))


@pytest.fixture(scope="module")
def train(): return process(15_000, 0)


@pytest.fixture(scope="module")
def held(): return process(9_000, 1)


@given(seed=st.integers(0, 999), apart=st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_neighbours_are_scikit_learn_s(seed, apart):
    rng = np.random.default_rng(seed)
    q, lib = rng.normal(0, 1, (7, 3)).astype(np.float32), rng.normal(0, 1, (50, 3)).astype(np.float32)
    one, two, j = nearest(q, lib, np.arange(50), apart, chunk=3)
    d, i = NearestNeighbors(n_neighbors=50, algorithm="brute").fit(lib).kneighbors(q)
    assert j.tolist() == i[:, 0].tolist() and one == pytest.approx(d[:, 0]/3**.5, abs=1e-5)
    far = [next(x for x, k in zip(dd, ii) if abs(k - ii[0]) > apart) for dd, ii in zip(d, i)]
    assert two == pytest.approx(np.array(far)/3**.5, abs=1e-5)


def test_without_a_second_neighbour_nothing_stands_alone():
    one, two, _ = nearest(np.zeros((1, 2), np.float32), np.ones((3, 2), np.float32), np.arange(3), apart=5)
    assert one[0] == pytest.approx(1) and two[0] == np.inf and ratio_of(one, two).tolist() == [1]
    assert ratio_of([0], [0]).tolist() == [1] # a book that stood still for an hour is no copy of itself


def test_a_generator_that_copies_is_caught_with_and_without_noise(train, held):
    made = {f"copy {a}": copier(train[0], 9_000, 2, a) for a in (0., .02, .2)}
    t = memorisation(train, held, made)[0].set_index("name").loc[list(made)]
    assert t.copies.all() and (t.share > .7).all() and (t.lo > COPIED).all() # of its windows of 20 s one in five reaches across a seam


def test_fresh_draws_of_the_process_are_let_go(train, held):
    made = {k: process(9_000, 10 + k) for k in range(8)}
    t = memorisation(train, held, made)[0].set_index("name").loc[list(made)]
    assert not t.copies.any() and (t.share < .05).all() and (t.lo == 0).sum() >= 7


def test_neither_too_smooth_nor_too_rough_nor_moved_away_is_copying(train, held):
    "All three change how near the nearest training window is, but not whether it stands alone"
    made = {"smooth": process(9_000, 20, .6), "rough": process(9_000, 21, 1.5), "moved": process(9_000, 22, 1., 2.)}
    t = memorisation(train, held, made)[0].set_index("name")
    assert t.distance["smooth"] < .85*t.distance["held out"] and t.distance["rough"] > 1.2*t.distance["held out"]
    assert not t.copies[list(made)].any()


def test_the_share_counts_the_copies(train, held):
    fresh, copies = process(18_000, 30), copier(train[0], 18_000, 31, .05, 20)
    rows = np.repeat(np.random.default_rng(32).random(900) < .4, 20)
    mixed = pd.DataFrame(np.where(rows[:, None], copies[0], fresh[0]), fresh[0].index, fresh[0].columns), fresh[1]
    r = memorisation(train, held, {"mixed": mixed}, most=900)[0].set_index("name").loc["mixed"]
    assert r.share == pytest.approx(rows.mean(), abs=.03) and r.lo < rows.mean() < r.hi


def test_shares_by_hand():
    held = np.linspace(.8, 1, 20) # one in twenty lies at or below the lowest
    assert copied(np.full(20, .9), held, np.arange(20), np.arange(20))[0] == 0
    assert copied(np.full(20, .1), held, np.arange(20), np.arange(20)) == pytest.approx((1, 1 - 2.093*.05/.95, 1), abs=2e-3)
    # nothing uncertain among the copies; among the held-out the deviations .95 and 19 x -.05: variance (.95² + 19 * .05²)/20² * 20/19 = .05²


def test_every_query_is_looked_for_inside_its_own_segment(train):
    v, s = process(100, 3)
    x, first = stretches(v, np.r_[np.zeros(55), np.ones(45)], scale_of(train[0]), 20, 20)
    assert first.tolist() == [0, 20, 55, 75] and x.shape == (4, 80)
    gone = v.assign(a=np.nan)
    assert np.isfinite(stretches(gone, s, scale_of(train[0]))[0]).all()


def test_what_is_too_short_gets_a_sentence(train, held):
    with pytest.raises(TooShortError, match="more than 140 training windows"): memorisation(process(120, 0), held, {})
    with pytest.raises(TooShortError, match="new has 4"): memorisation(train, held, {"new": process(80, 1)})
    with pytest.raises(TooShortError, match="holds no number"): scale_of(train[0].assign(a=np.nan))
    few = memorisation(train, process(1500, 5), {"copy": copier(train[0], 1500, 2)})[0].set_index("name") # three blocks: a share, but no verdict
    assert few.share["copy"] > .5 and np.isnan(few.lo["copy"]) and pd.isna(few.copies["copy"])
