"""Cells of tables that other programs read carry names as text, not as formulas or markup."""

from __future__ import annotations

import pytest

from trisect.bench.report import printable_value
from trisect.bench.table_text import csv_cell, markdown_cell


@pytest.mark.parametrize("text", ["=HYPERLINK(1)", "+1", "-1+1", "@SUM(1)", "\t=1", "\r=1"])
def test_no_text_of_a_csv_file_is_a_formula(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["a=b", "cpu:ort", "-", "", 0, -1.5, True])
def test_other_values_of_a_csv_file_stay(value: object) -> None:
    assert csv_cell(value) == value


def test_a_markdown_cell_has_no_column_line_tag_or_control_character_of_its_own() -> None:
    assert markdown_cell("a|b") == r"a\|b"
    assert markdown_cell("x\n| y") == r"x\\n\| y"
    assert markdown_cell("<img>") == r"\<img>"
    assert markdown_cell("\x1b\u202e") == r"\\x1b\\u202e"


def test_a_page_shows_control_characters_as_escapes_and_leaves_other_values() -> None:
    assert printable_value("a\x1b[2J\u202e") == r"a\x1b[2J\u202e"
    assert printable_value(1.5) == 1.5
