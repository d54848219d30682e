"""A comparison as one HTML file to look at: self-contained, so that it can be mailed, kept and opened without network.

The drawing is done in the browser by plotly.js, which comes in Python's ``plotly`` package and is put into the page
once; the graph of the model, of thousands of nodes, is drawn on a canvas by a few lines of our own. Names of models and
nodes are anybody's text: they enter the page as escaped text or as data, never as markup.
"""

from __future__ import annotations

import importlib.util
from importlib.resources import files
from pathlib import Path

import jinja2
import markupsafe
import msgspec

from trisect.runtime.atomic_write import write_atomically
from trisect.runtime.errors import InvalidInput

from ..comparing.comparison import Comparison
from .report_data import Document, document

__all__ = ["check_installed", "write_report"]

_PLOTLY = "plotly"


def check_installed() -> None:
    """Whether a report can be drawn at all.

    Raises
    ------
    InvalidInput
        Where the plotting library is missing.
    """
    if importlib.util.find_spec(_PLOTLY) is None:
        raise InvalidInput("a report needs the package plotly", remedy="pip install 'trisect[report]'")


def write_report(comparison: Comparison, path: Path) -> None:
    """Draw a comparison.

    Parameters
    ----------
    comparison : Comparison
    path : Path
        The HTML file.

    Raises
    ------
    InvalidInput
        Where the plotting library is missing.
    InvalidModel
        Where the model, whose graph is drawn, has gone since it was compared.
    StorageFailed
        Where the file cannot be written.
    """
    check_installed()
    write_atomically(path, render(document(comparison)).encode())


def render(page: Document) -> str:
    """The page's text."""
    here = files(__package__)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (here / name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        page=page,
        data=script_data(page),
        plotly=plotly_script(),
        script=markupsafe.Markup((here / "page.js").read_text("utf-8")),
        style=markupsafe.Markup((here / "page.css").read_text("utf-8")),
    )


def plotly_script() -> markupsafe.Markup:
    """The plotting library, as it stands in its package."""
    return markupsafe.Markup(Path(str(files(_PLOTLY) / "package_data" / "plotly.min.js")).read_text("utf-8"))


def script_data(page: object) -> markupsafe.Markup:
    """JSON that no text in it can end the script element of."""
    text = msgspec.json.encode(page).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return markupsafe.Markup(text)
