"""The site of these pages and of the docstrings: `sphinx-build -W docs build/docs`."""

import fastnn

project = "fastnn"
author = copyright = "the fastnn developers"
version = release = fastnn.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
myst_heading_anchors = 3
default_role = "literal"  # in docstrings, as in Markdown
autodoc_typehints = "none"  # the docstrings have them
numpydoc_show_class_members = False  # api.md lists them

html_theme = "furo"
html_title = "fastnn"
