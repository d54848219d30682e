"""Values of options: what is parsed, and what is refused with the option's name."""

from __future__ import annotations

import pytest

from trisect.cli.option_parsing import parse_duration, parse_names, parse_shapes, parse_sizes
from trisect.runtime.errors import InvalidInput


@pytest.mark.parametrize("text", ["batch", "=3", "batch=-1", "batch=1.5", "batch=²"])
def test_malformed_shapes_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="expected NAME=INT"):
        parse_shapes([text])


@pytest.mark.parametrize(("text", "seconds"), [("90", 90.0), ("30s", 30.0), (" 1.5m", 90.0), ("2h", 7200.0)])
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1s", "0", "nan", "inf", "1e12"])
def test_malformed_durations_are_refused_with_the_option(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"invalid --limit .*: expected a duration"):
        parse_duration(text, "--limit")


def test_sizes_are_positive_integers() -> None:
    assert parse_sizes("128, 512", "--batch") == [128, 512]
    for text in ("", "0", "4,-1", "two", "1.5"):
        with pytest.raises(InvalidInput, match=r"invalid --batch .*: expected positive integers"):
            parse_sizes(text, "--batch")


def test_names_are_stripped_and_empty_ones_dropped() -> None:
    assert parse_names(" heft,,etf ,") == ["heft", "etf"]
    assert parse_names("") == []
