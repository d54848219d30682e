"""A context: devices chosen by what an application said, ready to compile models.

Made by `create_context`. It answers before there is a model (`accelerated`, `notes`, `devices`), and compiles models
into graphs that answer for themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from trisect.partitioner.graph.model_loading import parse_proto
from trisect.partitioner.problem.constraints import Constraints, read_constraints
from trisect.profiles.capabilities.op_support_limits import DeviceLimits
from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.errors import FallbackForbidden, InfeasibleProblem, StorageFailed, UnsupportedOperator
from trisect.runtime.plans.plan import Plan
from trisect.runtime.progress import Progress, no_progress

from .. import api
from .choosing import Choice, choose
from .compiled import Compiled, CompiledGraph
from .history import History, told_shapes
from .op_support import Support, query
from .openvino_strings import read_device_string, write_device_string
from .policy_file import policy_path, read_policy
from .requested_options import Wishes
from .sources.onnx_file import structure_key

PlanOn = Callable[[Iterable[Device], str, str | Path | None], Plan]
"""Plans the model on devices, with a strategy, into a folder."""

LOW_LATENCY_SLACK = 1.1
"""A plan is of low latency where nothing else that the user permits is predicted to be quicker by more than this."""
_NAMED = 3


def create_context(
    *,
    devices: str | Iterable[str] = "auto",
    machine: str | None = None,
    limits: DeviceLimits | None = None,
    policy_file: str | Path | None = None,
    **said: Any,
) -> Context:
    """Choose devices by what an application says it wants.

    Parameters
    ----------
    devices : str or iterable of str
        Ids and kinds to choose among; ``"auto"`` for all that are hardware. OpenVINO's strings (``HETERO:GPU,CPU``) are
        understood too: their order becomes ``fallback``'s.
    machine : str, optional
        A published machine that is not at hand, instead of this one.
    limits : DeviceLimits, optional
        An entry of `op_support_limits_per_device`: the context is for that device.
    policy_file : path, optional
        The user's policy; where left out, ``TRISECT_POLICY`` or the one in the user's configuration folder.
    **said
        Hints and requirements; see `Wishes`. Names may be in camelCase, as a web page gives them.

    Returns
    -------
    Context

    Raises
    ------
    InvalidInput
        For a word that nobody knows, hints that contradict requirements, or a policy that cannot be read.
    FallbackForbidden, InfeasibleProblem
        For a requirement that the devices here cannot meet.
    UnknownDevice
        For a device or machine that is not there.

    Examples
    --------
    >>> context = create_context(machine="intel-core-ultra-7-155h", power_preference="low-power")
    >>> [device.id for device in context.devices], context.accelerated, context.notes
    (['npu:openvino', 'cpu:openvino'], True, ())
    """
    if limits is not None:
        devices = limits.device
    if isinstance(devices, str) and devices.partition(":")[0].isupper():  # our own ids are in small letters
        devices, said = _from_openvino(devices, machine, said)
    wishes = Wishes.of(**said)
    users = read_policy(Path(policy_file) if policy_file is not None else policy_path())
    return Context(wishes, users, devices, machine)


class Context:
    """Devices chosen for an application; see `create_context`.

    Parameters
    ----------
    wishes, users : Wishes
        The application's and the user's.
    wanted : str or iterable of str
        Devices to choose among.
    machine : str or None
        A published machine.
    """

    def __init__(self, wishes: Wishes, users: Wishes, wanted: str | Iterable[str], machine: str | None) -> None:
        self.wishes = wishes
        self.machine = machine
        self._users = users
        self._wanted = wanted if isinstance(wanted, str) else tuple(wanted)
        self._choice = self._choose()

    @property
    def devices(self) -> tuple[Device, ...]:
        """Devices that may be used, the most wanted first."""
        return self._choice.devices

    @property
    def accelerated(self) -> bool:
        """Whether a GPU or an NPU is likely to do the work; ask again after `refresh`."""
        return self._choice.accelerated

    @property
    def notes(self) -> tuple[str, ...]:
        """Every hint that was overridden, and why."""
        return self._choice.notes

    @property
    def choice(self) -> Choice:
        """All that was decided: ranks of devices, objective, notes."""
        return self._choice

    @property
    def openvino_devices(self) -> str:
        """The chosen devices as OpenVINO would be told: ``HETERO:NPU,CPU``.

        Raises
        ------
        InvalidInput
            Where other engines' devices are among them.

        Examples
        --------
        >>> create_context(machine="intel-core-ultra-7-155h", power_preference="low-power").openvino_devices
        'HETERO:NPU,CPU'
        """
        return write_device_string(self.devices, "MULTI" if self._choice.objective == "throughput" else "HETERO")

    def refresh(self) -> bool:
        """Look again which devices there are; True where the choice has changed."""
        before = self._choice
        if self.machine is None:
            engines.rescan()
        self._choice = self._choose()
        return self._choice != before

    def query_support(
        self,
        data_types: Iterable[str] = (),
        maximum_rank: int | None = None,
        operators: Iterable[str] = (),
        *,
        progress: Progress = no_progress,
    ) -> Support:
        """Whether work of these kinds would run, and where, before there is a model.

        Parameters
        ----------
        data_types : iterable of str
            ``float16``, ``int8``, ...
        maximum_rank : int, optional
            Of any tensor.
        operators : iterable of str
            ONNX's names (``HardSwish``) or WebNN's (``hardSwish``).
        progress : callable, optional
            The first question to a device tries every operator on it.

        Raises
        ------
        InvalidInput
            For a dtype or operator that does not exist, with the nearest.

        Examples
        --------
        >>> context = create_context(machine="intel-core-ultra-7-155h", power_preference="low-power")
        >>> str(context.query_support(data_types=["float16"], maximum_rank=6))
        'optimized'
        """
        return query(self._choice.ranks, data_types, maximum_rank, operators, progress)

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
        """Split a model over the chosen devices.

        Parameters
        ----------
        model : path
            An ONNX file.
        shapes : mapping of str to int, optional
            Sizes of symbolic dimensions.
        constraints : optional
            Further ones, as `trisect.split` takes them.
        out : path, optional
            Folder of the plan.
        seed : int
        executor : str
            How it will be run; see `Session`.
        progress : callable, optional

        Raises
        ------
        FallbackForbidden
            Naming nodes and devices, where a requirement or ``on_unsupported="error"`` forbids what the model needs.
        TrisectError
            As for `trisect.split`.
        """
        further = read_constraints(constraints)
        if "no-cpu-fallback" in self._choice.wishes.require:
            further = further.joined(Constraints(cpu_fallback=False))

        def plan_on(devices: Iterable[Device], strategy: str, out: str | Path | None = None) -> Plan:
            return api.split(
                model, [device.id for device in devices], strategy, self._choice.objective, shapes,
                constraints=further, seed=seed, out=out, machine=self.machine, progress=progress,
            )  # fmt: skip

        def compile_again(plan: Plan) -> Compiled | None:
            changed = self.refresh()
            if not changed and {device.id for device in plan.devices} <= {device.id for device in self._available()}:
                return None
            return self._compiled(plan_on)

        def remember(plan: Plan, latency_s: float) -> None:
            devices = tuple(dict.fromkeys(segment.device for segment in plan.segments))
            with suppress(StorageFailed):  # a full disk is no reason to fail a model that has run
                History().ran(structure_key(parse_proto(Path(model))), devices, told_shapes(shapes), latency_s)

        compiled = self._compiled(plan_on, out)
        return CompiledGraph(compiled, compile_again, partial(self._check, plan_on=plan_on), remember, executor)

    def _compiled(self, plan_on: PlanOn, out: str | Path | None = None) -> Compiled:
        choice = self._choice
        notes: tuple[str, ...] = ()
        if choice.wishes.on_unsupported == "error":
            plan = self._without_fallback(plan_on, out)
        else:
            try:
                plan = plan_on(choice.devices, choice.strategy, out)
            except UnsupportedOperator as error:
                if not choice.held_back:
                    raise
                last = _ids(choice.held_back)
                ranks = choice.strategy.removeprefix("tiers:") if len(choice.ranks) > 1 else _ids(choice.devices)
                plan = plan_on((*choice.devices, *choice.held_back), f"tiers:{ranks}|{last}", out)
                notes = (f"{last} is used although the hints avoid it: {error.message}",)
        self._check(plan, plan_on)
        return Compiled(plan, choice, notes)

    def _without_fallback(self, plan_on: PlanOn, out: str | Path | None) -> Plan:
        most_wanted = self._choice.ranks[0]
        try:
            return plan_on(most_wanted, "auto", out)
        except (UnsupportedOperator, InfeasibleProblem) as error:
            raise FallbackForbidden(
                f"on_unsupported='error' keeps all on {_ids(most_wanted)}: {error.message}",
                remedy="say on_unsupported='fallback' to let another device run it",
            ) from error

    def _check(self, plan: Plan, plan_on: PlanOn) -> None:
        """Hold a plan against what was required."""
        required = self._choice.wishes.require
        kinds = {device.id: device.kind for device in plan.devices}
        work = {node: segment.device for segment in plan.segments for node in segment.nodes}
        if "low-power" in required:
            _refuse("low-power", {node: device for node, device in work.items() if kinds[device] == "gpu"})
        if "accelerated" in required and not {"gpu", "npu"} & {kinds[device] for device in work.values()}:
            _refuse("accelerated", work)
        if "low-latency" in required:
            best = plan_on((*self._choice.devices, *self._choice.held_back), "auto", None)
            if plan.predicted.latency_s > LOW_LATENCY_SLACK * best.predicted.latency_s:
                raise InfeasibleProblem(
                    f"require='low-latency' cannot hold on {_ids(self._choice.devices)}: "
                    f"{plan.predicted.latency_s * 1e3:.3g} ms predicted, {best.predicted.latency_s * 1e3:.3g} ms on "
                    f"{', '.join(dict.fromkeys(segment.device for segment in best.segments))}",
                    remedy="leave out the hints that keep the quicker device away, or the requirement",
                )

    def _available(self) -> tuple[Device, ...]:
        return tuple(api.usable_devices(self._wanted, machine=self.machine))

    def _choose(self) -> Choice:
        profile = api.known_profile(self.machine)
        power_w = {key: device.power_w for key, device in profile.devices.items() if device.power_w is not None}
        return choose(self.wishes, self._available(), users=self._users, power_w=power_w)


def _from_openvino(text: str, machine: str | None, said: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """OpenVINO's device string as devices and hints; hints that were given stand."""
    found = read_device_string(text, api.usable_devices(machine=machine))
    hints: dict[str, Any] = {}
    if found.mode == "HETERO":
        hints["fallback"] = tuple(dict.fromkeys(device.kind for device in found.devices))
    elif found.mode == "MULTI":
        hints["prefer"] = "throughput"
    return tuple(device.id for device in found.devices), {**hints, **said}


def _ids(devices: Iterable[Device]) -> str:
    return ",".join(device.id for device in devices)


def _refuse(requirement: str, nodes: Mapping[str, str]) -> None:
    if nodes:
        named = [f"{node!r} on {device}" for node, device in list(nodes.items())[:_NAMED]]
        more = f" and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else ""
        raise FallbackForbidden(
            f"require={requirement!r} cannot hold: {', '.join(named)}{more}",
            remedy="leave it out, or add a device that can run them",
        )
