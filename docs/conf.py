"""Configuration of the documentation: ``python -m sphinx -W -b html docs docs/_build``."""

from skequinas import __version__

project = "skequinas"
copyright = "the skequinas developers"
release = version = __version__
extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "skequinas"
myst_enable_extensions = ["dollarmath"]
numpydoc_show_class_members = False
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_inherit_docstrings = False
nitpicky = False
