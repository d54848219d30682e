"""A context: the devices selected by an application's options, on which it compiles models.

`create_context` makes one. It answers questions before there is a model (`accelerated`, `notes`, `devices`,
`query_support`), and compiles models into graphs that report which devices run them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from trisect import api
from trisect.partitioner.graph.model_loading import parse_proto
from trisect.partitioner.problem.constraints import Constraints, read_constraints
from trisect.profiles.capabilities.op_support_limits import DeviceLimits
from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.errors import FallbackForbidden, InfeasibleProblem, StorageFailed, UnsupportedOperator
from trisect.runtime.plans.plan import Plan
from trisect.runtime.progress import Progress, no_progress

from .compiled_graph import CompiledGraph, ContextPlan
from .context_options import ACCELERATORS, ContextOptions
from .device_selection import DeviceSelection, select_devices
from .history import History, shapes_key
from .op_support import OpSupport, query_support
from .openvino_strings import read_device_string, write_device_string
from .policy_file import policy_path, read_policy
from .sources.onnx_file import structure_key

log = logging.getLogger(__name__)

MAX_LATENCY_RATIO = 1.1
"""A plan meets ``require="low-latency"`` if no other permitted plan is predicted to be faster by more than this."""
_MAX_NAMED_NODES = 3


def create_context(
    *,
    devices: str | Iterable[str] = "auto",
    machine: str | None = None,
    limits: DeviceLimits | None = None,
    policy_file: str | Path | None = None,
    **options: Any,
) -> Context:
    """Select devices by an application's hints and requirements.

    Parameters
    ----------
    devices : str or iterable of str
        Ids and kinds to select from; ``"auto"`` for all hardware. OpenVINO's device strings (``HETERO:GPU,CPU``) are
        accepted too: their order sets ``fallback``.
    machine : str, optional
        A machine from the built-in database, instead of this one.
    limits : DeviceLimits, optional
        An entry of `op_support_limits_per_device`: select that device only.
    policy_file : path, optional
        The user's policy; default: ``TRISECT_POLICY``, else the one in the user's configuration folder.
    **options
        Hints and requirements; see `ContextOptions`. Names may be in camelCase, as in a web page.

    Returns
    -------
    Context

    Raises
    ------
    InvalidInput
        For an unknown option or value, hints that contradict requirements, or a policy that cannot be read.
    FallbackForbidden, InfeasibleProblem
        For a requirement that the available devices cannot meet.
    UnknownDevice
        For a device or machine that does not exist.

    Examples
    --------
    >>> context = create_context(machine="intel-core-ultra-7-155h", power_preference="low-power")
    >>> [device.id for device in context.devices], context.accelerated, context.notes
    (['npu:openvino', 'cpu:openvino'], True, ())
    """
    if limits is not None:
        devices = limits.device
    if isinstance(devices, str) and devices.partition(":")[0].isupper():  # our own ids are in lower case
        devices, options = _from_openvino(devices, machine, options)
    requested = ContextOptions.parse(**options)
    user_options = read_policy(Path(policy_file) if policy_file is not None else policy_path())
    return Context(requested, user_options, devices, machine)


class PlanOn(Protocol):
    """Plans one model on some devices with a strategy; ``out`` is the plan's folder, a temporary one where None."""

    def __call__(self, devices: Iterable[Device], strategy: str, out: str | Path | None = None) -> Plan: ...


class Context:
    """Devices selected for an application; see `create_context`.

    Parameters
    ----------
    options, user_options : ContextOptions
        The application's and the user's.
    candidates : str or iterable of str
        Devices to select from.
    machine : str or None
        A machine from the built-in database.
    """

    def __init__(
        self,
        options: ContextOptions,
        user_options: ContextOptions,
        candidates: str | Iterable[str],
        machine: str | None,
    ) -> None:
        self.options = options
        self.machine = machine
        self._user_options = user_options
        self._candidates = candidates if isinstance(candidates, str) else tuple(candidates)
        self._selection = self._select()

    @property
    def devices(self) -> tuple[Device, ...]:
        """All devices that may be used, the most preferred first."""
        return self._selection.devices

    @property
    def accelerated(self) -> bool:
        """Whether a GPU or an NPU is likely to be used; may change with `refresh`."""
        return self._selection.accelerated

    @property
    def notes(self) -> tuple[str, ...]:
        """Every hint that was overridden, and why."""
        return self._selection.notes

    @property
    def selection(self) -> DeviceSelection:
        """The selected devices in tiers, with the objective and the notes."""
        return self._selection

    @property
    def openvino_devices(self) -> str:
        """The selected devices as OpenVINO's device string: ``HETERO:NPU,CPU``.

        Raises
        ------
        InvalidInput
            Where other engines' devices are among them.

        Examples
        --------
        >>> create_context(machine="intel-core-ultra-7-155h", power_preference="low-power").openvino_devices
        'HETERO:NPU,CPU'
        """
        return write_device_string(self.devices, "MULTI" if self._selection.objective == "throughput" else "HETERO")

    def refresh(self) -> bool:
        """Discover the devices again; return whether the selection changed."""
        before = self._selection
        if self.machine is None:
            engines.rescan()
        self._selection = self._select()
        return self._selection != before

    def query_support(
        self,
        data_types: Iterable[str] = (),
        maximum_rank: int | None = None,
        operators: Iterable[str] = (),
        *,
        progress: Progress = no_progress,
    ) -> OpSupport:
        """Return whether data types, ranks and operators are supported, before there is a model.

        Parameters
        ----------
        data_types : iterable of str
            ``float16``, ``int8``, ...
        maximum_rank : int, optional
            Largest rank of any tensor.
        operators : iterable of str
            ONNX's names (``HardSwish``) or WebNN's (``hardSwish``).
        progress : callable, optional
            The first query of a device compiles every operator on it.

        Raises
        ------
        InvalidInput
            For an unknown data type or operator, with the closest match.

        Examples
        --------
        >>> context = create_context(machine="intel-core-ultra-7-155h", power_preference="low-power")
        >>> str(context.query_support(data_types=["float16"], maximum_rank=6))
        'optimized'
        """
        return query_support(self._selection.tiers, data_types, maximum_rank, operators, progress)

    def compile(
        self,
        model: str | Path,
        shapes: Mapping[str, int] | None = None,
        *,
        constraints: Constraints | Mapping[str, Any] | str | Path | None = None,
        out: str | Path | None = None,
        seed: int = 0,
        executor: str = "threads",
        progress: Progress = no_progress,
    ) -> CompiledGraph:
        """Split a model over the selected devices.

        Parameters
        ----------
        model : path
            An ONNX file.
        shapes : mapping of str to int, optional
            Sizes of symbolic dimensions.
        constraints : optional
            Additional constraints, as for `trisect.split`.
        out : path, optional
            Folder of the plan.
        seed : int
            Random seed.
        executor : str
            Execution backend; see `Session`.
        progress : callable, optional

        Raises
        ------
        FallbackForbidden
            Where a requirement or ``on_unsupported="error"`` forbids the devices that the model needs; names nodes and
            devices.
        TrisectError
            As for `trisect.split`.
        """
        all_constraints = read_constraints(constraints)
        if "no-cpu-fallback" in self._selection.options.require:
            all_constraints = all_constraints.joined(Constraints(cpu_fallback=False))

        def plan_on(devices: Iterable[Device], strategy: str, out: str | Path | None = None) -> Plan:
            return api.split(
                model, [device.id for device in devices], strategy, self._selection.objective, shapes,
                constraints=all_constraints, seed=seed, out=out, machine=self.machine, measure=False, progress=progress,
            )  # fmt: skip

        def recompile(plan: Plan) -> ContextPlan | None:
            changed = self.refresh()
            if not changed and {device.id for device in plan.devices} <= {device.id for device in self._available()}:
                return None
            return self._plan(plan_on)

        def record_latency(plan: Plan, latency_s: float) -> None:
            devices = tuple(dict.fromkeys(segment.device for segment in plan.segments))
            key = structure_key(parse_proto(Path(model)))
            try:
                History().record_run(key, devices, shapes_key(shapes), latency_s)
            except StorageFailed as error:  # a run that succeeded must not fail because the disk is full
                log.warning("the run is not recorded: %s", error)

        check_plan = partial(self._check_plan, plan_on=plan_on)
        return CompiledGraph(self._plan(plan_on, out), recompile, check_plan, record_latency, executor)

    def _plan(self, plan_on: PlanOn, out: str | Path | None = None) -> ContextPlan:
        selection = self._selection
        notes: tuple[str, ...] = ()
        if selection.options.on_unsupported == "error":
            plan = self._plan_without_fallback(plan_on, out)
        else:
            try:
                plan = plan_on(selection.devices, selection.strategy, out)
            except UnsupportedOperator as error:
                if not selection.excluded_by_hints:
                    raise
                last = _ids(selection.excluded_by_hints)
                is_tiered = len(selection.tiers) > 1
                tiers = selection.strategy.removeprefix("tiers:") if is_tiered else _ids(selection.devices)
                devices = (*selection.devices, *selection.excluded_by_hints)
                plan = plan_on(devices, f"tiers:{tiers}|{last}", out)
                notes = (f"{last} is used although the hints avoid it: {error.message}",)
        self._check_plan(plan, plan_on)
        return ContextPlan(plan, selection, notes)

    def _plan_without_fallback(self, plan_on: PlanOn, out: str | Path | None) -> Plan:
        preferred = self._selection.tiers[0]
        try:
            return plan_on(preferred, "auto", out)
        except (UnsupportedOperator, InfeasibleProblem) as error:
            raise FallbackForbidden(
                f"on_unsupported='error' allows only {_ids(preferred)}: {error.message}",
                remedy="use on_unsupported='fallback' to allow other devices",
            ) from error

    def _check_plan(self, plan: Plan, plan_on: PlanOn) -> None:
        """Raise for a plan that violates a requirement."""
        required = self._selection.options.require
        kinds = {device.id: device.kind for device in plan.devices}
        device_of = {node: segment.device for segment in plan.segments for node in segment.nodes}
        if "low-power" in required:
            _refuse("low-power", {node: device for node, device in device_of.items() if kinds[device] == "gpu"})
        if "accelerated" in required and not ACCELERATORS & {kinds[device] for device in device_of.values()}:
            _refuse("accelerated", device_of)
        if "low-latency" in required:
            fastest = plan_on((*self._selection.devices, *self._selection.excluded_by_hints), "auto")
            if plan.predicted.latency_s > MAX_LATENCY_RATIO * fastest.predicted.latency_s:
                raise InfeasibleProblem(
                    f"require='low-latency' is not met on {_ids(self._selection.devices)}: predicted "
                    f"{plan.predicted.latency_s * 1e3:.3g} ms, but {fastest.predicted.latency_s * 1e3:.3g} ms on "
                    f"{', '.join(dict.fromkeys(segment.device for segment in fastest.segments))}",
                    remedy="remove the hints that exclude the faster device, or the requirement",
                )

    def _available(self) -> tuple[Device, ...]:
        return tuple(api.usable_devices(self._candidates, machine=self.machine))

    def _select(self) -> DeviceSelection:
        profile = api.known_profile(self.machine)
        power_w = {key: device.power_w for key, device in profile.devices.items() if device.power_w is not None}
        return select_devices(self.options, self._available(), user_options=self._user_options, power_w=power_w)


def _from_openvino(text: str, machine: str | None, options: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Convert OpenVINO's device string to device ids and hints; explicit options override the hints."""
    parsed = read_device_string(text, api.usable_devices(machine=machine))
    hints: dict[str, Any] = {}
    if parsed.mode == "HETERO":
        hints["fallback"] = tuple(dict.fromkeys(device.kind for device in parsed.devices))
    elif parsed.mode == "MULTI":
        hints["prefer"] = "throughput"
    return tuple(device.id for device in parsed.devices), {**hints, **options}


def _ids(devices: Iterable[Device]) -> str:
    return ",".join(device.id for device in devices)


def _refuse(requirement: str, nodes: Mapping[str, str]) -> None:
    """Raise where any node violates a requirement; ``nodes`` maps each of them to its device."""
    if nodes:
        named = [f"{node!r} on {device}" for node, device in list(nodes.items())[:_MAX_NAMED_NODES]]
        more = f" and {len(nodes) - _MAX_NAMED_NODES} more" if len(nodes) > _MAX_NAMED_NODES else ""
        raise FallbackForbidden(
            f"require={requirement!r} is violated by {', '.join(named)}{more}",
            remedy="remove the requirement, or add a device that can run them",
        )
