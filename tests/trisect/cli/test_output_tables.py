"""Tables fit the terminal, and a pipe gets each row on one line of a sensible length."""

from __future__ import annotations

import sys

import pytest

from trisect.cli.output import print_table

NAMES = [f"/backbone/stage{i}/block{i}/convolution/with/a/long/name/Conv_output_{i}" for i in range(3)]


def be_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make standard output a terminal of 80 columns."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_names_are_shortened_only_where_the_table_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    be_terminal(monkeypatch)
    rows = [(name, "cpu:ort", f"{i} ms", name) for i, name in enumerate(NAMES)]
    print_table(["node", "device", "time", "reads"], rows, names=["node", "reads"])
    shown = lines(capsys)
    assert len(shown) == 2 + len(rows)
    assert max(map(len, shown)) <= 80
    assert all("..." in line and line.split()[0].startswith("/backbone/") for line in shown[2:])
    assert [line.split()[-1][-3:] for line in shown[2:]] == ["t_0", "t_1", "t_2"]
    print_table(["node", "device"], [(NAMES[0], "cpu:ort")], names=["node"])
    assert NAMES[0] in lines(capsys)[-1]


def test_a_pipe_gets_each_row_on_one_line_of_bounded_length(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("x" * 3000, "cpu:ort", "y" * 200)]
    print_table(["node", "device", "reads"], rows, names=["node", "reads"])
    assert [len(line) <= 125 for line in lines(capsys)] == [True] * 3


def test_columns_that_do_not_fit_follow_in_a_second_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    be_terminal(monkeypatch)
    columns = ["", *(f"figure {i}" for i in range(8))]
    rows = [(name, *(f"{i}00.5 ms ±1.5%" for i in range(8))) for name in ("auto", "heft")]
    print_table(columns, rows)
    shown = lines(capsys)
    assert max(map(len, shown)) <= 80
    auto = [line.split(maxsplit=1)[1] for line in shown if line.strip().startswith("auto")]
    assert len(auto) > 1
    assert "  ".join(auto).replace("   ", "  ").count("ms ±1.5%") == 8  # none is wrapped


def test_columns_without_values_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("a", "1", "-", ""), ("b", "2", "-", "-")]
    print_table(["", "n", "interval", "energy"], rows, optional=["interval", "energy"])
    assert [line.split() for line in lines(capsys)][0::2] == [["n"], ["a", "1"]]
    print_table(["", "n", "interval"], [("a", "-", "1-2 ms"), ("b", "-", "-")], optional=["interval"])
    assert lines(capsys)[-1].split() == ["b", "-", "-"]


def test_a_table_without_rows_has_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["node", "device"], [], names=["node"])
    assert lines(capsys)[0].split() == ["node", "device"]


def test_words_are_broken_only_where_a_column_alone_is_too_wide(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    be_terminal(monkeypatch)
    rows = [("cpu:openvino", *(["21.3 us"] * 4), "one reason of many words " * 5, "12 GFLOP/s")]
    print_table(["device", "first", "second figure", "third", "fourth", "reason", "peak"], rows)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "cpu:openvino " in out
    assert "21.3 us" in out
    print_table(["node", "device"], [("x" * 100, "cpu:ort")])
    assert capsys.readouterr().out.count("x") == 100  # nothing is cut off
