"""Every small file that a command reads can be malformed in every way: one line that names it, and exit code 2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import trisect
from trisect.cli import main
from trisect.partitioner.strategies.common.class_table import read_table

_DEEP = 100_000
_TOML = {
    "nested too deeply": b"force = " + b"[" * _DEEP,
    "not UTF-8": b'force = "\xff"',
    "5,000 digits": b"max_segments = " + b"9" * 5000,
    "an impossible size": b'[memory]\ngpu = "' + b"9" * 400 + b'"',
    "a byte order mark": b"\xef\xbb\xbfforce = 1",
    "another type": b"force = 3",
    "a NUL": b'force = "\x00"',
}
_JSON = {
    "nested too deeply": b'{"a":' * _DEEP,
    "nested too deeply where nothing is read": b'{"nodes": [], "edges": [], "x":' + b"[" * _DEEP,
    "empty": b"",
    "another type": b"[1, 2]",
    "not a number": b'{"maxFPGAs": NaN}',
    "not UTF-8": b'{"\xff": 1}',
    "a cost of 400 digits": b'{"maxFPGAs": 1, "maxCPUs": 1, "maxSizePerFPGA": 1e400, "nodes": [], "edges": []}',
    "a number of 5,000 digits": b'{"maxFPGAs": ' + b"9" * 5000 + b"}",
}


def _check_one_line(words: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert name in err
    assert "internal error" not in err


@pytest.mark.parametrize("content", _TOML.values(), ids=_TOML)
def test_constraints(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    words = ["split", str(model), "--shape", "batch=1", "--constraints", str(path), "-o", str(tmp_path / "plan")]
    _check_one_line(words, "bad.toml", capsys)
    assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize("content", _TOML.values(), ids=_TOML)
def test_a_table_of_kinds(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(trisect.TrisectError, match=r"bad\.toml"):
        read_table(path)


@pytest.mark.parametrize("content", [*_TOML.values(), *_JSON.values()])
@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_a_study(suffix: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"bad.{suffix}"
    path.write_bytes(content)
    _check_one_line(["bench", "study", str(path)], f"bad.{suffix}", capsys)


@pytest.mark.parametrize("content", _JSON.values(), ids=_JSON)
def test_a_published_problem(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(trisect.TrisectError, match=r"bad\.json"):
        trisect.Problem.read(path)


@pytest.mark.parametrize("line", ["1 " + "9" * 400 + " 0", "1 1 99999999999999999999", "1"])
def test_a_standard_task_graph_with_an_impossible_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.stg"
    path.write_text(f"1\n{line}\n")
    with pytest.raises(trisect.TrisectError, match=r"bad\.stg"):
        trisect.Problem.read(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
def test_a_pipe_instead_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.toml"
    os.mkfifo(path)
    _check_one_line(["bench", "study", str(path)], "bad.toml", capsys)
