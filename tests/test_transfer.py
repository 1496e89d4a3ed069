"Transfer between markets: a fresh draw of the process is as good as the process, another process is not, and roles keep apart."
import numpy as np
import pandas as pd
import pytest

from lobresearch.errors import TooShortError
from lobresearch.evidence.bootstrap import value
from lobresearch.forecast.baselines import fit_ridge, predict_ridge
from lobresearch.market.features import features, select
from lobresearch.market.labels import labels
from lobresearch.market.registry import random_grid
from lobresearch.synthetic.transfer import ROLES, WAYS, Side, roles, transfer


def queues(n, seed, sign=1., paths=1, levels=2):
    "A market whose best queues know the next move: a rise the likelier the longer the bid queue (sign 1), or the other way round (-1)"
    rng = np.random.default_rng(seed)
    g = random_grid(n, rng, levels, breaks=range(n//paths, n, n//paths) if paths > 1 else ())
    lean = sign*(2*g.bid_sz_1/(g.bid_sz_1 + g.ask_sz_1) - 1).to_numpy()
    step = np.where(rng.random(n) < .5, np.sign(lean + rng.normal(0, .5, n)), 0)
    move = .1*np.r_[0, np.cumsum(step[:-1])] - (g.bid_px_1 - g.bid_px_1.iloc[0]).to_numpy()
    return g.assign(**{c: g[c] + move for c in g if "_px_" in c or c in ("vwap", "high", "low")})


REAL, ROLE = queues(9000, 0), np.repeat(ROLES, 3000)


def test_a_fresh_draw_of_the_process_reaches_real_to_real():
    for k in (1, 2, 3):
        t = transfer(REAL, ROLE, queues(10_000, k, paths=10), (1,), block=60).set_index("way")
        assert t.lo["real to real"] > .3
        assert t["diff"]["synthetic to real"] == pytest.approx(0, abs=.02) and t["diff"]["real to synthetic"] == pytest.approx(0, abs=.03)
        assert t.pearson["synthetic to synthetic"] == pytest.approx(t.pearson["real to real"], abs=.08)


def test_a_market_that_is_the_wrong_way_round_teaches_the_wrong_sign():
    t = transfer(REAL, ROLE, queues(10_000, 4, -1., 10), (1,), block=60).set_index("way")
    assert t.hi["synthetic to real"] < -.3 and t.hi["real to synthetic"] < -.3 and t.lo["synthetic to synthetic"] > .3 and t.diff_hi["synthetic to real"] < -.5


def test_a_market_that_knows_nothing_shows_it_where_it_is_tested():
    t = transfer(REAL, ROLE, queues(10_000, 5, 0., 10), (1,), block=60).set_index("way")
    assert abs(t.pearson["real to synthetic"]) < .07 and abs(t.pearson["synthetic to synthetic"]) < .07
    assert t.diff_hi["synthetic to real"] < 0


def test_real_to_real_is_the_forecasting_chapter_s_ridge_and_the_same_whatever_the_market():
    t = [transfer(REAL, ROLE, queues(6000, k, paths=6), (1, 5), block=60).set_index(["way", "horizon"]) for k in (6, 7)]
    X, y = features(REAL, select(2, 61)), labels(REAL, [1]).r_1.to_numpy()
    state, test = fit_ridge(X, y, ROLE == "train", ROLE == "valid"), ROLE == "test"
    want = value("pearson", y[test], predict_ridge(X, state)[test])
    for r in t: assert r.pearson["real to real", 1] == pytest.approx(want)
    assert t[0].pearson["real to real", 5] == t[1].pearson["real to real", 5]
    assert set(t[0].index) == {(w, h) for w in WAYS for h in (1, 5)} and t[0]["diff"].isna().sum() == 4


def test_whole_paths_have_a_role():
    for paths in (5, 7, 16, 100):
        segment = np.repeat(np.arange(paths), 3)
        r = pd.DataFrame(dict(segment=segment, role=roles(segment)))
        assert (r.groupby("segment").role.nunique() == 1).all() and set(r.role) == set(ROLES)
        assert r.role.tolist() == sorted(r.role, key=ROLES.index)


def test_one_long_path_is_cut_with_a_gap():
    r = roles(np.zeros(5000), gap=120)
    assert (r == "none").sum() == 240
    at = {k: np.flatnonzero(r == k) for k in ROLES}
    assert at["valid"].min() - at["train"].max() > 120 and at["test"].min() - at["valid"].max() > 120


def test_sealed_and_purged_rows_are_never_touched():
    "Whatever stands in rows of another role changes no score"
    role = np.repeat(["train", "valid", "test", "final"], 2250)
    market = queues(6000, 8, paths=6)
    other = REAL.copy()
    prices = [c for c in REAL if "_px_" in c]
    other.loc[role == "final", prices] = other.loc[role == "final", prices]*1.5
    a, b = (transfer(g[:6750], role[:6750], market, (1,), block=60) for g in (REAL, other))
    c = transfer(REAL, np.where(role == "final", "purged", role), market, (1,), block=60)
    assert a.pearson.tolist() == b.pearson.tolist()
    assert c.pearson.tolist() == pytest.approx(a.pearson.tolist(), abs=2e-3) # the last label of the test block has a future now


def test_markets_of_different_depth_share_the_levels_both_have():
    t = transfer(REAL, ROLE, queues(6000, 9, paths=6, levels=4), (1,), block=60)
    assert len(t) == 4 and t.pearson.notna().all()


def test_too_little_gets_a_sentence():
    with pytest.raises(TooShortError, match="The recording has 0 valid rows"):
        transfer(REAL[:900], ROLE[:900], queues(6000, 1, paths=6), (1,))
    with pytest.raises(TooShortError, match="The generated market has .* train rows"): transfer(REAL, ROLE, queues(800, 1, paths=5), (1,))
    assert Side(REAL, ROLE, [1], 2).name == "This market"
