"Sphinx configuration of the report: it runs nothing, it lays out what the stages made."
project = "lobresearch"
author = "the lobresearch authors"
html_title = "Limit order books: a study"
extensions = ["myst_nb", "sphinxcontrib.bibtex", "sphinx_design", "sphinx-mathjax-offline", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
nb_execution_mode = "off"
nb_render_markdown_format = "myst"
nb_merge_streams = True
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
numfig = True
numfig_secnum_depth = 1
numfig_format = {"figure": "Figure %s", "table": "Table %s"}
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist", "attrs_inline"]
bibtex_bibfiles = ["refs.bib"]
bibtex_reference_style = "author_year"
html_theme = "pydata_sphinx_theme"
html_theme_options = {
    "secondary_sidebar_items": ["page-toc"], "show_prev_next": True, "navigation_depth": 2, "use_edit_page_button": False,
    "navbar_end": ["theme-switcher"], "footer_start": ["copyright"], "footer_end": [], "header_links_before_dropdown": 9,
    "navbar_persistent": ["search-button"],
}
html_sidebars = {"index": [], "pages/*": [], "appendix": [], "bibliography": []}
html_context = {"default_mode": "light"}
html_static_path = ["_static"]
html_css_files = ["report.css"]
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None
copyright = "2026 onwards, the lobresearch authors"  # noqa: A001
autodoc_typehints = "none"
exclude_patterns = ["_build"]
suppress_warnings = ["mystnb.mime_priority"]


def _docments(app, what, name, obj, options, lines):
    "Bring back the comments beside the arguments, which autodoc drops"
    import inspect
    import re

    from fastcore.docments import docments
    lines[:] = [re.sub(r"\$([^$]+)\$", r":math:`\1`", re.sub(r"(?<![`:])`([^`]+)`(?!`)", r"``\1``", line)) for line in lines]
    lines[:] = [line if ":math:" in line or "``" in line else line.replace("|", "\\|") for line in lines]
    if what not in ("function", "method") or not inspect.isfunction(obj): return
    notes = {k: v for k, v in docments(obj).items() if v and k != "self"}
    if not notes: return
    lines.append("")
    for k, v in notes.items():
        text = re.sub(r"`([^`]+)`", r"``\1``", " ".join(str(v).split()))
        text = re.sub(r"(?<!`)([|*])", r"\\\1", text)
        lines.append(f":returns: {text}" if k == "return" else f":param {k}: {text}")


def setup(app):
    app.connect("autodoc-process-docstring", _docments)
