"""Cells of CSV and Markdown tables whose text is not trusted: names out of models, files and libraries' messages."""

from __future__ import annotations

from typing import Any

from trisect.runtime.printable_text import printable_line

_FORMULA_SIGNS = tuple("=+-@\t\r")


def csv_cell(value: Any) -> Any:
    """Return a value for a CSV file: no text of it is a formula to a spreadsheet, and a missing value is empty.

    Examples
    --------
    >>> csv_cell("=1+1"), csv_cell(-1.5), csv_cell(None), csv_cell("a b")
    ("'=1+1", -1.5, '', 'a b')
    """
    if value is None:
        return ""
    if isinstance(value, str) and value.startswith(_FORMULA_SIGNS) and value != "-":
        return f"'{value}"
    return value


def markdown_cell(text: str) -> str:
    r"""Return a text for a cell of a Markdown table.

    Examples
    --------
    >>> print(markdown_cell("a|b\\c <br>\n"))
    a\|b\\c \<br>\\n
    """
    text = printable_line(text)
    for sign in ("\\", "|", "<"):
        text = text.replace(sign, f"\\{sign}")
    return text
