"""``trisect history``: what is remembered of answers and runs, and how to erase it."""

from __future__ import annotations

import typer

from .output import Debug, Json, note, print_json, print_table

app = typer.Typer(help="See or erase what is remembered of answers and runs.", no_args_is_help=True)


@app.command("show")
def show(json: Json = False, debug: Debug = False) -> None:
    """Say how much is remembered, and where."""
    from ..context.history import History

    history = History()
    counts = history.counts()
    if json:
        print_json({"path": str(history.path), **counts})
        return
    print_table(["remembered", "how many"], [(name, str(count)) for name, count in counts.items()])
    note(f"kept in {history.path}")


@app.command("clear")
def clear(json: Json = False, debug: Debug = False) -> None:
    """Erase everything that is remembered."""
    from ..context.history import History

    history = History()
    erased = history.clear()
    if json:
        print_json({"path": str(history.path), "erased": erased})
        return
    note(f"erased {erased['answers']} answers and {erased['runs']} runs from {history.path}")
