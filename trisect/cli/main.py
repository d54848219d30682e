"""Puts the commands together and turns whatever goes wrong into one line and an exit code."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from trisect.runtime.errors import TrisectError

from .. import __version__
from . import bench_adversary_command as bench_adversary
from . import bench_command as bench
from . import bench_study_command as bench_study
from . import can_run_command as can_run
from . import devices_command as devices
from . import explain_command as explain
from . import generate_command as generate
from . import history_command as history
from . import import_command as import_model
from . import output
from . import profile_command as profile
from . import run_command as run
from . import split_command as split
from . import verify_command as verify

INTERRUPTED = 130

app = typer.Typer(
    name="trisect",
    help="Splits one ONNX model over CPU, GPU and NPU, from measured costs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("devices")(devices.devices)
app.command("profile")(profile.profile)
app.command("split")(split.split)
app.command("run")(run.run)
app.command("verify")(verify.verify)
app.command("explain")(explain.explain)
app.command("generate")(generate.generate)
app.command("import")(import_model.import_model)
app.command("can-run")(can_run.can_run)
app.add_typer(history.app, name="history")
bench.app.command("study")(bench_study.study)
bench.app.command("adversary")(bench_adversary.adversary)
if importlib.util.find_spec("trisect.bench.acceptance") is not None:  # in a checkout, never in an installed wheel
    from trisect.bench.acceptance.commands import register

    register(bench.app)
app.add_typer(bench.app, name="bench")


def _show_version(on: bool) -> None:
    if on:
        typer.echo(f"trisect {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Splits one ONNX model over CPU, GPU and NPU, from measured costs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Words of the command line; those of this process when left out.

    Returns
    -------
    int
        0 done, 1 a bar or a verification failed, 2 the user has to change something, 130 interrupted.
    """
    return run_app(app, arguments, "trisect")


def run_app(application: typer.Typer, arguments: Sequence[str] | None, name: str) -> int:
    """Run a command-line application; turn every error into one line and an exit code."""
    try:
        words = list(arguments) if arguments is not None else None
        code = application(args=words, prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except TrisectError as error:
        return _refuse(str(error), error.exit_code)
    except TyperException as error:
        # Without a message it is the help text that was already shown, as for `trisect` alone.
        return _refuse(error.format_message(), 2) if error.format_message() else 2
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`| head`): nothing is left to say, and the interpreter must not try at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _refuse(f"internal error: {type(error).__name__}: {error} (run with --debug)", 2)
    if code == INTERRUPTED:  # Typer turns Ctrl-C inside a command into this code
        output.note("interrupted")
    return code if isinstance(code, int) else 0


def _refuse(message: str, code: int) -> int:
    if output.debugging():
        traceback.print_exc()
    output.note("error: " + " ".join(message.split()))
    return code
