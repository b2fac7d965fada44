"""Builds the documentation: `make docs`, then open docs/_build/index.html."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

from seer_rl import __version__  # noqa: E402

project = "seer-rl"
author = "the authors of seer-rl"
copyright = "the authors of seer-rl; MIT licence"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "generated"]
exclude_patterns = ["_build"]
highlight_language = "sh"  # of indented blocks, which are commands
default_role = "code"  # of single backticks in docstrings
# Names in docstrings' signatures belong to PyTorch, numpy and gymnasium, whose lists of names would have to be fetched.
nitpick_ignore_regex = [("py:.*", ".*")]

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say shapes and dtypes; the types are aliases, whose contents fill lines
autoclass_content = "both"
autodoc_preserve_defaults = True
add_module_names = False
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = "seer-rl"
html_static_path = ["_static"]
html_extra_path = ["study.html"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}
pygments_style = "friendly"
pygments_dark_style = "native"
