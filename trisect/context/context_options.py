"""The options of a context, validated: hints, which may be overridden, and requirements, which may not.

The option names and values are those of the W3C's WebNN explainer on device selection, of ONNX Runtime's device
policies and of OpenVINO; a web page's camelCase names map one to one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from trisect.runtime.device import Kind
from trisect.runtime.errors import InvalidInput

PowerPreference = Literal["low-power", "high-performance"]
Preference = Literal["low-latency", "throughput", "sustained", "accuracy"]
Policy = Literal["prefer-cpu", "prefer-npu", "prefer-gpu", "max-performance", "max-efficiency", "min-overall-power"]
Requirement = Literal["no-cpu-fallback", "low-power", "low-latency", "accelerated"]
OnUnsupported = Literal["fallback", "error"]
ACCELERATORS: frozenset[Kind] = frozenset({"gpu", "npu"})


@dataclass(frozen=True)
class ContextOptions:
    """Hints and requirements for choosing devices; an option that is not set is None or empty.

    Examples
    --------
    >>> ContextOptions.parse(power_preference="low-power", require=["no-cpu-fallback"]).require
    ('no-cpu-fallback',)
    >>> ContextOptions.parse(powerPreference="low-power") == ContextOptions.parse(power_preference="low-power")
    True
    """

    power_preference: PowerPreference | None = None
    """``low-power``: the NPU, with the CPU as fallback; ``high-performance``: the GPU."""
    accelerated: bool | None = None
    """Whether to use a GPU or NPU at all."""
    fallback: tuple[Kind, ...] = ()
    """Kinds of devices in the order in which they are tried; kinds not named are avoided."""
    avoid: tuple[Kind, ...] = ()
    prefer: Preference | None = None
    """The objective, whatever the devices: ``sustained`` is the least energy, so that the speed lasts."""
    policy: Policy | None = None
    """One of the six of ONNX Runtime's ``OrtExecutionProviderDevicePolicy``."""
    require: tuple[Requirement, ...] = ()
    on_unsupported: OnUnsupported = "fallback"
    """What happens to nodes that the preferred devices cannot run: another device, or an error."""

    @classmethod
    def parse(cls, **options: Any) -> ContextOptions:
        """Validate options.

        Parameters
        ----------
        **options
            The fields of this class, in snake_case or camelCase; None = not set.

        Raises
        ------
        InvalidInput
            For an unknown name or value, with the closest match, and for hints that contradict the requirements.
        """
        known = {field.name for field in fields(cls)}
        values: dict[str, Any] = {}
        for name, value in options.items():
            snake = to_snake(name)
            if snake not in known:
                raise _unknown("context option", name, sorted(known))
            if snake in values:
                raise InvalidInput(f"context option {snake!r} is set twice", remedy=f"remove {name}")
            if value is not None:
                values[snake] = _PARSERS[snake](snake, value)
        parsed = cls(**values)
        _refuse_contradictions(parsed)
        return parsed

    def describe(self, name: str) -> str:
        """Return an option as ``name=value``.

        Examples
        --------
        >>> ContextOptions(avoid=("gpu",)).describe("avoid")
        "avoid=['gpu']"
        """
        value = getattr(self, name)
        return f"{name}={list(value) if isinstance(value, tuple) else value!r}"


DEFAULTS = ContextOptions()
"""No option is set."""


def to_snake(name: str) -> str:
    """Convert ``powerPreference`` to ``power_preference``.

    Examples
    --------
    >>> to_snake("onUnsupported"), to_snake("avoid")
    ('on_unsupported', 'avoid')
    """
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: "_" + match[0].lower(), name)


def _unknown(what: str, word: object, known: Iterable[str]) -> InvalidInput:
    names = list(known)
    near = difflib.get_close_matches(str(word), names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InvalidInput(f"unknown {what} {str(word)[:80]!r}", remedy=f"{hint}expected one of: {', '.join(names)}")


Parser = Callable[[str, object], Any]
"""Validates the value of an option: ``parse(name, value)``."""


def _one_of(words: tuple[str, ...]) -> Parser:
    def parse(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise _unknown(f"value for {name}:", value, words)
        return value

    return parse


def _list_of(words: tuple[str, ...]) -> Parser:
    parse_one = _one_of(words)

    def parse(name: str, value: object) -> tuple[str, ...]:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, Iterable) or isinstance(items, Mapping):
            raise InvalidInput(f"{name}={str(value)[:80]!r}: expected a list", remedy=f"use any of: {', '.join(words)}")
        return tuple(dict.fromkeys(parse_one(name, item) for item in items))

    return parse


def _boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"{name}={str(value)[:80]!r}: expected true or false")
    return value


_PARSERS: Mapping[str, Parser] = {
    "power_preference": _one_of(get_args(PowerPreference)),
    "accelerated": _boolean,
    "fallback": _list_of(get_args(Kind)),
    "avoid": _list_of(get_args(Kind)),
    "prefer": _one_of(get_args(Preference)),
    "policy": _one_of(get_args(Policy)),
    "require": _list_of(get_args(Requirement)),
    "on_unsupported": _one_of(get_args(OnUnsupported)),
}


def _refuse_contradictions(options: ContextOptions) -> None:
    """Raise where a hint contradicts a requirement: hints may override each other, but a requirement is binding."""
    avoided_by = {kind: options.describe("avoid") for kind in options.avoid}
    if options.fallback:
        left_out = options.describe("fallback")
        avoided_by.update({kind: left_out for kind in get_args(Kind) if kind not in options.fallback})
    for requirement in options.require:
        hint = ""
        if requirement in ("accelerated", "no-cpu-fallback"):
            if avoided_by.keys() >= ACCELERATORS:
                hint = avoided_by["gpu"]
            elif options.accelerated is False:
                hint = options.describe("accelerated")
            elif options.policy == "prefer-cpu":
                hint = options.describe("policy")
        elif requirement == "low-power":
            if options.power_preference == "high-performance":
                hint = options.describe("power_preference")
            elif options.policy in ("prefer-gpu", "max-performance"):
                hint = options.describe("policy")
            elif "npu" in avoided_by:
                hint = avoided_by["npu"]
        if hint:
            raise InvalidInput(f"require={requirement!r} contradicts {hint}", remedy="remove one of the two")
