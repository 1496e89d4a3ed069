"Figures and words of facts: numbers worked by hand, tables that hold what is drawn, and panels that say why they are empty."
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lobresearch.errors import ParameterError, TooShortError
from lobresearch.market import fact_figures as figs, fact_words as words, overview_figures as over, shape_figures as shape
from lobresearch.market.facts import SECOND, VERSIONS, Sample, block_sensitivity, facts_versions, false_discovery, returns
from lobresearch.market.memory_facts import fractional_noise, hurst
from lobresearch.market.registry import random_grid
from lobresearch.market.return_facts import kurtosis_from_sums
from lobresearch.plots import use_style

matplotlib.use("Agg")
use_style()
FIGURES = [figs.fig_returns, figs.fig_acf, figs.fig_spread_depth, figs.fig_order_signs, figs.fig_ofi_impact, shape.fig_versions, shape.fig_aggregation,
           shape.fig_season, shape.fig_leverage, shape.fig_hurst, shape.fig_volume_queue]


def still(seconds):
    "A grid whose book never moves and in which nothing is traded"
    g = random_grid(seconds, np.random.default_rng(0))
    for c in g.columns.difference(["segment", "stale"]): g[c] = g[c].iloc[0]
    return g.assign(buy_n=0, sell_n=0, buy_vol=0., sell_vol=0., vwap=np.nan, high=np.nan, low=np.nan, **{f"ofi_{i}": 0. for i in range(1, 11)})


def one_sided(seconds): return random_grid(seconds, np.random.default_rng(0)).assign(ask_px_1=np.nan, ask_sz_1=0.)


def scattered(seconds):
    "Every second its own segment"
    return random_grid(seconds, np.random.default_rng(0), breaks=range(1, seconds))


POOR = {"still": still(4000), "two minutes": random_grid(120, np.random.default_rng(0)), "one-sided": one_sided(4000), "scattered": scattered(300),
        "no trades": random_grid(4000, np.random.default_rng(0)).assign(buy_n=0, sell_n=0, buy_vol=0., sell_vol=0.),
        "one row": random_grid(1, np.random.default_rng(0))}
CHANCE = random_grid(8000, np.random.default_rng(1), breaks=(3000,))


@pytest.fixture(scope="module")
def chance(): return figs.samples({"chance": CHANCE}, 40, 60)


@pytest.fixture(scope="module")
def family():
    other = random_grid(4000, np.random.default_rng(2))
    return false_discovery(pd.concat([facts_versions(g, 20, 60).assign(symbol=s) for s, g in (("A", CHANCE), ("B", other))], ignore_index=True))


@pytest.mark.parametrize("draw", FIGURES, ids=lambda f: f.__name__)
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("which", [slice(0, 3), slice(3, 6)])
def test_a_panel_that_cannot_be_drawn_says_why(draw, which):
    names = figs.samples(dict(list(POOR.items())[which]), 20, 60)
    fig, table = draw(names)
    fig.canvas.draw()
    axs = np.reshape(fig.axes, (-1, len(names)))
    for col, name in zip(axs.T, names):
        blank = [not ax.axison for ax in col]
        assert all(len(ax.texts) == 1 and len(ax.texts[0].get_text()) > 10 for ax in col if not ax.axison), name
        assert (name in set(table.symbol)) == (not all(blank)), name
    plt.close(fig)


@pytest.mark.parametrize("draw", FIGURES, ids=lambda f: f.__name__)
def test_nothing_is_left_of_a_price_that_never_moves_and_is_never_traded(draw):
    if draw in (figs.fig_spread_depth, shape.fig_season): return # a still book has a depth, and its hours have means of zero
    assert len(draw(figs.samples({"still": POOR["still"]}, 20, 60))[1]) == 0


def lines_of(fig): return [np.column_stack(line.get_data()) for ax in fig.axes for line in ax.lines]


@pytest.mark.parametrize("draw, x, y, by", [
    (shape.fig_aggregation, "horizon", "kurtosis", ["version"]), (shape.fig_versions, "x", "y", ["panel", "version"]),
    (shape.fig_season, "hour", "mean", ["panel"]), (shape.fig_leverage, "lag", "corr", ["symbol"]),
    (shape.fig_hurst, "seconds", "ratio", ["panel", "method"]), (shape.fig_volume_queue, "x", "y", ["panel"]),
    (figs.fig_ofi_impact, "x", "y", ["panel"])], ids=lambda v: getattr(v, "__name__", ""))
def test_the_table_holds_what_is_drawn(chance, draw, x, y, by):
    fig, table = draw(chance)
    drawn = lines_of(fig)
    for key, part in table.groupby(by):
        want = part[[x, y]].to_numpy(float)
        assert any(d.shape == want.shape and np.allclose(d, want, equal_nan=True) for d in drawn), key
    plt.close(fig)


def test_kurtosis_of_the_figure_is_that_of_the_returns(chance):
    s, table = chance["chance"], shape.fig_aggregation(chance)[1].set_index(["version", "horizon"])
    r = returns(s, 10, True)
    r = r[np.isfinite(r)] - np.nanmean(r)
    assert table.loc[("raw", 10), "kurtosis"] == pytest.approx((r**4).mean()/(r**2).mean()**2)
    assert kurtosis_from_sums(np.array([4., 0, 4, 0, 4])) == pytest.approx(1) # a fair coin


def test_share_of_rises_on_a_planted_book():
    "Imbalance .95 rises in 9 of 10 moves, .05 in 1 of 10, and a move counts once however long it is waited for"
    n = 2000
    k = np.arange(n)//2 # two seconds, then a move
    heavy = k % 2 == 0
    up = np.where(heavy, (k//2) % 10 != 0, (k//2) % 10 == 0)
    step = np.where(np.arange(n) % 2 == 1, np.where(up, .1, -.1), 0)
    bid = 1000 + np.r_[0, np.cumsum(step)[:-1]]
    g = random_grid(n, np.random.default_rng(0)).assign(bid_px_1=bid, ask_px_1=bid+.1, bid_sz_1=np.where(heavy, 19., 1.), ask_sz_1=np.where(heavy, 1., 19.))
    t = shape.up_by_imbalance(Sample(g, 20, 60))
    assert t.x.tolist() == pytest.approx([.05, .95])
    assert t.y.tolist() == pytest.approx([.1, .9], abs=.005)
    assert t.n.sum() == n - 2 # after the last pair nothing moves


def test_volume_groups_keep_equal_volumes_together():
    g = CHANCE.assign(buy_vol=0., sell_vol=0.)
    g.iloc[4000:, g.columns.get_loc("buy_vol")] = 1.
    t = shape.fig_volume_queue(figs.samples({"A": g}, 20, 60))[1]
    t = t[t.panel == "volume"]
    assert t.x.iloc[0] == 0 and t.x.iloc[-1] == 60 and len(t) <= 3
    assert t.n.sum() in range(125, 134)


def test_hours_of_a_day_far_from_1970():
    ts = (1_700_000_000 - 1_700_000_000 % 86_400 + np.arange(3*86_400))*SECOND
    t = shape.by_hour(ts, ts//SECOND % 86_400//3600 + 10.*(ts//SECOND//86_400 % 2))
    d = np.array([(x//SECOND//86_400) % 2 for x in ts[::86_400]])
    assert t.hour.tolist() == list(range(24)) and (t.days == 3).all() and (t.spells == 36).all()
    assert np.allclose(t["mean"], np.arange(24) + 10*d.mean())
    assert np.allclose(t.hi - t["mean"], 4.302653*d.std(ddof=1)*10/np.sqrt(3), rtol=1e-5) # Student's 97.5 % point with two degrees


def test_qq_points_of_a_scaled_normal_sample_lie_on_the_diagonal():
    x, y = shape.qq_points(5 + 3*np.random.default_rng(0).standard_normal(200_000))
    assert np.allclose(x[20:100], y[20:100], atol=.05)


@pytest.mark.parametrize("k", [-3, -1, 0, 1, 2, 9, -9])
def test_a_shift_stays_in_its_segment(k):
    y, segment = np.arange(8.), np.repeat([0, 1], 4)
    got = shape.shifted_corr(y, y, segment, k)[1]
    want = [y[i+k] if 0 <= i+k < 8 and segment[i+k] == segment[i] else np.nan for i in range(8)]
    assert np.array_equal(got, want, equal_nan=True)


def test_slopes_of_the_memory_figure_are_the_hurst_exponents_of_the_facts():
    x, seg = fractional_noise(6000, .8, np.random.default_rng(0)), np.zeros(6000)
    t = shape.memory_points(x, seg)
    for how in ("dfa", "rs"): assert np.polyfit(np.log(t.rows), np.log(t[how]), 1)[0] + .5 == pytest.approx(hurst(x, seg, how))
    with pytest.raises(TooShortError, match="windows reach"): shape.memory_points(x[:100], seg[:100])


def test_discoveries_show_every_test_and_its_effect(family):
    fig, t = over.fig_discoveries(family)
    tested = family[family.p.notna()]
    assert len(t) == len(tested) and np.allclose(t.effect, tested.value) and np.allclose(t.q, tested.q)
    assert set(t.key) <= set(over.TESTS) and set(t.version) == set(VERSIONS)
    assert ((t.share >= 0) & (t.share <= 1)).all() and (t.groupby("key").share.max().isin([0., 1.])).all()
    filled = sum(len(c.get_facecolor()) > 0 for c in fig.axes[0].collections)
    assert filled == t.rejected.sum()
    plt.close(fig)


def test_ranges_show_what_has_a_range(family):
    raw = family[family.version == "raw"]
    fig, t = over.fig_ranges(raw)
    known = raw[raw.published_lo.notna()]
    shown = known[known.key.isin(known.key[known.value.notna()])]
    assert set(t.key) == set(shown.key) and len(t) == len(shown)
    assert all(np.isfinite(ax.get_xlim()).all() for ax in fig.axes)
    plt.close(fig)


def test_sensitivity_draws_the_ratios():
    B = {"A": block_sensitivity(CHANCE, resamples=20, block=60), "short": block_sensitivity(POOR["one row"], resamples=20, block=60)}
    fig, t = over.fig_sensitivity(B)
    got = np.concatenate([line.get_ydata() for line in fig.axes[0].lines if len(line.get_ydata()) == 4])
    assert set(np.round(got, 9)) <= set(np.round(t.ratio.dropna(), 9)) and len(got) >= 16
    assert not fig.axes[1].axison and "too few blocks" in fig.axes[1].texts[0].get_text().replace("\n", " ")
    plt.close(fig)


def test_words_of_a_made_up_family(family):
    for s in ("A", "B"):
        said = words.kind(family, s, words.recording(Sample(CHANCE)))
        assert said[0].startswith("**Large tick.** The spread is one tick or less in 100 % of seconds, 1 tick or") and "nan" not in " ".join(said)
        n, tested = (family.symbol == s) & (family.version == "raw") & family.p.notna(), family.p.notna().sum()
        assert f"{family[n].rejected.sum()} of {n.sum()} tests" in said[-1] and f"family of {tested}" in said[-1]


@pytest.mark.parametrize("name", POOR)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_words_and_tables_of_poor_recordings(name):
    s = Sample(POOR[name], 20, 60)
    t = false_discovery(facts_versions(POOR[name], 20, 60).assign(symbol=name))
    said = words.kind(t, name, words.recording(s))
    assert said and not any(bad in " ".join(said) for bad in ("nan", "inf ", "[]"))
    for g in words.GROUPS: assert len(words.by_group(t[t.version == "raw"], g)) == (t[t.version == "raw"].group == g).sum()
    assert words.by_test(t).shape[1] == 3


@pytest.mark.parametrize("value, lo, hi, text", [(.61645, .596, .637, "0.616 [0.596, 0.637]"), (5.21, 4.25, 6.48, "5.2 [4.2, 6.5]"), (48.1, 8.3, 66, "48 [8, 66]"),
                                                 (12345., 12000, 12600, "12,345 [12,000, 12,600]"), (-.5, np.nan, np.nan, "−0.5"), (np.nan, np.nan, np.nan, "–"),
                                                 (1., 1., 1., "1"), (1e-7, 0., 2e-7, "0.00000010 [0, 0.00000020]")])
def test_numbers_with_intervals(value, lo, hi, text): assert words.with_interval(value, lo, hi).replace("0.00000000", "0") == text


def test_wrong_input_gets_a_sentence(family):
    with pytest.raises(ParameterError, match="no grid to draw"): figs.samples({})
    with pytest.raises(TooShortError, match="No fact with a published range"): over.fig_ranges(family[family.group == "season"])
    with pytest.raises(TooShortError, match="No test"): over.fig_discoveries(family.assign(p=np.nan))
    with pytest.raises(ParameterError, match="no facts of C"): words.kind(family, "C", {})
    with pytest.raises(ParameterError, match="no group 'weather'"): words.by_group(family, "weather")
