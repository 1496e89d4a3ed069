"FI-2010: scores against scikit-learn, windows that know only their past, training that resumes, a signal found and none invented, and the page."
import json
import math
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as hs
from sklearn import metrics

from lobresearch.data import fi2010 as files
from lobresearch.errors import LobError
from lobresearch.forecast import fi2010 as fi
from lobresearch.forecast import fi2010_scores as fs
from lobresearch.forecast.benchmark_nets import BENCHMARK, CausalClassifier, ClassicDeepLob, LstmClassifier
from lobresearch.forecast.dense import weights
from lobresearch.forecast.items import map_items

ROOT = Path(__file__).resolve().parents[1]
THREE = [0, 1, 2]


def sklearn_scores(y, p):
    prf = [f(y, p, labels=THREE, average=a, zero_division=0) for f, a in ((metrics.f1_score, "macro"), (metrics.f1_score, "weighted"),
                                                                            (metrics.precision_score, "macro"), (metrics.recall_score, "macro"))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a single class
        return [metrics.accuracy_score(y, p), *prf, metrics.matthews_corrcoef(y, p)]


@settings(max_examples=150, deadline=None)
@given(hs.lists(hs.tuples(hs.integers(0, 2), hs.integers(0, 2)), min_size=1, max_size=60))
def test_scores_are_those_of_scikit_learn(pairs):
    y, p = np.array(pairs).T
    got = fs.scores(fs.confusion(y, p))
    np.testing.assert_allclose([got[k] for k in fs.SCORES], sklearn_scores(y, p), atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(hs.integers(1, 50), hs.integers(1, 20), hs.integers(0, 9))
def test_blocks_hold_neighbours_and_add_up(n, block, seed):
    y, p = np.random.default_rng(seed).integers(3, size=(2, n))
    c = fs.confusion(y, p, block)
    assert len(c) == -(-n//block) and (c.sum(0) == metrics.confusion_matrix(y, p, labels=THREE)).all()
    assert (c[-1] == metrics.confusion_matrix(y[(len(c)-1)*block:], p[(len(c)-1)*block:], labels=THREE)).all()


@pytest.mark.parametrize("counts", [(150, 707, 143), (1, 8, 1), (30, 40, 30)])
def test_the_majority_class_scores_what_the_shares_of_the_classes_say(counts):
    y = np.repeat(THREE, counts)
    m = fs.majority(fs.confusion(y, np.zeros_like(y)))
    got, s = fs.scores(m), counts[1]/sum(counts)
    np.testing.assert_allclose([got["accuracy"], got["weighted_f1"], got["macro_f1"], got["mcc"]], [s, 2*s*s/(1+s), 2*s/(1+s)/3, 0], atol=1e-12)
    np.testing.assert_allclose([got[k] for k in fs.SCORES], sklearn_scores(y, np.ones_like(y)), atol=1e-12)


def test_shuffled_is_the_mean_over_random_orders():
    rng = np.random.default_rng(0)
    y = rng.choice(3, 300, p=[.2, .6, .2])
    p = np.where(rng.random(300) < .6, y, rng.integers(3, size=300))
    mean = np.mean([fs.confusion(y, rng.permutation(p)) for _ in range(2000)], axis=0)
    np.testing.assert_allclose(fs.shuffled(fs.confusion(y, p)), mean, atol=.8)  # standard error of a cell about .1


def test_intervals_are_those_of_drawn_blocks_of_rows():
    rng = np.random.default_rng(3)
    y = rng.choice(3, 400, p=[.2, .5, .3])
    seeds = [np.where(rng.random(400) < .5, y, rng.integers(3, size=400)) for _ in range(2)]
    results = [dict(model="lstm", horizon=20, seed=i, usual=1, test=fs.confusion(y, p, 40).tolist()) for i, p in enumerate(seeds)]
    t = fs.fi2010_table(results, 40, seed=5).set_index("model")
    rows = [np.concatenate([np.arange(40*b, 40*b + 40) for b in d]) for d in np.random.default_rng([5, 20]).integers(10, size=(40, 10))]
    draws = np.mean([[sklearn_scores(y[r], p[r]) for r in rows] for p in seeds], axis=0)
    np.testing.assert_allclose(t.loc["lstm", ["macro_f1_lo", "macro_f1_hi"]].astype(float), np.quantile(draws[:, 1], [.025, .975]))
    np.testing.assert_allclose(t.loc["lstm", ["mcc_lo", "mcc_hi"]].astype(float), np.quantile(draws[:, 5], [.025, .975]))
    np.testing.assert_allclose(t.loc["lstm", list(fs.SCORES)].astype(float), np.mean([sklearn_scores(y, p) for p in seeds], axis=0))
    assert t.macro_f1_lo["lstm"] < t.macro_f1["lstm"] < t.macro_f1_hi["lstm"] and math.isclose(t.macro_f1["majority"], sklearn_scores(y, np.ones_like(y))[1])


def test_what_is_published_names_its_averaging():
    p = fs.published()
    assert set(p.averaging) == {"macro", "weighted", "not known"} and set(p.source) <= set(fs.SOURCES) and set(p.model) <= set(fs.NAMES)
    assert not p[p.by == "others"].checked.any()
    assert p[(p.model == "deeplob_classic") & (p.by == "its authors")].iloc[0][["averaging", 10]].tolist() == ["weighted", 83.4]


# networks

@pytest.mark.parametrize("hidden", [3, 64])
def test_the_number_of_weights_of_an_lstm(hidden): assert weights(LstmClassifier(hidden)) == 4*hidden*(40 + hidden + 2) + 3*(hidden + 1)


@pytest.mark.parametrize(("c", "b", "h"), [(32, 64, 64), (4, 8, 6)])
def test_the_number_of_weights_of_deeplob(c, b, h):
    conv = lambda i, o, size: o*(i*size + 1)
    trunk = conv(1, c, 2) + conv(c, c, 2) + conv(c, c, 10) + 6*conv(c, c, 4)
    inception = 3*conv(c, b, 1) + conv(b, b, 3) + conv(b, b, 5)
    assert weights(ClassicDeepLob(c, b, h)) == trunk + inception + 4*h*(3*b + h + 2) + 3*(h + 1)


# windows

@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    "A made-up set-up with a signal and one without, as kept files"
    d = tmp_path_factory.mktemp("fi2010")
    for name, signal in (("signal", .8), ("null", 0.)): fi.made_up(d/name, (1500, 300, 300, 300), signal, seed=11)
    return d, {n: fi.keep_setup(d/n, d, counts=None) for n in ("signal", "null")}


def test_made_up_files_are_read_like_the_published_ones(setup):
    for name in ("signal", "null"):
        s = files.load_setup2(setup[0]/name, valid=0, counts=None, dtype=np.float64)
        assert [len(p.labels) for p in s] == [1500, 0, 900] and (files.check_labels(s.train).agree == 1).all() and (files.check_labels(s.test).agree > .99).all()
        assert all((s.train.labels == c).any(axis=0).all() for c in (1, 2, 3)) and len(files.boundaries(s.train)) == 0


class Seen(torch.nn.Module):
    "A network that notes the windows it is shown"
    def __init__(self): super().__init__(); self.w, self.seen = torch.nn.Parameter(torch.zeros(3)), []
    def forward(self, x): self.seen.append(x.detach().clone()); return x.sum((1, 2, 3))[:, None]*self.w


@pytest.mark.parametrize("length", [10, 25])
def test_gathered_windows_are_the_windows_of_the_reader(setup, length):
    d, paths = setup
    w = fi.cut_windows(paths["signal"], 20, length)
    net = Seen()
    fi.classify(fi.Fit(net, w, 0), w.test, batch=100)
    s = files.load_setup2(d/"signal", valid=0, counts=None)
    x, y = files.windows(s.test, length)
    own = s.train.book[:1200-length].astype(float)
    np.testing.assert_allclose(torch.cat(net.seen)[:, 0].numpy(), (x - own.mean(0))/own.std(0), atol=1e-4)
    assert (w.y[w.test].numpy() == y[:, 1] - 1).all() and max(map(len, net.seen)) == 100


@pytest.mark.parametrize(("length", "valid", "k"), [(10, .2, 10), (10, .2, 100), (33, .11, 50), (100, .4, 100), (80, .137, 30)])
def test_training_sees_nothing_of_validation_and_validation_nothing_of_test(setup, length, valid, k):
    w, first = fi.cut_windows(setup[1]["signal"], k, length, valid), round((1 - valid)*1500)
    assert w.train[-1] + k//10 < first <= w.valid[0] - length + 1 and w.valid[-1] == 1499 and w.test[0] - length + 1 == 1500 and w.test[-1] == 2399
    np.testing.assert_allclose(w.x[:w.train[-1] + 1].double().mean(0), 0, atol=1e-4)


def test_standardisation_is_blind_to_later_prices(setup, tmp_path):
    with np.load(setup[1]["signal"]) as z: kept = {k: z[k] for k in z}
    a = fi.cut_windows(setup[1]["signal"], 10, 20)
    kept["book"] = np.r_[kept["book"][:1180], 100*kept["book"][1180:]]
    np.savez(tmp_path/"x.npz", **kept)
    b = fi.cut_windows(tmp_path/"x.npz", 10, 20)
    assert torch.equal(a.x[:1180], b.x[:1180]) and not torch.equal(a.x[1180:], b.x[1180:])


@pytest.mark.parametrize("model", BENCHMARK)
def test_a_forecast_does_not_change_with_what_comes_after_its_window(setup, model):
    w = fi.cut_windows(setup[1]["signal"], 10, 20)
    torch.manual_seed(0)
    net = BENCHMARK[model]()
    if model == "deeplob_tcn": torch.nn.init.normal_(net.head.weight)
    run, end = fi.Fit(net, w, 0), w.test[50]
    before = fi.classify(run, w.test[:51])
    run.x = run.x.clone(); run.x[end + 1:] = 9.
    assert (fi.classify(run, w.test[:51]) == before).all()
    run.x[end] = 9.
    after = fi.classify(run, w.test[:51])
    assert (after[:50] == before[:50]).all() and (after[50] != before[50]).any()


# training

def small(seed=0):
    torch.manual_seed(seed)
    return CausalClassifier(trunk=2, channels=3, depth=1, dropout=.3)


@pytest.mark.parametrize("balanced", [False, True])
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(setup, tmp_path, balanced):
    w = fi.cut_windows(setup[1]["signal"], 10, 12)
    w = w._replace(train=w.train[:300])
    how = dict(epochs=4, batch=50, lr=.01, patience=2, balanced=balanced, select="macro_f1")
    whole = fi.fit_windows(small(), w, 1, **how)

    def stop(text):
        if text.startswith("epoch 2/"): raise InterruptedError
    with pytest.raises(InterruptedError): fi.fit_windows(small(), w, 1, tmp_path/"c", stop, **how)
    again = fi.fit_windows(small(5), w, 1, tmp_path/"c", **how)
    assert again.history == whole.history and len(whole.history) > 2
    for k, v in whole.net.state_dict().items(): assert torch.equal(v, again.net.state_dict()[k]), k
    with pytest.raises(LobError, match="belongs to another run"): fi.fit_windows(small(), w, 2, tmp_path/"c", **how)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_the_epoch_that_is_kept_is_the_best_of_validation(setup):
    w = fi.cut_windows(setup[1]["null"], 10, 12)
    torch.manual_seed(0)
    run = fi.fit_windows(BENCHMARK["ctabl"](), w, 0, epochs=12, patience=2, batch=32, lr=.02)
    best = min(h["loss"] for h in run.history)
    assert run.history[-3]["loss"] == best and len(run.history) < 12  # stopped two epochs after
    z, y = torch.from_numpy(fi.classify(run, w.valid)), w.y[w.valid]
    assert math.isclose(float(torch.nn.functional.cross_entropy(z, y)), best, rel_tol=1e-6)
    assert run.history[0]["lr"] == .02 and run.optim.param_groups[0]["lr"] == .01


@pytest.mark.parametrize(("what", "says"), [
    (dict(epoch=1), "no parameter epoch"), (dict(select="accuracy"), "select is loss or macro_f1"), (dict(precision="fp8"), "precision fp32 or bf16")])
def test_training_refuses_what_it_does_not_know(setup, what, says):
    with pytest.raises(LobError, match=says): fi.Fit(small(), fi.cut_windows(setup[1]["null"], 10, 12), 0, **what)


def test_bf16_learns_too(setup):
    w = fi.cut_windows(setup[1]["signal"], 10, 12)
    torch.manual_seed(0)
    run = fi.fit_windows(LstmClassifier(16), w, 0, epochs=3, batch=32, lr=.01, precision="bf16")
    assert run.history[-1]["macro_f1"] > .45 and all(p.dtype == torch.float32 for p in run.net.parameters())


def test_the_planted_signal_is_found_and_none_is_found_where_there_is_none(setup, tmp_path):
    table = {}
    for name, path in setup[1].items():
        items = fi.fi2010_items(path, [10], ["lstm", "ctabl", "bin_ctabl"], length=12, block=50, train=dict(epochs=6, batch=64, lr=5e-3))
        results = map_items(partial(fi.run_fi2010, path=path), items, keep=tmp_path)
        assert map_items(partial(fi.run_fi2010, path=None), items, keep=tmp_path) == results  # kept: nothing is read again
        assert [r["weights"] for r in results] == [weights(BENCHMARK[m]()) for m in ("lstm", "ctabl", "bin_ctabl")]
        table[name] = fs.fi2010_table(results, 200).set_index("model")
    found, none = table["signal"], table["null"]
    for m in ("lstm", "ctabl", "bin_ctabl"):
        assert found.mcc_lo[m] > .1 and found.macro_f1[m] > found.shuffled[m] + .08, m
        assert none.mcc_lo[m] <= 0 and abs(none.mcc[m]) < .08 and none.macro_f1[m] < none.shuffled[m] + .05, m
    assert found.accuracy["majority"] == pytest.approx((fi.cut_windows(setup[1]["signal"], 10, 12).y[1511:] == 1).double().mean())  # flat, as in training
    assert not list(tmp_path.rglob("*.safetensors"))


# the page

def page(**over):
    "Run the page's cells with other parameters: (stage, what it said)"
    space = {}
    cells = json.loads((ROOT / "nbs/study/05f_fi2010.ipynb").read_text())["cells"]
    for c in cells:
        if c["cell_type"] != "code": continue
        exec("".join(c["source"]), space)
        if "parameters" in c["metadata"].get("tags", []):
            space["fi2010"] = {**space["fi2010"], "control": dict(columns=500, models=["bin_ctabl"], window=12, epochs=1, batch=64, lr=.003), **over}
    return space["st"], "\n".join(space["st"].said)


def test_without_files_the_page_says_how_to_get_them_and_has_no_rows_of_ours():
    st, said = page(folder=None)
    assert "`Train_Dst_NoAuction_DecPre_CF_7.txt`" in said and "etsin.fairdata.fi" in said and "`params.yaml`" in said
    assert {p.stem for p in st.made} == {"majority", "published", "control"} and all(k.startswith("control.") for k in st.metrics)
    assert "control.nothing.bin_ctabl.macro_f1" in st.metrics and st.metrics["control.nothing.bin_ctabl.mcc_lo"] is None  # too few blocks


def test_with_files_the_page_has_ours_beside_the_others(tmp_path, monkeypatch):
    fi.made_up(tmp_path/"deep"/"er", (900, 200, 200, 200))
    with pytest.raises(LobError, match="the published files 254,750 and 139,587"): page(folder=str(tmp_path))
    monkeypatch.setattr(files, "SETUP2", (900, 600))
    st, said = page(folder=str(tmp_path), models=["bin_ctabl", "lstm"], horizons=[10, 30], seeds=2, epochs=1)
    assert {p.stem for p in st.made} == {"majority", "published", "control", "labels", "ours", "scores", "beside"}
    assert "without the files" not in said and "made-up set-up with a signal, not of" not in said
    s = st.metrics["majority.30.accuracy"]
    assert {f"{m}.{k}.weighted_f1" for m in ("bin_ctabl", "lstm") for k in (10, 30)} <= set(st.metrics)
    assert st.metrics["majority.30.weighted_f1"] == pytest.approx(2*s*s/(1 + s), abs=1e-5)


@pytest.mark.parametrize("name", ["Train_Dst_NoAuction_DecPre_CF_7.txt", "Test_Dst_NoAuction_DecPre_CF_8.txt"])
def test_a_missing_file_is_named(tmp_path, name):
    fi.made_up(tmp_path/"x", (200, 30, 30, 30))
    (tmp_path/"x"/name).unlink()
    with pytest.raises(LobError, match=f"hold no files {name}"): fi.keep_setup(tmp_path/"x", tmp_path, counts=None)
    with pytest.raises(LobError, match="is not a folder. Set fi2010.folder"): fi.keep_setup(tmp_path/"y", tmp_path)
