"""Selects devices from hints and requirements: tiers of devices, an objective, and a note for every hint overridden.

Precedence: the user's policy file, the application's requirements, then its hints in the order of `_TIER_RULES`. Every
hint is checked against the selection, so that none is overridden without a note.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from trisect.runtime.device import Device, Kind
from trisect.runtime.errors import FallbackForbidden, InfeasibleProblem
from trisect.scheduler.problem.rules import Objective

from .context_options import ACCELERATORS, DEFAULTS, ContextOptions

KindTiers = tuple[tuple[Kind, ...], ...]
"""Kinds of devices; a node goes to the first tier that can run it."""
DeviceTiers = tuple[tuple[Device, ...], ...]

_ONE_TIER: KindTiers = (("npu", "gpu", "cpu"),)
_BY_EFFICIENCY: KindTiers = (("npu",), ("gpu",), ("cpu",))


@dataclass(frozen=True)
class DeviceSelection:
    """The devices selected by a context's options, and how to plan for them."""

    tiers: DeviceTiers
    """Devices that may be used; a node goes to the first tier that can run it."""
    objective: Objective
    notes: tuple[str, ...]
    """Every hint that was overridden, and why."""
    options: ContextOptions
    """The options in effect, the user's policy included."""
    excluded_by_hints: tuple[Device, ...] = ()
    """Devices that hints alone exclude: used for nodes that no other device can run."""

    @property
    def devices(self) -> tuple[Device, ...]:
        """All devices that may be used, the most preferred first."""
        return tuple(device for tier in self.tiers for device in tier)

    @property
    def strategy(self) -> str:
        """The placement strategy that respects the tiers."""
        if len(self.tiers) == 1:
            return "auto"
        return "tiers:" + "|".join(",".join(device.id for device in tier) for tier in self.tiers)

    @property
    def accelerated(self) -> bool:
        """Whether a GPU or an NPU is in the first tier."""
        return any(device.kind in ACCELERATORS for device in self.tiers[0])


def select_devices(
    options: ContextOptions,
    available: Sequence[Device],
    *,
    user_options: ContextOptions = DEFAULTS,
    power_w: Mapping[str, float] | None = None,
) -> DeviceSelection:
    """Select the devices that may be used, their order, and the objective to minimise.

    Parameters
    ----------
    options : ContextOptions
        The application's options.
    available : sequence of Device
    user_options : ContextOptions, optional
        The user's policy, which the application cannot override.
    power_w : mapping of str to float, optional
        Device id -> power under load in watts, measured or published.

    Raises
    ------
    InfeasibleProblem
        Where the user's policy leaves no device, or the available devices cannot meet a requirement.

    Examples
    --------
    >>> cpu, npu = Device("cpu:a", "cpu", "a", ""), Device("npu:b", "npu", "b", "")
    >>> selection = select_devices(ContextOptions.parse(power_preference="high-performance"), [cpu, npu])
    >>> [device.id for device in selection.devices]
    ['npu:b', 'cpu:a']
    >>> selection.notes
    ("power_preference='high-performance' overridden: no GPU is available",)
    """
    power_w = power_w or {}
    merged = _merge(options, user_options)
    permitted = tuple(device for device in available if device.kind not in user_options.avoid)
    if not permitted:
        message = f"the user's policy avoids every available device: {', '.join(user_options.avoid)}"
        raise InfeasibleProblem(message, remedy="change the policy file")
    kinds, decided_by = _kind_tiers(merged)
    if merged.prefer is not None and merged.policy is None and merged.accelerated is not False:
        kinds = (tuple(kind for tier in kinds for kind in tier),)  # the objective orders them, not their kinds
    tiers = _tiers(permitted, kinds, without=merged.avoid) or _tiers(permitted, _ONE_TIER, without=merged.avoid)
    tiers = tiers or _tiers(permitted, _ONE_TIER)
    objective, objective_notes = _objective(merged, tiers, power_w)
    if merged.prefer == "accuracy":
        tiers = _only_float32(tiers)
    elif objective_notes:
        tiers = _tiers(tuple(d for tier in tiers for d in tier), _BY_EFFICIENCY)
    elif merged.policy == "min-overall-power":
        tiers = tuple((device,) for device in sorted((d for tier in tiers for d in tier), key=lambda d: power_w[d.id]))
    selected = {device.id for tier in tiers for device in tier}
    selection = DeviceSelection(tiers, objective, (), merged, tuple(d for d in permitted if d.id not in selected))
    _check_requirements(selection)
    overridden = _notes_on_overridden_hints(options, selection, decided_by)
    return replace(selection, notes=(*overridden, *objective_notes))


def _merge(options: ContextOptions, user_options: ContextOptions) -> ContextOptions:
    """Return the application's options, overridden by the user's; ``avoid`` and ``require`` are united."""
    user_values = {field.name: getattr(user_options, field.name) for field in fields(ContextOptions)}
    overriding = {name: value for name, value in user_values.items() if value != getattr(DEFAULTS, name)}
    for name in ("avoid", "require"):
        overriding[name] = tuple(dict.fromkeys((*getattr(user_options, name), *getattr(options, name))))
    return replace(options, **overriding)


def _tiers_by_policy(options: ContextOptions) -> KindTiers | None:
    match options.policy:
        case None:
            return None
        case "prefer-cpu":
            return (("cpu",), ("npu",), ("gpu",))
        case "prefer-gpu":
            return (("gpu",), ("cpu",), ("npu",))
        case "prefer-npu":
            return (("npu",), ("cpu",), ("gpu",))
        case _:
            return _ONE_TIER


def _tiers_by_fallback(options: ContextOptions) -> KindTiers | None:
    return tuple((kind,) for kind in options.fallback) or None


def _tiers_by_power_preference(options: ContextOptions) -> KindTiers | None:
    match options.power_preference:
        case "low-power":
            return (("npu",), ("cpu",))
        case "high-performance":
            return (("gpu",), ("npu",), ("cpu",))
        case None:
            return None


def _tiers_by_acceleration(options: ContextOptions) -> KindTiers | None:
    if options.accelerated is None:
        return None
    return (("npu", "gpu"), ("cpu",)) if options.accelerated else (("cpu",),)


_TIER_RULES: Mapping[str, Callable[[ContextOptions], KindTiers | None]] = {
    "policy": _tiers_by_policy,
    "fallback": _tiers_by_fallback,
    "power_preference": _tiers_by_power_preference,
    "accelerated": _tiers_by_acceleration,
}
"""Hints that order the devices, the most specific first; the first one that is set decides."""


def _kind_tiers(options: ContextOptions) -> tuple[KindTiers, str]:
    """Return the tiers of kinds, and the option that decides them; all in one tier, and "", where none does."""
    for name, rule in _TIER_RULES.items():
        kinds = rule(options)
        if kinds is not None:
            return kinds, options.describe(name)
    return _ONE_TIER, ""


def _tiers(devices: Sequence[Device], kinds: KindTiers, without: Sequence[Kind] = ()) -> DeviceTiers:
    tiers = (tuple(d for kind in tier for d in devices if d.kind == kind and kind not in without) for tier in kinds)
    return tuple(tier for tier in tiers if tier)


def _objective(
    options: ContextOptions, tiers: DeviceTiers, power_w: Mapping[str, float]
) -> tuple[Objective, tuple[str, ...]]:
    """Return the objective to minimise, and a note where a device's power would be needed and is not known."""
    is_power_policy = options.policy in ("max-efficiency", "min-overall-power")
    if is_power_policy or options.prefer == "sustained":
        unknown = [device.id for tier in tiers for device in tier if device.id not in power_w]
        if unknown:
            hint = options.describe("policy" if is_power_policy else "prefer")
            return "latency", (
                f"{hint}: the power of {', '.join(unknown)} is not measured; using the order NPU, GPU, CPU instead",
            )
        return ("latency" if options.policy == "min-overall-power" else "energy"), ()
    return ("throughput" if options.prefer == "throughput" else "latency"), ()


def _only_float32(tiers: DeviceTiers) -> DeviceTiers:
    """Leave out devices that do not compute in float32, unless none does."""
    exact = tuple(
        tuple(device for device in tier if not device.limits.dtypes or "float32" in device.limits.dtypes)
        for tier in tiers
    )
    return tuple(tier for tier in exact if tier) or tiers


def _check_requirements(selection: DeviceSelection) -> None:
    """Raise for requirements that the devices cannot meet, whatever the model."""
    ids = ", ".join(device.id for device in selection.devices)
    kinds = {device.kind for device in selection.devices}
    for requirement in selection.options.require:
        if requirement in ("no-cpu-fallback", "accelerated") and not kinds & ACCELERATORS:
            raise FallbackForbidden(
                f"require={requirement!r} needs a GPU or an NPU; available: {ids}",
                remedy="remove the requirement, or run on a machine that has one",
            )
        if requirement == "low-power" and "npu" not in kinds:
            raise InfeasibleProblem(
                f"require='low-power' needs an NPU; available: {ids}",
                remedy="use power_preference='low-power' instead, a hint that may be overridden",
            )


def _notes_on_overridden_hints(options: ContextOptions, selection: DeviceSelection, decided_by: str) -> list[str]:
    """Return a note for each hint of the application that the selection does not follow."""
    notes: list[str] = []
    for name, is_followed in _IS_FOLLOWED.items():
        if getattr(options, name) == getattr(DEFAULTS, name):
            continue
        hint, effective = options.describe(name), selection.options.describe(name)
        if name != "avoid" and effective != hint:
            notes.append(f"{hint} overridden: the user's policy sets {effective}")
        elif not is_followed(options, selection):
            reason = _reason(name, getattr(options, name), selection, decided_by if decided_by != hint else "")
            notes.append(f"{hint} overridden: {reason}")
    return notes


def _reason(name: str, value: object, selection: DeviceSelection, decided_by: str) -> str:
    """Return why a hint is not followed: its devices are missing, or another option takes precedence."""
    requested = {"low-power": ["npu"], "high-performance": ["gpu"]}.get(str(value), [])
    requested = requested or (["npu", "gpu"] if value is True else [])
    requested = requested or ([str(value).removeprefix("prefer-")] if str(value).startswith("prefer-") else [])
    requested = requested or ([*value] if name == "fallback" and isinstance(value, tuple) else [])
    available = {device.kind for device in (*selection.devices, *selection.excluded_by_hints)}
    if requested and not available & set(requested):
        verb = "is" if len(requested) == 1 else "are"
        return f"no {' and no '.join(kind.upper() for kind in requested)} {verb} available"
    if name != "avoid" and selection.options.avoid and set(requested) & set(selection.options.avoid):
        return f"{selection.options.describe('avoid')} takes precedence"
    if decided_by:
        return f"{decided_by} takes precedence"
    return f"only {', '.join(device.id for device in selection.devices)} can be used"


def _kinds(devices: Sequence[Device]) -> set[Kind]:
    return {device.kind for device in devices}


def _follows_power_preference(options: ContextOptions, selection: DeviceSelection) -> bool:
    if options.power_preference == "low-power":
        return "npu" in _kinds(selection.tiers[0]) and "gpu" not in _kinds(selection.devices)
    return "gpu" in _kinds(selection.tiers[0])


def _follows_acceleration(options: ContextOptions, selection: DeviceSelection) -> bool:
    return selection.accelerated if options.accelerated else not _kinds(selection.devices) & ACCELERATORS


def _follows_fallback(options: ContextOptions, selection: DeviceSelection) -> bool:
    order = list(options.fallback)
    used = list(dict.fromkeys(device.kind for device in selection.devices))
    return bool(set(used) <= set(order)) and sorted(used, key=order.index) == used


def _follows_policy(options: ContextOptions, selection: DeviceSelection) -> bool:
    policy = str(options.policy)
    return not policy.startswith("prefer-") or policy.removeprefix("prefer-") in _kinds(selection.tiers[0])


def _follows_preference(options: ContextOptions, selection: DeviceSelection) -> bool:
    if options.prefer == "accuracy":
        return all(not d.limits.dtypes or "float32" in d.limits.dtypes for d in selection.devices)
    return selection.options.policy in (None, "max-performance") or (
        options.prefer == "sustained" and selection.options.policy == "max-efficiency"
    )


_IS_FOLLOWED: Mapping[str, Callable[[ContextOptions, DeviceSelection], bool]] = {
    "policy": _follows_policy,
    "fallback": _follows_fallback,
    "power_preference": _follows_power_preference,
    "accelerated": _follows_acceleration,
    "avoid": lambda options, selection: not _kinds(selection.devices) & set(options.avoid),
    "prefer": _follows_preference,
}
"""Hint -> whether a selection follows it."""
