"""How Sphinx makes these pages of README.md, the guides beside it, the notebooks as they ran, and docstrings."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
import sys
from base64 import b64decode
from pathlib import Path
from pkgutil import walk_packages
from typing import Any, Generic, TypeVar

import nbformat
import numpy.typing
import typer
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.ext import napoleon
from sphinx.pycode import ModuleAnalyzer


class NDArray(Generic[TypeVar("Number")]):
    """Stands in for numpy's, which Sphinx would spell out to the dtype's last bracket."""

    __module__ = "numpy.typing"


class ArrayLike:
    """As `NDArray`."""

    __module__ = "numpy.typing"


numpy.typing.NDArray, numpy.typing.ArrayLike = NDArray, ArrayLike
typer.models.ParameterInfo.__repr__ = lambda option: repr(option.help)  # no address in memory
sys.path.insert(0, str(Path(__file__).parents[1]))
import pyro_hmvcrl  # noqa: E402 - after the two above
from pyro_hmvcrl import cli  # noqa: E402

project, release = "pyro_hmvcrl", pyro_hmvcrl.__version__
extensions = ["myst_nb", "sphinx_design", "sphinx.ext.autodoc", "sphinxcontrib.typer"]
thorough = not tags.has("quick")  # noqa: F821 - of Sphinx; the tests do without what takes half the time and warns of nothing
extensions += ["sphinx.ext.viewcode"] if thorough else []
exclude_patterns = ["_build"]
nb_execution_mode = "off"  # they are kept with their outputs
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
default_role = "code"
smartquotes = False
html_theme = "furo"
html_title = project
html_static_path = html_css_files = ["wide.css"]
html_copy_source = False
html_show_copyright = False

autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # those of torch and pyro
autodoc_typehints_format = "short"
autodoc_preserve_defaults = thorough
python_maximum_signature_line_length = 90
toc_object_entries = thorough
toc_object_entries_show_parents = "hide"

nitpicky = True
OTHERS = "numpy|pandas|pandera|pd|pyarrow|scipy|torch|pyro|matplotlib|pathlib|collections|typing"
ELSEWHERE = rf"({OTHERS})\..*|Tensor|Path|csr_matrix"
nitpick_ignore_regex = [("py:.*", ELSEWHERE)]

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
LINK = re.compile(r"\]\((?!http|#)(.*?)\)")
PAGES = {"pyro_hmvcrl/story/model.py": "story.rst", "data/README.md": "card.md", "README.md": "index.md"}
COPIED = {"notebooks": ["*.ipynb", "*.md"], "simulations": ["*.md", "*.py", "*.png", "*/*.md", "*/*.png"]}
INSIDE = ("docs/", *(f"{folder}/" for folder in COPIED))  #: folders whose files are pages here
COMMANDS = {
    f"{command.callback.__module__}.{command.callback.__name__}"
    for part in (cli.runs, cli.logs, cli.questions, cli.kuaisar)
    for command in part.app.registered_commands
}
ATTRIBUTES = re.compile(r"^Attributes\n-+\n(.*?)(?=^\S.*\n-+\n|\Z)", re.M | re.S)
NUMPYDOC = napoleon.Config(napoleon_use_param=False, napoleon_use_rtype=False)
LONGEST_VALUE = 100


def setup(app: Sphinx) -> None:
    """Connect what follows."""
    app.connect("source-read", link_pages)
    app.connect("builder-inited", bring_in)
    app.connect("builder-inited", complete_comments)
    app.connect("autodoc-process-docstring", adapt_docstring)
    app.connect("autodoc-process-signature", adapt_signature)
    app.connect("missing-reference", find_anywhere)
    app.connect("doctree-read", shorten)


def link_pages(app: Sphinx, page: str, source: list[str]) -> None:
    """Begin the front page with README.md; links lead to files of the repository, of which some are pages here."""
    if "/" in page or app.env.doc2path(page).suffix != ".md":
        return
    folder = "docs"
    if page == "index":
        app.env.note_dependency(README)
        source[0], folder = README.read_text() + source[0], ""

    def here(match: re.Match[str]) -> str:
        path = os.path.normpath(os.path.join(folder, match[1]))
        inside = path.removeprefix("docs/") if path.startswith(INSIDE) else f"path:../{path}"
        return f"]({PAGES.get(path, inside)})"

    source[0] = LINK.sub(here, source[0])


def bring_in(app: Sphinx) -> None:
    """Copy notebooks and studies to where Sphinx looks, and a figure of each notebook (of the cell tagged so)."""
    for folder, patterns in COPIED.items():
        for file in (file for pattern in patterns for file in (DOCS.parent / folder).glob(pattern)):
            copy = DOCS / file.relative_to(DOCS.parent)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, copy)  # with its time, by which Sphinx knows what has changed
    (DOCS / "_thumbnails").mkdir(exist_ok=True)
    for path in (DOCS / "notebooks").glob("*.ipynb"):
        tagged = (c for c in nbformat.read(path, 4).cells if "thumbnail" in c.metadata.get("tags", []))
        pictures = (o.data["image/png"] for o in next(tagged).outputs if "image/png" in o.get("data", {}))
        (DOCS / "_thumbnails" / f"{path.stem}.png").write_bytes(b64decode(next(pictures)))


def complete_comments(app: Sphinx) -> None:
    """Let autodoc find what a class says of its fields under "Attributes" beside them, and constants without words."""
    for module in walk_packages(pyro_hmvcrl.__path__, "pyro_hmvcrl."):
        analyzer = ModuleAnalyzer.for_module(module.name)
        analyzer.analyze()
        for statement in ast.parse(analyzer.code).body:
            if isinstance(statement, ast.Assign | ast.AnnAssign):
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                for name in (part.id for t in targets for part in ast.walk(t) if isinstance(part, ast.Name)):
                    analyzer.attr_docs.setdefault(("", name), [""])
            elif isinstance(statement, ast.ClassDef):
                for section in ATTRIBUTES.findall(ast.get_docstring(statement) or ""):
                    for fields, words in re.findall(r"^(\S.*)\n((?: .*\n?|\n)+)", section, re.M):
                        lines = [*inspect.cleandoc(words).splitlines(), ""]
                        analyzer.attr_docs |= {(statement.name, field): lines for field in fields.split(", ")}


def adapt_docstring(app: Sphinx, what: str, name: str, of: Any, options: Any, lines: list[str]) -> None:
    """Read the sections, but for a class's "Attributes" (see above).

    Napoleon as an extension would take "shape: meaning" beside a field for "type: description".
    """
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()  # all that a NamedTuple says of a field without words
    if what == "class":
        lines[:] = ATTRIBUTES.sub("", "\n".join(lines)).split("\n")
    if what not in ("attribute", "data", "property"):
        lines[:] = napoleon.NumpyDocstring(lines, NUMPYDOC, app, what, name, of, options).lines()


def adapt_signature(
    app: Sphinx, what: str, name: str, of: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Leave out a command's annotations, of which typer makes its options, and what a dataclass's defaults come to."""
    if name in COMMANDS:
        return f"({', '.join(inspect.signature(of).parameters)})", None
    return signature and signature.replace("<factory>", "..."), returned


def find_anywhere(app: Sphinx, env: Any, node: addnodes.pending_xref, words: nodes.Element) -> Any:
    """Find a name of another module too, as :func:`run` is written where run has been imported."""
    if node["refdomain"] != "py" or re.match(ELSEWHERE, node["reftarget"]):
        return None
    node["refspecific"] = True
    to = node["reftype"], node["reftarget"], node, words
    return env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, *to)


def shorten(app: Sphinx, page: nodes.document) -> None:
    """Leave long values of constants to the source, and unsaid that a class is an object."""
    for node in page.findall(addnodes.desc_annotation):
        if node.astext().startswith(" = ") and len(node.astext()) > LONGEST_VALUE:
            node[-1] = nodes.Text("…")
    for paragraph in [p for p in page.findall(nodes.paragraph) if p.astext() == "Bases: object"]:
        paragraph.parent.remove(paragraph)
