"""The dataflow graph of a plan's segments: which segment produces and which ones consume each tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ...errors import InvalidPlan
from ...plans.plan import Plan
from ...plans.plan_parts import Segment


@dataclass(frozen=True)
class SegmentGraph:
    """The segments of a plan and the tensors between them."""

    segments: Mapping[int, Segment]
    """By index."""
    outputs: tuple[str, ...]
    """The model's outputs."""
    producers: Mapping[str, Segment]
    """Tensor -> the segment that computes it; without the model's inputs."""
    consumers: Mapping[str, tuple[int, ...]]
    """Tensor -> indexes of the segments that read it."""
    use_counts: Mapping[str, int]
    """Tensor -> number of reads, by segments and as an output of the model."""
    in_degrees: Mapping[int, int]
    """Segment -> number of its inputs that other segments produce."""
    sources: tuple[int, ...]
    """Segments that read the model's inputs only."""

    @classmethod
    def of(cls, plan: Plan) -> SegmentGraph:
        """Return the graph of a plan.

        Raises
        ------
        InvalidPlan
            For a tensor that no segment produces, a device that the plan does not list, or a cycle.
        """
        segments = {segment.index: segment for segment in plan.segments}
        devices = {device.id for device in plan.devices}
        producers = {spec.name: segment for segment in plan.segments for spec in segment.outputs}
        available = {spec.name for spec in plan.inputs} | producers.keys()
        consumers: dict[str, list[int]] = {}
        for segment in plan.segments:
            if segment.device not in devices:
                raise InvalidPlan(f"segment {segment.index} is on {segment.device}, which the plan does not list")
            for spec in segment.inputs:
                if spec.name not in available:
                    raise InvalidPlan(f"segment {segment.index} reads {spec.name!r}, which no segment computes")
                consumers.setdefault(spec.name, []).append(segment.index)
        for spec in plan.outputs:
            if spec.name not in available:
                raise InvalidPlan(f"no segment computes the output {spec.name!r}")
        awaited = {s.index: frozenset(spec.name for spec in s.inputs if spec.name in producers) for s in plan.segments}
        _check_acyclic(segments, awaited)
        outputs = tuple(spec.name for spec in plan.outputs)
        use_counts = Counter(outputs)
        use_counts.update({name: len(readers) for name, readers in consumers.items()})
        return cls(
            segments,
            outputs,
            producers,
            {name: tuple(readers) for name, readers in consumers.items()},
            dict(use_counts),
            {index: len(names) for index, names in awaited.items()},
            tuple(index for index, names in awaited.items() if not names),
        )


def _check_acyclic(segments: Mapping[int, Segment], awaited: Mapping[int, frozenset[str]]) -> None:
    """Check that each segment's inputs can be computed before it runs (Kahn's algorithm)."""
    computed: set[str] = set()
    remaining = dict(segments)
    while remaining:
        ready = [index for index in remaining if awaited[index] <= computed]
        if not ready:
            cycle = ", ".join(map(str, sorted(remaining)))
            raise InvalidPlan(f"segments {cycle} wait for each other", remedy="split the model again")
        for index in ready:
            computed.update(spec.name for spec in remaining.pop(index).outputs)
