"The whole chain runs at toy size: nothing to do the second time, pages that need no network, and a parameter that reruns only what it should."
import fcntl
import json
import os
import re

import pytest
from dvc.repo import Repo
from smoke import chain


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    "A finished study at toy size: (folder, metrics by stage), made once for all processes that run tests"
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ: base = base.parent
    folder, done = base / "study", base / "study.json"
    with open(base / "study.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            folder.mkdir()
            done.write_text(json.dumps(chain(folder)))
    return folder, json.loads(done.read_text())


def test_every_stage_leaves_its_numbers(study):
    _, metrics = study
    assert {"01_data", "02_facts", "03_features", "04_labels_splits", "05_forecast", "05c_where", "05d_ablations", "05e_search", "05f_fi2010",
            "08a_agents", "08_trading", "08b_learning", "08c_controls", "08d_validation", "09_luck", "10_answer"} <= set(metrics)
    assert metrics["01_data"]["SIM-NULL.rows"] > 3000
    assert len({m["_data"] for m in metrics.values()}) == 1


def test_pages_load_nothing_from_outside(study):
    pages = sorted((study[0] / "reports/html").rglob("*.html"))
    assert len(pages) > 20
    for p in pages:
        text = p.read_text()
        loads = re.findall(r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=\"([^\"]+)\"", text)
        assert not [u for u in loads if u.startswith(("http:", "https:", "//"))], p


def test_pages_have_numbered_figures_and_no_path_of_this_machine(study):
    text = (study[0] / "reports/html/pages/02_facts.html").read_text()
    assert len(re.findall(r"Figure \d+", text)) >= 5
    for p in (study[0] / "reports/html").rglob("*.html"): assert str(study[0]) not in p.read_text() and "site-packages" not in p.read_text(), p
    assert {p.stem for p in (study[0] / "reports/html/pages").glob("05*.html")} == {"05_forecast", "05c_where", "05d_ablations", "05e_search", "05f_fi2010"}


def test_the_depth_of_the_network_reruns_training_and_not_the_ingest(study):
    params = study[0] / "params.yaml"
    before = params.read_text()
    assert "  depth: 4" in before
    params.write_text(before.replace("  depth: 4", "  depth: 3"))
    try:
        with Repo(str(study[0])) as repo: changed = {name.split(":")[-1] for name in repo.status()}
    finally:
        params.write_text(before)
    assert "train" in changed
    assert not changed & {"data", "facts", "labels_splits", "ceiling"}
