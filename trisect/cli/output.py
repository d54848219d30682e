"""Output of commands: one JSON document or a table on standard output, everything else on standard error.

Every text that a command prints passes here, and is escaped: names and messages out of models and plans are untrusted.
"""

from __future__ import annotations

import io
import json
import math
import sys
import textwrap
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trisect.runtime.printable_text import printable_json, printable_line, printable_lines, printable_prose, utf8_text

from .quantities import shortened
from .standard_streams import OutputStream

if TYPE_CHECKING:
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    from trisect.runtime.progress import Progress

_PIPE_WIDTH = 1000
"""Width of a table that is written to a file or a pipe, whose rows must not be wrapped."""
_NAMES_WIDTH = 80
"""Width there of all columns of names together."""
_UNLIMITED_WIDTH = 1_000_000
_NAME_WIDTH_MIN = 16
_PART_COLUMNS_MIN = 2
_NUMBERS_LENGTH_MAX = 20
"""Of a cell with a number and its unit, its interval or another number."""
_NO_VALUE = ("", "-")


@dataclass
class _OutputState:
    debug: bool = False


@dataclass(frozen=True)
class _Column:
    """A column of a table that is about to be printed."""

    title: str
    cells: list[str]
    is_name: bool
    is_numeric: bool

    @property
    def is_on_one_line(self) -> bool:
        """Whether its cells are not wrapped: they are numbers, names or single words."""
        return self.is_numeric or self.is_name or not any(" " in cell for cell in self.cells)

    @property
    def width(self) -> int:
        """Length of the longest cell."""
        return max(map(len, self.cells), default=0)

    def shortened(self, width: int) -> _Column:
        """Return the column with cells of at most that length."""
        return replace(self, cells=[shortened(cell, width) for cell in self.cells])


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


def note(text: str, *, lines: bool = False) -> None:
    """Write a line, or several lines, to standard error."""
    sys.stderr.write(f"{printable_lines(text) if lines else printable_line(text)}\n")
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


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str | None = None,
    names: Collection[str] = (),
    optional: Collection[str] = (),
) -> None:
    """Print a table on standard output; columns of numbers are right-aligned, and not wrapped.

    Cells are plain text: brackets in the name of a node or a device are not interpreted as markup. Where a terminal is
    too narrow for all columns, the last ones follow in a table of their own, with the first column repeated.

    Parameters
    ----------
    names : collection of str
        Columns of names that may be long: where the table is too wide, the middle of these is left out.
    optional : collection of str
        Columns that are left out where no row has a value in them.
    """
    from rich.console import Console

    is_terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, width=None if is_terminal else _PIPE_WIDTH)
    if title is not None:
        console.print(printable_line(title), markup=False, highlight=False)
    table = [
        _column(title, [printable_line(row[index]) for row in rows], is_name=title in names)
        for index, title in enumerate(columns)
        if title not in optional or any(row[index] not in _NO_VALUE for row in rows)
    ]
    table = _that_fits(table, console) if is_terminal else _with_short_names(table)
    for part in _parts(table, console):
        console.print(_rich_table(part, fold=not _fits(part, console), wrap_titles=is_terminal))


def _column(title: str, cells: list[str], *, is_name: bool) -> _Column:
    is_numeric = not is_name and bool(cells) and all(cell in _NO_VALUE or _is_number(cell) for cell in cells)
    return _Column(printable_line(title), cells, is_name, is_numeric)


def _is_number(cell: str) -> bool:
    """Return whether a cell is a number with its unit, or a few of them."""
    return cell[:1].isdigit() and len(cell) <= _NUMBERS_LENGTH_MAX


def _with_short_names(table: Sequence[_Column]) -> list[_Column]:
    """Return a table whose columns of names share a certain width."""
    width = _NAMES_WIDTH // max(1, sum(column.is_name for column in table))
    return [column.shortened(width) if column.is_name else column for column in table]


def _that_fits(table: list[_Column], console: Console) -> list[_Column]:
    """Return a table whose names are as short as they have to be for it to fit the terminal."""
    names = [index for index, column in enumerate(table) if column.is_name]
    excess = _measure(table, console).maximum - console.width
    for index, width in zip(names, narrowed([table[index].width for index in names], excess), strict=True):
        table[index] = table[index].shortened(width)
    return table


def _parts(table: list[_Column], console: Console) -> list[list[_Column]]:
    """Return a table in parts that fit the console without wrapping numbers; the first column is in all of them."""
    parts = [table[:1]]
    for column in table[1:]:
        part = [*parts[-1], column]
        if len(part) > _PART_COLUMNS_MIN and not _fits(part, console):
            parts.append([table[0], column])
        else:
            parts[-1] = part
    return parts


def _fits(table: Sequence[_Column], console: Console) -> bool:
    return _measure(table, console).minimum <= console.width


def _measure(table: Sequence[_Column], console: Console) -> Measurement:
    """Return the widths that a table needs with all line breaks between words, and without any."""
    return console.measure(_rich_table(table), options=console.options.update_width(_UNLIMITED_WIDTH))


def narrowed(widths: Sequence[int], excess: int) -> list[int]:
    """Return the widths of columns that together lose `excess` characters, the widest first, but keep a minimum.

    Examples
    --------
    >>> narrowed([60, 30, 10], 30), narrowed([60, 30, 10], 40), narrowed([60, 30], 500)
    ([30, 30, 10], [25, 25, 10], [16, 16])
    """
    result = list(widths)
    for _ in range(excess):
        widest = max(range(len(result)), key=result.__getitem__, default=None)
        if widest is None or result[widest] <= _NAME_WIDTH_MIN:
            break
        result[widest] -= 1
    return result


def _rich_table(columns: Sequence[_Column], *, fold: bool = False, wrap_titles: bool = True) -> Table:
    """Return a table for rich; `fold` breaks words, too, where the terminal is too narrow for a single column."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in columns:
        words = column.cells if column.is_on_one_line else [word for cell in column.cells for word in cell.split()]
        width = max(map(len, [*words, *column.title.split()]), default=0)
        title = textwrap.fill(column.title, width) if wrap_titles and column.is_on_one_line and width else column.title
        table.add_column(
            Text(title),
            justify="right" if column.is_numeric else "left",
            overflow="fold",
            min_width=None if fold else width,
            no_wrap=column.is_on_one_line and not fold,
        )
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(Text, row))
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
