"The whole chain at toy size in a copy of this checkout: data, every stage, the report, and nothing to do the second time."
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


def copy_checkout(dst):
    "Copy what git tracks or would track"
    names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for n in names.split("\0")[:-1]:
        if not (ROOT / n).is_file(): continue
        (dst / n).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / n, dst / n)


def run(folder, *cmd):
    "Run a command in the copy, on the copy's own package"
    env = {**os.environ, "PYTHONPATH": str(folder), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    env.pop("IN_TEST", None)
    print("$", " ".join(cmd), flush=True)
    subprocess.run(cmd, cwd=folder, env=env, check=True)


def chain(folder, source=("lobresearch", "data", "simulated", "--hours", "1")):
    "Everything a newcomer would type, at toy size"
    copy_checkout(folder)
    run(folder, "git", "init", "-q")
    run(folder, "lobresearch", "profile", "smoke")
    run(folder, *source)
    run(folder, "dvc", "repro")
    pages = sorted(p.name for p in (folder / "reports/html/pages").glob("*.html"))
    assert (folder / "reports/html/index.html").is_file() and len(pages) >= 5, pages
    before = (folder / "dvc.lock").read_bytes()
    run(folder, "dvc", "repro")
    assert (folder / "dvc.lock").read_bytes() == before, "a second dvc repro did something"
    return {p.stem: json.loads(p.read_text()) for p in (folder / "reports/metrics").glob("*.json")}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="lobresearch-smoke-") as d:
        metrics = chain(Path(d))
        print(f"The chain ran: {len(metrics)} metrics files, {sum(map(len, metrics.values()))} numbers.")
