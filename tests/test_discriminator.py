"The discriminator: areas under the curve against scikit-learn, intervals that hold as often as they say, a split that leaks nothing."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.signal import lfilter
from sklearn.metrics import roc_auc_score

from lobresearch.errors import ParameterError, TooShortError
from lobresearch.market.registry import random_grid
from lobresearch.synthetic.discriminator import LEAST, auc, blocks, cluster_variance, discriminate, giveaways, halves, summaries, tell_apart, window_starts

SEC = 1_000_000


def noise(n, seed, memory=.98, shift=0.):
    "Two independent columns with a memory of a minute"
    x = lfilter([1], [1, -memory], np.random.default_rng(seed).normal(0, 1, (n + 500, 2)), axis=0)[500:] + shift
    return pd.DataFrame(x, columns=["a", "b"], index=pd.Index(np.arange(n)*SEC, name="ts"))


def windows(*args, **kw):
    v = noise(*args, **kw)
    return summaries(v, np.zeros(len(v)))


@given(seed=st.integers(0, 999), n=st.integers(1, 40), m=st.integers(1, 40), values=st.integers(2, 30))
@settings(max_examples=60, deadline=None)
def test_the_area_is_scikit_learn_s_with_ties(seed, n, m, values):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, values, n) + 1, rng.integers(0, values, m)
    want = roc_auc_score(np.r_[np.ones(n), np.zeros(m)], np.r_[a, b])
    value, lo, hi = auc(a, b, np.arange(n), np.arange(m))
    assert value == pytest.approx(want)
    assert np.isnan(lo) == (min(n, m) < 8)
    if np.isfinite(lo): assert 0 <= lo <= value <= hi <= 1


@given(seed=st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_areas_of_both_kinds_add_up_to_one_and_order_is_all_that_counts(seed):
    rng = np.random.default_rng(seed)
    a, b, k = rng.normal(0, 1, 40), rng.normal(.5, 1, 50), [np.arange(n)//3 for n in (40, 50)]
    one, other, bent = auc(a, b, *k), auc(b, a, *k[::-1]), auc(np.exp(a), np.exp(b), *k)
    assert one[0] + other[0] == pytest.approx(1) and one[1] + other[2] == pytest.approx(1)
    assert bent == pytest.approx(one)


def test_delong_s_variance_by_hand():
    # real 3 and 1, generated 2 and 0: placements 1, 1/2 and 1/2, 1; each side's variance of the mean is (1/16 + 1/16)/4*2 = 1/16
    assert cluster_variance(np.array([.25, -.25]), [0, 1]) == (pytest.approx(1/16), 2)
    # both in one block: the deviations cancel, and there is nothing to estimate a variance from
    assert cluster_variance(np.array([.25, -.25]), [5, 5]) == (0, 1)


def test_pieces_of_one_series_are_told_apart_as_often_as_the_level_says():
    "A classifier that was fitted elsewhere has a true area of exactly 1/2 on two pieces of one stationary series, so 95 % of intervals hold it"
    n, held, areas = 60, dict(logistic=0, trees=0), []
    for k in range(n):
        t = tell_apart(windows(12_000, 2*k), windows(30_000, 2*k + 1), k)
        for r in t.itertuples(): held[r.model] += r.lo <= .5 <= r.hi
        areas += t.auc.tolist()
    assert abs(np.mean(areas) - .5) < .015
    for model, k in held.items(): assert .88*n <= k, model


def test_blocks_matter():
    "Windows taken for independent are too sure of themselves where memory is long"
    def width(block):
        each = (tell_apart(windows(12_000, k, .999), windows(30_000, k+1, .999), 0, block=block, models=("logistic",)) for k in range(3))
        return np.mean([t.hi[0] - t.lo[0] for t in each])
    assert width(600) > 1.5*width(30)


def test_a_shifted_market_gives_itself_away_and_says_by_what():
    real, made = windows(12_000, 0), windows(12_000, 1).assign(**{"a mean": lambda w: w["a mean"] + 40})
    t = tell_apart(real, made, 0)
    assert (t.auc > .97).all() and (t.lo > .9).all()
    g = giveaways(real, made)
    assert g.summary[0] == "a mean" and g.auc[0] < .03 and g.summary.tolist() == sorted(g.summary, key=lambda c: -abs(g.set_index("summary").auc[c] - .5))


def test_what_reaches_across_the_cut_is_in_neither_part():
    ts, seconds, gap = np.arange(200)*7*SEC, 30, 60 # windows of 30 s, one every 7 s
    learn, answer = halves(ts, seconds, gap)
    cut = ts[100]
    assert (ts[learn] + seconds*SEC <= cut).all() and (ts[answer] >= cut + gap*SEC).all()
    assert not (learn & answer).any() and learn.sum() == 96 and answer.sum() == 100 - 9 # windows from 672 s cross; those up to 756 s lie in the gap
    assert (ts[answer].min() - ts[learn].max())/SEC - seconds >= gap


def test_a_classifier_never_sees_the_late_windows():
    "Late windows of another kind change nothing about what was learnt: the scores of late real windows stay where they were"
    real, made = windows(12_000, 0), windows(12_000, 1)
    late = halves(made.index)[1]
    other = made.copy()
    other.loc[late, [c for c in made if c != "segment"]] += 100.
    seen = []
    for m in (made, other):
        t = tell_apart(real, m, 0, models=("logistic",))
        seen.append((t.learnt_made[0], t.asked_made[0]))
    assert seen[0] == seen[1]
    early = made.assign(**{c: made[c].where(late, made[c] + 100.) for c in made if c != "segment"})
    t = tell_apart(real, early, 0, models=("logistic",)) # learnt a shift that is gone by then: no better than a coin
    assert abs(t.auc[0] - .5) < .2


def test_windows_stay_inside_segments_and_miss_no_second():
    ts = np.r_[np.arange(10), np.arange(11, 30)]*SEC # second 10 is missing
    first = window_starts(ts, np.r_[np.zeros(20), np.ones(9)], 4, 4)
    assert first.tolist() == [0, 4, 10, 14, 20, 24]
    for f in first: assert ts[f+3] - ts[f] == 3*SEC
    assert blocks(ts[first], [0, 0, 0, 0, 1, 1], 10).tolist() == [0, 0, 1, 1, 2, 2]
    assert window_starts(np.empty(0), np.empty(0), 4).tolist() == []


def test_what_is_unknown_is_left_out():
    v = noise(400, 0)
    gone = v.assign(b=np.where(np.arange(400) % 3 == 0, np.nan, v.b), c=np.nan)
    w = summaries(gone, np.zeros(400), 20)
    assert w["b mean"].to_numpy() == pytest.approx(np.nanmean(gone.b.to_numpy().reshape(20, 20), 1), rel=1e-5)
    assert w["c mean"].isna().all()


def test_two_grids_are_compared_whatever_their_price():
    one, two = (random_grid(8000, np.random.default_rng(k), 3) for k in (3, 4))
    far = two.assign(**{c: two[c] + 5000. for c in two if "_px_" in c})
    near, same = (discriminate(one, m, 0, block=100)[0] for m in (two, far))
    assert same.auc.tolist() == pytest.approx(near.auc.tolist(), abs=.02)
    assert (near.hi > .4).all() and (near.lo < .6).all() and near.lo.notna().all()


def test_what_is_too_short_or_cannot_be_meant_gets_a_sentence():
    short, long = windows(30*30, 0), windows(3000, 1)
    with pytest.raises(TooShortError, match=f"needs {LEAST} windows of each kind"): tell_apart(short, long, 0)
    with pytest.raises(TooShortError, match="windows of both kinds"): auc([], [1], [], [0])
    with pytest.raises(ParameterError, match="share must lie"): halves([0, 1], share=1)
    with pytest.raises(ParameterError, match="at least 2 seconds"): summaries(noise(20, 0), np.zeros(20), 1)
