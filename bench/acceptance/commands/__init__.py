"""Commands of the acceptance measurements: hidden sub-commands of ``trisect bench`` in a checkout."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import typer

from trisect.cli.command_help import PlainCommand

from . import (
    auto_command,
    context_command,
    first_split_command,
    onnx_command,
    placement_command,
    predict_command,
    runtime_command,
    simulate_command,
    values_command,
)

COMMANDS: Mapping[str, Callable[..., None]] = {
    "auto": auto_command.auto,
    "context": context_command.context,
    "first-split": first_split_command.first_split,
    "onnx": onnx_command.onnx,
    "placement": placement_command.placement,
    "plan-speed": placement_command.plan_speed,
    "predict": predict_command.predict,
    "runtime": runtime_command.runtime,
    "simulate": simulate_command.simulate,
    "values": values_command.values,
}


def register(app: typer.Typer, *, hidden: bool = True) -> None:
    """Add the acceptance measurements to a command group.

    Parameters
    ----------
    app : typer.Typer
    hidden : bool
        Whether the group's help leaves them out.
    """
    for name, command in COMMANDS.items():
        app.command(name, cls=PlainCommand, hidden=hidden)(command)
