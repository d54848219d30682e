"""``python -m trisect.bench.acceptance``: the acceptance measurements, from a checkout."""

from __future__ import annotations

import sys

import typer

from trisect.cli.application import run_app
from trisect.cli.command_help import PlainCommand, PlainGroup

from .commands import register
from .commands.llm_command import llm
from .commands.llm_pairs_command import llm_pairs
from .commands.llm_peers_command import llm_peers

if __name__ == "__main__":
    app = typer.Typer(cls=PlainGroup, help="Acceptance measurements of trisect's own targets.", no_args_is_help=True)
    register(app, hidden=False)
    app.command("llm", cls=PlainCommand)(llm)
    app.command("llm-peers", cls=PlainCommand)(llm_peers)
    app.command("llm-pairs", cls=PlainCommand)(llm_pairs)
    sys.exit(run_app(app, None, "python -m trisect.bench.acceptance"))
