"""Sphinx configuration of the documentation site; `make site` builds it and turns warnings into errors."""

import re
from pathlib import Path

from sphinx.application import Sphinx

from semiseg import __version__

project = "semiseg"
copyright = "The semiseg authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "index"
exclude_patterns = ["_build", "README.md"]
html_theme = "furo"
html_title = f"semiseg {release}"

myst_heading_anchors = 4
myst_fence_as_directive = ["math"]
default_role = "code"  # docstrings write names in single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "description"

DOCS = Path(__file__).parent


def name_files_outside_docs(app: Sphinx, page: str, source: list[str]) -> None:
    """Replace a link to a file outside docs/, which the site does not contain, by its text and the file's name."""

    def name(link: re.Match[str]) -> str:
        target = (DOCS / page).parent / link[2]
        inside = target.resolve().is_relative_to(DOCS)
        return link[0] if inside else f"{link[1]} (`{target.resolve().relative_to(DOCS.parent)}`)"

    source[0] = re.sub(r"(?<!!)\[([^\]]+)\]\((\.\./[^)#]+)(?:#[^)]*)?\)", name, source[0])


def setup(app: Sphinx) -> None:
    """Connect the hook."""
    app.connect("source-read", name_files_outside_docs)
    app.connect("include-read", lambda app, path, page, source: name_files_outside_docs(app, page, source))
