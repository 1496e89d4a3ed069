"Variants make one change; a difference on the same seconds; a market whose ceiling divides by hand."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from lobresearch.data.ceiling import ceiling, share, share_se
from lobresearch.errors import ParameterError
from lobresearch.evidence.bootstrap import block_bootstrap
from lobresearch.forecast import ablations as ab
from lobresearch.forecast.nets import build, weights
from lobresearch.plots import label

NET, TRAIN = dict(inputs="book+features", channels=64, dropout=.3), dict(lr=1e-3, epochs=4, target="raw", ema_alpha=.2)


def one(per_model=None, **v):
    return ab.expand({"it": v}, NET, TRAIN, (1, 5, 60), per_model)["it"]


def test_a_variant_is_its_base_with_one_entry_changed():
    v = one(question="input form", model="tcn", net={"inputs": "flow"})
    assert v.net == {**NET, "inputs": "flow"} and v.train == TRAIN and v.base == "tcn" and v.horizons == () and v.trained
    assert v.change == "flow instead of book+features"
    assert NET["inputs"] == "book+features"  # what was handed in is left alone
    v = one(model="tcn", train={"target": "ema"})
    assert v.train == {**TRAIN, "target": "ema"} and v.change == "EMA target (0.2 of the newest) instead of raw"
    v = one(model="tcn", horizons="curve")
    assert v.horizons == (1, 5, 60) and v.change == "" and v.trained
    assert one(model="ridge", net={"inputs": "book+features+hidden"}).net == {"inputs": "book+features+hidden"}


def test_what_a_model_does_not_share_with_the_others_stays_its_own():
    own = {"deeplob_lstm": {"train": {"thin": 4}, "net": {"hidden": 32}}}
    v = one(own, model="deeplob_lstm", net={"inputs": "book"})
    assert v.train == {**TRAIN, "thin": 4} and v.net == {**NET, "hidden": 32, "inputs": "book"}
    v = one(own, model="deeplob_lstm", base="deeplob_tcn")
    assert not v.trained and v.change == f"{label('deeplob_lstm')} (thin 4, hidden 32) instead of {label('deeplob_tcn')}"
    with pytest.raises(ParameterError, match="makes no changes to deeplob_lstm"): one(own, model="deeplob_lstm", train={"thin": 4})


@pytest.mark.parametrize("v, said", [
    (dict(model="tcn", net={"inputs": "book"}, train={"lr": .1}), "makes 2 changes to tcn; it must make one: book instead of book.features; lr 0.1"),
    (dict(model="tcn", net={"channels": 32, "dropout": .1}), "makes 2 changes"),
    (dict(model="tcn", base="deeplob_tcn", net={"inputs": "book"}), "makes 2 changes to deeplob_tcn"),
    (dict(model="tcn", net={"inputs": "book"}, horizons=[1]), "makes 2 changes"),
    (dict(model="tcn"), "makes no changes"),
    (dict(model="tcn", net={"channels": 64}), "makes no changes"),
    (dict(model="prophet"), "needs a model; there are .*tcn.*Got prophet"),
    (dict(question="target"), "needs a model"),
    (dict(model="tcn", inputs="book"), "unknown entries inputs")])
def test_a_variant_that_cannot_be_meant_is_refused(v, said):
    with pytest.raises(ParameterError, match=said): one(**v)


def test_a_variant_may_not_take_a_model_s_name():
    with pytest.raises(ParameterError, match="has the name of a model"): ab.expand({"lstm": dict(model="tcn", net={"inputs": "book"})}, NET, TRAIN)


def test_only_what_is_new_is_trained_and_what_cannot_be_asked_is_said():
    V = ab.expand({"new": dict(model="tcn", net={"inputs": "book"}), "read": dict(model="hierarchical", base="tcn"),
                   "told": dict(model="tcn", net={"inputs": "book+hidden"}), "far": dict(model="deeplob_tcn", horizons="curve")}, NET, TRAIN, (1, 5))
    todo, left = ab.plan(V, {"tcn", "hierarchical"}, truth=True)
    assert list(todo) == ["new", "told", "far"] and left == {}
    assert todo["far"]["horizons"] == [1, 5] and "horizons" not in todo["new"]
    todo, left = ab.plan(V, {"tcn"}, truth=False)
    assert list(todo) == ["new", "far"] and label("hierarchical") in left["read"] and "hidden state" in left["told"]


def test_the_default_small_tcn_weighs_as_much_as_the_lstm():
    shape = dict(pages=3, horizons=2, levels=10, trunk=32)
    small, lstm = weights(build("deeplob_tcn", dict(shape, channels=51, depth=4))), weights(build("deeplob_lstm", dict(shape, channels=64)))
    assert abs(small/lstm - 1) < .02


@given(seed=st.integers(0, 999), gain=st.floats(.01, 5), shift=st.floats(-3, 3))
@settings(max_examples=20, deadline=None)
def test_equal_forecasts_do_not_differ(seed, gain, shift):
    y, f = np.random.default_rng(seed).standard_normal((2, 400))
    d = ab.paired(y, f, f, 20, 100)
    assert (d["difference"], d["lo"], d["hi"]) == (0, 0, 0)
    d = ab.paired(y, gain*f + shift, f, 20, 100)  # correlation knows neither scale nor level
    assert max(abs(d[k]) for k in ("difference", "lo", "hi")) < 1e-9


def test_the_paired_interval_is_that_of_the_plain_block_bootstrap():
    rng = np.random.default_rng(3)
    a, b, e = rng.standard_normal((3, 900))
    y = .5*a + .2*b + e
    d = ab.paired(y, a, b, 30, 400, seed=5)
    corr = lambda y, a, b: np.corrcoef(y, a)[0, 1] - np.corrcoef(y, b)[0, 1]
    v, lo, hi, _ = block_bootstrap(corr, (y, a, b), 30, 400, np.random.default_rng(5))
    assert np.allclose([d["difference"], d["lo"], d["hi"]], [v, lo, hi], atol=1e-12)
    assert ab.paired(y, b, a, 30, 400, seed=5)["lo"] == pytest.approx(-d["hi"], abs=1e-12)  # the other way round


def test_a_row_that_lacks_anything_counts_in_neither():
    y, a, b = np.random.default_rng(0).standard_normal((3, 300))
    a2, b2, y2 = a.copy(), b.copy(), y.copy()
    a2[3], b2[50], y2[7] = np.nan, np.nan, np.nan
    keep = np.setdiff1d(np.arange(300), [3, 50, 7])
    assert ab.paired(y2, a2, b2, 20, 50) == ab.paired(y[keep], a[keep], b[keep], 20, 50)
    with pytest.raises(ParameterError, match="same rows"): ab.paired(y, a[:-1], b, 20)


def long(model, ts, v, seed=7, horizon=10, split="test"):
    return pd.DataFrame(dict(symbol="TOY", ts=ts, horizon=horizon, model=model, seed=seed, split=split, y_hat=v))


def test_a_variant_meets_its_base_on_common_seconds_and_seeds():
    rng, ts = np.random.default_rng(1), np.arange(500)
    y, a, b, other = rng.standard_normal((4, 500))
    V = ab.expand({"book": dict(question="input form", model="tcn", net={"inputs": "book"})}, NET, TRAIN)
    P = pd.concat([long("tcn", ts, b, 7), long("tcn", ts, other, 8), long("book", ts[100:], a[100:], 7), long("book", ts[:100], a[:100], 7, split="valid")])
    T = ab.against_base(V, P, {"TOY": pd.DataFrame(dict(r_10=y), index=ts)}, [10], block=20, n_boot=50)
    assert len(T) == 1 and T.n[0] == 400
    assert T.base[0] == pytest.approx(np.corrcoef(y[100:], b[100:])[0, 1])  # seed 8 of the base has no counterpart
    assert T.variant[0] == pytest.approx(np.corrcoef(y[100:], a[100:])[0, 1])
    P.loc[P.model == "book", "seed"] = 99  # a seed that the base was never trained with: then its mean forecast
    T = ab.against_base(V, P, {"TOY": pd.DataFrame(dict(r_10=y), index=ts)}, [10], block=20, n_boot=50)
    assert T.base[0] == pytest.approx(np.corrcoef(y[100:], (b + other)[100:])[0, 1])


def market(n=4000, M=64, visible=.6, hidden=.8, noise=2., seed=0):
    "A market with the mean visible*v + hidden*h: v and h, and replays of it"
    rng = np.random.default_rng(seed)
    v, h = rng.standard_normal((2, n))
    return v, h, (visible*v + hidden*h)[:, None] + noise*rng.standard_normal((n, M))


def test_the_ceiling_divides_as_worked_by_hand():
    v, h, r = market()  # the mean has size 1, so v alone reaches .6, all of it 1
    D = ab.decompose(v, .6*v + .8*h, r)
    assert np.allclose([D[k] for k in ab.PARTS], [.6, .4, 0], atol=.03)
    D = ab.decompose(v, .6*v + .4*h, r)  # told, but takes half of it: (.36 + .32)/sqrt(.36 + .16) = .943
    assert np.allclose([D[k] for k in ab.PARTS], [.6, .343, .057], atol=.03)
    assert D["missed_lo"] > 0 and D["untold_lo"] > .3
    D = ab.decompose(v, v, r)  # learned nothing from being told
    assert D["untold"] == D["untold_lo"] == D["untold_hi"] == 0 and D["missed"] == pytest.approx(.4, abs=.03)


@given(seed=st.integers(0, 99), told=st.floats(0, 2))
@settings(max_examples=15, deadline=None)
def test_the_parts_make_up_the_ceiling_and_each_share_is_the_ceiling_s(seed, told):
    v, h, r = market(n=400, M=16, seed=seed)
    D = ab.decompose(v, v + told*h, r, n_boot=20)
    assert sum(D[k] for k in ab.PARTS) == pytest.approx(1, abs=1e-12) and D["told"] == 1 - D["missed"]
    c = ceiling(r)
    assert D["reached"] == pytest.approx(share(v, r.mean(1), c.S, c.W, c.M)) and D["told"] == pytest.approx(share(v + told*h, r.mean(1), c.S, c.W, c.M))


def test_the_standard_error_is_that_of_a_share():
    v, h, r = market(n=500, M=64)
    D = ab.decompose(v, v + h, r, n_boot=2000)
    assert D["reached_se"] == pytest.approx(share_se(v, r, n_boot=2000), rel=.1)
    assert D["untold_se"] < np.hypot(D["reached_se"], D["told_se"]) + 1e-9  # the same states in both


def test_few_states_give_no_interval_and_silent_replays_no_share():
    v, h, r = market(n=100)
    assert np.isnan(ab.decompose(v, h, r)["reached_lo"])
    with pytest.raises(ParameterError, match="No share of nothing"): ab.decompose(v, h, np.zeros((100, 8)))
    with pytest.raises(ParameterError, match="No share of nothing"): ab.decompose(v, np.zeros(100), r)
    with pytest.raises(ParameterError, match="same states"): ab.decompose(v, h[1:], r)
    with pytest.raises(ParameterError, match="both forecasts"): ab.decompose(np.r_[np.nan, v[1:]], h, r)


def test_all_models_are_divided_on_the_same_states():
    v, h, r = market(n=600, M=16)
    ts = np.arange(600)
    V = ab.expand({"ridge_told": dict(question="hidden", model="ridge", net={"inputs": "book+hidden"}),
                   "net_told": dict(question="hidden", model="tcn", net={"inputs": "book+hidden"})}, NET, TRAIN)
    P = pd.concat([long("ridge", ts, v), long("ridge_told", ts, v + h), long("tcn", ts[40:], v[40:]), long("net_told", ts[:-20], (v + h)[:-20])])
    D = ab.decomposition(V, P, {("TOY", 10): (ts, r)}, n_boot=50).set_index("model")
    assert (D.states == 540).all() and D.loc["ridge", "reached"] == D.loc["tcn", "reached"]
    assert D.loc["ridge", "reached"] == pytest.approx(ab.decompose(v[40:-20], (v + h)[40:-20], r[40:-20])["reached"])
    assert len(ab.decomposition(V, P[P.model == "ridge"], {("TOY", 10): (ts, r)})) == 0
    for states, replays in ((ts[:45], r[:45]), (ts, 0*r)):  # two states with all forecasts; nothing to be known
        D = ab.decomposition(V, P[P.ts >= ts[43]], {("TOY", 10): (states, replays)}, n_boot=50)
        assert D.reached.isna().all() and D.told_se.isna().all() and (D.note != "").all() and set(D.model) == {"ridge", "tcn"}


def scores(lo):
    h = [1, 10, 60]
    return pd.DataFrame(dict(symbol="TOY", horizon=h, model="curve", pearson=[.1, .3, .2], pearson_lo=lo, pearson_hi=.4, r2=.01, r2_lo=0, r2_hi=.02))


@pytest.mark.parametrize("lo, said", [([.05, .2, .1], "above zero at the longest, 60 s"), ([.05, .2, -.1], "holds zero from 60 s on"),
                                      ([.05, -.2, -.1], "holds zero from 10 s on"), ([-.1, -.1, -.1], "at no horizon"), ([np.nan]*3, "too few blocks")])
def test_where_the_skill_dies(lo, said):
    text, = ab.horizon_words(scores(lo), {"curve": "ridge"})
    assert said in text and text.startswith(label("ridge"))


def test_figures_show_what_the_tables_hold():
    import matplotlib.pyplot as plt
    same = dict(model="tcn", against="tcn", symbol="TOY", variant=.2, base=.1, n=9)
    T = pd.DataFrame([dict(same, question=q, name=n, change=n, horizon=h, difference=d, lo=d-.01, hi=d+.01)
                      for q, n, d in (("input form", "book", -.05), ("input form", "flow", .005), ("target", "ema", .05)) for h in (10, 60)])
    fig, tab = ab.fig_ablations(T)
    left = fig.axes[0]
    said = ["Input form", f"{label('tcn')}: book", f"{label('tcn')}: flow", "Target of training", f"{label('tcn')}: ema"]
    assert [t.get_text() for t in left.get_yticklabels()] == said
    dots = [line for line in left.lines if line.get_marker() == "o"]
    assert [d.get_xdata()[0] for d in dots] == [-.05, .005, .05] and [d.get_markerfacecolor() == "w" for d in dots] == [False, True, False]
    assert len(tab) == 6
    assert "; ".join(ab.ablation_words(T)).count("costs 0.050") == 2
    same = dict(symbol="TOY", reached=.5, untold=.3, missed=.2, told=.8, reached_se=.1, told_se=np.nan, states=9)
    D = pd.DataFrame([dict(same, horizon=h, model=m) for h in (60, 10) for m in ("ridge", "tcn")])
    fig, tab = ab.fig_decomposition(D)
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == [f"{label(m)}, {h} s" for h in (10, 60) for m in ("ridge", "tcn")]
    assert max(p.get_x() + p.get_width() for p in fig.axes[0].patches) == pytest.approx(1)
    fig, tab = ab.fig_horizons(scores([.05, .2, .1]), {"curve": "ridge"}, None)
    assert list(tab.horizon) == [1, 10, 60] and list(fig.axes[0].lines[0].get_ydata()) == [.1, .3, .2]
    plt.close("all")
