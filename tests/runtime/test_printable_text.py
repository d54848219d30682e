"""Text of unknown origin is shown without characters that a terminal executes or that are invisible."""

from __future__ import annotations

import json
import unicodedata

import pytest

from trisect.runtime.printable_text import printable_json, printable_line, printable_lines, printable_prose

_ALL = "".join(map(chr, range(0x110000)))


def _dangerous(text: str) -> set[str]:
    """Return the control, format, surrogate and line-separator characters of a text, by Unicode's own categories."""
    return {char for char in text if unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"}}


def test_a_line_has_no_control_characters_and_shows_each_as_an_escape() -> None:
    assert _dangerous(printable_line(_ALL)) == set()
    assert _dangerous(printable_lines(_ALL)) == {"\n", "\t"}
    assert _dangerous(printable_prose(_ALL)) == {"\n", "\t", "\u2028", "\u2029"}
    assert printable_line("a\x1b]0;x\x07\x9b\r\n") == r"a\x1b]0;x\x07\x9b\r\n"
    assert printable_line("\u202e\u2066\u200b\U000e0041") == r"\u202e\u2066\u200b\U000e0041"


def test_a_byte_of_a_file_name_that_is_not_utf_8_is_shown_as_that_byte() -> None:
    assert printable_line("x\udcff") == r"x\xff"
    assert printable_line("x\ud800") == r"x\ud800"


def test_ordinary_text_of_any_script_stays() -> None:
    text = "naïve [b]名前[/b] \\ 🙂 שלום"
    assert printable_line(text) == printable_lines(text) == printable_prose(text) == text
    assert printable_prose("👨\u200d👩") == "👨\u200d👩"


@pytest.mark.parametrize("text", ["\x7f\x9b\u202e\u2028\U000e0041", "plain"])
def test_an_escaped_json_document_has_the_same_value(text: str) -> None:
    escaped = printable_json(json.dumps({text: text}, ensure_ascii=False))
    assert json.loads(escaped) == {text: text}
    assert _dangerous(escaped) == set()
