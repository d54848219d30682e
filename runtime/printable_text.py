r"""Makes text of unknown origin safe to show: names and messages out of models, plans and other files are not trusted.

A terminal executes control characters: they can retitle its window, clear it or rewrite earlier output. Characters
that change the direction of text, or that have no width, make one name look like another. All are written as escapes
such as ``\x1b``.
"""

from __future__ import annotations

_CONTROLS = (*range(0x20), *range(0x7F, 0xA0))
_DIRECTIONS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_INVISIBLE = (
    0xAD, 0x34F, 0x61C, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), *range(0x200B, 0x2010), 0x2028, 0x2029,
    *range(0x2060, 0x2066), *range(0x206A, 0x2070), 0x3164, 0xFEFF, 0xFFA0, *range(0xFFF9, 0xFFFC),
    *range(0xE0000, 0xE0080),
)  # fmt: skip
_SURROGATES = range(0xD800, 0xE000)
_UNDECODED_BYTES = range(0xDC80, 0xDD00)
"""Python's lone surrogates for the bytes of a file name that is not UTF-8."""
_SHORT = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}


def _escape(code: int) -> str:
    if code in _SHORT:
        return _SHORT[code]
    if code in _UNDECODED_BYTES:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_LINE = {code: _escape(code) for code in (*_CONTROLS, *_DIRECTIONS, *_INVISIBLE, *_SURROGATES)}
_SURROGATE_ESCAPES = {code: _LINE[code] for code in _SURROGATES}
_LINES = {code: text for code, text in _LINE.items() if code not in (0x09, 0x0A)}
_PROSE = {code: _LINES[code] for code in (*_CONTROLS, *_DIRECTIONS, *_SURROGATES) if code in _LINES}
_JSON = {
    code: "".join(f"\\u{unit:04x}" for unit in memoryview(chr(code).encode("utf-16")[2:]).cast("H"))
    for code in _LINES
    if code >= 0x7F and code not in _SURROGATES
}


def printable_line(text: str) -> str:
    r"""Return a text on one line, without characters that a terminal executes or that are invisible.

    Examples
    --------
    >>> print(printable_line("a\x1b[2J\nb\u202ec"))
    a\x1b[2J\nb\u202ec
    """
    return text.translate(_LINE)


def printable_lines(text: str) -> str:
    """Return a text without characters that a terminal executes or that are invisible; line ends and tabs stay."""
    return text.translate(_LINES)


def printable_prose(text: str) -> str:
    r"""Return a text in a human language without characters that a terminal executes.

    Line ends and tabs stay, and so do joiners without width, which emoji and many scripts need.

    Examples
    --------
    >>> print(ascii(printable_prose("a\u200db\x1b")))
    'a\u200db\\x1b'
    """
    return text.translate(_PROSE)


def utf8_text(text: str) -> str:
    r"""Return a text that UTF-8 can express: bytes of a file name that is not UTF-8 become escapes.

    Examples
    --------
    >>> print(utf8_text("x\udcff.onnx"))
    x\xff.onnx
    """
    return text.translate(_SURROGATE_ESCAPES)


def printable_json(document: str) -> str:
    r"""Return a JSON document with the characters that JSON allows but a terminal executes as JSON's own escapes.

    Examples
    --------
    >>> print(printable_json('{"a": "\x9b\u202e"}'))
    {"a": "\u009b\u202e"}
    """
    return document.translate(_JSON)
