"The quality page's numbers and sentences: ratios by hand, nothing drawn or said that no interval supports, the same bytes twice."
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from lobresearch.errors import ParameterError, TooShortError
from lobresearch.plots import svg, use_style
from lobresearch.synthetic.conditionals import CONDITIONALS, MEMORIES
from lobresearch.synthetic.distances import STATISTICS
from lobresearch.synthetic.quality_figures import SHOWN, chosen_rows, fig_copies, fig_curves, fig_discriminator, fig_summary, fig_transfer, over_real, words_of
from lobresearch.synthetic.quality_words import answer_words, between, copy_words, discriminator_words, distance_cells, distance_words, transfer_words, within

ROWS = [(g, m, s or "x") for g, m, s in SHOWN]


def distances(factors, symbols=("A",), seed=0, spread=1.5):
    "Distances of several generators, so many times those of two real blocks"
    rng = np.random.default_rng(seed)
    out = []
    for s in symbols:
        for g, m, k in ROWS:
            base = rng.gamma(4, .05)
            for name, f in {"real": 1., **factors}.items():
                out.append(dict(symbol=s, generator=name, group=g, measure=m, statistic=k, value=f*base, low=f*base/spread, high=f*base*spread))
    return pd.DataFrame(out)


@given(f=st.floats(.05, 200), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_ratio_is_the_factor_whatever_the_unit(f, seed):
    t = distances(dict(vqvae=f), seed=seed)
    r = over_real(t)
    assert r.ratio.to_numpy() == pytest.approx(f) and (r.real_high/r.real_low).to_numpy() == pytest.approx(2.25)
    scaled = over_real(t.assign(**{c: 7*t[c] for c in ("value", "low", "high")}))
    assert scaled.ratio.to_numpy() == pytest.approx(r.ratio.to_numpy())
    assert within(r).all() == (f/1.5 <= 1.5) and within(r).any() == (f/1.5 <= 1.5)


def test_what_has_no_reference_or_no_interval_is_not_counted():
    t = distances(dict(vqvae=2.))
    gone = t[(t.generator != "real") | (t.statistic != "spread")]
    assert over_real(gone).ratio.isna().sum() == (gone[gone.generator == "vqvae"].statistic == "spread").sum()
    blind = t.assign(low=np.nan, high=np.nan)
    assert within(over_real(blind)).isna().all()
    assert distance_words(blind)[0].startswith("VQ-VAE and prior: the median distance is 2.0 times real against real; farthest")
    assert distance_words(t[t.generator == "real"]) == []
    with pytest.raises(ParameterError, match="lacks the column low"): over_real(t.drop(columns="low"))


def test_sentences_count_what_is_not_told_apart():
    said = distance_words(distances(dict(exchange=9., vqvae=1.1)), bound=True)
    n = len(ROWS)
    assert said[0].startswith(f"VQ-VAE and prior: {n} of {n} distances are not told apart from real against real, the median is 1.1 times it")
    assert said[1].startswith(f"Embedded exchange (upper bound: it made the recording): 0 of {n} distances") and "(9.0 times)" in said[1]


def test_every_row_of_the_summary_has_its_own_name_and_is_there_once():
    t = distances(dict(vqvae=2., bootstrap=1.), symbols=("A", "B"))
    rows = chosen_rows(over_real(t))
    assert len(rows) == 4*len(SHOWN) and rows["row"].nunique() == len(SHOWN)
    names = [words_of("marginal", "w1", s) for s in STATISTICS] + [words_of("conditional", "w1", " | ".join(c)) for c in CONDITIONALS]
    names += [words_of("dependence", "acf", m) for m in MEMORIES]
    assert len(set(names)) == len(names) and not any("_" in n for n in names)


def test_the_summary_is_drawn_where_a_symbol_lacks_a_generator_and_says_when_it_cannot():
    t = distances(dict(vqvae=300., bootstrap=1.), symbols=("A", "B"))
    with mpl.rc_context():
        use_style() # a constrained layout moves a little each time that one figure is drawn, so the same bytes are asked of two
        (fig, table), (again, _) = (fig_summary(t[(t.symbol == "A") | (t.generator != "bootstrap")]) for _ in range(2))
        assert set(table[table.symbol == "B"].generator) == {"vqvae"} and svg(fig) == svg(again)
    with pytest.raises(TooShortError, match="No distance"): fig_summary(t.assign(value=0.))


def test_a_classifier_that_cannot_be_told_from_a_coin_gives_nothing_away():
    t = pd.DataFrame([("real", .6, .55, .65), ("vqvae", .52, .45, .6), ("exchange", 1., 1., 1.)], columns=["generator", "auc", "lo", "hi"])
    t = t.assign(symbol="A", model="trees")
    why = {g: pd.DataFrame(dict(summary=["spread sd", "ofi mean"], auc=[.9, .2])) for g in ("real", "vqvae", "exchange")}
    said = discriminator_words(t, why)
    assert said[0] == "AUC of boosted trees: VQ-VAE and prior 0.52 [0.45, 0.60] and embedded exchange 1.00 [1.00, 1.00], two real blocks 0.60 [0.55, 0.65]."
    assert said[1] == "Not told from the test block: VQ-VAE and prior." and "as well" in said[2]
    assert said[3] == ("What gives it away most, each number alone: embedded exchange by deviation within a window of spread (too little, 0.90) "
                       "and mean of order-flow imbalance (too much, 0.80).")
    assert discriminator_words(t[t.model == "logistic"], {}) == []
    fig, _ = fig_discriminator(t.assign(lo=np.nan, hi=np.nan))
    assert len(fig.axes) == 1


def test_a_difference_is_called_one_only_if_its_interval_says_so():
    def one(lo, hi):
        r = dict(generator="vqvae", horizon=10, pearson=.2, lo=.1, hi=.3, diff=(lo+hi)/2, diff_lo=lo, diff_hi=hi)
        return pd.DataFrame([dict(r, way=w) for w in ("real to real", "synthetic to real")])
    assert "worse beyond chance" in transfer_words(one(-.2, -.1))[0] and "better beyond chance" in transfer_words(one(.1, .2))[0]
    assert "no different" in transfer_words(one(-.1, .1))[0] and transfer_words(one(np.nan, np.nan))[0].endswith("VQ-VAE and prior 0.20 [0.10, 0.30].")
    fig, t = fig_transfer(one(0, 1).assign(symbol="A"), 10)
    assert len(t) == 2


def test_copies_without_a_verdict_are_not_spoken_of():
    t = pd.DataFrame(dict(name=["held out", "vqvae", "bootstrap"], share=[np.nan, .1, .9], lo=np.nan, hi=np.nan, copies=pd.array([None]*3, dtype="boolean")))
    assert copy_words(t) == []
    fig, table = fig_copies(pd.DataFrame(dict(symbol="A", name=np.repeat(["held out", "vqvae"], 50), ratio=np.linspace(.5, 1, 100))))
    assert table.groupby("name").ratio.apply(lambda r: r.is_monotonic_increasing).all()


def test_tables_keep_every_distance_with_its_bounds():
    t = distances(dict(vqvae=2.))
    d = distance_cells(t)
    assert len(d) == len(ROWS) and list(d) == ["of", "measure", "real against real", "VQ-VAE and prior"]
    r = t[t.generator == "vqvae"].iloc[0]
    assert d.iloc[0, 3] == between(r.value, r.low, r.high, ".3f")
    assert len(distance_cells(t, {("impact", "slope")})) == 1


def test_curves_of_a_single_symbol_without_bands():
    c = pd.DataFrame([dict(symbol="A", curve="one", generator=g, x=x, y=x*k, low=np.nan, high=np.nan) for g, k in (("real", 1), ("vqvae", 2)) for x in (1., 2, 3)])
    fig, t = fig_curves(c, dict(one=("lag, s", "y")))
    assert fig.axes[0].get_xscale() == "log" and len(t) == 6


def test_too_few_blocks_are_no_evidence_that_there_is_nothing():
    "Without an interval, real to real may forecast or not; below zero at every horizon it is not told from none"
    none = pd.DataFrame()
    T = pd.DataFrame(dict(way=["real to real", "synthetic to real"], horizon=10, generator="vqvae", pearson=.1, lo=np.nan, hi=np.nan))
    assert answer_words(none, none, T, none) == ""
    assert "no forecast to hand on" in answer_words(none, none, T.assign(lo=-.05, hi=.25), none)
