"The house is in order: stages depend on what they import, parameters agree, chapters look to the left only, nothing large or local is in git."
import json
import re
import subprocess

import pytest
import yaml
from house import ROOT, closure, code, imports, package_of

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
NOTEBOOK_STAGES = {k: v for k, v in STAGES.items() if "nbs/study/" in v["cmd"]}
CHAPTERS = ["data", "market", "forecast", "synthetic", "trading", "study"]


def notebook(stage): return re.search(r"nbs/study/\S+\.ipynb", stage["cmd"])[0]


@pytest.mark.parametrize("name", NOTEBOOK_STAGES)
def test_a_stage_depends_on_its_notebook_and_on_every_module_it_imports(name):
    stage, nb = STAGES[name], notebook(STAGES[name])
    deps = {d for d in stage["deps"] if d.startswith(("lobresearch/", "nbs/"))}
    assert deps == closure(code(nb)) | {nb}


@pytest.mark.parametrize("name", NOTEBOOK_STAGES)
def test_a_stage_is_given_the_sections_that_make_it_rerun_and_its_notebook_expects_them(name):
    stage = STAGES[name]
    given = set(re.findall(r"-s (\S+)", stage["cmd"]))
    assert given - {"compute"} == set(stage.get("params", [])) # where the work is done changes no result, so it makes nothing rerun
    cells = json.loads((ROOT / notebook(stage)).read_text())["cells"]
    source = ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", [])]
    assert len(source) == 1
    space = {}
    exec(source[0], space)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert space["where"] == "smoke"
    assert {k for k in space if k in params} == given
    for k in given: assert set(space[k]) <= set(params[k]), f"{k} of {name} has keys that params.yaml lacks"


def test_profiles_overlay_only_what_exists():
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for profile in ("smoke", "full"):
        for section, block in yaml.safe_load((ROOT / f"params.{profile}.yaml").read_text()).items():
            assert set(block) <= set(params[section]), (profile, section)


def test_relative_imports_are_followed():
    deps = closure("from lobresearch.study.toy import ensure")
    assert {"lobresearch/study/toy.py", "lobresearch/data/grid.py", "lobresearch/errors.py"} <= deps


def test_a_chapter_imports_only_chapters_to_its_left():
    for path in sorted((ROOT / "lobresearch").rglob("*.py")):
        parts = path.relative_to(ROOT / "lobresearch").parts
        if len(parts) == 1: continue
        for f in imports(path.read_text(), package_of(path)):
            chapter = f.relative_to(ROOT / "lobresearch").parts
            if len(chapter) == 1 or chapter[0] == parts[0] or chapter[0] == "evidence": continue
            assert parts[0] in CHAPTERS, f"{path} of {parts[0]} imports {f}"
            assert CHAPTERS.index(chapter[0]) < CHAPTERS.index(parts[0]), f"{path} imports {f}"


def test_a_stage_notebook_exports_nothing_and_has_no_long_function():
    for stage in NOTEBOOK_STAGES.values():
        source = code(notebook(stage))
        assert "#| export" not in source and "IN_TEST" not in source
        for body in re.findall(r"^def .*?(?=^\S|\Z)", source, flags=re.M | re.S):
            assert len(body.strip().splitlines()) <= 10, body.splitlines()[0]


def test_readme_is_the_index_notebook():
    cells = json.loads((ROOT / "nbs/index.ipynb").read_text())["cells"]
    text = "\n".join(line.strip() for line in (ROOT / "README.md").read_text().splitlines() if line.strip())
    for c in cells:
        lines = "\n".join(line.strip() for line in "".join(c["source"]).splitlines() if line.strip())
        assert lines in text, "README.md is not what nbs/index.ipynb gives: run `make readme`"


def test_every_make_target_readme_names_exists():
    makefile = (ROOT / "Makefile").read_text()
    for t in set(re.findall(r"make ([a-z]+(?:-[a-z]+)*)", (ROOT / "README.md").read_text())): assert re.search(rf"^{t}:", makefile, flags=re.M), t


def test_every_parameter_readme_sets_exists():
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    named = re.findall(r"-S '?(\w+)\.(\w+)=", (ROOT / "README.md").read_text())
    assert named
    for section, key in named: assert key in params[section], f"{section}.{key}"


def test_nothing_large_is_in_git():
    if not (ROOT / ".git").exists(): pytest.skip("not a git checkout")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]
    assert names
    for n in names:
        if (ROOT / n).is_file(): assert (ROOT / n).stat().st_size < 2**20, n
        assert not n.startswith(("data/", "artifacts/", "reports/html/", "reports/figures/")), n
