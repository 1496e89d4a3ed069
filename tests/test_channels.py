"Snapshot form, channels and tokens: by hand, against plain loops, and against ingesting a file."
import json

import numpy as np
import pandas as pd
import pytest
from helpers_tape import random_books, random_trades, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from lobresearch.data.grid import ingest, ingest_all, load_grid
from lobresearch.errors import ParameterError, TooShortError
from lobresearch.market.registry import random_grid
from lobresearch.synthetic.channels import (
    bin_of, channel_names, draw, exact, first_rows, fit_bins, fit_channels, lot_size, mid2, moves, raw_channels, snapshot_form, to_channels, tokens, whole)

quick = settings(max_examples=40, deadline=None)
whole_numbers = st.lists(st.integers(-30, 30), min_size=1, max_size=200)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    "A made-up recording with gaps, locked books and seconds that lack a level"
    d, rng = tmp_path_factory.mktemp("tape"), np.random.default_rng(3)
    write_rows(d, "book_snapshot_25", random_books(rng, 800))
    write_rows(d, "trades", random_trades(rng, 400))
    return ingest(d, "demo", "AB", "2025-01-01", levels=3, max_stale=5, progress=False)[0]


def gap_free(grid):
    return grid[grid.segment == grid.segment.mode()[0]]


# snapshot form

def slow_form(grid):
    "Each second against the one before it, level by level"
    rows = []
    for i in range(len(grid)):
        a, new = grid.iloc[i], i == 0 or grid.segment.iloc[i] != grid.segment.iloc[i-1]
        b = a if new else grid.iloc[i-1]
        ofi, changed = [], new
        for l in range(1, 4):
            e = 0.
            for side, sign in (("bid", 1), ("ask", -1)):
                p, q, p0, q0 = a[f"{side}_px_{l}"], a[f"{side}_sz_{l}"], b[f"{side}_px_{l}"], b[f"{side}_sz_{l}"]
                changed |= not ((p == p0 and q == q0) or (np.isnan(p) and np.isnan(p0)))
                if not np.isnan(p) and (np.isnan(p0) or sign*p >= sign*p0): e += sign*q
                if not np.isnan(p0) and (np.isnan(p) or sign*p <= sign*p0): e -= sign*q0
            ofi.append(0. if new else e)
        rows.append([*ofi, int(changed), not changed])
    return np.array(rows, float)


def test_the_form_is_that_of_a_plain_loop(recorded):
    s = snapshot_form(recorded)
    np.testing.assert_allclose(s[["ofi_1", "ofi_2", "ofi_3", "n_updates", "stale"]].to_numpy(float), slow_form(recorded), atol=1e-12)
    assert recorded.segment.nunique() > 2 and recorded.ask_px_3.isna().any() and s.stale.any(), "or this tests little"


def test_the_form_changes_nothing_else_and_is_its_own_form(recorded):
    s = snapshot_form(recorded)
    assert list(s.columns) == list(recorded.columns) and (s.dtypes == recorded.dtypes).all()
    kept = [c for c in s if not c.startswith("ofi_") and c not in ("n_updates", "stale")]
    pd.testing.assert_frame_equal(s[kept], recorded[kept], check_exact=True)
    pd.testing.assert_frame_equal(snapshot_form(s), s, check_exact=True)


@given(st.integers(1, 500))
@quick
def test_the_form_knows_no_future(recorded, n):
    n = min(n, len(recorded))
    pd.testing.assert_frame_equal(snapshot_form(recorded.iloc[:n]), snapshot_form(recorded).iloc[:n], check_exact=True)


def test_the_form_is_what_ingesting_changed_books_gives(recorded, tmp_path):
    "A file that holds each second's last book where it differs from the one before"
    g = gap_free(recorded[recorded.ask_px_3.notna() & recorded.bid_px_3.notna()])
    s = snapshot_form(g.assign(segment=g.index[0]))
    w = s[~s.stale]
    cols = [f"{c}_{l}" for l in (1, 2, 3) for c in ("ask_px", "ask_sz", "bid_px", "bid_sz")]
    rows = [[t, t, *map(float, r)] + [None]*88 for t, r in zip(w.index, w[cols].to_numpy(), strict=True)]
    write_rows(tmp_path, "book_snapshot_25", rows)
    back = ingest(tmp_path, "demo", "AB", "2025-01-01", levels=3, max_stale=10**4, progress=False)[0]
    flow = [f"ofi_{l}" for l in (1, 2, 3)] + ["n_updates", "stale"]
    pd.testing.assert_frame_equal(back.loc[w.index, flow], w[flow], check_exact=True)
    assert back[~back.index.isin(w.index)].stale.all()


# ticks and lots

def test_lots(recorded):
    assert lot_size(recorded) == .1
    g = random_grid(50, np.random.default_rng(0), levels=2)
    x = np.rint(np.random.default_rng(1).gamma(2, 50, (50, 4)))*25 + 25
    g[["ask_sz_1", "ask_sz_2", "bid_sz_1", "bid_sz_2"]] = x/1000
    g[["buy_vol", "sell_vol"]] = [.05, .1]
    assert lot_size(g) == .025
    with pytest.raises(ParameterError, match="no level of this book has a size"): lot_size(g*np.nan)


def test_a_lot_that_does_not_exist_is_small():
    g = random_grid(400, np.random.default_rng(0), levels=2)  # sizes from a gamma distribution
    lot, typical = lot_size(g), g.ask_sz_1.median()
    assert typical/20_000 < lot <= typical/500 and np.log10(lot) == round(np.log10(lot))


@given(st.integers(0, 10**8), st.sampled_from([.1, .01, .25, .5, 1e-4, 5., 100., .001]))
@quick
def test_ticks_are_the_floats_of_their_decimal_text(n, step):
    from decimal import Decimal
    x = float(exact(n, step))
    assert x == float(Decimal(n)*Decimal(str(step)))
    assert whole(x, step) == n


# bins

@given(whole_numbers, st.integers(1, 12), st.integers(1, 20))
@quick
def test_bins_part_the_values(values, most, least):
    b = fit_bins(values, most, least)
    flat = [v for x in b for v in x["values"]]
    assert flat == sorted(set(values)) and 1 <= len(b) <= most
    assert {v: c for x in b for v, c in zip(x["values"], x["counts"], strict=True)} == {v: values.count(v) for v in set(values)}
    assert all(x["lo"] == x["values"][0] for x in b)
    mass = [sum(x["counts"]) for x in b]
    assert len(b) == 1 or min(np.add(mass[1:], mass[:-1])) >= least
    assert [int(k) for k in bin_of(values, b)] == [next(i for i, x in enumerate(b) if v in x["values"]) for v in values]


@given(whole_numbers, st.integers(1, 6))
@quick
def test_draws_follow_the_training_values(values, most):
    "With u on the midpoints of as many intervals as there are values, each value comes as often as it was seen"
    for k, b in enumerate(fit_bins(values, most)):
        n = sum(b["counts"])
        v, c = np.unique(draw(fit_bins(values, most), np.full(n, k), (np.arange(n) + .5)/n), return_counts=True)
        assert v.tolist() == b["values"] and c.tolist() == b["counts"]


def test_a_frequent_value_keeps_its_bin():
    v = [0]*500 + [1]*300 + list(range(2, 200))
    assert [b["values"] for b in fit_bins(v, 6)][:2] == [[0], [1]]
    tail = [sum(b["counts"]) for b in fit_bins(v, 6)[2:]]
    assert max(tail) <= 2*min(tail) + 2  # and the rest is shared about evenly


def test_wrong_bins():
    with pytest.raises(TooShortError, match="no second of the training part"): fit_bins([], 3)
    with pytest.raises(ParameterError, match="at least one bin"): fit_bins([1], 0)
    with pytest.raises(ParameterError, match=r"0\.\.1"): draw(fit_bins([1, 2], 2), [-1], [.5])


# channels and tokens

@pytest.fixture(scope="module")
def fitted(recorded):
    train = np.arange(len(recorded)) < 200
    return fit_channels(recorded, train, levels=3), train


def test_channels_undo(recorded, fitted):
    "Standardised numbers turned back by a plain formula give sizes, gaps, spread and trades of the grid"
    s, _ = fitted
    x = to_channels(recorded, s)
    good = ~np.isnan(x[:, 0])
    z = pd.DataFrame(x.astype(float)*s["std"] + s["mean"], recorded.index, channel_names(3))[good]
    g = recorded[good]
    for side, sign in (("ask", 1), ("bid", -1)):
        for l in (1, 2, 3): np.testing.assert_allclose(np.exp(z[f"{side}_sz_{l}"])*.1, g[f"{side}_sz_{l}"], rtol=2e-6)
        for l in (2, 3): np.testing.assert_allclose(sign*np.exp(z[f"{side}_gap_{l}"])*.1, g[f"{side}_px_{l}"] - g[f"{side}_px_{l-1}"], rtol=1e-5)
    np.testing.assert_allclose(np.expm1(z.spread)*.1, g.ask_px_1 - g.bid_px_1, rtol=1e-5, atol=1e-6)
    for k, unit in (("buy_vol", .1), ("sell_vol", .1), ("buy_n", 1), ("sell_n", 1)): np.testing.assert_allclose(np.expm1(z[k])*unit, g[k], rtol=1e-5, atol=1e-5)


def test_a_book_that_lacks_a_level_has_no_channels(recorded, fitted):
    s, _ = fitted
    x, (spread, move), lacks = to_channels(recorded, s), tokens(recorded, s), (recorded.ask_px_3.isna() | recorded.bid_px_3.isna()).to_numpy()
    assert x.dtype == np.float32 and x.shape == (len(recorded), 15) and lacks.any()
    assert (np.isnan(x).all(1) == lacks).all() and (np.isnan(x).any(1) == lacks).all()
    assert ((spread < 0) == lacks).all()
    after = np.append(False, lacks[:-1])
    assert ((move < 0) == (lacks | after | first_rows(recorded.segment))).all()


def test_tokens_name_the_spread_and_the_move(recorded, fitted):
    s, _ = fitted
    (spread, move), m = tokens(recorded, s), mid2(recorded, s)
    ticks = np.rint((recorded.ask_px_1 - recorded.bid_px_1).to_numpy()/.1)
    for token, bins, value in ((spread, s["spread"], ticks), (move, s["move"], np.diff(m, prepend=np.nan))):
        for k, b in enumerate(bins):
            if len(b["values"]) == 1 and 0 < k < len(bins) - 1 and bins[k+1]["lo"] == b["lo"] + 1: assert (value[token == k] == b["lo"]).all() and (token == k).any()
    np.testing.assert_array_equal(m, np.rint((recorded.ask_px_1 + recorded.bid_px_1)/.1))
    assert np.isnan(moves(recorded, s)[first_rows(recorded.segment)]).all()


def test_training_channels_have_mean_zero_and_deviation_one_or_less(recorded, fitted):
    s, train = fitted
    x = to_channels(recorded, s)[train]
    x = x[~np.isnan(x[:, 0])].astype(float)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
    moving = np.array(s["std"]) > .2500001
    np.testing.assert_allclose(x.std(0)[moving], 1, atol=1e-4)
    assert (x.std(0)[~moving] <= 1.0001).all() and moving.any()
    assert s["locks"] is True  # the recording has locked books
    assert json.loads(json.dumps(s)) == s


def test_only_training_seconds_are_looked_at(recorded, fitted):
    "Everything else doubled, or gone"
    s, train = fitted
    other = recorded.copy()
    cols = [c for c in recorded if c not in ("segment", "stale", "n_updates", "buy_n", "sell_n")]
    other.loc[~train, cols] = 2*recorded.loc[~train, cols]
    assert fit_channels(other, train, levels=3) == s
    assert fit_channels(recorded[train], train[train], levels=3) == s
    assert fit_channels(other, np.ones(len(other), bool), levels=3) != s


def test_how_often_one_quote_stands_still():
    """Ten seconds of rest, then ask and bid move by these ticks, that is the mid by 4, 2, 2, 3, 2 half ticks and the spread by 4, 0, 2, -1, 4 ticks.
    The moves of 2 to 4 share a bin; in it lie three of the changes of spread, of which two are the move."""
    up = [(0, 0)]*10 + [(4, 0), (1, 1), (2, 0), (1, 2), (3, -1)]
    ask, bid = (start + np.cumsum([0] + [u[k] for u in up]) for k, start in enumerate((160, 100)))
    g = random_grid(16, np.random.default_rng(0), levels=1).assign(ask_px_1=ask/10, bid_px_1=bid/10, ask_sz_1=1., bid_sz_1=1., buy_vol=0., sell_vol=0.)
    s = fit_channels(g, np.ones(16, bool), levels=1, moves=2)
    assert s["move"] == [dict(lo=0, values=[0], counts=[10], still=1., both=[0]), dict(lo=2, values=[2, 3, 4], counts=[3, 1, 1], still=2/3, both=[2, 1, 0])]


@pytest.mark.parametrize("n, levels, sentence", [(5, 10, "has 2 levels"), (0, 2, "no training second")])
def test_what_wrong_input_gets(n, levels, sentence):
    g = random_grid(60, np.random.default_rng(0), levels=2)
    with pytest.raises((ParameterError, TooShortError), match=sentence): fit_channels(g, np.arange(60) < n, levels=levels)
    with pytest.raises(ParameterError, match="each of the 60 rows"): fit_channels(g, np.ones(3, bool), levels=2)


def test_training_without_whole_books_says_so():
    g = random_grid(60, np.random.default_rng(0), levels=2).assign(ask_px_2=np.nan)
    with pytest.raises(TooShortError, match="0 have a book of 2 levels"): fit_channels(g, np.ones(60, bool), levels=2)
    assert np.isfinite(raw_channels(g, .1, .001, 1)).all()  # one level is enough for itself


def test_a_locked_recording(real_data, tmp_path):
    "47 % of standx's books are locked: the state knows, and the zero has a bin of its own"
    ingest_all(real_data, tmp_path, "standx", ["BTC-USD"], ["2026-01-06"], progress=False)
    g = load_grid(tmp_path, "BTC-USD")
    s = fit_channels(g, np.arange(len(g)) < 40_000)
    assert s["locks"] and s["tick"] == .1 and s["lot"] == 1e-4 and s["spread"][0]["values"] == [0]
    x = to_channels(g, s)
    assert np.isfinite(x).all() and np.abs(x).max() < 15
