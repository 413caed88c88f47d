"""How the documentation is built: ``nox -s docs``."""

import perftricks

project = "perftricks"
author = "The perftricks authors"
project_copyright = "2026, the perftricks authors"
version = release = perftricks.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
# What is copied from a console is its commands, without the prompt and what they print.
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
copybutton_line_continuation_character = "\\"
exclude_patterns = ["samples", "pictures"]
myst_heading_anchors = 3
napoleon_use_ivar = True  # else the fields of a dataclass are described twice
autodoc_member_order = "bysource"
autodoc_typehints = "none"
nitpicky = False

html_theme = "furo"
html_title = "perftricks"
html_static_path = ["_static"]
html_css_files = ["pages.css"]


def skip_bare_fields(app, what, name, obj, skip, options):  # noqa: D103
    # The fields of a named tuple are described with the class; their own text says but "Alias".
    return skip or (getattr(obj, "__doc__", None) or "").startswith("Alias for field number")


def setup(app):  # noqa: D103
    app.connect("autodoc-skip-member", skip_bare_fields)
