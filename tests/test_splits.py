"Splits: nothing a training row reaches touches another block, whatever the sizes, gaps and horizons."
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from lobresearch.errors import LobError, ParameterError, SealedError, TooShortError
from lobresearch.market.folds import combinatorial, walk_forward
from lobresearch.market.splits import SECOND, chronological, counts, enough, load_split, rows, write_splits


@given(steps=st.lists(st.sampled_from([1, 1, 1, 1, 2, 30, 4000]), min_size=0, max_size=400),
       horizon=st.integers(0, 90), lookback=st.integers(0, 120), embargo=st.integers(1, 60),
       final=st.floats(0, .9), train=st.floats(.05, .95), rest=st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_no_reach_touches_another_block(steps, horizon, lookback, embargo, final, train, rest):
    t = np.cumsum(np.array([0, *steps], np.int64))
    split = chronological(t*SECOND, horizon, lookback, embargo, final, train, (1-train)*rest)
    assert len(split) == len(t) and (split.ts.to_numpy() == t*SECOND).all()
    t_of = {r: t[split.role == r] for r in ("train", "valid", "test", "final")}
    order = [t_of[r] for r in ("train", "valid", "test", "final") if len(t_of[r])]
    for earlier, later in zip(order, order[1:]):
        assert earlier.max() + horizon + embargo < later.min() - lookback # closed label interval, embargo, window
    assert set(split.role) <= {"train", "valid", "test", "final", "purged"}


@given(n=st.integers(500, 5000), horizon=st.integers(0, 60), lookback=st.integers(0, 100), embargo=st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_no_more_is_purged_than_must_be(n, horizon, lookback, embargo):
    have = counts(chronological(np.arange(n)*SECOND, horizon, lookback, embargo))
    assert have["purged"] <= 3*(horizon + embargo + lookback)
    assert have["train"] == round(n*.48) - horizon - embargo


def test_the_share_of_each_block():
    have = counts(chronological(np.arange(100_000)*SECOND, 0, 0))
    assert have == dict(train=47_999, valid=15_999, test=15_999, final=20_000, purged=3) # one second of embargo before each seam


def test_five_minutes_are_too_short_and_said_to_be():
    split = chronological(np.arange(301)*SECOND, 60, 160)
    with pytest.raises(TooShortError, match="BTCUSDT is too short to forecast: of its 301 recorded seconds.*Take a longer recording"):
        enough(split, dict(train=1000, valid=200, test=200), "BTCUSDT")


def test_one_row_and_none():
    assert len(chronological([], 10, 10)) == 0
    assert len(chronological([0], 10, 10)) == 1


def test_final_rows_are_sealed(tmp_path):
    write_splits(tmp_path, "A", chronological(np.arange(1000)*SECOND, 10, 20))
    s = load_split(tmp_path, "A")
    assert "final" not in set(s.role)
    with pytest.raises(SealedError, match="sealed"): rows(s, "final")
    with pytest.raises(SealedError, match="takes a reason"): load_split(tmp_path, "A", allow_final="for luck")
    log = tmp_path/"log"/"opened.jsonl"
    for _ in range(2): opened = load_split(tmp_path, "A", allow_final="last stage", log=log, fingerprint="abc")
    assert len(rows(opened, "final")) == 180 # 200 less the 20 whose window reaches the last label and embargo of the test block
    assert log.read_text() == '{"symbol": "A", "reason": "last stage", "parameters": "abc"}\n'


@pytest.mark.parametrize("embargo", [0, -5])
def test_an_embargo_of_zero_is_refused(embargo):
    with pytest.raises(ParameterError, match="embargo must be 1 second or more"): chronological(np.arange(100)*SECOND, 1, 1, embargo)


def test_many_schemes_and_folds_in_one_file(tmp_path):
    ts = np.arange(3000)*SECOND
    tables = [chronological(ts, 10, 20, 5), walk_forward(ts, 10, 20, 5, folds=3), combinatorial(ts, 10, 20, 5)]
    path = write_splits(tmp_path, "A", tables)
    for t in tables:
        for (scheme, fold), part in t.groupby(["scheme", "fold"]):
            kept = load_split(tmp_path, "A", scheme, fold)
            want = part[part.role != "final"].reset_index(drop=True)
            assert kept.ts.equals(want.ts) and (kept.role == want.role).all() and (kept.fold == fold).all() and (kept.scheme == scheme).all()
            with pytest.raises(SealedError): rows(kept, "final")
            opened = load_split(tmp_path, "A", scheme, fold, allow_final="test", log=tmp_path/"log")
            assert set(rows(opened, "final")) == set(part.ts[part.role == "final"])
    before = path.read_bytes()
    assert write_splits(tmp_path, "A", tables).read_bytes() == before and len(before) < 60_000
    with pytest.raises(LobError, match="no scheme 'walk_forward', fold 3"): load_split(tmp_path, "A", "walk_forward", 3)
    with pytest.raises(LobError, match="same scheme and fold"): write_splits(tmp_path, "A", [tables[0], tables[0]])


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(LobError, match="symbol=B.parquet is missing"): load_split(tmp_path, "B")
    write_splits(tmp_path, "B", chronological(np.arange(10)*SECOND, 0, 0))
    with pytest.raises(LobError, match="no scheme 'cpcv'"): load_split(tmp_path, "B", scheme="cpcv")
