"""``trisect history``: show or clear the recorded answers and runs."""

from __future__ import annotations

import typer

from ..command_help import PlainCommand, PlainGroup
from ..options import Debug, Json
from ..output import note, print_json, print_table

history_app = typer.Typer(cls=PlainGroup, help="Show or clear the history.", no_args_is_help=True)


@history_app.command("show", cls=PlainCommand)
def show(json: Json = False, debug: Debug = False) -> None:
    """Show how many answers and runs are recorded, and in which file."""
    from ...context.history import History

    history = History()
    counts = history.counts()
    if json:
        print_json({"path": str(history.path), **counts})
        return
    print_table(["recorded", "count"], [(name, str(count)) for name, count in counts.items()])
    note(f"file: {history.path}")


@history_app.command("clear", cls=PlainCommand)
def clear(json: Json = False, debug: Debug = False) -> None:
    """Erase all recorded answers and runs."""
    from ...context.history import History

    history = History()
    erased = history.clear()
    if json:
        print_json({"path": str(history.path), "erased": erased})
        return
    note(f"erased {erased['answers']} answers and {erased['runs']} runs from {history.path}")
