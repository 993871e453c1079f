"""Configuration of the documentation: ``python -m sphinx -W -b html docs docs/_build``."""

import importlib
import inspect
import os
import sys
from functools import cached_property
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
os.environ.setdefault("MPLBACKEND", "agg")


import skequinas

project = "skequinas"
copyright = "the skequinas developers"
release = version = skequinas.__version__
extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
    "matplotlib.sphinxext.plot_directive",
]
exclude_patterns = ["_build", "_ext", "_templates", "figures"]
templates_path = ["_templates"]
default_role = "py:obj"  # names in docstrings link to their page where they have one
nitpicky = False
math_number_all = False
math_eqref_format = "({number})"
numfig = False

html_theme = "pydata_sphinx_theme"
html_title = "skequinas"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_favicon = "_static/logo-light.svg"
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {"index": [], "how_it_decides": [], "contributing": []}  # they have no pages below them
html_theme_options = {
    "logo": {
        "text": "skequinas",
        "image_light": "_static/logo-light.svg",
        "image_dark": "_static/logo-dark.svg",
    },
    "header_links_before_dropdown": 7,
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "show_prev_next": True,
    "use_edit_page_button": False,
    "show_nav_level": 1,
    "navigation_depth": 2,
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
    "pygments_light_style": "default",
    "pygments_dark_style": "github-dark",
}

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
myst_dmath_double_inline = True

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
bibtex_default_style = "plain"

numpydoc_show_class_members = False
toc_object_entries_show_parents = "hide"
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_inherit_docstrings = False

plot_html_show_formats = False
plot_html_show_source_link = False
plot_include_source = False
plot_formats = [("png", 150)]
plot_rcparams = {"font.size": 9, "savefig.bbox": "tight"}
plot_apply_rcparams = True

sphinx_gallery_conf = {
    "examples_dirs": "../examples/gallery",
    "gallery_dirs": "auto_examples",
    "backreferences_dir": "gen_modules",
    "doc_module": ("skequinas",),
    "reference_url": {"skequinas": None},
    "within_subsection_order": "gallery_order.GalleryOrder",
    "ignore_repr_types": r"Display|matplotlib",
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,  # that page would load scripts from elsewhere
    "remove_config_comments": True,
    "default_thumb_file": str(Path(__file__).parent / "_static" / "logo-light.svg"),
}


_FIRST = ("fit", "predict", "predict_proba")


def _own_members(name: str) -> dict[str, list[str]]:
    """The public methods and properties of a class that this package defines, those of `_FIRST` before the others."""
    parent, _, own = name.rpartition(".")
    found: dict[str, list[str]] = {"methods": [], "attributes": []}
    for base in reversed(inspect.getmro(getattr(importlib.import_module(parent), own))):
        if not base.__module__.startswith("skequinas"):
            continue
        for member, value in vars(base).items():
            if member.startswith("_") or getattr(value, "__doc__", None) is None:
                continue
            if isinstance(value, property | cached_property):
                kind = "attributes"
            elif inspect.isfunction(value) or isinstance(value, classmethod | staticmethod):
                kind = "methods"
            else:
                continue
            if member not in found[kind]:
                found[kind].append(member)
    found["methods"].sort(key=lambda member: _FIRST.index(member) if member in _FIRST else len(_FIRST))
    return found


# what the pages of classes list: plain values, so that Sphinx can tell whether they changed
_CLASSES = [
    f"{module}.{name}"
    for module in ("skequinas", *(f"skequinas.{room}" for room in ("groups", "nn", "search", "training", "displays")))
    for name in importlib.import_module(module).__all__
    if inspect.isclass(getattr(importlib.import_module(module), name))
]
autosummary_context = {"own": {name: _own_members(name) for name in _CLASSES}}
autosummary_context["inherited"] = {
    "skequinas.EquivariantNASClassifier": "the accuracy",
    "skequinas.EquivariantNASRegressor": "R2",
}
