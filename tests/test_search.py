"The search: the same trials whatever the workers and wherever it was killed, every trial logged once, a planted optimum found, mistakes told in sentences."
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from helpers_search import hill

from lobresearch.errors import DataError, LobError, ParameterError, TooShortError
from lobresearch.evidence.bootstrap import block_bootstrap
from lobresearch.forecast import search as module
from lobresearch.forecast.items import item_key
from lobresearch.forecast.search import (
    configure,
    expected_max,
    gains,
    importance,
    journal,
    knobs,
    lucky_gain,
    paired,
    paste,
    propose,
    read_space,
    search,
    tidy,
)
from lobresearch.forecast.trials import log_trials, tried, trials, valid_score

KNOWN = dict(net=["depth", "inputs"], train=["lr"])
SPACE = read_space({"net.depth": dict(low=1, high=8), "train.lr": dict(low=.0001, high=.1, log=True), "net.inputs": ["book", "flow"]}, KNOWN)
ITEM = dict(symbol="TOY", seed=7, data="d", code="c", model="made-up", net=dict(depth=1, inputs="flow"), train=dict(lr=.05))


def item(tmp_path, **more): return dict(ITEM, log=str(tmp_path/"calls"), **more)


def calls(tmp_path): return (tmp_path/"calls").read_text().split() if (tmp_path/"calls").is_file() else []


def run(tmp_path, trials=6, workers=1, where="a", **more):
    return search(hill, item(tmp_path, **more), SPACE, trials, 7, tmp_path/where, batch=4, workers=workers, log=tmp_path/where/"log.jsonl", name="toy")


def bare(log): return [json.loads(line) for line in Path(log).read_text().splitlines()]


def test_one_worker_and_two_give_the_same_trials_and_the_same_log(tmp_path):
    one, two = run(tmp_path, 5), run(tmp_path, 5, workers=2, where="b")
    pd.testing.assert_frame_equal(one.table, two.table)
    assert one.default == two.default
    assert (tmp_path/"a/log.jsonl").read_bytes() == (tmp_path/"b/log.jsonl").read_bytes()


def test_workers_of_another_kind_give_the_same_trials(tmp_path):
    with ThreadPoolExecutor(3) as pool: other = search(hill, item(tmp_path), SPACE, 9, 7, tmp_path/"b", batch=4, executor=pool)
    pd.testing.assert_frame_equal(other.table, run(tmp_path, 9).table)


def test_a_longer_search_starts_with_the_shorter_one_and_trains_nothing_twice(tmp_path):
    short, long, fresh = run(tmp_path, 6), run(tmp_path, 18), run(tmp_path, 18, where="b")
    assert len(calls(tmp_path)) == 2*(18 + 1)
    pd.testing.assert_frame_equal(short.table, long.table[:6])
    pd.testing.assert_frame_equal(long.table, fresh.table)
    shorter = run(tmp_path, 6)
    pd.testing.assert_frame_equal(shorter.table, short.table)


@pytest.mark.parametrize("after", [1, 3, 6, 10])
def test_stopped_by_an_error_and_started_again_the_trials_are_the_same(tmp_path, after):
    "Trials that finished before the stop are not run again"
    whole = run(tmp_path, 10, where="b")
    (tmp_path/"calls").unlink()

    def tired(i, folder):
        if len(calls(tmp_path)) >= after: raise MemoryError("no more memory")
        return hill(i, folder)
    with pytest.raises(LobError, match="no more memory"):
        search(tired, item(tmp_path), SPACE, 10, 7, tmp_path/"a", batch=4, log=tmp_path/"a/log.jsonl", name="toy")
    again = run(tmp_path, 10)
    pd.testing.assert_frame_equal(again.table, whole.table)
    assert len(calls(tmp_path)) == 10 + 1 == len(set(calls(tmp_path)))
    assert sorted((tmp_path/"a/log.jsonl").read_text().splitlines()) == sorted((tmp_path/"b/log.jsonl").read_text().splitlines())


def test_a_journal_torn_anywhere_is_taken_up_again(tmp_path):
    whole = run(tmp_path, 6)
    path, = (tmp_path/"a").glob("*.journal")
    text = path.read_bytes()
    for cut in range(0, len(text), 97):
        path.write_bytes(text[:cut])
        pd.testing.assert_frame_equal(run(tmp_path, 6).table, whole.table)
    assert len(calls(tmp_path)) == 6 + 1


def test_a_stored_proposal_is_kept_even_if_it_would_be_another_today(tmp_path):
    "The parameters of a half-finished batch come from the journal"
    second = run(tmp_path, 2).table.loc[1]
    path, = (tmp_path/"a").glob("*.journal")
    inside = {k: d.to_internal_repr(second[k]) for k, d in SPACE.items()}
    other = {"net.depth": 8, "train.lr": .0001, "net.inputs": "book"}
    lines = path.read_text().splitlines()
    stored = [json.loads(line) for line in lines]
    at, = [n for n, r in enumerate(stored) if r.get("params") == inside]
    stored[at]["params"] = {k: SPACE[k].to_internal_repr(v) for k, v in other.items()}
    path.write_text("".join(json.dumps(r, separators=(",", ":")) + "\n" for r in stored[:at+1]))
    got = run(tmp_path, 2).table.loc[1]
    assert {k: got[k] for k in SPACE} == other


def test_killed_outright_and_started_again(tmp_path):
    "A process killed with -9 in the middle of its work leaves nothing that stops the next"
    code = ("import sys; from helpers_search import hill; from lobresearch.forecast.search import search; from test_search import SPACE, item; "
            "from pathlib import Path; "
            "p = Path(sys.argv[1]); search(hill, item(p, sleep=.15), SPACE, 8, 7, p/'a', batch=4, log=p/'a/log.jsonl', name='toy')")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])])}
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=env)
    until = time.monotonic() + 120
    while len(calls(tmp_path)) < 6 and process.poll() is None and time.monotonic() < until: time.sleep(.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the search ended before it was killed"
    before = len(calls(tmp_path))
    got, whole = run(tmp_path, 8, sleep=.15), run(tmp_path, 8, where="b", sleep=.15)
    pd.testing.assert_frame_equal(got.table, whole.table)
    assert 6 <= before and len(calls(tmp_path)) <= 2*(8 + 1) + 1 # at most the one that was being worked on is done twice
    assert len(trials(tmp_path/"a")) == 8 + 1


def test_two_searches_at_once_are_kept_apart(tmp_path):
    busy = pytest.raises(LobError, match="Another process is at work on the search x.journal")
    with journal(tmp_path/"x.journal", "x"), busy, journal(tmp_path/"x.journal", "x"): pass
    with journal(tmp_path/"x.journal", "x") as study: assert len(study.trials) == 0


def test_a_planted_optimum_is_found(tmp_path):
    "Trials that the estimator proposes come closer than the random ones before them"
    t = run(tmp_path, 48).table
    assert t.score[24:].mean() > t.score[:10].mean() + .5
    best = t.loc[t.score.idxmax()]
    assert best["net.depth"] == 4 and abs(np.log10(best["train.lr"]/.001)) < .25 and best["net.inputs"] == "flow"
    assert t.best.is_monotonic_increasing and t.best.iloc[-1] == t.score.max()


def test_what_matters_is_told_from_what_does_not(tmp_path):
    def tilted(i, folder): return dict(valid=[i["net"]["depth"] + 1e-3*i["train"]["lr"]])
    found = search(tilted, ITEM, SPACE, 24, 7, tmp_path, batch=8)
    share = importance(found)
    assert share.index[0] == "net.depth" and share.iloc[0] > .9 and share.sum() == pytest.approx(1)
    flat = search(lambda i, folder: dict(valid=[1.]), ITEM, SPACE, 6, 7, tmp_path/"flat", batch=6)
    assert importance(flat).empty


def test_a_proposal_knows_only_the_batches_before_it():
    done = propose(SPACE, [], 7, 0, 8)
    assert propose(SPACE, [], 7, 0, 3) == done[:3]
    assert propose(SPACE, [], 8, 0, 8) != done and propose(SPACE, [], 7, 1, 8) != done


def test_equal_configurations_are_trained_once_and_all_get_the_score(tmp_path):
    space = read_space({"net.depth": [1, 2]}, KNOWN)
    found = search(hill, item(tmp_path), space, 9, 7, tmp_path/"a", batch=3, log=tmp_path/"log.jsonl")
    assert len(calls(tmp_path)) == 2 == len(bare(tmp_path/"log.jsonl"))
    assert found.table.groupby("net.depth").score.nunique().eq(1).all() and len(found.table) == 9
    assert found.default_key in set(found.table.key)


def test_a_refused_configuration_fails_alone_with_its_sentence(tmp_path):
    def deep(i, folder):
        if i["net"]["depth"] > 4: raise TooShortError(f"too short for a depth of {i['net']['depth']}")
        return hill(i, folder)
    found = search(deep, item(tmp_path), SPACE, 8, 7, tmp_path/"a", batch=4, log=tmp_path/"log.jsonl")
    refused = found.table["net.depth"] > 4
    assert 0 < refused.sum() < 8
    assert (found.table.failed[refused] == [f"too short for a depth of {d}" for d in found.table["net.depth"][refused]]).all()
    assert found.table.score.isna().equals(refused)
    assert [t.state for t in found.study.trials] == [TrialState.FAIL if r else TrialState.COMPLETE for r in refused]
    assert trials(tmp_path/"log.jsonl").score.isna().sum() == found.table.key[refused].nunique()
    with pytest.raises(TooShortError, match="No trial of the search has a score; of the first it is said: no"):
        search(lambda i, folder: (_ for _ in ()).throw(ParameterError("no")), ITEM, SPACE, 2, 7, tmp_path/"b")


def test_an_error_of_the_program_is_not_taken_for_a_bad_configuration(tmp_path):
    with pytest.raises(LobError, match="ZeroDivisionError"): search(lambda i, folder: 1/0, ITEM, SPACE, 2, 7, tmp_path)


@pytest.mark.parametrize("given,sentence", [
    ({}, "is empty"),
    ({"net.colour": [1]}, "names net.colour, which does not exist; there are net.depth"),
    ({"depth": [1]}, "names depth, which does not exist"),
    ({"net.depth": dict(low=5, high=3)}, "low 5 is above high 3"),
    ({"net.depth": dict(low=5)}, "must give net.depth a list of choices, or low and high"),
    ({"net.depth": dict(low=1, high=2, hi=3)}, "must give net.depth a list of choices, or low and high"),
    ({"net.depth": 4}, "must give net.depth a list of choices"),
    ({"net.depth": []}, "gives net.depth no choice"),
    ({"net.depth": [[1]]}, "must be numbers, texts"),
    ({"net.depth": dict(low=True, high=3)}, "must be numbers"),
    ({"net.depth": dict(low=None, high=3)}, "must be numbers"),
    ({"train.lr": dict(low="1e-4", high=.1)}, "write 0.0001"),
    ({"train.lr": dict(low=0, high=.1, log=True)}, "needs bounds above zero and no step"),
    ({"train.lr": dict(low=.1, high=.2, log=True, step=.1)}, "needs bounds above zero and no step"),
    ({"train.lr": dict(low=.1, high=.2, step=0)}, "step of train.lr must be above zero")])
def test_a_mistake_in_the_space_is_told(given, sentence):
    with pytest.raises(ParameterError, match=sentence): read_space(given, KNOWN)


def test_every_network_can_be_searched_by_its_own_parameters():
    assert knobs("tcn")["net"] == ["inputs", "channels", "depth", "dropout"]
    assert {"lr", "weight_decay", "target", "ema_alpha"} <= set(knobs("tcn")["train"])
    with pytest.raises(ParameterError, match="There is no network ridge; a search takes one of .*tcn"): knobs("ridge")


def test_a_configuration_leaves_its_item_alone_and_can_be_pasted():
    import yaml
    before = item_key(ITEM)
    made = configure(ITEM, {"net.depth": 3, "train.lr": .002})
    assert item_key(ITEM) == before and made["net"] == dict(depth=3, inputs="flow") and made["train"] == dict(lr=.002)
    assert yaml.safe_load(paste({"net.depth": 3, "net.inputs": "book+flow", "train.lr": .0003})) == dict(net=dict(depth=3, inputs="book+flow"), train=dict(lr=.0003))


@given(st.floats(1e-6, 1), st.floats(1e-6, 1), st.floats(0, 1))
def test_a_tidy_number_stays_inside_its_bounds_and_near(a, b, share):
    low, high = sorted((a, b))
    x = low + share*(high - low)
    x = min(max(x, low), high)
    assert low <= tidy(x, FloatDistribution(low, high)) <= high
    assert tidy(x, FloatDistribution(low, high)) == pytest.approx(x, rel=5.1e-3)


def test_the_expected_largest_draw_is_the_tabled_one():
    "Harter 1961, Expected values of normal order statistics"
    assert [round(expected_max(n), 5) for n in (2, 5, 10, 100)] == [.56419, 1.16296, 1.53875, 2.50759]
    with pytest.raises(ParameterError, match="one draw or more"): expected_max(0)


def test_the_paired_standard_error_is_the_bootstrap_s():
    rng = np.random.default_rng(3)
    slow = np.convolve(rng.standard_normal(6000 + 19), np.ones(20)/20**.5, "valid") # neighbours that depend on each other
    y = np.stack([slow, rng.standard_normal(6000)], 1)
    a, b = .4*y + rng.standard_normal((6000, 2)), .2*y + slow[:,None]*.3 + rng.standard_normal((6000, 2))
    stat = lambda y, a, b: np.mean([np.corrcoef(y[:,k], a[:,k])[0,1] - np.corrcoef(y[:,k], b[:,k])[0,1] for k in (0, 1)])
    value, _, _, draws = block_bootstrap(stat, (y, a, b), 100, 1500, rng)
    diff, se = paired(y, a, b, 100)
    assert diff == pytest.approx(value, abs=1e-12)
    assert se == pytest.approx(draws.std(), rel=.15)


def test_rows_without_a_label_or_a_forecast_do_not_count():
    rng = np.random.default_rng(4)
    y, a, b = rng.standard_normal((3, 1000, 1))
    hole = y.copy(); hole[900:] = np.nan
    assert paired(hole, a, b, 50) == pytest.approx(paired(y[:900], a[:900], b[:900], 50))
    assert np.isnan(paired(y, a, b, 200)).all(), "five blocks are too few"
    assert np.isnan(paired(y, 0*a, b, 50)).all(), "a constant forecast has no correlation"
    assert paired(y, a, a, 50) == (0, 0)


def test_luck_grows_with_the_number_of_trials_and_needs_an_error():
    errors = [.01, .02, np.nan, .03]
    assert lucky_gain(errors, 1) == pytest.approx(0, abs=1e-9)
    assert lucky_gain(errors, 2) == pytest.approx(.02/2**.5/np.pi**.5)
    assert lucky_gain(errors, 60) > lucky_gain(errors, 6) > 0
    assert np.isnan(lucky_gain([np.nan], 6))


def test_the_search_never_sees_a_test_row(tmp_path):
    "Other forecasts of the test block leave every number of the search as it was"
    ts, rng = np.arange(1000), np.random.default_rng(5)
    y = pd.DataFrame(dict(r_10=rng.standard_normal(1000)), index=ts)

    def forecast(noise, test):
        def work(i, folder):
            f = y.r_10.to_numpy() + noise*i["net"]["depth"]*np.random.default_rng(int(1e6*i["train"]["lr"])).standard_normal(1000)
            split = np.where(ts < 800, "valid", "test")
            pd.DataFrame(dict(ts=ts, horizon=10, split=split, y_hat=np.where(split == "test", test*f, f))).to_parquet(folder/"predictions.parquet")
            return dict(valid=[np.corrcoef(y.r_10[:800], f[:800])[0,1]])
        return work
    out = []
    for where, test in (("a", 1.), ("b", -7.)):
        found = search(forecast(.5, test), ITEM, SPACE, 5, 7, tmp_path/where, batch=5)
        out.append((found.table, gains(found, tmp_path/where, y, 40)))
    pd.testing.assert_frame_equal(out[0][0], out[1][0])
    pd.testing.assert_frame_equal(out[0][1], out[1][1])
    other = out[0][1][out[0][0].key != found.default_key]
    assert np.isfinite(other.to_numpy()).all() and (other.se > 0).all()
    np.testing.assert_allclose(other.gain, out[0][0].score[other.index] - found.default)


def test_the_log_counts_trials_and_configurations(tmp_path):
    a = [dict(ITEM, seed=s) for s in (1, 2)] + [dict(ITEM, net=dict(depth=2)), dict(ITEM, symbol="OTHER"), dict(ITEM, code="later", variant="x", oof=dict(fold=1))]
    r = [dict(valid=[v]) for v in (.1, .3, .4, .5, .2)]
    assert log_trials(tmp_path/"x.jsonl", a[:3], r[:3], "one") == 3
    assert log_trials(tmp_path/"y.jsonl", a[2:], r[2:], "two") == 3
    assert log_trials(tmp_path/"y.jsonl", a[2:], r[2:], "two") == 0
    t = trials(tmp_path)
    assert len(t) == 5 and t.study.tolist() == ["one"]*3 + ["two"]*2 # the third is in both files and counts once
    by = tried(t).set_index("symbol")
    assert by.loc["TOY", ["trials", "configurations"]].tolist() == [4, 2] and by.loc["OTHER", "configurations"] == 1
    assert by.loc["TOY", "best"] == pytest.approx(.4) and by.loc["TOY", "sd"] == pytest.approx(.2/2**.5) # .2, the mean of three, and .4
    assert tried(t, ())[["trials", "configurations"]].to_numpy().tolist() == [[5, 2]]
    assert trials(tmp_path/"nothing").empty and tried(trials(tmp_path/"nothing")).empty


def test_a_torn_log_goes_on_and_a_spoilt_one_is_told(tmp_path):
    log, todo = tmp_path/"x.jsonl", [dict(ITEM, seed=s) for s in range(4)]
    results = [dict(valid=[s/10]) for s in range(4)]
    log_trials(log, todo, results, "toy")
    whole = log.read_bytes()
    for cut in range(0, len(whole), 131):
        log.write_bytes(whole[:cut])
        n = whole[:cut].count(b"\n")
        assert len(trials(log)) == n
        assert log_trials(log, todo, results, "toy") == 4 - n
        assert log.read_bytes() == whole
    log.write_bytes(b"{oops}\n" + whole)
    with pytest.raises(DataError, match=r"x.jsonl, line 1: this is not a trial"): log_trials(log, todo, results, "toy")


def test_the_logged_score_is_that_of_the_kept_epoch():
    h = [dict(loss=l, correlation=np.mean(r), correlations=r) for l, r in ((.5, [0., .2]), (.6, [.2, .4]), (.4, [.2, .2]))]
    assert valid_score(dict(train={}), dict(history=h)) == pytest.approx(.3)
    assert valid_score(dict(train=dict(select="loss")), dict(history=h)) == pytest.approx(.2)
    assert np.isnan(valid_score({}, {})) and np.isnan(valid_score({}, dict(valid=[.1, None])))


def test_a_model_without_a_correlation_is_logged_and_loses_the_search(tmp_path):
    def mute(i, folder): return dict(valid=[None, None] if i["net"]["inputs"] == "book" else [.1, .2])
    found = search(mute, ITEM, SPACE, 6, 7, tmp_path, log=tmp_path/"log.jsonl")
    none = found.table["net.inputs"] == "book"
    assert 0 < none.sum() < 6 and found.table.score.isna().equals(none)
    assert set(found.table.failed[none]) == {"its forecast has no correlation"} and set(found.table.failed[~none]) == {""}
    logged = trials(tmp_path/"log.jsonl")
    assert logged.scores[logged.score.isna()].tolist() == [[None, None]]*none.sum()


@settings(max_examples=30)
@given(arrays(float, (40, 2), elements=st.floats(-5, 5)), arrays(float, (40, 2), elements=st.floats(-5, 5)))
def test_the_gain_of_one_over_the_other_is_minus_that_of_the_other_over_the_one(a, b):
    y = np.random.default_rng(0).standard_normal((40, 2))
    one, other = paired(y, a, b, 5), paired(y, b, a, 5)
    np.testing.assert_allclose(one[0], -other[0], atol=1e-9)
    np.testing.assert_allclose(one[1], other[1], atol=1e-9)


def test_optuna_is_quiet_but_for_its_warnings():
    import logging

    import optuna
    assert optuna.logging.get_verbosity() == logging.WARNING and module.STARTUP == 10


def test_importing_the_search_in_a_notebook_says_nothing():
    "Optuna's unused progress bar warns of missing widgets, with a path of the machine, which would stand in the report"
    r = subprocess.run([sys.executable, "-c", "import ipykernel.zmqshell, lobresearch.forecast.search"], capture_output=True, text=True)
    assert r.returncode == 0 and "IProgress" not in r.stderr, r.stderr
