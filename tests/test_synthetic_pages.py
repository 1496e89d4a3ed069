"The synthetic chapter's pages on recordings too short for it: each says so in a sentence and stands."
import json
import warnings
from functools import partial

import pytest
from house import code

from lobresearch.study import toy, toy_synthetic

SHORT = "TOY is too short for a market to be learnt from it."


def nothing_learnt(st):
    "What the stage of fits leaves when every symbol is too short"
    folder = st.path("artifacts/synthetic/x").parent
    folder.mkdir(exist_ok=True)
    (folder / "short.json").write_text(json.dumps({s: SHORT for s in st.p.data.symbols}))
    (folder / "results.json").write_text(json.dumps(dict(codebooks=[], priors=[], markets=[], chosen={})))


@pytest.mark.parametrize("page", ["06_synthetic", "06b_quality", "06c_search", "07_augmentation"])
def test_a_page_stands_where_nothing_could_be_learnt(page, monkeypatch):
    monkeypatch.setitem(toy.FILLERS, "grid", partial(toy._grid, seconds=178))
    monkeypatch.setattr(toy_synthetic, "_synthetic", nothing_learnt)
    made = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code(f"nbs/study/{page}.ipynb"), page, "exec"), made)  # noqa: S102
    said = " ".join(made["st"].said).lower()
    assert any(words in said for words in ("too short", "long enough", "nothing was searched"))
