"""Checks the options of a session: values from untyped code may be anything."""

from __future__ import annotations

import numpy as np

from ..errors import InvalidInput


def is_number(value: object) -> bool:
    """Return whether a value is a number, and no bool."""
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def check_count(name: str, value: object, minimum: int) -> None:
    """Refuse anything but an integer of at least `minimum`."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < minimum:
        raise InvalidInput(f"{name} is {value!r}", remedy=f"pass an integer of {minimum} or more")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of the choices."""
    if value not in choices:
        raise InvalidInput(f"{name} is {value!r}", remedy=f"use one of {', '.join(choices)}")


def check_iterable(items: object, *methods: str) -> None:
    """Refuse an object that has none of the methods of an iterable."""
    if not any(hasattr(items, method) for method in methods):
        raise InvalidInput(
            f"expected an iterable of feeds, got a {type(items).__name__}",
            remedy="pass a list of feeds, or an iterator",
        )
