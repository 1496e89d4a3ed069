"Markov chains over codes: the nats of a known chain, by hand, blind to what they may not see."
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lobresearch.errors import ParameterError, TooShortError
from lobresearch.synthetic.markov import PAST, Counts, Markov, fig_nats, nats_table, nats_words, scorable

ROLES = np.array(["train", "valid", "test", "purged"])


def walk(P, n, seed, order=1):
    "Codes from a transition table, one row for each context"
    u, K, c = np.random.default_rng(seed).random(n), P.shape[-1], np.zeros(n, int)
    cum = P.reshape(-1, K).cumsum(1)[:, :-1]
    for t in range(order, n): c[t] = np.searchsorted(cum[c[t-1] + (K*c[t-2] if order == 2 else 0)], u[t])
    return c


def split(n): return np.repeat(["train", "valid", "test"], [n//2, n//4, n - n//2 - n//4])


def fitted(codes, K, segment=None, role=None, orders=(0, 1, 2)):
    segment = np.zeros(len(codes)) if segment is None else segment
    role = split(len(codes)) if role is None else role
    return {k: Markov(k, K).fit(codes, segment, role).nats(codes, segment) for k in orders}, role


def test_a_known_chain_is_told_at_its_entropy_rate_and_shares_at_the_entropy_of_the_shares():
    P = np.random.default_rng(1).dirichlet(np.full(12, .4), 12)
    codes = walk(P, 80_000, 0)
    nats, role = fitted(codes, 12)
    test = np.flatnonzero(role == "test")
    pi = np.linalg.matrix_power(P, 500)[0]
    rate = -(pi[:, None]*P*np.log(np.maximum(P, 1e-300))).sum()
    for k in (1, 2): assert nats[k][test].mean() == pytest.approx(rate, abs=.03)
    assert nats[0][test].mean() == pytest.approx(-(pi*np.log(pi)).sum(), abs=.03)
    truth = -np.log(P[codes[test-1], codes[test]])
    assert 0 <= (nats[1][test] - truth).mean() < .004 # what estimation costs
    assert (nats[2][test] - nats[1][test]).mean() < .004 # looking farther costs next to nothing


def test_order_two_finds_what_order_one_cannot():
    "Each code is the sum of the two before it, or anything with probability .2"
    P = np.full((3, 3, 3), .2/3)
    for a in range(3):
        for b in range(3): P[a, b, (a + b) % 3] += .8
    codes = walk(P, 40_000, 2, order=2)
    nats, role = fitted(codes, 3)
    p = np.array([.8 + .2/3, .2/3, .2/3])
    assert nats[2][role == "test"].mean() == pytest.approx(-(p*np.log(p)).sum(), abs=.02)
    assert nats[1][role == "test"].mean() == pytest.approx(np.log(3), abs=.02)


def test_order_zero_needs_the_empirical_entropy_of_what_it_counted():
    codes = np.random.default_rng(3).integers(0, 6, 8000)**2 % 5
    nats, role = fitted(codes, 5, orders=(0,))
    counted = (role == "train") & (np.arange(len(codes)) >= PAST)
    q = np.bincount(codes[counted], minlength=5)/counted.sum()
    assert nats[0][counted].mean() == pytest.approx(-(q[q > 0]*np.log(q[q > 0])).sum(), abs=3e-4)


def test_many_codes_seldom_seen_smoothing_beats_the_plain_shares_and_loses_to_no_lower_order():
    P = np.random.default_rng(4).dirichlet(np.full(64, .05), 64)
    nats, role = fitted(walk(P, 20_000, 5), 64)
    mean = {k: v[role == "test"].mean() for k, v in nats.items()}
    assert mean[1] < mean[0] - 1 and mean[2] < mean[1] + .01


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(0, 2))
def test_chances_of_all_codes_sum_to_one_and_none_is_zero(seed, K, order):
    rng = np.random.default_rng(seed)
    codes = rng.integers(-1, K, 200)
    segment, role = np.sort(rng.integers(0, 4, 200)), np.where(np.arange(200) < 120, "train", "valid")
    m = Markov(order, K + 2).fit(codes, segment, role) # two codes never come
    at = np.flatnonzero(scorable(codes, segment))
    if not len(at): return
    t, p = at[-1], []
    for c in range(K + 2):
        other = codes.copy(); other[t] = c
        p.append(np.exp(-m.nats(other, segment)[t]))
    assert sum(p) == pytest.approx(1) and min(p) > 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_only_train_rows_are_counted_and_only_valid_rows_choose(seed):
    rng = np.random.default_rng(seed)
    codes, segment = rng.integers(0, 4, 300), np.zeros(300)
    role = ROLES[np.minimum(np.arange(300)//90, 3)]
    other = codes.copy()
    hidden = (role == "test") | (role == "purged")
    other[hidden] = rng.integers(0, 4, hidden.sum())
    a, b = (Markov(2, 4).fit(c, segment, role) for c in (codes, other))
    probe = rng.integers(0, 4, 50)
    np.testing.assert_array_equal(a.nats(probe, np.zeros(50)), b.nats(probe, np.zeros(50)))
    other[role == "valid"] = 0
    c = Markov(2, 4).fit(other, segment, role)
    for x, y in zip(a.counts, c.counts): np.testing.assert_array_equal(x.n_pair, y.n_pair)


def test_a_context_is_counted_only_where_all_of_it_is_training():
    codes, role = np.array([0, 1, 0, 1, 0, 1, 0, 1, 1, 1]), np.array(["test"]*3 + ["train"]*5 + ["valid"]*2)
    m = Markov(1, 2).fit(codes, np.zeros(10), role)
    assert m.counts[0].n.tolist() == [3] # rows 5, 6 and 7
    assert m.counts[1].pairs.tolist() == [1, 2] and m.counts[1].n_pair.tolist() == [2, 1] # 0 then 1 twice, 1 then 0 once


def test_rows_are_those_with_two_codes_before_them_in_their_segment():
    codes = np.array([0, 1, 2, -1, 0, 1, 2, 2, 1, 0])
    segment = np.array([0]*7 + [1]*3)
    assert np.flatnonzero(scorable(codes, segment)).tolist() == [2, 6, 9]
    nats = Markov(1, 3).fit(np.tile(codes, 9), np.repeat(np.arange(18), [7, 3]*9), np.repeat(["train", "valid"], [60, 30])).nats(codes, segment)
    assert np.flatnonzero(np.isfinite(nats)).tolist() == [2, 6, 9]
    assert len(scorable(np.zeros(1, int), [0])) == 1 and not scorable(np.zeros(1, int), [0]).any()


def test_counts_against_a_dictionary():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 5, 400)
    rows = np.zeros(400, bool); rows[2:] = rng.random(398) < .7
    seen, total = {}, {}
    for t in np.flatnonzero(rows):
        h = (codes[t-2], codes[t-1])
        seen.setdefault(h, {}); seen[h][codes[t]] = seen[h].get(codes[t], 0) + 1; total[h] = total.get(h, 0) + 1
    every = np.arange(400) >= 2
    n = np.stack(Counts(codes, rows, 2, 5).of(codes, every), 1)
    for t, got in zip(np.flatnonzero(every), n):
        h = (codes[t-2], codes[t-1])
        assert got.tolist() == [seen.get(h, {}).get(codes[t], 0), total.get(h, 0), len(seen.get(h, {}))]


def test_the_table_pairs_models_and_its_interval_holds_the_truth():
    rng = np.random.default_rng(7)
    common, n = rng.normal(2, 1, 4000), 4000
    t = nats_table({"markov2": common, "prior": common - .1 + rng.normal(0, .1, n)}, np.repeat(["train", "test"], n//2), 20, 400, 0).set_index(["role", "model"])
    r = t.loc[("test", "prior")]
    assert r.difference_lo < -.1 < r.difference_hi and r.difference_hi - r.difference_lo < .2*(r.hi - r.lo)
    assert t.loc[("test", "markov2")].isna().sum() == 3 and "valid" not in t.index.get_level_values(0)
    fig, _ = fig_nats({"A": t.reset_index(), "B": t.reset_index()})
    assert len(fig.axes) == 2


@pytest.mark.parametrize("wrong, says", [
    (lambda: Markov(3, 4), "0, 1 or 2"), (lambda: Markov(1, 0), "one code or more"), (lambda: scorable(np.zeros(3), [0]*3), "whole numbers"),
    (lambda: scorable(np.zeros(3, int), [0]*2), "same rows"), (lambda: nats_table({}, [], 1, 1, 0), "no nats of markov2"),
    (lambda: nats_table({"markov2": np.zeros(3)}, ["test"]*2, 1, 1, 0), "same rows")])
def test_mistakes_are_told(wrong, says):
    with pytest.raises(ParameterError, match=says): wrong()


def test_too_short_a_recording_is_told():
    with pytest.raises(TooShortError, match="there are 0 and 0"): Markov(2, 4).fit(np.array([0, 1]), np.zeros(2), np.array(["train", "train"]))


def test_words_claim_nothing_without_an_interval():
    "Three hours leave too few blocks of ten minutes in the test block; eighty of them are enough"
    rng = np.random.default_rng(0)
    long = {"markov0": rng.normal(3, .5, 4000), "markov2": rng.normal(2, .5, 4000)}
    long["prior_conv"], long["prior_attention"] = long["markov2"] - .1 + rng.normal(0, .1, 4000), long["markov2"] + .1 + rng.normal(0, .1, 4000)
    few = nats_table({m: v[:300] for m, v in long.items()}, ["test"]*300, 50, 200, 0)
    said = nats_words(few, "prior_conv")
    assert "too few blocks of time to be told from Markov-2" in said and "nan" not in said and "[" not in said
    many = nats_table(long, ["test"]*4000, 50, 200, 0)
    assert "better than Markov-2" in nats_words(many, "prior_conv") and "worse than Markov-2" in nats_words(many, "prior_attention")
