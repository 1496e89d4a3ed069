"The trading chapter's pages on recordings too short for it: each says so in a sentence and stands."
import json
import warnings
from functools import partial

import pandas as pd
import pytest
from house import code

from lobresearch.study import toy, toy_synthetic, toy_trading
from lobresearch.trading.records import collect

SHORT = "TOY is too short for anything to be traded on it."


def nothing(st):
    "What the stage of agents leaves when every symbol is too short"
    collect({}, {}, st.root, st.root)
    (st.root/"artifacts/trading/short.json").write_text(json.dumps({s: SHORT for s in st.p.data.symbols}))
    st.path("artifacts/trials/08a_agents.jsonl").write_text("")


def no_codes(st):
    "What the stage of codebooks leaves when every symbol is too short"
    for f, what in (("short", {s: "too short" for s in st.p.data.symbols}), ("results", dict(codebooks=[], priors=[], markets=[], chosen={}))):
        st.path(f"artifacts/synthetic/{f}.json").write_text(json.dumps(what))


def no_forecasts(st):
    "What training leaves when every symbol is too short"
    cols = dict(symbol=str, ts=int, horizon=int, model=str, seed=int, split=str, y_hat=float)
    pd.DataFrame({k: pd.Series(dtype=v) for k, v in cols.items()}).to_parquet(st.path("artifacts/predictions/predictions.parquet"), index=False)
    (st.root/"artifacts/predictions/short.json").write_text(json.dumps({s: "too short" for s in st.p.data.symbols}))


def shown(page):
    "Run a page on its smoke values and give what it said"
    made = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code(f"nbs/study/{page}.ipynb"), page, "exec"), made)  # noqa: S102
    return " ".join(made["st"].said).lower()


PAGES = [(p, s) for p in ("08a_agents", "08_trading", "08b_learning", "08c_controls") for s in (178, 2100)]
PAGES += [("08d_validation", 178), ("09_luck", 178), ("09_luck", 2100)]


@pytest.mark.parametrize("page, seconds", PAGES)
def test_a_page_stands_where_nothing_could_be_traded(page, seconds, monkeypatch):
    monkeypatch.setitem(toy.FILLERS, "grid", partial(toy._grid, seconds=seconds))
    monkeypatch.setitem(toy.FILLERS, "predictions", no_forecasts)
    monkeypatch.setattr(toy_synthetic, "_synthetic", no_codes)
    monkeypatch.setattr(toy_trading, "_trading", nothing)
    said = shown(page)
    assert any(words in said for words in ("too short", "long enough", "nothing was traded", "nothing is traded")), said
