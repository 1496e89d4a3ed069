"Augmentation: known answers of what added data does, fairness of the arms, and intervals against other libraries and formulas."
import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from statsmodels.stats.multitest import multipletests

from lobresearch.data.grid import load_grid, write_grid
from lobresearch.errors import LobError, ParameterError, TooShortError
from lobresearch.forecast.items import item_key, map_items
from lobresearch.forecast.nets import build
from lobresearch.forecast.rows import Rows, pool, prepare
from lobresearch.forecast.training import predict_dense
from lobresearch.forecast.trials import log_trials, trials
from lobresearch.market.registry import random_grid
from lobresearch.market.splits import chronological, write_splits
from lobresearch.synthetic import augment as au
from lobresearch.synthetic import augment_scores as sc
from lobresearch.synthetic.channels import snapshot_form


# ---- a process whose best forecast is known


def process(n, seed, role, signal=1.):
    "Rows whose label is a line in the inputs of the present and the last second, plus noise"
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 8)).astype(np.float32)
    w = np.random.default_rng(99).normal(size=(2, 8))/4
    mean = x @ w[0] + np.vstack([np.zeros(8), x[:-1]]) @ w[1]
    y = (signal*mean + 1.5*rng.normal(size=n)).astype(np.float32)[:,None]
    state = dict(kind="book", features=[], mean=[0.]*8, sd=[1.]*8, levels=2)
    return Rows(np.arange(n)*1_000_000, np.zeros(n, int), np.full(n, role), torch.from_numpy(x)[:,:,None], torch.from_numpy(y), np.ones(1), (10,), state)


def together(train, seed=0):
    "Scarce training rows, then validation and test rows, a gap between them"
    parts = [process(n, seed*10+k, r) for k,(n,r) in enumerate(((train, "train"), (600, "valid"), (4000, "test")))]
    p = pool(parts, "abc")
    return p._replace(part=None, scale=np.ones(1), state=parts[0].state, names=None)


def net_of(seed):
    torch.manual_seed(seed)
    return build("tcn", dict(pages=1, horizons=1, levels=2, channels=8, depth=1, dropout=0.))


def correlations(real, added, seed, budgets=(60, 120)):
    "Of the test rows, at each budget"
    rows = real if added is None else pool([real, added], ("real", "added"))
    net, out, test = net_of(seed), [], real.role == "test"
    _, kept = au.fit_arm(net, rows, seed, budgets, every=20, targets=16, lr=.01)
    for b in budgets:
        net.load_state_dict(kept[b][1])
        p, y = predict_dense(net, real.x, real.segment, test)[test][:,0], real.y[test][:,0].numpy()
        ok = np.isfinite(p)
        out.append(np.corrcoef(p[ok], y[ok])[0,1])
    return out


def test_same_process_helps_where_data_is_scarce_and_flipped_labels_hurt():
    real, more = together(60), process(4000, 1234, "train")
    r = {k: np.array([correlations(real, a, s) for s in range(2)]) for k,a in (("real", None), ("more", more), ("flipped", more._replace(y=-more.y)))}
    assert (r["more"] > r["real"] + .1).all(), r # at equal steps and at equal exposure, each seed
    assert (r["flipped"] < r["real"] - .1).all(), r


def test_more_of_the_same_does_nothing_where_data_is_plentiful():
    real = together(6000)
    d = np.subtract(correlations(real, process(6000, 77, "train"), 0), correlations(real, None, 0))
    assert np.abs(d).max() < .03


# ---- fairness of the arms


@given(st.integers(0, 50), st.integers(60, 400), st.sampled_from([16, 33]), st.sampled_from([2, 4]))
@settings(max_examples=20, deadline=None)
def test_augmented_arms_see_the_same_real_stretches_in_twice_the_steps(seed, n, targets, size):
    real, added = process(n, 0, "train"), process(150, 1, "train")
    both = pool([real, added], ("real", "added"))
    alone, mixed = (au.batches(r, 4, targets, size, seed) for r in (real, both))
    a = np.concatenate([next(alone) for _ in range(5)])
    b = np.concatenate([next(mixed) for _ in range(10)])
    part = both.part[b[:,0]]
    assert (part == both.part[b[:,1]-1]).all() # no stretch reaches from one source into the other
    assert np.array_equal(b[part == 0], a) and (part == 1).sum() == len(a)


def test_a_pass_holds_each_target_once():
    real = process(100, 0, "train")
    feed, seen = au.batches(real, 4, 16, 1, 0), []
    while len(seen) < 96:
        a, b = next(feed)[0]
        seen += range(a+4, b)
    assert sorted(seen) == list(range(4, 100))


def test_test_rows_and_order_of_arms_touch_nothing():
    real = together(200)
    other = real._replace(x=real.x.clone(), y=real.y.clone())
    test = torch.from_numpy(real.role == "test")
    other.x[test], other.y[test] = 7., -7.
    (a, ka), (b, kb) = (au.fit_arm(net_of(0), r, 0, (20,), every=10, targets=16) for r in (real, other))
    assert a == b and all(torch.equal(v, kb[20][1][k]) for k,v in ka[20][1].items())


def test_the_kept_checkpoint_is_the_best_look_within_its_budget():
    real = together(60)
    looks, kept = au.fit_arm(net_of(0), real, 0, (60, 240), every=20, targets=16, lr=.02)
    for b in (60, 240):
        assert kept[b][0] == max((l for l in looks if l["step"] <= b), key=lambda l: l["correlation"])
    stopped, early = au.fit_arm(net_of(0), real, 0, (60, 240), every=20, patience=2, targets=16, lr=.02)
    at = stopped[-1]["step"]
    assert stopped == looks[:len(stopped)] and at < 240 and at - early[240][0]["step"] == 40
    by_loss = au.fit_arm(net_of(0), real, 0, (60,), every=20, targets=16, lr=.02, select="loss")
    assert by_loss[1][60][0]["loss"] == min(l["loss"] for l in by_loss[0])


# ---- units


def toy(seconds=2400, seed=0):
    grid = snapshot_form(random_grid(seconds, np.random.default_rng(seed)))
    return grid, chronological(grid.index, 3, 70)


def test_a_market_is_measured_in_real_training_units():
    grid, split = toy()
    real = prepare(grid, split, (2, 3), "book+features")
    wild = random_grid(300, np.random.default_rng(5))
    sizes = [c for c in wild if "_sz_" in c]
    wild[sizes] *= 50
    a, b = au.market_rows(snapshot_form(wild), real), au.market_rows(snapshot_form(wild).iloc[:200], real)
    assert torch.equal(a.x[:200], b.x) # nothing is fitted to the market, and no row sees a later one
    assert torch.equal(a.y[:190], b.y[:190])
    r = 1e4*np.log(wild.ask_px_1 + wild.bid_px_1).diff(2).shift(-2).to_numpy()
    np.testing.assert_allclose(a.y[:-2,0], (r/real.scale[0])[:-2], rtol=1e-4, atol=1e-5)


def test_jitter_leaves_rows_alone_that_are_not_training_and_cuts_where_they_were():
    grid, split = toy()
    real = prepare(grid, split, (2, 3), "book")
    role = real.role.copy()
    role[200:210] = "purged"
    cut = au.jittered(real._replace(role=role), 0.)
    keep = role == "train"
    assert torch.equal(cut.x, real.x[keep]) and len(cut.ts) == keep.sum() and len(set(cut.segment)) == 2
    with pytest.raises(ParameterError, match="0 or more"): au.jittered(real, -1)
    with pytest.raises(TooShortError, match="no training rows"): au.jittered(real._replace(role=np.full(len(role), "test")))


def test_recent_keeps_the_last_training_rows():
    _, split = toy()
    n = (split.role == "train").sum()
    s = au.recent(split, .1)
    assert (s.role == "train").sum() == -(-n//10)
    assert s.ts[s.role == "train"].max() == split.ts[split.role == "train"].max()
    same = split.role != "train"
    assert (s.role[same] == split.role[same]).all()
    assert au.recent(split, 1.).equals(split)


# ---- the whole way


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    d = tmp_path_factory.mktemp("root")
    write_grid(d/"artifacts/grid", "TOY", "1970-01-01", random_grid(3600, np.random.default_rng(0)))
    write_splits(d/"artifacts/splits", "TOY", chronological(load_grid(d/"artifacts/grid", "TOY").index, 3, 60))
    write_grid(d/"artifacts/synthetic/markets/vqvae", "TOY", "2000-01-01", snapshot_form(random_grid(400, np.random.default_rng(3))))
    return d


HOW = dict(net=dict(inputs="book", channels=4, depth=1), train=dict(targets=32), steps=4, every=2, blocks=dict(paths=2, steps=200, block=60))


def test_items_are_trained_logged_and_collected(root, tmp_path):
    items = au.make_arms(root, "TOY", (2, 3), 7, 2, ("real", "vqvae"), **HOW)
    results = map_items(partial(au.run_arm, root=root), items, keep=tmp_path/"items")
    again = map_items(partial(au.run_arm, root=root), items[2:3], keep=tmp_path/"again")
    assert again[0] == json.loads(json.dumps(results[2]))
    ts, F = sc.forecasts_of(items, tmp_path/"items")
    assert F[1., "vqvae"].shape == (2, 2, len(ts), 2) and not np.array_equal(F[1., "vqvae"][0], F[1., "vqvae"][1])
    assert results[2]["rows"] == dict(real=results[0]["rows"]["real"], added=400)
    n = log_trials(tmp_path/"log.jsonl", *au.as_trials(items, results), "07")
    t = trials(tmp_path/"log.jsonl")
    assert n == len(t) == 8 and t.configuration.nunique() == 4 # two arms at two budgets; seeds are one configuration
    assert t.score[0] == pytest.approx(np.mean(results[0]["kept"]["4"]["correlations"]))


def test_a_changed_market_is_another_item(root):
    first, = au.make_arms(root, "TOY", (2,), 7, 1, ("real", "vqvae"), **HOW)[1:]
    path = root/"artifacts/synthetic/markets/vqvae/symbol=TOY/date=2000-01-01.parquet"
    kept = path.read_bytes()
    write_grid(root/"artifacts/synthetic/markets/vqvae", "TOY", "2000-01-01", snapshot_form(random_grid(300, np.random.default_rng(4))))
    second, = au.make_arms(root, "TOY", (2,), 7, 1, ("real", "vqvae"), **HOW)[1:]
    path.write_bytes(kept)
    assert item_key(first) != item_key(second)


def test_what_cannot_be_meant_is_said(root):
    with pytest.raises(ParameterError, match="There is no gan"): au.make_arms(root, "TOY", (2,), 7, arms=("real", "gan"))
    with pytest.raises(ParameterError, match="must hold real"): au.make_arms(root, "TOY", (2,), 7, arms=("jitter",))
    items = au.make_arms(root, "TOY", (2,), 7, 1, ("real",), (1., .2), **HOW)
    short = au.too_short(items, root, 10)
    assert list(short) == [.2] and short[.2].startswith("20% of the training rows of TOY is too short to forecast")
    with pytest.raises(LobError, match="too short to forecast"): map_items(partial(au.run_arm, root=root), items[1:])


def test_sealed_rows_are_never_loaded(root):
    items = au.make_arms(root, "TOY", (2, 3), 7, 1, ("real",), **HOW)
    real, added = au.arm_rows(items[0], root)
    split = chronological(load_grid(root/"artifacts/grid", "TOY").index, 3, 60)
    assert real.ts.max() < split.ts[split.role == "final"].min() and added is None
    assert set(real.role) == {"train", "valid", "test", "purged"}


# ---- scores


def test_row_part_of_the_error_is_that_of_a_correlation():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(20_000, 1))
    f = y + rng.normal(size=y.shape)
    r = sc.skill(y, f[None], block=20, resamples=2000)
    assert r["se_rows"] == pytest.approx((1 - r["value"]**2)/np.sqrt(len(y)), rel=.08) # of independent normal pairs
    assert r["value"] == pytest.approx(np.corrcoef(y[:,0], f[:,0])[0,1], abs=1e-12)
    assert np.isnan(r["se_seeds"]) and r["se"] == r["se_rows"]


def test_seed_part_of_the_error_is_that_of_a_mean():
    rng = np.random.default_rng(1)
    y = rng.normal(size=(3000, 2))
    F = np.stack([s*y + rng.normal(size=y.shape) for s in (.1, .4, .7)])
    r = sc.skill(y, F, block=20, resamples=100)
    own = [np.mean([np.corrcoef(y[:,h], f[:,h])[0,1] for h in (0, 1)]) for f in F]
    assert r["seeds"] == pytest.approx(own, abs=1e-12)
    assert r["se_seeds"] == pytest.approx(np.std(own, ddof=1)/np.sqrt(3))
    assert 2 <= r["dof"] < 2.2 # the seeds are nearly all of it
    assert r["hi"] - r["value"] == pytest.approx(4.3*r["se"], rel=.1) # Student's 97.5 % point with two degrees


def test_missing_forecasts_are_left_out_of_both():
    rng = np.random.default_rng(2)
    y = rng.normal(size=(2000, 1))
    F = y + rng.normal(size=(2, 2000, 1))
    hole = F.copy()
    hole[:,:100] = np.nan
    y2 = y.copy()
    y2[:100] = np.nan
    assert sc.skill(y, hole, block=20)["value"] == pytest.approx(sc.skill(y2, F, block=20)["value"])


def test_holm_is_that_of_statsmodels():
    rng = np.random.default_rng(0)
    for k in (1, 2, 5, 12, 30):
        p = rng.random(k)**3
        p[rng.random(k) < .2] = p[0] # ties
        np.testing.assert_allclose(sc.holm(p), multipletests(p, method="holm")[1], atol=1e-12)


def arms(seed=0, n=3000):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(n, 2))
    make = lambda s: np.stack([[s*y + rng.normal(size=y.shape)]*2 for _ in range(4)])
    return y, {(1., "real"): make(.5), (1., "jitter"): make(.5), (1., "vqvae"): make(.2), (1., "exchange"): make(1.)}


def test_verdicts_on_planted_differences():
    y, F = arms()
    D = sc.difference_table(F, y, (10, 60), block=30, resamples=200)
    got = D[(D.horizon == 0) & (D["mode"] == "steps")].set_index("arm").verdict
    assert got.to_dict() == dict(jitter="not told apart", vqvae="hurts", exchange="helps")
    assert (D.verdict[D["mode"].isin(["long", "more steps"]) | (D.horizon != 0)] == "").all()
    # equal exposure repeats equal steps here, so two generators make two comparisons, and the bound one
    h = D[(D.horizon == 0) & (D["mode"] == "exposure")].set_index("arm")
    np.testing.assert_allclose(h.holm[["jitter","vqvae"]], multipletests(h.p[["jitter","vqvae"]], method="holm")[1], rtol=1e-9)
    assert h.holm["exchange"] == h.p["exchange"]
    words = sc.verdict_words(D)
    assert len(words) == 2 and "**hurts**, −0." in words[1] and "at equal steps and at equal exposure" in words[1]
    assert "there is something for a generator to bring" in sc.bound_words(D)[0]


def test_confidence_set_keeps_the_best_arm_alone_when_it_is_clear():
    y, F = arms()
    C = sc.arm_sets({k: np.clip(f, -9, 9) for k,f in F.items()}, y, (10, 60), 30, 100)
    best = C.loc[C.groupby(["mode","horizon"]).loss.idxmin()]
    assert best.inside.all() and set(C["mode"]) == {"steps", "exposure"}
    assert C.loss[(C.arm == "exchange") & (C["mode"] == "steps") & (C.horizon == 10)].item() == pytest.approx(
        ((F[1., "exchange"][:,0,:,0] - y[:,0])**2).mean(), rel=1e-9)
    with pytest.raises(TooShortError, match="eight blocks"): sc.arm_sets(F, y, (10, 60), 600)


def test_few_blocks_give_words_without_intervals():
    y, F = arms(n=100)
    D = sc.difference_table(F, y, (10, 60), block=60)
    assert D.lo.isna().all() and set(D.verdict[D.horizon == 0]) == {"", "too short to say"}
    assert all("too few blocks" in w for w in sc.verdict_words(D))
    assert "the test block is too short to say more" in sc.bound_words(D)[0]
    page = sc.page_table(sc.arm_table(F, y, (10, 60), block=60), D, 200)
    assert len(page) == 8 and pd.notna(page["correlation, 10 s"]).all() and "[" not in page["correlation, 10 s"][0]
