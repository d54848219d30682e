"""What one sentence of a user means in calls to the rooms: thin orchestration, no idea of its own.

`import trisect` and the command line are both made of these functions.
"""

from __future__ import annotations

import atexit
import shutil
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from trisect.partitioner.graph import Graph
from trisect.partitioner.modelcases import model_cases
from trisect.partitioner.planning import make_plan
from trisect.profiles import reference, store
from trisect.profiles.capabilities import Capabilities
from trisect.profiles.costs import ProfileCosts
from trisect.profiles.measure import measure
from trisect.profiles.profile import Profile, Provenance
from trisect.runtime import engines
from trisect.runtime import verify as verification
from trisect.runtime.devices import Device, select
from trisect.runtime.errors import InvalidInput, ProfileMissing
from trisect.runtime.llm.bundle import Bundle
from trisect.runtime.plan import Plan
from trisect.runtime.session import Session
from trisect.runtime.timeline import Trace
from trisect.runtime.verify import Verification, generate_feeds
from trisect.scheduler.problem import Objective

from . import origins

Progress = Callable[[int, int, str], None]
"""Called with the steps done, all steps, and what comes next."""

LEAST_BUDGET_S = 1.0
BRIEF_S = 20.0
"""How long a split may measure devices that nobody has measured yet."""

_NOTHING_MEASURED = Profile(Provenance("measured", "", "", "", "", {}, None), "float32", {}, ())


def devices(wanted: str | Iterable[str] = "auto", *, machine: str | None = None) -> list[Device]:
    """Devices of this machine, as the engines installed here list them.

    Parameters
    ----------
    wanted : str or iterable of str
        Ids and kinds (``"cpu:ort,npu"``), or ``"auto"`` for all.
    machine : str, optional
        Those of a published machine that is not at hand, not of this one.

    Raises
    ------
    UnknownDevice
        With the nearest name and the list of those there are.
    EngineMissing
        For a device of an engine that is not installed, or whose driver is broken.

    Examples
    --------
    >>> devices("cpu:ort")[0].kind
    'cpu'
    """
    if machine is not None:
        return select(wanted, reference.machine(machine).devices)
    return engines.find(wanted)


def profile(
    wanted: str | Iterable[str] = "auto",
    *,
    budget_s: float = 60.0,
    model: str | Path | None = None,
    shapes: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> Profile:
    """Measure devices and the links between them, and store what was found for planning.

    Figures that are stored already, of the same versions of the same engines, are kept and not measured again. What is
    measured when the user interrupts is stored too, and the next call goes on from there.

    Parameters
    ----------
    wanted : str or iterable of str
        As for `devices`; ``"auto"`` leaves out simulated and software devices.
    budget_s : float
        After so long nothing more is begun.
    model : path, optional
        An ONNX file whose own operators, at its own shapes, are measured first.
    shapes : mapping of str to int, optional
        Sizes of its symbolic dimensions.
    progress : callable, optional

    Raises
    ------
    InvalidProfile
        When what is stored cannot be read; it is left as it is.
    EngineFailed
        For a device that cannot run the smallest model.
    InvalidInput
        For a budget too small to measure anything.
    """
    if not budget_s >= LEAST_BUDGET_S:
        message = f"a budget of {budget_s:g} s is too small to measure anything"
        raise InvalidInput(message, remedy=f"give {LEAST_BUDGET_S:g} s or more")
    chosen = engines.find_to_use(wanted)
    with model_cases(Graph.read(model, shapes)) if model is not None else nullcontext(()) as own:
        measured = measure(chosen, budget_s=budget_s, known=_stored(), wanted=own, progress=progress, keep=_store)
    _store(measured)
    return measured


def split(
    model: str | Path,
    devices: str | Iterable[str] = "auto",
    strategy: str = "auto",
    objective: Objective = "latency",
    shapes: Mapping[str, int] | None = None,
    *,
    seed: int = 0,
    out: str | Path | None = None,
    machine: str | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Place a model's nodes on devices, from measured costs, and cut it into segments that run.

    Devices that nobody has measured yet are measured briefly first, and the figures stored.

    Parameters
    ----------
    model : path
        An ONNX file.
    devices : str or iterable of str
        Ids and kinds, or ``"auto"`` for all that are hardware.
    strategy : str
        ``"auto"``, ``"opclass"``, ``"single:cpu:ort"``, or one that you registered.
    objective : str
        What to make small.
    shapes : mapping of str to int, optional
        Sizes of symbolic dimensions, by name or as ``input.axis``.
    seed : int
        For strategies that draw lots.
    out : path, optional
        Folder of the plan; when left out, one that vanishes with this process (`Plan.save` keeps it).
    machine : str, optional
        Plan for a machine that is not at hand, from published figures (`trisect.profiles.reference`), not for this one.
    progress : callable, optional
        Told of measuring.

    Raises
    ------
    InvalidModel, UnsupportedModel, UnsupportedOperator
        For a model that cannot be read or run.
    InvalidInput
        For a symbolic dimension without a size.
    UnknownDevice, InfeasibleProblem
        For devices that are not here, or that cannot do it.
    """
    path = Path(model)
    published = reference.machine(machine) if machine is not None else None
    chosen = engines.find_to_use(devices) if published is None else select(devices, published.devices)
    folder = Path(out) if out is not None else _vanishing_folder()

    def plan_from(known: Profile) -> Plan:
        return make_plan(
            path, chosen, ProfileCosts(known), strategy, objective, dict(shapes or {}), seed, folder,
            capabilities=Capabilities(), progress=progress,
        )  # fmt: skip

    if published is not None:
        plan = plan_from(published.profile)
        origins.remember(plan, path)
        return plan
    try:
        plan = plan_from(_still_valid(_stored() or _NOTHING_MEASURED, chosen))
    except ProfileMissing:
        # Only now: a model that cannot be read must not cost the user the time of measuring.
        plan = plan_from(profile([device.id for device in chosen], budget_s=BRIEF_S, progress=progress))
    origins.remember(plan, path)
    return plan


@dataclass(frozen=True)
class Run:
    """What running a plan gave."""

    outputs: Mapping[str, np.ndarray]
    """Of the last repetition."""
    trace: Trace

    def medians_s(self) -> dict[str, float]:
        """Median time of each segment over the repetitions."""
        times: dict[str, list[float]] = defaultdict(list)
        for event in self.trace.events:
            if event.kind == "compute":
                times[event.name].append(event.duration_s)
        return {name: statistics.median(values) for name, values in times.items()}


def run(
    plan: Plan,
    feeds: Mapping[str, np.ndarray] | None = None,
    *,
    repeat: int = 10,
    seed: int = 0,
    progress: Progress | None = None,
) -> Run:
    """Run a plan on the same feeds again and again, one after the other, after one run to warm up.

    Parameters
    ----------
    plan : Plan
    feeds : mapping of str to array, optional
        Every input; drawn from the seed when left out.
    repeat : int
        How often.
    seed : int
        For random feeds.
    progress : callable, optional

    Raises
    ------
    InvalidInput
        For feeds that do not fit.
    EngineFailed
        Naming segment, node and device.
    """
    given = dict(feeds) if feeds is not None else generate_feeds(_all_segments(plan), plan, seed)
    with Session(plan) as session:
        outputs = session.run(given)
        for done, found in enumerate(session.stream([given] * repeat, window=1)):
            outputs = found
            if progress is not None:
                progress(done + 1, repeat, f"run {done + 1} of {repeat}")
        return Run(outputs, session.trace)


def verify(
    plan: Plan, feeds: Mapping[str, np.ndarray] | None = None, *, model: str | Path | None = None
) -> Verification:
    """Run a plan and the whole model side by side, and compare every boundary and output.

    Parameters
    ----------
    plan : Plan
    feeds : mapping of str to array, optional
        Every input; generated when left out.
    model : path, optional
        The whole model; when left out, the file that was split on this machine.

    Raises
    ------
    InvalidInput
        When the model cannot be found, or is another one.
    """
    path = Path(model) if model is not None else origins.find(plan)
    origins.check(plan, path)
    return verification.verify(plan, path, feeds)


def import_model(
    model: str | Path, out: str | Path | None = None, *, progress: Callable[[float, str], None] | None = None
) -> Bundle:
    """Import a language model: its graphs, weights, tokenizer and chat template, as one folder that trisect runs.

    Parameters
    ----------
    model : str or path
        A GGUF file, a folder as ONNX Runtime GenAI or Optimum writes it, or a Hugging Face id.
    out : path, optional
        Folder to write; the user's cache when left out.
    progress : callable, optional
        Called with the part done, from 0 to 1, and what is being done.

    Raises
    ------
    InvalidModel, UnsupportedModel
        Where there is no such model, or it cannot be read.
    StorageFailed
        Where the disk is full or refuses; nothing half-written is left.
    """
    from trisect.partitioner.llm.importing import open_model

    return open_model(model, folder=Path(out) if out is not None else None, progress=progress)


def _store(measured: Profile) -> None:
    store.save(measured, store.default_path(measured.precision))


def _stored() -> Profile | None:
    path = store.default_path()
    return store.load(path) if path.exists() else None


def _still_valid(stored: Profile, chosen: Sequence[Device]) -> Profile:
    """The profile without devices whose engine has changed since."""
    now = {device.id: (device.name, device.engine_version) for device in chosen}
    devices = {key: d for key, d in stored.devices.items() if now.get(key) == (d.name, d.engine_version)}
    return replace(stored, devices=devices)


def _all_segments(plan: Plan) -> onnx.ModelProto:
    """The nodes of all segments in one graph, to see how each input is used; weights stay in their file."""
    whole = onnx.ModelProto()
    for segment in plan.segments:
        part = onnx.load(Path(plan.folder) / segment.file, load_external_data=False).graph
        whole.graph.node.extend(part.node)
        whole.graph.initializer.extend(part.initializer)
    return whole


def _vanishing_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="trisect-plan-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder) / "plan"
