"Episodes stay in their stretch, show what is known, end as they should; a batch lives the lives of its accounts"
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from lobresearch.errors import ParameterError, TooShortError
from lobresearch.trading.accounting import PARTS, Market, follow
from lobresearch.trading.environment import STATE, Environment, draw, play, stretches, tiles
from lobresearch.trading.rewards import TERMS, WEIGHTED

OWN = {k: i - len(STATE) for i, k in enumerate(STATE)} # Place in an observation, from its end


def market(n=600, seed=0, gaps=(), step=2):
    "A random walk in ticks of .1 with two levels; a new segment at each gap"
    rng = np.random.default_rng(seed)
    bid = 5_000 + rng.integers(-step, step + 1, n).cumsum()
    size = rng.integers(3, 9, (n, 4))
    book = np.stack([.1*(bid + 1), size[:, 0], .1*bid, size[:, 1], .1*(bid + 2), 2*size[:, 2], .1*(bid - 1), 2*size[:, 3]], 1)
    ts, segment = 1_000_000*np.arange(n), np.zeros(n, int)
    for g in gaps: ts[g:], segment[g:] = ts[g:] + 100_000_000, ts[g] + 100_000_000
    return Market(ts, segment, book, np.stack([book[:, 2] - .1, book[:, 0] + .1, np.ones(n), np.ones(n)], 1), np.zeros(n))


def rows(m): return np.stack([np.arange(len(m)), 1000 + np.arange(len(m))], 1) # features that name their row


def run(env, actions, seed=0):
    "Observations before each step, rewards, ends and infos"
    obs, out = env.reset(seed)[0], []
    for a in actions:
        new, r, terminated, truncated, info = env.step(a)
        out.append((obs, r, terminated, truncated, info))
        obs = new
    return out


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(5, 60), st.sampled_from(["close", "cut"]), st.sampled_from(["taker", "maker", "mid"]),
       st.integers(0, 3), st.sampled_from([None, WEIGHTED]), st.sampled_from(["discrete", "continuous"]))
def test_batch_and_single_live_the_same_lives(seed, window, length, end, execution, latency, weighted, actions):
    m, rng = market(300, gaps=(130,)), np.random.default_rng(seed)
    wishes = rng.integers(-1, 2, (90, 5))*1. if actions == "discrete" else rng.uniform(-1, 1, (90, 5))
    kw = dict(actions=actions, window=window, length=length, end=end, execution=execution, latency=latency, weighted=weighted, loss=.001)
    many = run(Environment(m, rows(m), 5, **kw), wishes, seed)
    for i in (0, 3):
        for a, b in zip(many, run(Environment(m, rows(m), 1, first=i, **kw), wishes[:, i:i+1], seed), strict=True):
            for x, y in zip(a[:4], b[:4], strict=True): np.testing.assert_array_equal(x[i], y[0])
            for k in ("position", "net", "traded", "fills", "mid", "row", "parts", "terms"): np.testing.assert_array_equal(a[4][k][i], b[4][k][0])
            ended = "episode" in a[4] and i in a[4]["episode"]["account"]
            assert ended == ("episode" in b[4])
            if ended:
                j = a[4]["episode"]["account"].tolist().index(i)
                assert a[4]["episode"][j] == b[4]["episode"][0]
                np.testing.assert_array_equal(a[4]["final_obs"][j], b[4]["final_obs"][0])


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 40), st.sampled_from(["close", "cut"]))
def test_nothing_is_seen_or_traded_outside_the_stretch_and_parts_sum_to_the_episode(seed, window, length, end):
    m, rng = market(200, gaps=(70, 150)), np.random.default_rng(seed)
    x, ok = rows(m).astype(float), np.ones(200, bool)
    x[20], ok[100:110] = np.nan, False
    env = Environment(m, x, 6, window=window, length=length, end=end, rows=ok, weighted=WEIGHTED)
    total = 0
    for obs, r, terminated, truncated, info in run(env, rng.integers(-1, 2, (60, 6)), seed):
        seen = obs[:, :2*window].reshape(6, window, 2)
        first, last = seen[:, 0, 0].astype(int), seen[:, -1, 0].astype(int)
        assert (last - first == window - 1).all() and (seen[..., 1] - seen[..., 0] == 1000).all()
        np.testing.assert_array_equal(info["row"], last + 1) # the row after the one that was seen
        assert (m.segment[first] == m.segment[last + 1]).all()
        for i, j in zip(first, last + 1): assert ok[i:j+1].all() and not (i <= 20 <= j)
        np.testing.assert_allclose(info["parts"].sum(1), info["net"], atol=1e-6)
        np.testing.assert_allclose(info["terms"] @ [WEIGHTED[k] for k in TERMS], r, atol=1e-9)
        assert not (terminated & truncated).any()
        total += 0 if "episode" not in info else len(info["episode"])
        if "episode" in info:
            e = info["episode"]
            assert (e["stop"] - e["start"] == length).all() and (e["terminated"] == (end == "close")).all()
            np.testing.assert_allclose(sum(e[k] for k in PARTS), e["net"], atol=1e-6)
    assert total == 6*(60//length)


def test_an_observation_by_hand():
    m = market(50, seed=1)
    env = Environment(m, rows(m), window=3, length=20, starts=[10], taker=0., capital=500.)
    obs, _ = env.reset()
    np.testing.assert_array_equal(obs[0, :6], [8, 1008, 9, 1009, 10, 1010])
    assert obs.shape == (1, env.size) and obs.dtype == np.float32 and obs[0, OWN["left"]] == 1 and not obs[0, 6:-len(STATE)].any()
    size = 500/m.mid[10]
    obs, r, *_, info = env.step([1])
    assert obs[0, OWN["position"]] == 1 and obs[0, OWN["target"]] == 1 and obs[0, OWN["age"]] == 0
    paid = size*m.book[11, 0] # five units at most stand at the best of every row
    assert r[0] == pytest.approx(-20*(paid - size*m.mid[11])) and obs[0, OWN["unrealised"]] == pytest.approx(r[0], rel=1e-5)
    obs, r, *_ = env.step([1])
    assert r[0] == pytest.approx(20*size*(m.mid[12] - m.mid[11])) and obs[0, OWN["age"]] == pytest.approx(.05)
    assert obs[0, OWN["left"]] == pytest.approx(.9)
    assert obs[0, OWN["unrealised"]] == pytest.approx(20*(size*m.mid[12] - paid), rel=1e-5)


def test_what_waits_is_seen():
    m = market(50)
    m.tape[:, :2] = np.nan
    m.book[:] = m.book[0]
    env = Environment(m, rows(m), length=20, execution="maker", actions="continuous")
    env.reset()
    obs = env.step([-.5])[0]
    assert obs[0, OWN["waiting"]] == -.5 and obs[0, OWN["target"]] == -.5 and obs[0, OWN["position"]] == 0


def test_an_episode_is_what_a_rule_earns_on_the_same_rows():
    m, rng = market(200), np.random.default_rng(0)
    target = rng.integers(-1, 2, 200)*1.
    for end in ("close", "cut"):
        env = Environment(m, rows(m), length=50, starts=[30], end=end, latency=2)
        got = play(env, lambda obs: target[obs[:, 0].astype(int)])
        want = follow(m, target, 30, 80, end=end, latency=2)
        for k in (*PARTS, "net", "traded", "fills"): assert got[k][0] == pytest.approx(want[k].sum(), abs=1e-6)


def test_ends_closed_at_cost_or_cut_open():
    m, hold = market(100), [[1]]*30
    (*_, closed), (*_, cut) = (run(Environment(m, rows(m), length=30, starts=[5], end=e), hold) for e in ("close", "cut"))
    assert closed[2] and not closed[3] and cut[3] and not cut[2]
    assert closed[4]["position"][0] == 0 and cut[4]["position"][0] == 1
    assert closed[4]["final_obs"][0, OWN["position"]] == 0 and cut[4]["final_obs"][0, OWN["position"]] == 1
    cost = cut[1][0] - closed[1][0]
    assert cost == pytest.approx(-(closed[4]["parts"][0, 1:4].sum())) and cost > 5 # a fee of 5 bps and half a spread


def test_a_stretch_that_ends_closes_an_episode_that_was_to_be_cut():
    m = market(100, gaps=(40,))
    env = Environment(m, rows(m), 3, length=30, end="cut", starts=[0, 30, 95])
    got = play(env, lambda obs: np.ones(3))
    assert got.terminated.tolist() == [False, True, True] and got.stop.tolist() == [30, 39, 99]


def test_a_lost_account_is_closed_and_opens_anew():
    m = market(100)
    m.book[:, ::2] -= 2.*np.arange(100)[:, None]
    env = Environment(m, rows(m), length=90, starts=[0], loss=.02)
    out = run(env, [[1]]*20)
    ends = [t for t, x in enumerate(out) if x[2][0]]
    assert len(ends) > 1 and not any(x[3][0] for x in out)
    e = out[ends[0]][4]["episode"]
    assert e["net"][0] < -200 and e["stop"][0] == ends[0] + 1
    assert out[ends[0]+1][0][0, 0] == 0 and out[ends[0]+1][0][0, OWN["position"]] == 0


def test_an_episode_counts_its_own_seconds_and_starts_from_nothing():
    m, rng = market(200), np.random.default_rng(1)
    env, sums = Environment(m, rows(m), 2, length=20, weighted=WEIGHTED), np.zeros((2, 4))
    for _, r, terminated, _, info in run(env, rng.integers(-1, 2, (60, 2))):
        sums += np.stack([r, info["net"], info["traded"], info["fills"]], 1)
        if terminated.any():
            assert terminated.all() # all are of one length
            np.testing.assert_allclose(np.stack([info["episode"][k] for k in ("reward", "net", "traded", "fills")], 1), sums, atol=1e-9)
            assert abs(sums[:, 1]).min() > 0
            sums[:] = 0
    obs = env.reset()[0]
    np.testing.assert_array_equal(obs[:, 2:], np.tile([0]*5 + [1] + [0]*7, (2, 1)))
    for a in rng.integers(-1, 2, (20, 2)): obs = env.step(a)[0]
    np.testing.assert_array_equal(obs[:, 2:], np.tile([0]*5 + [1] + [0]*7, (2, 1)))


def test_tiles_cover_every_usable_second_once():
    m = market(200, gaps=(90,))
    x = rows(m).astype(float)
    x[50] = np.nan
    env = Environment(m, x, length=20, window=4)
    starts = tiles(env)
    got = play(Environment(m, x, 3, length=20, window=4, starts=starts), lambda obs: np.zeros(3))
    seconds = np.concatenate([np.arange(a + 1, b + 1) for a, b in zip(got.start, got.stop)])
    want = np.r_[4:50, 55:90, 94:200]
    np.testing.assert_array_equal(seconds, want)
    assert (tiles(env, least=20) + 20 <= 199).all() and len(tiles(env, least=20)) < len(starts)
    assert got.fills.sum() == 0 and (got.net == 0).all()


def test_starts_depend_on_seed_account_and_number_only():
    a = draw(3, np.arange(2000), np.zeros(2000, int), 50)
    np.testing.assert_array_equal(a[5:9], draw(3, np.arange(5, 9), np.zeros(4, int), 50))
    for other in (draw(4, np.arange(2000), np.zeros(2000, int), 50), draw(3, np.arange(2000), np.ones(2000, int), 50)):
        assert abs((a == other).mean() - 1/50) < 4*np.sqrt(.02*.98/2000)
    counts = np.bincount(a, minlength=50)
    assert ((counts - 40)**2/40).sum() < 49 + 5*np.sqrt(2*49) # chi squared, five standard deviations
    m = market()
    env = Environment(m, rows(m), 4, length=100)
    first, again, on = env.reset(seed=1)[0], env.reset(seed=1)[0], env.reset()[0]
    np.testing.assert_array_equal(first, again)
    assert (first[:, 0] != on[:, 0]).any()


def test_what_step_returned_is_not_overwritten_by_the_next():
    m = market()
    env = Environment(m, rows(m), 4, length=100)
    env.reset(0)
    obs, r, *_, info = env.step([1]*4)
    kept = obs.copy(), r.copy(), info["parts"].copy(), info["position"].copy()
    for _ in range(150): env.step([-1]*4)
    for a, b in zip(kept, (obs, r, info["parts"], info["position"]), strict=True): np.testing.assert_array_equal(a, b)


def test_stretches():
    got = stretches(np.array([1, 1, 1, 1, 2, 2, 2]), np.array([True, True, False, True, True, True, False]))
    np.testing.assert_array_equal(got, [[0, 1], [0, 1], [-1, -1], [3, 3], [4, 5], [4, 5], [-1, -1]])


def test_shown_the_next_move_it_wins_and_shown_the_last_one_it_does_not():
    "At the mid, without fees, on a random walk; latency 1, so that the move after the next is what can still be earned"
    m = market(5_000, seed=2)
    move = np.diff(m.mid, prepend=m.mid[0])
    ahead = np.r_[move[2:], 0, 0]
    env = lambda x: Environment(m, x[:, None], 4, starts=[0], length=4_999, execution="mid", taker=0.)
    play_it = lambda x: play(env(x), lambda obs: np.sign(np.round(obs[:, 0], 6))).gross[0]
    every = 1e4*abs(move).sum()/m.mid[0]
    assert play_it(ahead) > .99*every
    assert abs(play_it(move)) < 4*every/np.sqrt(5_000)


def test_wrong_input_gets_a_sentence():
    m = market(100)
    x = rows(m)
    faults = [(dict(actions="both"), "discrete or continuous"), (dict(end="stop"), "close or cut"), (dict(window=0), "1 or more")]
    faults += [(dict(length=20, batch=0), "positive")]
    faults += [(dict(starts=s, window=3), "every start") for s in ([], [99], [1], [-1])]
    for kw, words in faults:
        with pytest.raises(ParameterError, match=words): Environment(m, x, **kw)
    with pytest.raises(ParameterError, match="a row a second"): Environment(m, x[:50])
    with pytest.raises(TooShortError, match="the longest has 100 s"): Environment(m, x, length=100)
    with pytest.raises(TooShortError, match="the longest has 0 s"): Environment(m, np.full((100, 1), np.nan), length=10)
    env = Environment(m, x, 2, length=20)
    with pytest.raises(ParameterError, match="reset the environment"): env.step([0, 0])
    env.reset(0)
    for bad, words in [([.5, 0], "-1, 0 or 1"), ([np.nan, 0], "-1, 0 or 1"), ([0], "an action an account"), ([2, 0], "-1, 0 or 1")]:
        with pytest.raises(ParameterError, match=words): env.step(bad)
    env = Environment(m, x, 2, length=20, actions="continuous")
    env.reset(0)
    for bad in ([1.5, 0], [np.nan, 0]):
        with pytest.raises(ParameterError, match="from -1 to 1"): env.step(bad)
    with pytest.raises(ParameterError, match="needs its starts"): play(env, lambda obs: obs)
