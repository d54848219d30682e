"""A placement problem as plain tables: what readers of benchmark files return, before it is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trisect.runtime.device import Device

from .platform import Platform
from .rules import Objective, Rules
from .task_graph import TaskGraph


@dataclass(frozen=True)
class ProblemTables:
    """The arguments of `Problem.of`."""

    graph: TaskGraph
    devices: tuple[Device, ...]
    times_s: Mapping[str, Mapping[str, float]]
    """Task -> device id -> time; missing where it cannot run."""
    platform: Platform = field(default_factory=Platform)
    objective: Objective = "latency"
    rules: Rules = field(default_factory=Rules)
