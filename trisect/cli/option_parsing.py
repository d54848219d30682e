"""Parses the values of options: shapes, durations and lists of sizes."""

from __future__ import annotations

from collections.abc import Iterable

from trisect.runtime.errors import InvalidInput

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}
_DIGITS_MAX = 18
"""Of a dimension: ONNX stores 64-bit integers."""


def parse_shapes(texts: Iterable[str]) -> dict[str, int]:
    """Parse ``NAME=INT`` pairs, several of them in one text when separated by commas; 0 is a size, of an empty tensor.

    Raises
    ------
    InvalidInput
        For a malformed pair.

    Examples
    --------
    >>> parse_shapes(["batch=1,height=48", "past=0"])
    {'batch': 1, 'height': 48, 'past': 0}
    """
    shapes: dict[str, int] = {}
    for pair in (pair for text in texts for pair in parse_names(text)):
        name, _, number = pair.rpartition("=")
        if not name or not number.isascii() or not number.isdigit() or len(number) > _DIGITS_MAX:
            raise InvalidInput(f"invalid --shape {pair!r}: expected NAME=INT", remedy="for example --shape batch=1")
        shapes[name] = int(number)
    return shapes


def parse_duration(text: str, option: str = "--budget") -> float:
    """Parse a duration such as ``30s`` or ``2m`` into seconds.

    Raises
    ------
    InvalidInput
        For a malformed or non-positive duration; names the option.

    Examples
    --------
    >>> parse_duration("90"), parse_duration("30s"), parse_duration("1.5m")
    (90.0, 30.0, 90.0)
    """
    number, factor = text.strip(), 1.0
    if number[-1:] in _UNITS_S:
        number, factor = number[:-1], _UNITS_S[number[-1]]
    try:
        value = float(number) * factor
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise InvalidInput(f"invalid {option} {text!r}: expected a duration above 0", remedy="for example 30s or 2m")
    return value


def parse_sizes(text: str, option: str) -> list[int]:
    """Parse comma-separated positive integers.

    Raises
    ------
    InvalidInput
        For anything else; names the option.

    Examples
    --------
    >>> parse_sizes("128,512", "--prompt-tokens")
    [128, 512]
    """
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 1:
        raise InvalidInput(
            f"invalid {option} {text!r}: expected positive integers", remedy=f"for example {option} 128,512"
        )
    return sizes


def parse_names(text: str) -> list[str]:
    """Parse comma-separated names; empty ones are dropped.

    Examples
    --------
    >>> parse_names("heft, etf,")
    ['heft', 'etf']
    """
    return [name.strip() for name in text.split(",") if name.strip()]
