"""Configuration of the documentation, which ``make docs`` builds without warnings and without a
network.
"""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_extensions")]

from public_names import documented_packages, public_names  # noqa: E402

from isplit_plugin import __version__  # noqa: E402

project = "isplit-plugin"
author = "the isplit-plugin authors"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "public_names",
]
templates_path = ["_templates"]
exclude_patterns = ["_*"]
# Long JSON examples are cut with "...".
suppress_warnings = ["misc.highlighting_failure"]

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

# The API reference: one page for each package, made from what its __all__ lists.
autosummary_context = {"public_names": {name: public_names(name) for name in documented_packages()}}
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_title = f"isplit-plugin {release}"
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False}
html_show_sourcelink = False
