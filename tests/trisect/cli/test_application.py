"""All commands: help, one JSON document, one-line errors, exit codes, fast start."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import typer

from trisect import __version__, api
from trisect.cli import main, output
from trisect.cli.application import app
from trisect.runtime.errors import UnknownDevice


def commands() -> dict[str, list[str]]:
    """Every command, with the names of its groups -> its options."""
    options_of: dict[str, list[str]] = {}

    def walk(node: object, words: list[str]) -> None:
        children = getattr(node, "commands", None)
        if children is None:
            options_of[" ".join(words)] = [o for p in node.params for o in p.opts]  # type: ignore[attr-defined]
        for name, child in (children or {}).items():
            walk(child, [*words, name])

    walk(typer.main.get_command(app), [])
    return options_of


def test_the_commands_are_those_of_the_design() -> None:
    names = "devices profile split run verify explain generate chat import can-run".split()
    names += ["history show", "history clear"]
    benches = "model llm auto onnx values first-split context placement plan-speed predict runtime simulate".split()
    benches += ["study", "adversary"]
    assert sorted(commands()) == sorted([*names, *(f"bench {bench}" for bench in benches)])


@pytest.mark.parametrize("words", list(commands()))
def test_every_command_has_json_debug_and_help(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert {"--json", "--debug"} <= set(commands()[words])
    assert main([*words.split(), "--help"]) == 0
    help_text = capsys.readouterr().out
    assert "--json" in help_text
    assert "<bool>" not in help_text


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"trisect {__version__}\n"
    assert main(["--help"]) == 0
    assert "generate" in capsys.readouterr().out


@pytest.mark.parametrize("words", ["devices --nope", "nope", "split", "generate m --prompt x --top-p 3"])
def test_usage_errors_are_one_line_and_exit_2(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: .+\n", err)


def test_an_unknown_device_lists_the_available_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "cpu:otr", "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "cpu:ort" in err


@pytest.mark.parametrize(
    ("raised", "code", "text"),
    [
        (UnknownDevice("a\nb", remedy="c"), 2, "error: a b; c\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (ZeroDivisionError("x"), 2, "error: internal error: ZeroDivisionError: x (run with --debug)\n"),
    ],
)
def test_every_exception_becomes_one_line_and_an_exit_code(
    raised: BaseException, code: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(wanted: str, **options: object) -> None:
        raise raised

    monkeypatch.setattr(api, "devices", fail)
    assert main(["devices"]) == code
    assert capsys.readouterr().err == text


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(output, "_state", output._OutputState())
    assert main(["devices", "nope", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
    assert main(["devices", "nope"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_devices_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    ort = next(d for d in json.loads(out)["devices"] if d["id"] == "cpu:ort")
    assert ort["kind"] == "cpu"
    assert ort["reality"] == "hardware"
    assert set(ort) >= {"engine", "name", "memory_bytes", "limits"}


def test_devices_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "cpu:ort"]) == 0
    assert "cpu:ort" in capsys.readouterr().out


def test_values_that_json_cannot_express_become_null(capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    output.print_json({"a": float("inf"), "b": float("nan"), "c": np.float32(0.5), "d": np.arange(2)})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": None, "c": 0.5, "d": [0, 1]}


def test_a_table_does_not_interpret_brackets_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(["[bold]name"], [["node[/red][0]"]])
    assert "node[/red][0]" in capsys.readouterr().out


def test_a_closed_pipe_is_not_an_error() -> None:
    code = f"{sys.executable} -m trisect devices --json | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_ctrl_c_ends_a_command_with_130() -> None:
    code = (
        "import os, signal, sys; from trisect import api; from trisect.cli import main\n"
        "api.devices = lambda wanted, **options: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.exit(main(['devices']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
