"""Closed or full standard streams, a reader that exits, and names with control characters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trisect import api
from trisect.cli import main, output
from trisect.cli.standard_streams import standard_streams

_TITLE = "\x1b]0;title\x07"


def _shell(redirected: str, **environment: str) -> tuple[int, str, str]:
    """Run ``trisect`` with redirections; without engines, so that it starts quickly."""
    code = f"{sys.executable} -P -m trisect {redirected}"
    done = subprocess.run(
        ["bash", "-c", code], capture_output=True, text=True, check=False, env=os.environ | environment
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("stream", ["/dev/full", "&-"])
def test_output_that_cannot_be_written_is_one_line_and_code_2(stream: str) -> None:
    if stream == "/dev/full" and not Path(stream).exists():
        pytest.skip("/dev/full does not exist here")
    code, out, err = _shell(f"--version >{stream}")
    assert (code, out) == (2, "")
    assert err.startswith("error: standard output ")
    assert err.count("\n") == 1


def test_a_closed_standard_error_does_not_change_the_exit_code() -> None:
    assert _shell("--version 2>&-")[0] == 0
    assert _shell("--no-such-option 2>&-")[0] == 2


def test_a_command_whose_reader_has_exited_goes_on_to_its_own_exit_code() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "trisect", "--help"], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_names_are_escaped_on_both_streams(capsys: pytest.CaptureFixture[str]) -> None:
    with standard_streams():
        output.note(f"note {_TITLE}\nerror: forged")
        output.print_table([f"column{_TITLE}"], [[f"cell{_TITLE}"]], title=f"title{_TITLE}")
        output.print_json({_TITLE: "\x9b\u202e"})
        output.print_text(f"{_TITLE},b\n")
        sys.stderr.write(f"a library's warning {_TITLE}\n")
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "\x07" not in out + err
    assert err.splitlines()[0] == r"note \x1b]0;title\x07\nerror: forged"
    assert '"\\u009b\\u202e"' in out


def test_json_with_a_file_name_that_is_not_utf_8(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"folder": "x\udcff", "values": [float("nan"), 1.5]})
    assert json.loads(capsys.readouterr().out) == {"folder": r"x\xff", "values": [None, 1.5]}


def test_json_in_a_locale_without_the_characters(tmp_path: Path) -> None:
    code = "from trisect.cli.output import print_json; print_json({'name': 'né🙂'})"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert json.loads(done.stdout) == {"name": "né🙂"}


def test_a_long_name_is_shortened_in_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "x" * 5000]) == 2
    err = capsys.readouterr().err
    assert "(5000 characters)" in err or len(err) < 1000
    assert err.count("\n") == 1


def test_a_system_error_names_its_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(wanted: str, **options: Any) -> None:
        Path("/no/such/file").read_bytes()

    monkeypatch.setattr(api, "devices", fail)
    assert main(["devices"]) == 2
    assert capsys.readouterr().err == "error: /no/such/file: No such file or directory\n"


@pytest.mark.parametrize(
    ("is_terminal", "shown"), [(True, "a\tb\\x1b[2J👨\u200d👩\n"), (False, "a\tb\x1b[2J👨\u200d👩\n")]
)
def test_generated_text_is_escaped_on_a_terminal_only(
    is_terminal: bool, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    output.print_generated("a\tb\x1b[2J👨\u200d👩\n")
    assert capsys.readouterr().out == shown
