"""Output of commands: one JSON document or a table on standard output, everything else on standard error.

Every text that a command prints passes here, and is escaped: names and messages out of models and plans are untrusted.
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trisect.runtime.printable_text import printable_json, printable_line, printable_lines, printable_prose, utf8_text

from .standard_streams import OutputStream

if TYPE_CHECKING:
    from rich.table import Table

    from trisect.runtime.progress import Progress

_PIPE_WIDTH = 1000
"""Columns of a table that is written to a file or a pipe, where names must not be wrapped."""


@dataclass
class _OutputState:
    debug: bool = False


_state = _OutputState()


def set_debug(on: bool) -> bool:
    """Set whether errors are reported with their traceback."""
    _state.debug = on
    return on


def debugging() -> bool:
    """Return whether ``--debug`` is set."""
    return _state.debug


def print_json(document: Any) -> None:
    """Write one JSON document of plain values and dataclasses to standard output; infinities and NaN become null."""
    import msgspec

    try:
        text = msgspec.json.format(msgspec.json.encode(document, enc_hook=_plain), indent=2).decode()
    except UnicodeEncodeError:  # a lone surrogate: part of a file name that is not UTF-8
        text = json.dumps(_encodable(msgspec.to_builtins(document, enc_hook=_plain)), indent=2)
    text = printable_json(text)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a locale of ASCII
        text = json.dumps(json.loads(text), indent=2)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays
        return value.tolist()
    if hasattr(value, "items"):  # mappings other than dict
        return dict(value)
    raise TypeError(f"no JSON form for {type(value).__name__}")


def _encodable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return utf8_text(value) if isinstance(value, str) else value


def note(text: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(f"{printable_line(text)}\n")
    sys.stderr.flush()


def print_text(text: str) -> None:
    """Write lines of a text format, such as CSV, to standard output."""
    sys.stdout.write(printable_lines(text))
    sys.stdout.flush()


def print_generated(text: str) -> None:
    """Write text that a model generated to standard output: unchanged, unless that is a terminal."""
    sys.stdout.write(printable_prose(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def has_no_reader() -> bool:
    """Return whether the reader of the pipe to which standard output is written has exited."""
    return isinstance(sys.stdout, OutputStream) and sys.stdout.has_no_reader


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """Print a table on standard output; columns of numbers are right-aligned.

    Cells are plain text: brackets in the name of a node or a device are not interpreted as markup.
    """
    from rich.console import Console

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    if title is not None:
        console.print(printable_line(title), markup=False, highlight=False)
    console.print(_table(columns, rows))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, pad_edge=False)
    for index, column in enumerate(columns):
        is_numeric = bool(rows) and all(row[index][:1].isdigit() or row[index] in ("", "-") for row in rows)
        table.add_column(Text(printable_line(column)), justify="right" if is_numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable_line(cell)) for cell in row))
    return table


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """Show a progress bar on standard error if that is a terminal.

    Yields
    ------
    callable
        ``report(done, total, text)``: the number of completed steps, of all steps, and the current step.
    """
    from rich import progress as rich_progress
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeElapsedColumn

    # The bar draws with a terminal's own codes, which the stream that escapes them must not get.
    console = Console(file=getattr(sys.stderr, "stream", sys.stderr) or io.StringIO())
    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn()]
    columns.append(TextColumn("{task.fields[now]}", markup=False))
    with rich_progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(printable_line(title), total=None, now="")

        def report(done: int, total: int, text: str, /) -> None:
            bar.update(task, completed=done, total=total, now=printable_line(text))

        yield report


def duration(seconds: float | None) -> str:
    """Format a duration.

    Examples
    --------
    >>> duration(0.0123456), duration(2.5e-6), duration(75.0), duration(None)
    ('12.3 ms', '2.5 us', '75 s', '-')
    """
    if seconds is None:
        return "-"
    for unit, value in (("s", seconds), ("ms", seconds * 1e3)):
        if value >= 1:
            return f"{value:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def quantity(value: float, objective: str) -> str:
    """Format a value of an objective.

    Examples
    --------
    >>> quantity(0.0123, "latency"), quantity(0.5, "energy"), quantity(2e6, "memory")
    ('12.3 ms', '500 mJ', '2 MB')
    """
    if objective == "memory":
        return size(round(value))
    if objective == "energy":
        return f"{value:.3g} J" if value >= 1 else f"{value * 1e3:.3g} mJ"
    return duration(value)


def size(size_bytes: int | None) -> str:
    """Format a size.

    Examples
    --------
    >>> size(999), size(2_500_000), size(None)
    ('999 B', '2.5 MB', '-')
    """
    if size_bytes is None:
        return "-"
    value, units = float(size_bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.4g} {units[0]}"


def plural(count: int, noun: str) -> str:
    """Format a count with its noun.

    Examples
    --------
    >>> plural(1, "segment"), plural(2, "segment")
    ('1 segment', '2 segments')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"
