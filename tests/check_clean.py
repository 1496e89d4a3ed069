"The package equals the notebooks, and notebooks are stored clean: run both tools on a copy and compare."
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
skip = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.pyc")


def differing(a, b):
    "Relative paths of files that differ between two folders"
    names = {p.relative_to(r) for r in (a, b) for p in r.rglob("*") if p.is_file() and "__pycache__" not in p.parts and ".ipynb_checkpoints" not in p.parts}
    return sorted(str(n) for n in names if not ((a / n).is_file() and (b / n).is_file() and filecmp.cmp(a / n, b / n, shallow=False)))


def main():
    with tempfile.TemporaryDirectory() as d:
        copy = Path(d)
        for name in ("nbs", "lobresearch"): shutil.copytree(ROOT / name, copy / name, ignore=skip)
        for name in ("settings.ini", "pyproject.toml"): shutil.copy(ROOT / name, copy)
        for tool in ("nbdev_clean", "nbdev_export"):
            subprocess.run([Path(sys.executable).with_name(tool)], cwd=copy, check=True, env={**os.environ, "PYTHONPATH": str(copy)})
        bad = [f"{name}/{f}" for name in ("nbs", "lobresearch") for f in differing(ROOT / name, copy / name)]
    if bad: sys.exit("These differ from what the notebooks give. Run `make clean-notebooks export` and commit:\n  " + "\n  ".join(bad))


if __name__ == "__main__": main()
