"""Assembles the commands, and turns every error into one line and an exit code."""

from __future__ import annotations

import importlib.util
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from trisect.runtime.errors import TrisectError, VerificationFailed
from trisect.runtime.scratch_folder import remove_abandoned

from .. import __version__
from . import output
from .command_help import PlainCommand, PlainGroup
from .commands.bench_adversary_command import adversary
from .commands.bench_command import bench_app
from .commands.bench_study_command import study
from .commands.can_run_command import can_run
from .commands.chat_command import chat
from .commands.devices_command import devices
from .commands.explain_command import explain
from .commands.generate_command import generate
from .commands.history_command import history_app
from .commands.import_command import import_model
from .commands.profile_command import profile
from .commands.run_command import run
from .commands.split_command import split
from .commands.verify_command import verify
from .interrupts import INTERRUPTED
from .log_level import configure_logging
from .standard_streams import standard_streams

_WORD_MAX, _WORD_SHOWN, _WORD_END = 400, 100, 20
"""A name of more characters is shortened in an error."""
_HELP = "Split an ONNX model over CPU, GPU and NPU, by measured costs."

app = typer.Typer(
    name="trisect",
    cls=PlainGroup,
    help=_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _command in (
    ("devices", devices),
    ("profile", profile),
    ("split", split),
    ("run", run),
    ("verify", verify),
    ("explain", explain),
    ("generate", generate),
    ("chat", chat),
    ("import", import_model),
    ("can-run", can_run),
):
    app.command(_name, cls=PlainCommand)(_command)
app.add_typer(history_app, name="history")
bench_app.command("study", cls=PlainCommand)(study)
bench_app.command("adversary", cls=PlainCommand)(adversary)
if importlib.util.find_spec("trisect.bench.acceptance") is not None:  # in a checkout, never in an installed wheel
    from trisect.bench.acceptance.commands import register

    register(bench_app)
app.add_typer(bench_app, name="bench")


def _show_version(on: bool) -> None:
    if on:
        output.print_text(f"trisect {__version__}\n")
        raise typer.Exit


@app.callback()
def _root_options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Split an ONNX model over CPU, GPU and NPU, by measured costs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Arguments of the command line; default: those of this process.

    Returns
    -------
    int
        Exit code: 0 done, 1 a check failed, 2 the user has to change something, 130 interrupted.
    """
    return run_app(app, arguments, "trisect")


def run_app(application: typer.Typer, arguments: Sequence[str] | None, name: str) -> int:
    """Run a command-line application; turn every error into one line and an exit code."""
    with standard_streams():
        return _run(application, arguments, name)


def _run(application: typer.Typer, arguments: Sequence[str] | None, name: str) -> int:
    try:
        configure_logging()
        remove_abandoned()
        words = list(arguments) if arguments is not None else None
        code = application(args=words, prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except TrisectError as error:
        return _report(str(error), 1 if isinstance(error, VerificationFailed) else 2)
    except TyperException as error:
        # Without a message, the help text was already shown, as for `trisect` alone.
        return _report(error.format_message(), 2) if error.format_message() else 2
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except OSError as error:
        return _report(_file_error(error), 2)
    except MemoryError:
        return _report("there is not enough memory; use a smaller model or smaller --shape", 2)
    except Exception as error:
        return _report(f"internal error: {type(error).__name__}: {error} (run with --debug)", 2)
    if code == INTERRUPTED:  # Typer turns Ctrl-C inside a command into this code
        output.note("interrupted")
    return code if isinstance(code, int) else 0


def _file_error(error: OSError) -> str:
    names = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    reason = error.strerror or str(error) or type(error).__name__
    return f"{names}: {reason}" if names else f"the system reports: {reason}"


def _report(message: str, code: int) -> int:
    if output.debugging():
        traceback.print_exc()
    message = re.sub(rf"\S{{{_WORD_MAX},}}", _shortened, " ".join(message.split()))
    output.note(f"error: {message}")
    return code


def _shortened(word: re.Match[str]) -> str:
    return f"{word[0][:_WORD_SHOWN]}...({len(word[0])} characters)...{word[0][-_WORD_END:]}"
