"Each audit catches the leak that it is for, and passes what is clean."
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lobresearch.errors import LeakError, ParameterError, TooShortError
from lobresearch.market.audit import KINDS, PUSHES, audit_causality, audit_columns, audit_fit, audit_split, disturb
from lobresearch.market.features import features
from lobresearch.market.folds import combinatorial, walk_forward
from lobresearch.market.labels import SECOND, fit_threshold, forward_return, mid_price
from lobresearch.market.registry import random_grid
from lobresearch.market.scaling import apply_scaling, choose_transform, fit_scaling
from lobresearch.market.splits import chronological

GRID = random_grid(900, np.random.default_rng(0), levels=2, breaks=(350, 600))
TRAIN = (np.arange(900) < 300) | (np.arange(900) > 700)
NAMES = ["spread", "imb_1", "log_depth_1", "vol_10"]
rng = lambda: np.random.default_rng(1)
fwd = lambda g, h: forward_return(g.index, g.segment, mid_price(g), h)
some = lambda g: features(g, NAMES)


# ------------------------------------------------------------------------------------------------------------- disturbances

@pytest.mark.parametrize("how", PUSHES + KINDS)
@given(seed=st.integers(0, 2**32-1), row=st.integers(0, 39))
@settings(max_examples=10, deadline=None)
def test_a_disturbance_leaves_the_rest_and_changes_every_column(how, seed, row):
    r = np.random.default_rng(seed)
    grid = random_grid(60, r, levels=1, breaks=(20,)).assign(flag=r.random(60) < .5)
    was = grid.copy()
    out = disturb(grid, np.arange(60) > row, r, how)
    assert grid.equals(was), "the grid handed in stays as it is"
    pd.testing.assert_frame_equal(out.iloc[:row+1], grid.iloc[:row+1])
    if how == "cut": assert len(out) == row+1; return
    assert out.dtypes.equals(grid.dtypes)
    if how == "gap": assert out.index[row+1] - out.index[row] > 300*SECOND and not set(out.segment[row+1:]) & set(grid.segment); return
    changed = [c for c in grid if not out[c].equals(grid[c])]
    assert "segment" not in changed and {"ask_px_1", "bid_sz_1", "ofi_1"} <= set(changed)
    if how == "noise": assert {"stale", "buy_n", "buy_vol", "vwap", "flag"} <= set(changed), "zeros, counts, marks and gaps change too"


# ---------------------------------------------------------------------------------------------------------------- causality

def test_a_forward_return_among_the_features_is_named_with_its_horizon():
    for h in (1, 10, 37):
        with pytest.raises(LeakError, match=f"^fwd looks {h} s ahead \\(") as e:
            audit_causality(lambda g, h=h: some(g).assign(fwd=fwd(g, h)), GRID, rng())
        assert "more columns" not in str(e.value) and not any(n in str(e.value) for n in NAMES)


def test_a_centred_mean_and_statistics_of_all_rows_look_ahead():
    def centred(g): return g.ask_sz_1.groupby(g.segment, group_keys=False).apply(lambda x: x.rolling(21, center=True, min_periods=1).mean()).to_frame("centred")
    with pytest.raises(LeakError, match="^centred looks 10 s ahead"): audit_causality(centred, GRID, rng())
    def zscore(g): return ((g.ofi_1 - g.ofi_1.mean())/g.ofi_1.std()).to_frame("z")
    with pytest.raises(LeakError, match="z looks .* s ahead or more"): audit_causality(zscore, GRID, rng())
    def refit(g): return apply_scaling(some(g), g.index, g.segment, fit_scaling(some(g), g.index, g.segment, np.ones(len(g), bool)))
    with pytest.raises(LeakError, match="imb_1 looks"): audit_causality(refit, GRID, rng())


def test_the_length_of_the_segment_and_the_rows_that_are_given_are_knowledge_too():
    def left(g): return (g.index.to_series().groupby(g.segment).transform("max") - g.index).to_frame("left")
    with pytest.raises(LeakError, match="left looks .*gap|left looks .*cut"): audit_causality(left, GRID, rng())
    with pytest.raises(LeakError, match="the choice of rows looks"): audit_causality(lambda g: some(g)[fwd(g, 5) > 0], GRID, rng())
    def at_times(g): return some(g).assign(**({"extra": 1.} if g.ofi_1.iloc[-1] == GRID.ofi_1.iloc[-1] else {}))
    with pytest.raises(LeakError, match="extra looks"): audit_causality(at_times, GRID, rng())


def test_what_is_causal_passes_and_what_could_not_be_tested_is_said():
    state = fit_scaling(some(GRID), GRID.index, GRID.segment, TRAIN)
    t = audit_causality(lambda g: apply_scaling(some(g), g.index, g.segment, state), GRID, rng())
    assert list(t.check) == list(KINDS) and (t.result == "nothing moved").all() and (t["columns"] == 4).all() and (t.seconds >= 4).all()
    t = audit_causality(lambda g: some(g).assign(still=1.), GRID, rng(), kinds=("noise",))
    assert t.result[0] == "nothing moved; not tested, as no change shows in still"


def test_the_last_and_first_second_of_a_segment_are_tried():
    tried = []
    def make(g):
        if "seen" in g: tried.append(g.index[g.seen.to_numpy()][-1])
        return g[["ofi_1"]]
    ends = {GRID.index[r] for r in (349, 350, 599, 600)}
    for seed in range(8): audit_causality(make, GRID.assign(seen=True), np.random.default_rng(seed), tries=1, kinds=("cut",))
    assert ends <= set(tried)


def test_filling_backwards_is_caught_though_one_number_in_a_thousand_is_missing():
    g = GRID.assign(bid_px_1=GRID.bid_px_1.where(np.arange(900) != 777))
    for fill in ("bfill", "interpolate"):
        for seed in range(4):
            with pytest.raises(LeakError, match="^filled looks 1 s ahead"):
                audit_causality(lambda g, fill=fill: getattr(mid_of(g), fill)().to_frame("filled"), g, np.random.default_rng(seed), tries=1)
    assert (audit_causality(lambda g: mid_of(g).ffill().to_frame("filled"), g, rng(), tries=1).result == "nothing moved").all()


def mid_of(g): return (g.ask_px_1 + g.bid_px_1)/2


def test_what_an_audit_of_causality_refuses():
    draw = np.random.default_rng(2)
    with pytest.raises(ParameterError, match="different answers"): audit_causality(lambda g: g[["ofi_1"]] + draw.random(), GRID, rng())
    with pytest.raises(ParameterError, match="has to return a DataFrame"): audit_causality(lambda g: g.ofi_1, GRID, rng())
    with pytest.raises(TooShortError, match="three rows or more"): audit_causality(some, GRID[:0], rng())
    with pytest.raises(ParameterError, match="A disturbance is one of"): audit_causality(some, GRID, rng(), kinds=["quake"])


# --------------------------------------------------------------------------------------------------------------------- fits

everything = lambda g: np.ones(len(g), bool)
fit = lambda g, t, **how: fit_scaling(some(g), g.index, g.segment, t, **how)


def one_half_life(g, t, on):
    h = fit_scaling(g[["ofi_1"]], g.index, g.segment, on)["columns"]["ofi_1"]["scaler"]["half_life"]
    return fit_scaling(g[["ofi_1"]], g.index, g.segment, t, half_lives=[h])


def one_transform(g, t, on):
    return fit_scaling(g[["ask_sz_1"]], g.index, g.segment, t, choose_transform(np.nan_to_num(g.ask_sz_1.to_numpy()[on]))["transform"])


def only_a_name(g, t, on): return dict(name=choose_transform(np.nan_to_num(g.ask_sz_1.to_numpy()[on]))["transform"])


@pytest.mark.parametrize("leaky, moved", [(lambda g, t: fit(g, everything(g)), "columns.imb_1."),
                                          (lambda g, t: dict(sd=float(g.ofi_1.std())), "sd"),
                                          (lambda g, t: one_half_life(g, t, everything(g)), "columns.ofi_1.kurtosis|half_life"),
                                          (lambda g, t: one_transform(g, t, everything(g)), "columns.ask_sz_1."),
                                          (lambda g, t: only_a_name(g, t, everything(g)), "name"),
                                          (lambda g, t: [float(g.ofi_1.max())], "the state")])
def test_a_fit_on_all_rows_is_caught_with_the_entries_that_moved(leaky, moved):
    with pytest.raises(LeakError, match=f"only rows outside training changed .*{moved}"): audit_fit(leaky, GRID, TRAIN, rng())


@pytest.mark.parametrize("clean", [fit, lambda g, t: fit(g, t, scaler="rolling"), lambda g, t: one_half_life(g, t, t), lambda g, t: one_transform(g, t, t),
                                   lambda g, t: only_a_name(g, t, t), lambda g, t: dict(sd=g.ofi_1[t].std(), a=np.arange(3))])
def test_a_fit_on_training_rows_passes(clean):
    table = audit_fit(clean, GRID, TRAIN, rng(), lookback=60)
    assert list(table.check) == [*PUSHES, "training rows"] and (table.result[:-1] == "nothing moved").all()
    assert "as they should" in table.result.iloc[-1] or clean.__code__.co_names[:1] == ("only_a_name",)


def test_a_choice_that_training_outvotes_is_caught_with_less_training():
    x = np.random.default_rng(4).standard_normal(900)
    table, train = pd.DataFrame(dict(x=x), GRID.index), np.arange(900) < 800
    def often(g, t): return dict(wide=bool((np.abs(g.x.to_numpy()) > 4).mean() > .2)) # of all rows, of which 100 are not for training
    assert (audit_fit(often, table, train, rng(), part=0).result[:-1] == "nothing moved").all()
    with pytest.raises(LeakError, match="with the first 80 of the training rows.: wide"): audit_fit(often, table, train, rng())
    with pytest.raises(ParameterError, match="part must be a share"): audit_fit(often, table, train, rng(), part=1)


def test_labels_and_lookback_are_allowed_exactly_as_far_as_said():
    def spread(g, t): return dict(sd=float(np.nanstd(fwd(g, 10)[t])))
    for f in (spread, lambda g, t: fit_threshold(fwd(g, 10), t)):
        assert (audit_fit(f, GRID, TRAIN, rng(), reach=10).result[:-1] == "nothing moved").all()
    with pytest.raises(LeakError, match="sd"): audit_fit(spread, GRID, TRAIN, rng(), reach=9)
    def mean(g, t): return dict(mean=float(np.nan_to_num(features(g, ["vol_10"]).vol_10.to_numpy()[t]).sum()))
    assert (audit_fit(mean, GRID, TRAIN, rng(), lookback=11).result[:-1] == "nothing moved").all()
    with pytest.raises(LeakError, match="mean"): audit_fit(mean, GRID, TRAIN, rng(), lookback=5)


def test_a_fit_that_needs_more_rows_than_a_tenth_says_so():
    def needy(g, t):
        if t.sum() < 200: raise TooShortError("200 rows are needed")
        return dict(sd=float(g.ofi_1[t].std()))
    assert (audit_fit(needy, GRID, TRAIN, rng()).result[:-1] == "nothing moved; with fewer training rows it refuses to fit: 200 rows are needed").all()
    assert (audit_fit(needy, GRID, TRAIN, rng(), part=0).result[:-1] == "nothing moved").all()


def test_what_an_audit_of_a_fit_refuses_and_says():
    with pytest.raises(TooShortError, match="there are none"): audit_fit(fit, GRID, TRAIN & False, rng())
    with pytest.raises(ParameterError, match="nothing to change"): audit_fit(fit, GRID, TRAIN | True, rng())
    with pytest.raises(ParameterError, match="holds a function"): audit_fit(lambda g, t: dict(f=fit), GRID, TRAIN, rng())
    draw = np.random.default_rng(3)
    with pytest.raises(ParameterError, match="different states"): audit_fit(lambda g, t: draw.random(), GRID, TRAIN, rng())
    assert "does not depend on the data" in audit_fit(lambda g, t: dict(a=1), GRID, TRAIN, rng()).result.iloc[-1]


# ------------------------------------------------------------------------------------------------------------------- splits

def brute(split, need):
    "Whether any two rows of different roles in a fold are as near as `need` seconds, all pairs tried"
    for _, p in split[split.role.isin(["train", "valid", "test", "final"])].groupby(["scheme", "fold"]):
        t, r = p.ts.to_numpy(), p.role.to_numpy()
        if ((np.abs(t[:,None] - t) <= need*SECOND) & (r[:,None] != r)).any(): return True
    return False


@given(seed=st.integers(0, 2**32-1), n=st.integers(2, 40), horizon=st.integers(0, 5), lookback=st.integers(0, 5), embargo=st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_it_agrees_with_trying_all_pairs(seed, n, horizon, lookback, embargo):
    r = np.random.default_rng(seed)
    ts = np.cumsum(r.integers(1, 8, n))*SECOND
    roles = ["train", "valid", "test", "final", "purged", "unused"]
    split = pd.concat([pd.DataFrame(dict(ts=ts, scheme="x", fold=f, role=np.repeat(r.choice(roles, n), r.integers(1, 9, n))[:n])) for f in range(2)])
    split = split.sample(frac=1, random_state=seed % 1000) # the order of rows is no matter
    some_pair = any(len(set(p.role) & set(roles[:4])) > 1 for _, p in split.groupby("fold"))
    assume(some_pair)
    if brute(split, horizon + lookback + embargo):
        with pytest.raises(LeakError, match="Purge more rows"): audit_split(split, horizon, lookback, embargo)
    else: assert (audit_split(split, horizon, lookback, embargo).apart > horizon + lookback + embargo).all()


@given(seed=st.integers(0, 2**32-1), horizon=st.integers(1, 40), lookback=st.integers(0, 40), embargo=st.integers(1, 30))
@settings(max_examples=12, deadline=None)
def test_the_splits_of_this_package_pass_with_gaps_anywhere(seed, horizon, lookback, embargo):
    r = np.random.default_rng(seed)
    ts = np.cumsum(np.where(r.random(4000) < .002, r.integers(2, 600, 4000), 1))*SECOND
    for split in (chronological(ts, horizon, lookback, embargo), walk_forward(ts, horizon, lookback, embargo, folds=3),
                  combinatorial(ts, horizon, lookback, embargo, groups=5, test_groups=2)):
        assert (audit_split(split, horizon, lookback, embargo).result == "apart").all()
        with pytest.raises(LeakError): audit_split(split, horizon, lookback, embargo + 600 + 3*(horizon + lookback))


def test_a_purge_too_small_is_caught_on_the_side_and_in_the_fold_where_it_is():
    ts = np.arange(3000)*SECOND
    ok = dict(horizon=10, lookback=60, embargo=30)
    for make in (chronological, walk_forward, combinatorial):
        audit_split(make(ts, **ok), **ok)
        for short in (dict(horizon=0), dict(lookback=50), dict(embargo=29)):
            with pytest.raises(LeakError, match=f"{make.__name__}, fold 0.*Purge more rows"): audit_split(make(ts, **(ok | short)), **ok)
    split = walk_forward(ts, **ok)
    valid, test = (split.ts[(split.fold == 2) & (split.role == r)] for r in ("valid", "test"))
    seam = (split.fold == 2) & (split.ts > valid.max()) & (split.ts < test.min())
    with pytest.raises(LeakError, match=f"fold 2: the label of the valid row .* in the test block from ts={test.min()} on"):
        audit_split(split.assign(role=split.role.where(~seam, "valid")), **ok)


def test_an_embargo_of_zero_is_itself_a_leak():
    split = chronological(np.arange(3000)*SECOND, 10, 60, 30)
    with pytest.raises(LeakError, match="An embargo of zero"): audit_split(split, 10, 60, 0)
    with pytest.raises(ParameterError, match="cannot be negative"): audit_split(split, 10, 60, -1)


def test_a_second_in_two_roles_and_tables_that_say_nothing():
    two = pd.DataFrame(dict(ts=[5, 5], scheme="x", fold=0, role=["train", "test"]))
    with pytest.raises(LeakError, match="0 s apart"): audit_split(two, 0, 0, 1)
    with pytest.raises(ParameterError, match="no role judge"): audit_split(two.assign(role="judge"), 0, 0, 1)
    with pytest.raises(ParameterError, match="rows of two roles"): audit_split(two.assign(role="train"), 0, 0, 1)
    with pytest.raises(ParameterError, match="no column fold"): audit_split(two.drop(columns="fold"), 0, 0, 1)
    with pytest.raises(TooShortError, match="empty"): audit_split(two[:0], 0, 0, 1)


# ------------------------------------------------------------------------------------------------------------------ columns

def test_forward_returns_in_disguise_are_found_among_ready_made_columns():
    g = random_grid(3000, np.random.default_rng(4), levels=1)
    Y = pd.DataFrame({f"{h} s": fwd(g, h) for h in (1, 10, 60)}, index=g.index)
    X = features(g, NAMES)
    t = audit_columns(X, Y)
    assert list(t.column) == NAMES and set(t.result) <= {"below the limit", "constant, or too few rows: not tested"} and (t.pearson.abs() < .2).mean() > .5
    for name, column in dict(itself=fwd(g, 10), other=fwd(g, 12), turned=-3*fwd(g, 60) + 1, ranked=fwd(g, 1)**3).items():
        with pytest.raises(LeakError, match=f"{name} with"): audit_columns(X.assign(**{name: np.nan_to_num(column)}), Y)
    audit_columns(X.assign(itself=np.nan_to_num(fwd(g, 10))), Y[["60 s"]]) # 10 s of 60 s is .41: give it the horizons


def test_what_an_audit_of_columns_refuses_and_what_it_cannot_test():
    X, Y = pd.DataFrame(dict(a=np.arange(200.), b=0.)), pd.DataFrame(dict(y=np.sin(np.arange(200.))))
    t = audit_columns(X, Y)
    assert t.result[1].startswith("constant") and np.isnan(t.pearson[1])
    with pytest.raises(ParameterError, match="same rows"): audit_columns(X[:5], Y)
    with pytest.raises(ParameterError, match="between 0 and 1"): audit_columns(X, Y, 1.)
    with pytest.raises(TooShortError, match="nothing to correlate"): audit_columns(X, Y*np.nan)


