import math
from fractions import Fraction
from itertools import combinations
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import norm, rankdata
from skfolio import measures as sk
from lobresearch.errors import ParameterError, TooShortError
from lobresearch.evidence.overfitting import (Moments, Trials, block_sums, cscv, deflated_sharpe, degradation, dominance, dominates, effective_trials,
                                              expected_maximum, fig_degradation, fig_dominance, fig_logits, halves, minimum_length, moments,
                                              probabilistic_sharpe, psr, read_trials)


@pytest.mark.parametrize("seed", range(4))
def test_psr_and_dsr_are_skfolios(seed):
    r = np.random.default_rng(seed)
    x = r.standard_t(4, 300) + .05
    assert probabilistic_sharpe(x, .02) == pytest.approx(sk.probabilistic_sharpe_ratio(x, .02), rel=1e-9)
    found = r.normal(0, .05, 40)
    want = sk.deflated_sharpe_ratio(x, found)
    assert deflated_sharpe(x, 40, found.std(ddof=1))["dsr"] == pytest.approx(want, rel=1e-9)
    assert deflated_sharpe(x, read_trials(pd.DataFrame(dict(score=found))))["dsr"] == pytest.approx(want, rel=1e-9)


def test_psr_worked_by_hand():
    # 0, 0, 3, 1, 1, 1: mean 1, variance 6/5, third and fourth moments 6/6 and 18/6 about the mean over a population variance of 1
    m = moments([0, 0, 3, 1, 1, 1])
    assert m == pytest.approx((math.sqrt(5/6), 1., 3., 6))
    assert psr(m, .5) == pytest.approx(norm.cdf((math.sqrt(5/6) - .5)*math.sqrt(5)/math.sqrt(1 - math.sqrt(5/6) + .5*5/6)))


def test_published_example_of_the_deflated_ratio():
    m, sd = Moments(2.5/math.sqrt(250), -3., 10., 1250), math.sqrt(.5/250)
    a, b = deflated_sharpe(m, 100, sd), deflated_sharpe(m, 46, sd)
    assert (round(a["threshold"], 4), round(a["dsr"], 4), round(b["dsr"], 4)) == (.1132, .9004, .9505)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(2, 100_000), min_size=2, max_size=5, unique=True), st.floats(.01, .3), st.floats(-.1, .3))
def test_dsr_falls_as_trials_grow(counts, sd, sharpe):
    m = Moments(sharpe, 0., 3., 200)
    d = [deflated_sharpe(m, n, sd) for n in sorted(counts)]
    top, dsr = ([v[k] for v in d] for k in ("threshold", "dsr"))
    assert (np.diff(top) > 0).all() and (np.diff(dsr) <= 0).all() and dsr[0] <= d[0]["psr"]
    assert deflated_sharpe(m, 1, sd)["dsr"] == d[0]["psr"]


@settings(max_examples=40, deadline=None)
@given(st.floats(.01, .5), st.floats(-1., 1.), st.floats(3., 12.), st.floats(-.2, .2), st.floats(.6, .999))
def test_minimum_length_turns_psr_round(sharpe, skew, kurtosis, benchmark, level):
    m = Moments(sharpe, skew, kurtosis, 100)
    n = minimum_length(m, benchmark, level)
    if sharpe > benchmark: assert psr(m._replace(rows=n), benchmark) == pytest.approx(level, abs=1e-6)
    else: assert n == math.inf


def test_psr_covers():
    "Of records without skill, a PSR above .9 must be seen in about a tenth"
    x = np.random.default_rng(0).standard_normal((1000, 100))
    assert .07 < np.mean([probabilistic_sharpe(r) > .9 for r in x]) < .13


@pytest.mark.parametrize("n", (5, 50, 500))
def test_expected_maximum_is_the_mean_of_maxima(n):
    drawn = np.random.default_rng(n).normal(0, .2, (4000, n)).max(axis=1).mean()
    assert expected_maximum(n, .2) == pytest.approx(drawn, abs=.02)
    assert expected_maximum(n, .2) == pytest.approx(sk.expected_max_sharpe_ratio(n, .2))


def test_effective_trials():
    r = np.random.default_rng(1)
    common, own = r.standard_normal((20_000, 1)), r.standard_normal((20_000, 10))
    x = math.sqrt(.5)*(common + own) # all correlations .5
    assert effective_trials(x) == pytest.approx(.5 + .5*10, abs=.15)
    c = np.corrcoef(x.T)
    rho = (c.sum() - 10)/90
    assert effective_trials(x) == pytest.approx(rho + (1-rho)*10, rel=1e-9)
    assert effective_trials(np.column_stack([x, np.zeros(len(x))])) == pytest.approx(90*rho/110 + (1 - 90*rho/110)*11, rel=1e-9)
    with pytest.raises(ParameterError, match="missing values"): effective_trials([[1, np.nan]]*4)


def test_every_trial_counts():
    table = pd.DataFrame(dict(sr=[.1, .3, np.nan, .2], pnl=[[1, -1, 1, -1], [1, -1, 1, -1], None, [1, 1, -1, -1]]))
    assert read_trials(table, "sr") == pytest.approx(Trials(4, 3, 4., .1, .3))
    assert read_trials(table, "sr", "pnl").effective == pytest.approx(1 + 1/3 + 2)
    t = read_trials(table, "sr", "pnl")
    x = np.random.default_rng(0).standard_normal(100)
    assert deflated_sharpe(x, t)["trials"] == 4 and deflated_sharpe(x, t, independent=False)["trials"] == t.effective
    assert deflated_sharpe(x, t, independent=False)["dsr"] > deflated_sharpe(x, t)["dsr"]
    with pytest.raises(ParameterError, match="has no column 'score'"): read_trials(table)
    with pytest.raises(ParameterError, match="differ in length"): read_trials(pd.DataFrame(dict(score=[1., 2], s=[[1, 2, 3], [1, 2]])), scores="s")
    with pytest.raises(ParameterError, match="not known"): deflated_sharpe(x, 5)


def test_the_forecasters_log_is_such_a_table(tmp_path):
    from lobresearch.forecast.trials import log_trials, trials
    items = [dict(model="ridge", seed=s, symbol="A", train={"select": "correlation"}) for s in range(3)]
    log_trials(tmp_path/"a.jsonl", items, [dict(valid=[.1*(s+1)]) for s in range(3)], "x")
    t = read_trials(trials(tmp_path))
    assert (t.trials, t.scored) == (3, 3) and t.sd == pytest.approx(.1)


# ---- CSCV

def plain(x, blocks, score):
    "The procedure, split by split"
    parts, out = np.array_split(x, blocks), []
    for pick in combinations(range(blocks), blocks//2):
        a, b = (np.concatenate([parts[k] for k in range(blocks) if (k in pick) == inside]) for inside in (True, False))
        f = (lambda v: v.mean(0)/v.std(0, ddof=1)) if score == "sharpe" else (lambda v: v.mean(0))
        best = f(a).argmax()
        w = rankdata(f(b))[best]/(x.shape[1] + 1)
        out.append((math.log(w/(1-w)), best, f(a)[best], f(b)[best]))
    return map(np.array, zip(*out))


@pytest.mark.parametrize("score", ("sharpe", "mean"))
def test_sums_give_what_the_plain_procedure_gives(score):
    x = np.random.default_rng(2).standard_normal((60, 5))*[1, 2, 1, .5, 1] + [0, .2, 0, 5, 0]
    c = cscv(x, 6, score)
    logits, best, inside, outside = plain(x, 6, score)
    assert (c.chosen == best).all()
    for a,b in ((c.logits, logits), (c.inside, inside), (c.outside, outside)): np.testing.assert_allclose(a, b, rtol=1e-9)
    assert c.pbo == np.mean(logits <= 0)


def test_sixteen_blocks_are_12870_splits():
    h = halves(16)
    assert len(h) == math.comb(16, 8) == 12870 and (h.sum(1) == 8).all() and len(np.unique(h @ (1 << np.arange(16)))) == 12870
    assert (h[::-1] == ~h).all() # each half's complement is a half as well


def test_blocks_cover_every_row_once():
    x = np.random.default_rng(0).standard_normal((103, 2))
    s = block_sums(x, 16)
    assert s[0,:,0].sum() == 103 and set(s[0,:,0]) <= {6., 7.}
    np.testing.assert_allclose(s[2].sum(0), ((x - x.mean(0))**2).sum(0))


@pytest.mark.parametrize("score", ("sharpe", "mean"))
def test_noise_averages_a_half(score):
    r = np.random.default_rng(7)
    found = np.array([cscv(r.standard_normal((160, 10)), 16, score).pbo for _ in range(100)])
    assert abs(found.mean() - .5) < .07
    assert found.std() > .1 # one matrix alone says little


def test_a_planted_winner_is_found():
    r = np.random.default_rng(8)
    x = r.standard_normal((800, 20)); x[:,13] += .3
    c = cscv(x)
    assert c.pbo < .01 and (c.chosen == 13).mean() > .99 and degradation(c)["loss"] < .01 and dominates(dominance(c)) == (True, True)


def test_what_shines_in_one_block_only_is_overfitted():
    x = np.random.default_rng(9).normal(0, .01, (160, 16))
    for k in range(16): x[10*k:10*k+10,k] += 1; x[:,k] -= 1/16 # each policy earns in its own block and pays it back elsewhere
    c = cscv(x, score="mean")
    assert c.pbo == 1 and degradation(c)["loss"] == 1


def test_slope_of_two_blocks_is_exact():
    # with one half fixed the other is the total less it: choosing from one trial and its shadow leaves a slope of -1 in the mean
    x = np.random.default_rng(3).standard_normal((64, 1))
    c = cscv(np.concatenate([x, x - 10], 1), 16, "mean")
    assert degradation(c)["slope"] == pytest.approx(-1) and (c.chosen == 0).all() and c.pbo == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(.1, 100.), st.permutations(range(5)))
def test_scale_and_order_of_the_trials_do_not_matter(seed, scale, order):
    x = np.random.default_rng(seed).standard_normal((48, 5))
    a, b = cscv(x, 6), cscv(scale*x[:,list(order)], 6)
    assert a.pbo == b.pbo and (np.array(order)[b.chosen] == a.chosen).all()


def test_ties_share_their_rank():
    # two trials, the same: each stands at 1.5 of 2, a relative rank of a half
    x = np.random.default_rng(0).standard_normal((32, 1))
    c = cscv(np.repeat(x, 2, axis=1), 4)
    assert (c.logits == 0).all() and c.pbo == 1


def test_a_flat_policy_scores_zero():
    x = np.random.default_rng(0).standard_normal((64, 2)) - 3; x[:,1] = 0
    c = cscv(x, 4)
    assert (c.chosen == 1).all() and (c.inside == 0).all() and np.isfinite(c.everyone).all()


def test_many_trials_are_taken_in_pieces():
    import lobresearch.evidence.overfitting as o
    x = np.random.default_rng(5).standard_normal((96, 30))
    whole, o.CHUNK = cscv(x, 12), 1000
    try: parts = cscv(x, 12)
    finally: o.CHUNK = 2_000_000
    np.testing.assert_array_equal(whole.logits, parts.logits)
    np.testing.assert_allclose(whole.everyone, parts.everyone)


def test_dominance_by_hand():
    c = cscv(np.random.default_rng(0).standard_normal((32, 3)), 4)._replace(outside=np.array([2., 3]), everyone=np.array([1., 2, 3]))
    t = dominance(c, 3) # scores 1, 2, 3
    assert t.chosen.tolist() == [0, .5, 1] and t.everyone.tolist() == pytest.approx([1/3, 2/3, 1])
    assert t.second.tolist() == pytest.approx([0, (1/3 + 1/6)/2, (1/3 + 1/6)/2 + (1/6)/2])


@pytest.mark.parametrize("call, error, says", [
    (lambda: cscv(np.zeros((100, 1))), ParameterError, "two trials"),
    (lambda: cscv(np.zeros((30, 3))), TooShortError, "too few for 16"),
    (lambda: cscv(np.full((100, 3), np.nan)), ParameterError, "missing values"),
    (lambda: cscv(np.ones((100, 3)), 7), ParameterError, "must be even"),
    (lambda: cscv(np.ones((100, 3)), 4, "median"), ParameterError, "sharpe or mean"),
    (lambda: moments([1, 2]), TooShortError, "at least three"),
    (lambda: expected_maximum(.5, 1), ParameterError, "at least one"),
    (lambda: expected_maximum(5, -1), ParameterError, "zero or more"),
    (lambda: minimum_length(Moments(.1, 0, 3, 9), level=.3), ParameterError, "between .5 and 1"),
    (lambda: read_trials(pd.DataFrame(dict(score=[]))), TooShortError, "empty")])
def test_wrong_input_gets_a_sentence(call, error, says):
    with pytest.raises(error, match=says): call()


def test_figures_hold_their_numbers():
    import matplotlib.pyplot as plt
    c = cscv(np.random.default_rng(4).standard_normal((96, 6)), 8)
    fig, t = fig_logits(c)
    bars = sum(p.get_height() for p in fig.axes[0].patches)
    left = sum(p.get_height() for p in fig.axes[0].patches if p.get_x() < 0)
    assert bars == pytest.approx(100) and left == pytest.approx(100*c.pbo) and t.share.sum() == pytest.approx(1)
    assert Fraction(len(c.logits)) == 70 and t.share[t.logit <= 0].sum() == pytest.approx(c.pbo)
    for f,n in ((fig_degradation, 70), (fig_dominance, 201)): assert len(f(c)[1]) == n
    plt.close("all")
