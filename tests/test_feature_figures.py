"Pictures of features: legible with two hundred of them, the table is what was drawn, and degenerate markets get a sentence."
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lobresearch.errors import TooShortError
from lobresearch.market import feature_figures as figs
from lobresearch.market import selection as sel
from lobresearch.market.facts import false_discovery
from lobresearch.market.features import features
from lobresearch.market.fitted import fit_features, fitted_features
from lobresearch.market.registry import random_grid
from lobresearch.plots import WIDTH, use_style


@pytest.fixture(scope="module")
def study():
    "All features of a market of chance, one of which knows something, at the size of a study"
    use_style()
    grid = random_grid(5000, np.random.default_rng(0))
    train = np.arange(5000) < 3000
    X = features(grid).join(fitted_features(grid, fit_features(grid, train)))
    y = sel.labels_inside(grid, 10, np.ones(5000, bool))
    X["imb_3"] = (X.imb_3 + .1*np.nan_to_num(y)).astype(np.float32)
    D = false_discovery(sel.decay(X, grid, np.ones(5000, bool), (1, 10, 60), 100))
    return grid, X, train, y, D


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def drawn(fig):
    "Draw it without a warning, and say by how many inches anything sticks out of the page"
    w, h = fig.get_size_inches()
    assert w <= WIDTH + .01 and h <= 9.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig.canvas.draw()
    b = fig.get_tightbbox()
    return max(0, round(max(-b.x0, b.x1 - w, -b.y0, b.y1 - h), 2))


def overlaps(labels):
    boxes = sorted((t.get_window_extent() for t in labels if t.get_text()), key=lambda b: b.y0)
    return sum(a.y1 > b.y0 + .35*a.height for a, b in zip(boxes, boxes[1:]))


def test_decay_shows_the_strongest_of_each_kind_and_nothing_falls_off_the_page(study):
    grid, X, train, y, D = study
    assert D.name.nunique() > 180
    best = figs.strongest(D)
    assert best.name[0] == "imb_3" and not best.duplicated(["family", "kind"]).any()
    imb = D[D.name.isin(sel.kinds(X).query("kind == 'imbalance'").name)]
    alive = imb[imb.rejected.fillna(False)]
    assert best.iloc[0]["corr"] == pytest.approx(alive["corr"].abs().max())
    fig, t = figs.fig_decay(D, {n: n[:3] for n in X})
    assert drawn(fig) <= .02
    assert t.name.nunique() == min(36, len(best)) and t.groupby("name").horizon.apply(list).map(lambda h: h == [1, 10, 60]).all()
    titles = [ax.get_title(loc="left") for ax in fig.subfigs[1].axes if ax.axison]
    assert len(titles) == 6 and len({n[:3] for n in titles}) == 6 and titles[0] == "imb_3"
    assert overlaps(fig.subfigs[0].axes[0].get_yticklabels()) == 0


def test_decay_marks_what_survives(study):
    *_, D = study
    fig, t = figs.fig_decay(D)
    ax = fig.subfigs[0].axes[0]
    assert len(ax.lines[0].get_xdata()) == t.rejected.fillna(False).sum() > 0
    fig, t = figs.fig_decay(D.assign(rejected=False))
    assert len(fig.subfigs[0].axes[0].lines[0].get_xdata()) == 0
    with pytest.raises(TooShortError, match="No feature has a correlation"): figs.fig_decay(D.assign(se=np.nan))


def test_shapes_has_a_row_a_feature_and_fits_the_page(study):
    grid, X, train, y, D = study
    d = sel.describe(X, grid.segment, np.ones(len(grid), bool))
    n = 0
    for only in (["book", "flow"], ["trade", "price", "fitted"]):
        fig, t = figs.fig_shapes(d, only)
        n += len(t)
        assert drawn(fig) <= .02 and set(t.family) <= set(only) and overlaps(fig.axes[0].get_yticklabels()) == 0
    assert n == (d.sd > 0).sum()
    with pytest.raises(TooShortError, match="No feature varies"): figs.fig_shapes(d.assign(sd=0.))


def test_clusters_components_and_importance_fit_the_page(study):
    grid, X, train, y, D = study
    table, R = sel.clusters(X[train])
    fig, t = figs.fig_clusters(table, R)
    assert drawn(fig) <= .02 and len(t) == X.shape[1] and overlaps(fig.axes[0].get_yticklabels()) == 0
    outlines = [p for p in fig.axes[0].patches if p.get_width() > 1]
    assert len(outlines) == (table.drop_duplicates("cluster")["size"] > 1).sum()
    s = sel.principal_components(X[train])
    fig, t = figs.fig_components(s)
    assert drawn(fig) <= .02 and t.share.sum() == pytest.approx(1) and len(fig.axes) == 4
    model = sel.fit_trees(X, y, train, 10, 0, 40)
    sizes = table.set_index("head")["size"].to_dict()
    names = {h: g.name.tolist() for h, g in table.groupby("head")}
    fig, t = figs.fig_importance(sel.importance(model, X, y, np.arange(5000) >= 3100, np.random.default_rng(0), names, 100, 2), sizes)
    assert drawn(fig) <= .02 and t.loc[t.what == "feature", "name"].iloc[0] == "imb_3" and t["corr"].is_monotonic_decreasing


def test_few_features_are_drawn_too():
    use_style()
    grid = random_grid(3000, np.random.default_rng(1), 1)
    X, every = features(grid, ["imb_1", "spread"]), np.ones(3000, bool)
    X["spread"] = np.float32(1)
    D = false_discovery(sel.decay(X, grid, every, (1, 10), 100))
    assert drawn(figs.fig_decay(D)[0]) <= .02 and drawn(figs.fig_shapes(sel.describe(X, grid.segment, every))[0]) <= .02
    assert drawn(figs.fig_clusters(*sel.clusters(X))[0]) <= .02
    fig, t = figs.fig_components(sel.principal_components(X))
    assert drawn(fig) <= .02 and t.share.tolist() == pytest.approx([1, 0])
    flat = pd.DataFrame(dict(what="feature", name=["imb_1"], corr=0., corr_lo=0., corr_hi=0.))
    assert drawn(figs.fig_importance(flat)[0]) <= .02


def test_sparkline():
    assert figs.sparkline([1, -8, 4.1, np.nan]) == "▂█▅ " and figs.sparkline([np.nan, np.nan]) == "  " and figs.sparkline([0.]) == "▁"
