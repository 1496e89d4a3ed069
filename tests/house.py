"Read the house's own structure: which modules a file really imports, directly or through others."
import ast
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def module_file(name):
    "The source file of a module of the package, or None"
    path = ROOT / Path(*name.split("."))
    for p in (path.with_suffix(".py"), path / "__init__.py"):
        if p.is_file(): return p
    return None


def absolute(node, package):
    "The module that a from-import names, relative ones resolved against the package it stands in"
    if not node.level: return node.module
    parts = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def imports(source, package=""):
    "Files of the package that this source, standing in `package`, imports"
    out = set()
    for node in ast.walk(ast.parse(source)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            base = absolute(node, package)
            names = [base, *(f"{base}.{a.name}" for a in node.names)]
        out |= {f for n in names if n.split(".")[0] == "lobresearch" and (f := module_file(n))}
    return {f for f in out if f.name != "__init__.py"}


def package_of(path):
    "The package that a module's file stands in, such as lobresearch.data"
    return ".".join(path.relative_to(ROOT).parts[:-1])


def closure(source, package=""):
    "Files of the package that this source imports, directly or through others"
    seen, todo = set(), imports(source, package)
    while todo:
        f = todo.pop()
        if f in seen: continue
        seen.add(f)
        todo |= imports(f.read_text(), package_of(f)) - seen
    return {str(f.relative_to(ROOT)) for f in seen}


def code(notebook):
    "The code of a notebook as one source, magics left out"
    cells = [c for c in json.loads((ROOT / notebook).read_text())["cells"] if c["cell_type"] == "code"]
    lines = [line for c in cells for line in "".join(c["source"]).splitlines()]
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))
