"""Speed of the simulator, which limits studies and every search for a placement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from trisect.partitioner.strategies import propose
from trisect.runtime.progress import Progress, no_progress
from trisect.scheduler.problem.problem import Part, Problem
from trisect.scheduler.simulation.part_times import part_time_s, placement_of
from trisect.scheduler.simulation.simulate import PartLink, part_links, simulate, single_parts, start_times

from .. import workloads
from .interleaved_timing import median_s

EVENTS_PER_S_MIN = 1e6


@dataclass(frozen=True)
class SimulationSpeed:
    """One layered random graph on three devices, each task a segment; measured medians."""

    tasks: int
    transfers: int
    events: int
    """The start and the end of each task, and each transfer."""
    lay_out_s: float
    """Converting the graph and the placement to lists."""
    play_s: float
    """Simulating the lists."""
    simulate_s: float
    """Total, with a timeline of named events."""
    events_per_s: float
    """Of `play_s`."""
    whole_events_per_s: float
    """Of `simulate_s`."""
    met: bool


def bench_simulation(
    tasks: Sequence[int], *, rounds: int = 5, progress: Progress = no_progress
) -> list[SimulationSpeed]:
    """Time the simulator on graphs of these numbers of tasks, placed by HEFT."""
    speeds = []
    for number, count in enumerate(tasks):
        progress(number, len(tasks), f"{count} tasks")
        (choice,) = workloads.choices(f"random:layered?n={count}&rules=segments")
        problem = workloads.instances(choice, [0], None)[0].make()
        parts = single_parts(problem, propose(problem, "heft").placement)
        devices = [part.device for part in parts]
        durations, links = _to_lists(problem, parts)
        lay_out_s = median_s(partial(_to_lists, problem, parts), rounds)
        play_s = median_s(partial(start_times, durations, devices, links, 1), rounds)
        simulate_s = median_s(partial(simulate, problem, parts), rounds)
        transfers = sum(event.kind == "transfer" for event in simulate(problem, parts).events)
        events = 2 * count + transfers
        speeds.append(
            SimulationSpeed(
                count, transfers, events, lay_out_s, play_s, simulate_s, events / play_s, events / simulate_s,
                events / play_s >= EVENTS_PER_S_MIN,
            )
        )  # fmt: skip
    return speeds


def _to_lists(problem: Problem, parts: Sequence[Part]) -> tuple[list[float], list[list[PartLink]]]:
    placement = placement_of(parts)
    return [part_time_s(problem, part, placement) for part in parts], part_links(problem, parts)
