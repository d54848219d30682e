"""Who makes and who reads each tensor that crosses a segment's boundary: derived once from a plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from ...errors import InvalidPlan, TrisectError
from ...plans.plan import Plan
from ...plans.plan_parts import Segment


@dataclass(frozen=True)
class Flow:
    """A plan's segments, and how they wait for one another."""

    segments: Mapping[int, Segment]
    outputs: tuple[str, ...]
    makers: Mapping[str, Segment]
    """Tensor -> the segment that makes it; the model's inputs are not in it."""
    readers: Mapping[str, tuple[int, ...]]
    """Tensor -> segments that read it."""
    uses: Mapping[str, int]
    """Tensor -> how often it is read, by segments and as an output of the model."""
    waits_for: Mapping[int, int]
    """Segment -> how many tensors other segments make for it."""
    first: tuple[int, ...]
    """Segments that wait for none."""

    @classmethod
    def of(cls, plan: Plan) -> Flow:
        """Derive the flow of a plan.

        Raises
        ------
        InvalidPlan
            For one that could never finish.
        """
        segments = {segment.index: segment for segment in plan.segments}
        devices = {device.id for device in plan.devices}
        makers = {spec.name: segment for segment in plan.segments for spec in segment.outputs}
        given = {spec.name for spec in plan.inputs}
        readers: dict[str, list[int]] = {}
        for segment in plan.segments:
            if segment.device not in devices:
                raise InvalidPlan(f"segment {segment.index} is on {segment.device}, which the plan does not list")
            for spec in segment.inputs:
                if spec.name not in makers and spec.name not in given:
                    raise InvalidPlan(f"segment {segment.index} reads {spec.name!r}, which no segment makes")
                readers.setdefault(spec.name, []).append(segment.index)
        for spec in plan.outputs:
            if spec.name not in makers and spec.name not in given:
                raise InvalidPlan(f"no segment makes the output {spec.name!r}")
        waits_for = {s.index: frozenset(spec.name for spec in s.inputs if spec.name in makers) for s in plan.segments}
        _check_order(segments, waits_for)
        outputs = tuple(spec.name for spec in plan.outputs)
        uses = Counter(outputs)
        uses.update({name: len(found) for name, found in readers.items()})
        return cls(
            segments,
            outputs,
            makers,
            {name: tuple(found) for name, found in readers.items()},
            dict(uses),
            {index: len(names) for index, names in waits_for.items()},
            tuple(index for index, names in waits_for.items() if not names),
        )


def _check_order(segments: Mapping[int, Segment], waits_for: Mapping[int, frozenset[str]]) -> None:
    made: set[str] = set()
    left = dict(segments)
    while left:
        ready = [index for index in left if waits_for[index] <= made]
        if not ready:
            raise InvalidPlan(f"segments {', '.join(map(str, sorted(left)))} wait for each other", remedy="split again")
        for index in ready:
            made.update(spec.name for spec in left.pop(index).outputs)


def described(segment: Segment) -> str:
    """A segment for an error message: its number, device and nodes."""
    nodes = segment.nodes
    span = f"nodes {nodes[0]!r} to {nodes[-1]!r}" if len(nodes) > 1 else f"node {nodes[0]!r}" if nodes else "no nodes"
    return f"segment {segment.index} on {segment.device} ({span})"


@contextmanager
def naming(segment: Segment) -> Iterator[None]:
    """Adds the segment to an engine's error, which knows nothing of segments."""
    try:
        yield
    except TrisectError as error:
        raise named(segment, error) from error


def named(segment: Segment, error: TrisectError) -> TrisectError:
    """An error that says in which segment it arose."""
    return type(error)(f"{described(segment)}: {error.message}", remedy=error.remedy)
