"""The HTML report of a comparison: one self-contained file that opens without network.

Plots are drawn in the browser by plotly.js, which comes with Python's ``plotly`` package and is embedded once; the
model's graph of thousands of nodes is drawn on a canvas. Names of models and nodes are untrusted text: they enter the
page as escaped text or as data, never as markup.
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
from trisect.runtime.printable_text import printable_lines

from ..comparing.comparison import Comparison
from .report_data import ReportData, report_data

__all__ = ["check_installed", "write_report"]

_PLOTLY = "plotly"


def check_installed() -> None:
    """Check that the plotting library is installed.

    Raises
    ------
    InvalidInput
        Where the plotting library is missing.
    """
    if importlib.util.find_spec(_PLOTLY) is None:
        raise InvalidInput("a report needs the package plotly", remedy="pip install 'trisect[report]'")


def write_report(comparison: Comparison, path: Path) -> None:
    """Write the report of a comparison.

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
        Where the model, whose graph is drawn, has been deleted since.
    StorageFailed
        Where the file cannot be written.
    """
    check_installed()
    write_atomically(path, render(report_data(comparison)).encode(errors="backslashreplace"))


def printable_value(value: object) -> object:
    """Return a value for a page without characters that are invisible or change the direction of text."""
    return printable_lines(value) if isinstance(value, str) and not isinstance(value, markupsafe.Markup) else value


def render(page: ReportData) -> str:
    """Return the page's HTML."""
    templates = files(__package__)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (templates / name).read_text("utf-8")),
        autoescape=True,
        finalize=printable_value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        page=page,
        data=script_data(page),
        plotly=plotly_script(),
        script=markupsafe.Markup((templates / "page.js").read_text("utf-8")),
        style=markupsafe.Markup((templates / "page.css").read_text("utf-8")),
    )


def plotly_script() -> markupsafe.Markup:
    """Return the source of the plotting library."""
    return markupsafe.Markup(Path(str(files(_PLOTLY) / "package_data" / "plotly.min.js")).read_text("utf-8"))


def script_data(page: object) -> markupsafe.Markup:
    """Return JSON in which no text can end the script element."""
    text = msgspec.json.encode(page).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return markupsafe.Markup(text)
