"Every registered feature, transform and scaler: with the state fixed nothing before a change moves, and nothing outside training moves the state."
import inspect

import numpy as np
import pytest

from lobresearch.errors import LeakError
from lobresearch.market import scaling
from lobresearch.market.audit import KINDS, PUSHES, audit_causality, audit_fit
from lobresearch.market.features import FEATURES, features, grid_levels, select
from lobresearch.market.fitted import FITTED, fit_features, fitted_features
from lobresearch.market.registry import random_grid
from lobresearch.market.scaling import SCALERS, TRANSFORMS, apply_scaling, choose_transform, coverage_table, fit_quantiser, fit_scaling, quantise, unquantise

GRID = random_grid(1000, np.random.default_rng(0), breaks=(400, 700))
TRAIN = ((np.arange(1000) >= 100) & (np.arange(1000) < 500)) | (np.arange(1000) > 850)
TABLE = features(GRID, ["width_5", "flow_10", "vol_60", "imb_1"]).assign(segment=GRID.segment) # as a grid: every column but the segment is disturbed
NAMES = [c for c in TABLE if c != "segment"]
POSITIVE = [c for c in NAMES if TABLE[c].min() > 0]
rng = lambda: np.random.default_rng(1)
clean = lambda t: (t.result.iloc[:len(KINDS)] == "nothing moved").all()
EACH = [(t, s) for t in TRANSFORMS for s in SCALERS]


def columns(transform): return POSITIVE if TRANSFORMS[transform].fit(np.array([-1., 1])) is None else NAMES


def fit(transform=None, scaler="ewma", names=NAMES): return lambda g, t: fit_scaling(g[names], g.index, g.segment, t, transform, scaler)


def apply(state): return lambda g: apply_scaling(g[list(state["columns"])], g.index, g.segment, state)


def test_every_feature_of_the_registry_at_once():
    table = audit_causality(lambda g: features(g), GRID, rng(), tries=3)
    assert table["columns"].iloc[0] == len(select(grid_levels(GRID), among="all", columns=GRID.columns)) >= len(FEATURES) - 5
    assert list(table.check) == list(KINDS) and (table.result == "nothing moved").all() # none of them is out of reach of the changes


def test_every_fitted_feature_at_once():
    state = fit_features(GRID, TRAIN)
    assert set(state) == set(FITTED)
    assert clean(audit_causality(lambda g: fitted_features(g, state), GRID, rng(), tries=3))
    assert "so that it does look at them: no price step" in audit_fit(fit_features, GRID, TRAIN, rng(), lookback=60).result.iloc[-1]
    def without_tick(g, t): return fit_features(g, t, [n for n in FITTED if not n.startswith("micro")])
    assert "as they should" in audit_fit(without_tick, GRID, TRAIN, rng(), lookback=60).result.iloc[-1]


@pytest.mark.parametrize("transform, scaler", EACH)
def test_with_the_state_fixed_the_future_moves_nothing(transform, scaler):
    "NaN is refused in a sentence, which test_scaling has; the whole chain is tried with it below"
    state = fit(transform, scaler, columns(transform))(TABLE, TRAIN)
    assert clean(audit_causality(apply(state), TABLE, rng(), tries=3, kinds=("noise", "gap", "cut")))


@pytest.mark.parametrize("transform, scaler", EACH)
def test_what_is_outside_training_leaves_the_state_bit_identical(transform, scaler):
    table = audit_fit(fit(transform, scaler, columns(transform)), TABLE, TRAIN, rng())
    assert list(table.check) == [*PUSHES, "training rows"] and "as they should" in table.result.iloc[-1]


@pytest.mark.parametrize("scaler", SCALERS)
def test_the_whole_chain_from_the_grid_with_everything_chosen_in_training(scaler):
    names = ["spread", "width_5", "log_depth_1", "flow_10", "vol_60", "ret_5", "imb_3", "log_trades_60"]
    def fit_chain(g, t): return fit_scaling(features(g, names), g.index, g.segment, t, scaler=scaler)
    state = fit_chain(GRID, TRAIN)
    assert clean(audit_causality(lambda g: apply_scaling(features(g, names), g.index, g.segment, state), GRID, rng(), tries=3))
    audit_fit(fit_chain, GRID, TRAIN, rng(), lookback=121)


def test_the_chain_fitted_on_all_rows_is_caught():
    for how in (dict(), dict(scaler="zscore", transform="identity"), dict(scaler="minmax", transform="arcsinh")):
        with pytest.raises(LeakError, match="columns."): audit_fit(lambda g, t, how=how: fit(**how)(g, t | True), TABLE, TRAIN, rng())
        with pytest.raises(LeakError, match="looks"):
            audit_causality(lambda g, how=how: apply(fit(**how)(g, np.ones(len(g), bool)))(g), TABLE, rng(), kinds=("noise",))


def test_a_planted_scaler_that_smooths_both_ways_is_found(monkeypatch):
    "One row ahead is 1 s, and 301 s where it crosses the gap"
    def both_ways(y, ts, new, s, back=False): return y - (np.r_[y[1:], y[-1:]] + y)/2
    monkeypatch.setitem(SCALERS, "both", SCALERS["zscore"]._replace(run=both_ways))
    state = fit("identity", "both")(TABLE, TRAIN)
    with pytest.raises(LeakError, match=r"flow_10 looks (1|301) s ahead"): audit_causality(apply(state), TABLE, rng(), kinds=("noise",))


def test_quantiser_and_choice_see_training_alone():
    sizes = lambda g: g.vol_60.to_numpy()
    for kind in ("quantile", "unit"):
        audit_fit(lambda g, t, kind=kind: fit_quantiser(sizes(g)[t], 8, kind), TABLE, TRAIN, rng())
        state = fit_quantiser(sizes(TABLE)[TRAIN], 8, kind)
        coded = lambda g, s=state: g[["vol_60"]].assign(code=quantise(sizes(g), s), value=unquantise(quantise(sizes(g), s), s)).drop(columns="vol_60")
        assert clean(audit_causality(coded, TABLE, rng(), kinds=("noise", "cut")))
        assert coverage_table(sizes(TABLE), TRAIN, state).train.sum() == pytest.approx(1)
    audit_fit(lambda g, t: choose_transform(sizes(g)[t]), TABLE, TRAIN, rng())
    with pytest.raises(LeakError, match="straightness|fitted"): audit_fit(lambda g, t: choose_transform(np.nan_to_num(sizes(g))), TABLE, TRAIN, rng())


# What the tests above go through, or what only carries a state about: an addition to the module must be put here, and so into a test, or into a registry
FITS = {"choose_transform", "fit_scaling", "fit_quantiser"}
APPLIES = {"apply_scaling", "quantise", "unquantise", "coverage_table"}
CARRIES = {"invert_scaling", "save_scaling", "load_scaling", "scaling_table"}


def test_every_public_function_is_registered_or_on_the_list():
    public = {n for n, f in vars(scaling).items() if inspect.isfunction(f) and f.__module__ == scaling.__name__ and not n.startswith("_")}
    registered = {f.__name__ for e in [*TRANSFORMS.values(), *SCALERS.values()] for f in e if inspect.isfunction(f)}
    assert public - registered == FITS | APPLIES | CARRIES
    assert set(scaling.__all__) >= public
