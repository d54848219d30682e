"""Commands of the acceptance measurements: hidden sub-commands of ``trisect bench`` in a checkout."""

from __future__ import annotations

import typer

from trisect.cli.command_help import PlainCommand

from . import context_command, onnx_command, placement_command, predict_command, runtime_command, simulate_command


def register(app: typer.Typer) -> None:
    """Add the acceptance measurements to a command group, without showing them in its help."""
    app.command("context", cls=PlainCommand, hidden=True)(context_command.context)
    app.command("onnx", cls=PlainCommand, hidden=True)(onnx_command.onnx)
    app.command("placement", cls=PlainCommand, hidden=True)(placement_command.placement)
    app.command("plan-speed", cls=PlainCommand, hidden=True)(placement_command.plan_speed)
    app.command("predict", cls=PlainCommand, hidden=True)(predict_command.predict)
    app.command("runtime", cls=PlainCommand, hidden=True)(runtime_command.runtime)
    app.command("simulate", cls=PlainCommand, hidden=True)(simulate_command.simulate)
