"Walk-forward and combinatorial folds: nothing reaches over a seam, nothing more is purged, every row is tested as often as it should be."
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, event, given, settings, strategies as st
from skfolio.model_selection import CombinatorialPurgedCV

from lobresearch.errors import LobError, ParameterError, TooShortError
from lobresearch.market.folds import (
    closest, combinatorial, fig_folds, fold_counts, mean_over_blocks, near, paths, recombine, test_blocks as blocks_of, walk_forward,
)
from lobresearch.market.labels import SECOND
from lobresearch.market.splits import chronological

clocks = st.lists(st.sampled_from([1, 1, 1, 1, 1, 1, 2, 7, 40, 4000]), min_size=40, max_size=300).map(lambda s: np.cumsum([0, *s]).astype(np.int64))
reaches = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 5))
shares = dict(valid=st.sampled_from([0., .1, .25, .5]), final=st.sampled_from([0., .2, .5]))


def made(make, *a, **k):
    "The split, or None where it is too short and says so"
    try: return make(*a, **k)
    except TooShortError as e:
        assert "Take a longer recording" in str(e)
        return None


def apart(a, b):
    "Smallest distance between two sets of seconds"
    return np.abs(a[:, None] - b[None, :]).min() if len(a) and len(b) else np.inf


def check_seams(t, role, horizon, lookback, embargo):
    "Written with intervals, not distances: [t - lookback, t + horizon] of no row meets that of a row of another role, embargo included"
    kinds = {r: t[role == r] for r in ("train", "valid", "test", "final")}
    for a, b in combinations(kinds.values(), 2):
        if not (len(a) and len(b)): continue
        a, b = a[:, None], b[None, :]
        clear = (a + horizon + embargo < b - lookback) | (b + horizon + embargo < a - lookback)
        assert clear.all()


def check_nothing_more_is_purged(t, role, learn, reach):
    "A row that may be learnt from is purged if, and only if, a test or validation row is within reach"
    test, held = role == "test", role == "valid"
    far = np.array([apart(t[i:i+1], t[test]) > reach for i in range(len(t))])
    kept = learn & far
    assert (held <= kept).all() and (not held.any() or not (kept & (t > t[held].max())).any()) # the last of them, in time
    alone = np.array([apart(t[i:i+1], t[held]) > reach for i in range(len(t))])
    assert ((role == "train") == (kept & ~held & alone)).all()


@given(t=clocks, reach=reaches, groups=st.integers(2, 6), k=st.integers(1, 3), **shares)
@settings(max_examples=200, deadline=None)
def test_combinatorial(t, reach, groups, k, valid, final):
    assume(k < groups)
    split = made(combinatorial, t*SECOND, *reach, groups=groups, test_groups=k, valid=valid, final=final)
    event("too short" if split is None else "split")
    if split is None: return
    roles = [s.role.to_numpy() for _, s in split.groupby("fold")]
    assert len(roles) == comb(groups, k) and all(len(r) == len(t) for r in roles)
    tested = np.array([r == "test" for r in roles]).sum(0)
    assert set(tested) <= {0, comb(groups-1, k-1)} # every observation, in the right number of folds
    is_open = tested > 0
    horizon, lookback, embargo = reach
    end = t[np.arange(len(t)) >= round(len(t)*(1-final))]
    for r in roles:
        check_seams(t, r, *reach)
        check_nothing_more_is_purged(t, r, is_open & (r != "test"), sum(reach))
        if len(end): assert (is_open == (t + horizon + embargo < end[0])).all() and ((r == "final") == (roles[0] == "final")).all()
        else: assert is_open.all()
        assert set(r) <= {"train", "valid", "test", "final", "purged"}
        kinds = [t[r == x] for x in ("train", "valid", "test", "final")]
        assert closest(pd.DataFrame(dict(ts=t*SECOND, scheme="", fold=0, role=r))).seconds[0] == min(apart(a, b) for a, b in combinations(kinds, 2)) > sum(reach)


@given(t=clocks, reach=reaches, folds=st.integers(1, 5), window=st.none() | st.integers(5, 200), **shares)
@settings(max_examples=200, deadline=None)
def test_walk_forward(t, reach, folds, window, valid, final):
    split = made(walk_forward, t*SECOND, *reach, folds=folds, train_seconds=window, valid=valid, final=final)
    event("too short" if split is None else "split")
    if split is None: return
    seen = np.zeros(len(t), int)
    for _, s in split.groupby("fold"):
        r = s.role.to_numpy()
        test, learn = r == "test", (r == "train") | (r == "valid")
        check_seams(t, r, *reach)
        assert t[learn].max() < t[test].min() # never from what comes after
        if window: assert t[learn].min() >= t[test].min() - window
        before = (t < t[test].min()) & (t >= t[test].min() - (window or np.inf))
        check_nothing_more_is_purged(t, r, before, sum(reach))
        assert (t[r == "unused"] > t[test].max()).sum() + (t[r == "unused"] < t[test].min()).sum() == (r == "unused").sum()
        if not window: assert (t[r == "unused"] > t[test].max()).all()
        seen += test
    assert set(seen) <= {0, 1} and (np.diff(np.flatnonzero(seen)) == 1).all() # test blocks follow each other without a hole


@given(st.integers(2, 9), st.data())
@settings(max_examples=60, deadline=None)
def test_paths_test_each_group_once_and_use_each_test_once(groups, data):
    k = data.draw(st.integers(1, groups-1))
    p = paths(groups, k)
    assert p.shape == (comb(groups-1, k-1), groups)
    folds, used = list(combinations(range(groups), k)), set()
    for path in p:
        for g, f in enumerate(path):
            assert g in folds[f] and (f, g) not in used
            used.add((f, g))
    assert len(used) == comb(groups, k)*k


def test_the_published_counts():
    assert [paths(*a).shape[0] for a in ((6, 2), (8, 2))] == [5, 7]
    assert combinatorial(np.arange(2000)*SECOND, 1, 1).fold.nunique() == 15 and combinatorial(np.arange(2000)*SECOND, 1, 1, groups=8).fold.nunique() == 28


@pytest.mark.parametrize("groups, k", [(6, 2), (8, 2), (5, 3)])
def test_skfolio_makes_the_same_sets_and_paths(groups, k):
    n, reach = 40*groups, (3, 4, 2)
    split = combinatorial(np.arange(n)*SECOND, *reach, groups=groups, test_groups=k, valid=0, final=0)
    theirs = CombinatorialPurgedCV(n_folds=groups, n_test_folds=k, purged_size=sum(reach))
    for (_, s), (train, tests) in zip(split.groupby("fold"), theirs.split(np.zeros((n, 1))), strict=True):
        assert np.flatnonzero(s.role == "test").tolist() == np.concatenate(tests).tolist()
        assert np.flatnonzero(s.role == "train").tolist() == train.tolist()
    assert (paths(groups, k) == theirs.recombined_paths.T).all()


def test_non_contiguous_test_blocks_leave_what_lies_between():
    "The mistake made elsewhere: everything between the first and the last test row purged"
    split = combinatorial(np.arange(6000)*SECOND, 10, 20, 5, valid=0, final=0)
    s = split[split.fold == list(combinations(range(6), 2)).index((0, 5))]
    assert (s.role == "train").sum() == 4000 - 2*35
    assert (s.role[s.role != "test"] == "train").iloc[35:-35].all()


@given(t=clocks, at=st.data(), reach=st.integers(0, 50))
@settings(max_examples=100, deadline=None)
def test_near_is_what_a_search_of_all_pairs_finds(t, at, reach):
    some = np.array(at.draw(st.lists(st.booleans(), min_size=len(t), max_size=len(t))))
    want = np.array([bool(some.any()) and np.abs(t[some] - x).min() <= reach for x in t])
    assert (near(t*SECOND, some, reach) == want).all()


@pytest.mark.parametrize("make", [walk_forward, combinatorial])
def test_all_schemes_seal_the_same_end(make):
    ts = np.arange(5000)*SECOND
    final = [set(s.ts[s.role == "final"]) for s in (make(ts, 10, 20, 5), chronological(ts, 10, 20, 5))]
    assert final[0] == final[1] and len(final[0]) == 980


def test_recombined_paths_hold_each_test_row_once_and_only_its_own_fold_s_forecast():
    ts = np.arange(900)*SECOND
    split, rng = combinatorial(ts, 2, 3, 1), np.random.default_rng(0)
    made = {f: pd.Series(f + rng.random(900)/2, index=ts) for f in range(15)}
    out = recombine(split, made)
    tested = split[split.role == "test"]
    assert out.shape == (tested.ts.nunique(), 5) and out.notna().all(axis=None)
    assert sorted(np.floor(out.to_numpy()).ravel()) == sorted(tested.fold)
    group = (np.arange(len(out))*6)//len(out)
    assert (np.floor(out.to_numpy()) == paths(6, 2).T[group]).all()
    made[3] = made[3].iloc[:0] # a fold that could not forecast leaves its places empty
    assert (recombine(split, made).isna().to_numpy() == (np.floor(out.to_numpy()) == 3)).all()
    with pytest.raises(LobError, match="tested more often"): recombine(split[split.fold < 2], made)


def test_walk_forward_recombines_to_one_series():
    split = walk_forward(np.arange(900)*SECOND, 2, 3, 1, folds=4)
    out = recombine(split, {f: pd.Series(float(f), index=split.ts.unique()) for f in range(4)})
    assert out.shape[1] == 1 and out[0].is_monotonic_increasing and set(out[0]) == {0, 1, 2, 3}


def test_pooling_is_biased_and_averaging_is_not():
    "Forecasts that are the mean of the other blocks and noise, of outcomes that nothing forecasts"
    rng, pooled, averaged, block = np.random.default_rng(1), [], [], np.repeat(np.arange(6), 60)
    for _ in range(300):
        y = rng.standard_normal(360)
        means = y.reshape(6, 60).mean(1)
        p = np.repeat((means.sum() - means)/5, 60) + rng.standard_normal(360)*.02
        pooled.append(np.corrcoef(y, p)[0, 1])
        averaged.append(mean_over_blocks(y, p, block)["mean"])
    se = np.std(averaged)/np.sqrt(300)
    assert np.mean(pooled) < -.08 and abs(np.mean(averaged)) < 4*se


def test_blocks_are_unbroken_runs_of_test_rows_in_a_fold():
    split = combinatorial(np.arange(60)*SECOND, 0, 0, 1, groups=4, test_groups=2, valid=0, final=0)
    b = blocks_of(split)
    assert ((b >= 0) == (split.role == "test")).all()
    assert pd.Series(b).groupby(split.fold).agg(lambda v: v[v >= 0].nunique()).tolist() == [1, 2, 2, 1, 2, 1]
    assert len(blocks_of(split[:0])) == 0


def test_a_block_without_a_score_is_counted_and_not_averaged_in():
    got = mean_over_blocks([1, 2, 3, 4, 4, 4, np.nan], [1, 2, 3, 1, 2, 3, 1], [0, 0, 0, 1, 1, 1, 2])
    assert got["mean"] == pytest.approx(1) and got["blocks"] == 1 and got["undefined"] == 2 and np.isnan(got["se"])
    assert np.isnan(mean_over_blocks([], [], [])["mean"])


@pytest.mark.parametrize("make", [walk_forward, combinatorial])
@pytest.mark.parametrize("t, says", [
    ([], "0 recorded seconds leave 0 open"), ([0], "1 recorded seconds leave"), (np.arange(120), "120 recorded seconds leave 0 open"),
    (np.arange(600), "too short for this split")])
def test_too_short_is_said(make, t, says):
    with pytest.raises(TooShortError, match=says): make(np.array(t, np.int64)*SECOND, 60, 143, 60)


@pytest.mark.parametrize("make", [walk_forward, combinatorial])
@pytest.mark.parametrize("wrong, says", [
    (dict(embargo=0), "embargo must be 1 second or more"), (dict(horizon=-1), "cannot be negative"), (dict(valid=1.), "valid must satisfy"),
    (dict(final=1.), "final must satisfy"), (dict(ts=np.array([5, 4])), "must increase")])
def test_what_cannot_be_meant_is_refused(make, wrong, says):
    with pytest.raises(ParameterError, match=says): make(**dict(ts=np.arange(500)*SECOND, horizon=1, lookback=1) | wrong)


@pytest.mark.parametrize("call, says", [
    (lambda: combinatorial(np.arange(9), 1, 1, groups=3, test_groups=3), "one is not"),
    (lambda: paths(3, 0), "At least one group"),
    (lambda: walk_forward(np.arange(9), 1, 1, folds=0), "folds must be a whole number"),
    (lambda: walk_forward(np.arange(9), 1, 1, train_seconds=0), "train_seconds must be positive"),
    (lambda: mean_over_blocks([1.], [1.], []), "must be the same rows"),
    (lambda: fig_folds(pd.DataFrame(columns=["ts", "scheme", "fold", "role"])), "no rows to draw"),
])
def test_wrong_input_gets_a_sentence(call, says):
    with pytest.raises(ParameterError, match=says): call()


def test_counts_and_picture_agree():
    split = combinatorial(np.r_[np.arange(2000), np.arange(3000, 6000)]*SECOND, 10, 20, 5)
    fig, table = fig_folds(split)
    drawn = table.pivot_table(index="fold", columns="role", values="rows", aggfunc="sum")
    counts = fold_counts(split).droplevel("scheme")
    pd.testing.assert_frame_equal(drawn[counts.columns].astype(int), counts, check_names=False)
    hole = table[(table.fold == 14) & (table.role == "train")]
    assert not ((hole.start < 2500/3600) & (hole.end > 2500/3600)).any() # a hole in the recording stays white
