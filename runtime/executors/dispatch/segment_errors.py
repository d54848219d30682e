"""Errors that name the segment in which they arose; an engine knows nothing of segments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from ...errors import EngineFailed, TrisectError
from ...plans.plan_parts import Segment

Error = TypeVar("Error", bound=TrisectError)


def describe_segment(segment: Segment) -> str:
    """Return a segment's number, device and nodes, for an error message."""
    nodes = segment.nodes
    span = f"nodes {nodes[0]!r} to {nodes[-1]!r}" if len(nodes) > 1 else f"node {nodes[0]!r}" if nodes else "no nodes"
    return f"segment {segment.index} on {segment.device} ({span})"


def in_segment(segment: Segment, error: Error) -> Error:
    """Return a copy of an error whose message begins with the segment, and that carries the plan's device."""
    copy = error.with_message(f"{describe_segment(segment)}: {error.message}")
    if isinstance(copy, EngineFailed):
        copy.device, copy.segment = segment.device, segment.index
    return copy


@contextmanager
def loading_segment(segment: Segment) -> Iterator[None]:
    """Add the segment to the errors of a block that loads it."""
    try:
        yield
    except TrisectError as error:
        raise in_segment(segment, error) from error
