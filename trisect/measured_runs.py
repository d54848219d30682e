"""Running a plan again and again, and checking it against the whole model."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from trisect.runtime import verification
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.timeline import Trace
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.sessions.session import Session
from trisect.runtime.tensors.synthetic_feeds import generate_feeds
from trisect.runtime.verification import Verification

from . import plan_origins as origins


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
    executor: str = "threads",
    address: str | None = None,
    progress: Progress = no_progress,
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
    executor, address : str
        As for `Session`.
    progress : callable, optional

    Raises
    ------
    InvalidInput
        For feeds that do not fit.
    EngineFailed
        Naming segment, node and device.
    """
    given = dict(feeds) if feeds is not None else generate_feeds(_all_segments(plan), plan, seed)
    with Session(plan, executor, address=address) as session:
        outputs = session.run(given)
        for done, found in enumerate(session.stream([given] * repeat, window=1)):
            outputs = found
            progress(done + 1, repeat, f"run {done + 1} of {repeat}")
        return Run(outputs, session.trace)


def verify(
    plan: Plan,
    feeds: Mapping[str, np.ndarray] | None = None,
    *,
    model: str | Path | None = None,
    reference: str | None = None,
    tolerance: float | None = None,
    seed: int = 0,
    executor: str = "threads",
    address: str | None = None,
) -> Verification:
    """Run a plan and the whole model side by side, and compare every boundary and output.

    Parameters
    ----------
    plan : Plan
    feeds : mapping of str to array, optional
        Every input; generated when left out.
    model : path, optional
        The whole model; when left out, the file that was split on this machine.
    reference : str, optional
        Device that runs the whole model; ``cpu:ort``, or where that cannot ``cpu:reference``, when left out.
    tolerance : float, optional
        What is allowed, absolutely plus relatively; 1e-3 when left out.
    seed : int
        For generated feeds.
    executor, address : str
        As for `Session`, of the split model.

    Raises
    ------
    InvalidInput
        When the model cannot be found, or is another one.
    """
    path = Path(model) if model is not None else origins.find(plan)
    origins.check(plan, path)
    return verification.verify(
        plan, path, feeds, reference=reference, tolerance=tolerance, seed=seed, executor=executor, address=address
    )


def _all_segments(plan: Plan) -> onnx.ModelProto:
    """The nodes of all segments in one graph, to see how each input is used; weights stay in their file."""
    whole = onnx.ModelProto()
    for segment in plan.segments:
        part = onnx.load(Path(plan.folder) / segment.file, load_external_data=False).graph
        whole.graph.node.extend(part.node)
        whole.graph.initializer.extend(part.initializer)
    return whole
