"Configuration of `make lab`: notebooks are saved without outputs, tags kept."


def strip(model, **_):
    "Drop outputs and execution counts before a notebook is written"
    if model["type"] != "notebook" or model["content"]["nbformat"] < 4: return
    for cell in model["content"]["cells"]:
        if cell["cell_type"] != "code": continue
        cell["outputs"], cell["execution_count"] = [], None
        cell["metadata"] = {k: v for k, v in cell["metadata"].items() if k in ("tags", "mystnb")}


c.FileContentsManager.pre_save_hook = strip  # noqa: F821 - jupyter puts c here
