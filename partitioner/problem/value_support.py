"""Determines which tasks a device computes right: each kind of node is run on it and on others, once.

Results are cached with the verdicts of compiling, so that a later split of any model with such nodes costs nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from trisect.profiles.capabilities.compile_verdicts import Capabilities
from trisect.profiles.capabilities.value_trials import EQUAL, UNDECIDED, TrialResult
from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.errors import EngineMissing
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.scratch_folder import ScratchFolder

from .trial_units import TrialUnit, TrialUnits

_FLOPS_MAX = 2e9
"""Larger units are compared only if a smaller one like them can be made."""


def value_results(
    units: TrialUnits,
    members: Mapping[str, tuple[str, ...]],
    devices: Sequence[Device],
    refused: Collection[tuple[str, str]],
    capabilities: Capabilities,
    progress: Progress = no_progress,
) -> dict[tuple[str, str], TrialResult]:
    """Compare what devices compute with ONNX's reference and with each other, for each kind of node that is new.

    Parameters
    ----------
    members : mapping of str to tuple of str
        Task -> its nodes.
    refused : collection of (str, str)
        Tasks and devices that cannot run them.

    Returns
    -------
    dict
        Task and device id -> a result other than ``equal``; that of its first unit that has one.
    """
    units_of = {task: tuple(units.of_task(nodes)) for task, nodes in members.items()}
    keys = {unit.key for parts in units_of.values() for unit in parts}
    results: dict[tuple[str, str], TrialResult] = {}
    with ScratchFolder("values") as folder:
        for device in devices:
            if device.reality == "published" or not engines.capabilities(device).computes:
                continue
            of_keys = {key: capabilities.known_values(key, device) for key in keys}
            unknown: dict[str, TrialUnit] = {}
            for task, parts in units_of.items():
                if (task, device.id) not in refused:
                    unknown.update({u.key: u for u in parts if of_keys[u.key] is None and u.key not in unknown})
            for number, (key, unit) in enumerate(unknown.items()):
                progress(number, len(unknown), f"checking which results of {device.id} are right")
                try:
                    result = try_unit(units, unit.nodes, device, capabilities, Path(folder))
                except EngineMissing:
                    break
                of_keys[key] = result
                capabilities.record_values(key, device, result)
            for task, parts in units_of.items():
                problems = [r for u in parts if (r := of_keys[u.key]) is not None and r.outcome != "equal"]
                problems.sort(key=lambda result: result.outcome)  # "different" and "failed" before "undecided"
                if problems and (task, device.id) not in refused:
                    results[task, device.id] = problems[0]
    capabilities.save()
    return results


def try_unit(
    units: TrialUnits, nodes: tuple[str, ...], device: Device, capabilities: Capabilities, folder: Path
) -> TrialResult:
    """Compare what a device computes for nodes with others, on a smaller model like them where they are large."""
    if units.is_small(nodes):
        return _try(units, nodes, device, capabilities, folder)
    result = UNDECIDED
    if units.use_reference(nodes):
        result = _try(units, nodes, device, capabilities, folder, shrunk=True)
        if result.outcome == "failed":  # it may be malformed: sizes and attributes that no longer agree
            result = UNDECIDED
    if result != EQUAL and units.flops(nodes) <= _FLOPS_MAX:
        exact = _try(units, nodes, device, capabilities, folder, use_reference=False)
        return exact if exact.outcome != "undecided" else result
    return result


def _try(
    units: TrialUnits,
    nodes: tuple[str, ...],
    device: Device,
    capabilities: Capabilities,
    folder: Path,
    *,
    shrunk: bool = False,
    use_reference: bool = True,
) -> TrialResult:
    model = units.model(nodes, shrunk=shrunk)
    if model is None:
        return UNDECIDED
    path = folder / "trial.onnx"
    path.write_bytes(model.SerializeToString())
    return capabilities.compared(units.trial(nodes, path, use_reference=use_reference), device)
