"""How the documentation is built: ``nox -s docs``."""

import perftricks

project = "perftricks"
author = "The perftricks authors"
project_copyright = "2026, the perftricks authors"
version = release = perftricks.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["samples", "pictures"]
myst_heading_anchors = 3
napoleon_use_ivar = True  # else the fields of a dataclass are described twice
autodoc_member_order = "bysource"
autodoc_typehints = "none"
nitpicky = False

html_theme = "furo"
html_title = "perftricks"


def skip_bare_fields(app, what, name, obj, skip, options):  # noqa: D103
    # The fields of a named tuple are described with the class; their own text says but "Alias".
    return skip or (getattr(obj, "__doc__", None) or "").startswith("Alias for field number")


def setup(app):  # noqa: D103
    app.connect("autodoc-skip-member", skip_bare_fields)
