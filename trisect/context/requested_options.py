"""What an application may say it wants, checked word by word: hints, which may be overridden, and requirements, which
may not.

The words are those of the W3C's WebNN explainer on device selection, of ONNX Runtime's device policies and of OpenVINO;
a page's camelCase names map one to one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from trisect.runtime.device import Kind
from trisect.runtime.errors import InvalidInput

PowerPreference = Literal["low-power", "high-performance"]
Preference = Literal["low-latency", "throughput", "sustained", "accuracy"]
Policy = Literal["prefer-cpu", "prefer-npu", "prefer-gpu", "max-performance", "max-efficiency", "min-overall-power"]
Requirement = Literal["no-cpu-fallback", "low-power", "low-latency", "accelerated"]
OnUnsupported = Literal["fallback", "error"]


@dataclass(frozen=True)
class Wishes:
    """All that an application said; what it left out is None or empty.

    Examples
    --------
    >>> Wishes.of(power_preference="low-power", require=["no-cpu-fallback"]).require
    ('no-cpu-fallback',)
    >>> Wishes.of(powerPreference="low-power") == Wishes.of(power_preference="low-power")
    True
    """

    power_preference: PowerPreference | None = None
    """``low-power``: the NPU, with the CPU beside it; ``high-performance``: the GPU."""
    accelerated: bool | None = None
    """Whether a GPU or NPU is wanted at all."""
    fallback: tuple[Kind, ...] = ()
    """Kinds of devices in the order in which they are tried; kinds not named are avoided."""
    avoid: tuple[Kind, ...] = ()
    prefer: Preference | None = None
    """What to make good, whatever the devices: ``sustained`` means speed that lasts, at the least energy."""
    policy: Policy | None = None
    """One of the six of ONNX Runtime's ``OrtExecutionProviderDevicePolicy``."""
    require: tuple[Requirement, ...] = ()
    on_unsupported: OnUnsupported = "fallback"
    """What becomes of nodes that the preferred devices cannot run: another device, or an error."""

    @classmethod
    def of(cls, **said: Any) -> Wishes:
        """Check what was said.

        Parameters
        ----------
        **said
            The fields of this class, in snake_case or camelCase; None = not said.

        Raises
        ------
        InvalidInput
            For a word that nobody knows, with the nearest one, and for hints that contradict the requirements.
        """
        known = {field.name for field in fields(cls)}
        found: dict[str, Any] = {}
        for name, value in said.items():
            snake = to_snake(name)
            if snake not in known:
                raise _unknown("hint", name, sorted(known))
            if snake in found:
                raise InvalidInput(f"the hint {snake} is given twice", remedy=f"leave out {name}")
            if value is not None:
                found[snake] = _CHECKS[snake](snake, value)
        wishes = cls(**found)
        _refuse_contradictions(wishes)
        return wishes

    def to_camel(self) -> dict[str, Any]:
        """As a page would write it; what was not said is left out.

        Examples
        --------
        >>> Wishes.of(power_preference="low-power", avoid=["gpu"]).to_camel()
        {'powerPreference': 'low-power', 'avoid': ['gpu']}
        """
        plain = Wishes()
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            to_camel(name): list(value) if isinstance(value, tuple) else value
            for name, value in told.items()
            if value != getattr(plain, name)
        }


def to_camel(name: str) -> str:
    """``power_preference`` -> ``powerPreference``.

    Examples
    --------
    >>> to_camel("on_unsupported"), to_snake("onUnsupported")
    ('onUnsupported', 'on_unsupported')
    """
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


def to_snake(name: str) -> str:
    """``powerPreference`` -> ``power_preference``."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: "_" + match[0].lower(), name)


def _unknown(what: str, word: object, there_are: Iterable[str]) -> InvalidInput:
    listed = list(there_are)
    near = difflib.get_close_matches(str(word), listed, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InvalidInput(f"there is no {what} {str(word)[:80]!r}", remedy=f"{hint}there are: {', '.join(listed)}")


def _one_of(words: tuple[str, ...]) -> Any:
    def check(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise _unknown(name, value, words)
        return value

    return check


def _some_of(words: tuple[str, ...]) -> Any:
    def check(name: str, value: object) -> tuple[str, ...]:
        given = value.split(",") if isinstance(value, str) else value
        if not isinstance(given, Iterable) or isinstance(given, Mapping):
            raise InvalidInput(f"{name} is a list of words, not {value!r}", remedy=f"of: {', '.join(words)}")
        one = _one_of(words)
        return tuple(dict.fromkeys(one(name, word) for word in given))

    return check


def _truth(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"{name} is true or false, not {value!r}")
    return value


_CHECKS: Mapping[str, Any] = {
    "power_preference": _one_of(get_args(PowerPreference)),
    "accelerated": _truth,
    "fallback": _some_of(get_args(Kind)),
    "avoid": _some_of(get_args(Kind)),
    "prefer": _one_of(get_args(Preference)),
    "policy": _one_of(get_args(Policy)),
    "require": _some_of(get_args(Requirement)),
    "on_unsupported": _one_of(get_args(OnUnsupported)),
}

_ACCELERATORS = {"gpu", "npu"}


def _refuse_contradictions(wishes: Wishes) -> None:
    """A hint gives way to another hint, but not to a requirement: the application has to make up its mind."""
    refused = {kind: f"avoid={list(wishes.avoid)}" for kind in wishes.avoid}
    if wishes.fallback:
        left_out = f"fallback={list(wishes.fallback)}"
        refused.update({kind: left_out for kind in get_args(Kind) if kind not in wishes.fallback})
    for requirement in wishes.require:
        against = ""
        if requirement in ("accelerated", "no-cpu-fallback"):
            if refused.keys() >= _ACCELERATORS:
                against = refused["gpu"]
            elif wishes.accelerated is False:
                against = "accelerated=False"
            elif wishes.policy == "prefer-cpu":
                against = "policy='prefer-cpu'"
        elif requirement == "low-power":
            if wishes.power_preference == "high-performance":
                against = "power_preference='high-performance'"
            elif wishes.policy in ("prefer-gpu", "max-performance"):
                against = f"policy={wishes.policy!r}"
            elif "npu" in refused:
                against = refused["npu"]
        if against:
            raise InvalidInput(
                f"require={requirement!r} contradicts {against}", remedy="leave out one of the two: one cannot hold"
            )
