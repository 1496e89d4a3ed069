"What a trader is shown: scaled by training rows alone, frozen, blind to what comes after, except the control that must see it"
import json
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from lobresearch.data.book import book_columns
from lobresearch.data.grid import write_grid
from lobresearch.errors import ParameterError, TooShortError
from lobresearch.market.features import features
from lobresearch.market.labels import mid_price
from lobresearch.market.registry import random_grid
from lobresearch.market.splits import chronological, write_splits
from lobresearch.trading.observations import AHEAD, CLIP, KINDS, REPRESENTATIONS, capital_of, codes_of, forecasts_of, observe, recording

N, CUT = 900, 500


def made(seed=0, n=N, **more):
    "A grid, its training rows, forecasts and codes"
    rng = np.random.default_rng(seed)
    g = random_grid(n, rng, **more)
    said = pd.DataFrame(dict(ridge_10=rng.normal(1, 2, n), tcn_60=rng.normal(0, .5, n)), index=g.index)
    return g, np.arange(n) < CUT, said, pd.DataFrame(dict(code=rng.integers(-1, 5, n)), index=g.index)


@pytest.mark.parametrize("kind", [*REPRESENTATIONS, "nothing"])
def test_what_comes_after_training_changes_nothing_that_was_seen_in_it_nor_the_state(kind):
    g, train, said, code = made()
    a = observe(kind, g, train, said, code)
    later = g.copy()
    later.loc[~train, book_columns(10)] *= 1.3
    b = observe(kind, later, train, said.where(train[:, None].repeat(2, 1), 99.), code.where(train[:, None], 4))
    np.testing.assert_array_equal(a.x[:CUT], b.x[:CUT])
    assert a.state == b.state
    assert kind == "nothing" or not np.array_equal(a.x[CUT:], b.x[CUT:], equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_is_frozen_and_survives_json(kind):
    g, train, said, code = made()
    o = observe(kind, g, train, said, code)
    other, _, more, codes = made(1)
    again = observe(kind, other, np.ones(N, bool), more, codes, json.loads(json.dumps(o.state)))
    assert again.state == o.state and again.names == o.names
    np.testing.assert_array_equal(observe(kind, g, None, said, code, o.state).x, o.x)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000), st.integers(50, 400))
def test_training_rows_have_mean_zero_and_variance_one_before_the_clip(seed, cut):
    g, _, said, code = made(seed, n=450)
    train = np.arange(450) < cut
    o = observe("features", g, train)
    raw = features(g, o.names).to_numpy(float)
    z = (raw - raw[train].mean(0))/np.where(raw[train].std(0) > 1e-9, raw[train].std(0), 1)
    np.testing.assert_allclose(o.x, np.clip(z, -CLIP, CLIP), atol=1e-5)


def test_a_forecast_keeps_its_sign_and_a_gap_makes_the_row_unusable():
    g, train, said, _ = made()
    said = said.iloc[20:]
    o = observe("forecasts", g, train, said)
    assert o.names == ["spread", "ridge_10", "tcn_60"]
    assert np.isnan(o.x[:20, 1:]).all() and np.isfinite(o.x[20:]).all()
    sd = said[train[20:]].std(ddof=0)
    np.testing.assert_allclose(o.x[20:, 1:], np.clip(said/sd, -CLIP, CLIP), atol=1e-5)


def test_a_code_means_what_it_meant_in_training():
    g, train, _, code = made()
    f, o = observe("features", g, train), observe("codes", g, train, None, code)
    assert o.names == ["spread", *(f"code_{n}" for n in f.names)]
    for k in range(5):
        here = (code.code == k).to_numpy()
        np.testing.assert_allclose(o.x[here, 1:], np.tile(f.x[here & train].mean(0), (here.sum(), 1)), atol=1e-4)
    np.testing.assert_array_equal(np.isnan(o.x).any(1), code.code == -1)
    new = code.where(train[:, None], 77) # training knows no such code
    assert (observe("codes", g, train, None, new).x[~train, 1:] == 0).all()


def test_hybrid_is_the_three_side_by_side():
    g, train, said, code = made()
    each = {k: observe(k, g, train, said, code) for k in REPRESENTATIONS}
    h = each["hybrid"]
    assert len(h.names) == len(set(h.names)) == 30 + 30 + 2
    for k in REPRESENTATIONS[:3]:
        np.testing.assert_array_equal(h.x[:, [h.names.index(n) for n in each[k].names]], each[k].x)


@pytest.mark.parametrize("latency", [0, 1, 3])
def test_the_control_sees_the_moves_after_the_fill_and_none_beyond_its_segment(latency):
    g, train, *_ = made(breaks=(600,))
    o, mid = observe("future", g, train, latency=latency), np.log(mid_price(g))*1e4
    sd = np.array(o.state["sd"])
    for t in (0, 100, 300):
        want = [mid[t + latency + h] - mid[t + latency] for h in AHEAD]
        np.testing.assert_allclose(o.x[t], np.clip(want/sd, -CLIP, CLIP), atol=1e-4)
    assert (o.x[[599, 599 - latency, N - 1]] == 0).all()


def test_the_capital_is_half_the_median_value_at_the_best_quotes_of_training_rows():
    g, train, *_ = made()
    g[["ask_sz_1", "bid_sz_1"]] = 2.
    g.loc[~train, ["ask_sz_1", "bid_sz_1"]] = 50.
    assert capital_of(g, train) == pytest.approx(np.median(np.r_[g.ask_px_1[train], g.bid_px_1[train]]))


def test_reading_from_disk_gives_roles_first_seeds_and_no_sealed_row(tmp_path):
    g = random_grid(600, np.random.default_rng(0)).round({"vwap": 4})
    write_grid(tmp_path/"artifacts/grid", "S", "1970-01-01", g)
    split = chronological(g.index, 10, 20)
    write_splits(tmp_path/"artifacts/splits", "S", split)
    grid, role = recording(tmp_path, "S")
    assert len(grid) == len(role) == 600 and set(role) == {"train", "valid", "test", "purged", ""}
    np.testing.assert_array_equal(role, split.role.where(split.role != "final", "")) # the last fifth is sealed
    assert (role[500:] == "").all()
    (tmp_path/"artifacts/predictions").mkdir()
    rows = [(s, m, h, seed, split, t, 100*seed + h) for s in ("S", "Z") for m in ("tcn", "ridge") for h in (10, 60) for seed in (7, 8)
            for t, split in ((1, "oof"), (2, "valid"), (3, "test"), (4, "final"))]
    p = pd.DataFrame(rows, columns=["symbol", "model", "horizon", "seed", "split", "ts", "y_hat"])
    p.to_parquet(tmp_path/"artifacts/predictions/predictions.parquet", index=False)
    f = forecasts_of(tmp_path, "S")
    assert list(f) == ["ridge_10", "ridge_60", "tcn_10", "tcn_60"] and list(f.index) == [1, 2, 3]
    assert (f == [710, 760, 710, 760]).all(axis=None)
    with pytest.raises(TooShortError, match="no codes of S"): codes_of(tmp_path, "S")
    with pytest.raises(TooShortError, match="no forecasts of training rows by deeplob"): forecasts_of(tmp_path, "S", ["deeplob"])


def test_what_cannot_be_meant_gets_a_sentence():
    g, train, said, code = made()
    for kind, needed in (("forecasts", "forecasts"), ("hybrid", "codes"), ("codes", "codes")):
        with pytest.raises(ParameterError, match=f"need the {needed}"): observe(kind, g, train)
    with pytest.raises(ParameterError, match="no observations of kind 'all'"): observe("all", g, train)
    with pytest.raises(ParameterError, match="not of forecasts"): observe("forecasts", g, train, said, code, observe("nothing", g, train).state)
    with pytest.raises(ParameterError, match="training rows or a state"): observe("features", g)
    state = observe("forecasts", g, train, said).state
    with pytest.raises(ParameterError, match="lack tcn_60"): observe("forecasts", g, train, said[["ridge_10"]], None, state)
    with pytest.raises(TooShortError, match="two at least"): observe("forecasts", g, train, said.iloc[CUT:])
    with pytest.raises(TooShortError, match="No training row has a code"): observe("codes", g, train, None, code.assign(code=-1))
