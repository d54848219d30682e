"""How quickly the simulator plays placements through: what bounds a study, and every search for a placement."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from trisect.partitioner.strategies import propose
from trisect.runtime.progress import Progress, no_progress
from trisect.scheduler.simulation.part_times import part_time_s
from trisect.scheduler.simulation.simulate import links_of, play, simulate, single_parts

from .. import workloads

BAR_EVENTS_PER_S = 1e6


@dataclass(frozen=True)
class SimulationSpeed:
    """One layered random graph on three devices, each task a part; times are medians, measured."""

    tasks: int
    transfers: int
    events: int
    """The start and the end of each task, and each transfer."""
    lay_out_s: float
    """The graph and the placement as lists."""
    play_s: float
    """The lists played through."""
    simulate_s: float
    """All of it, with a timeline of named events."""
    events_per_s: float
    """Played."""
    whole_events_per_s: float
    """All of it."""
    met: bool


def bench_simulation(
    tasks: Sequence[int], *, rounds: int = 5, progress: Progress = no_progress
) -> list[SimulationSpeed]:
    """Time the simulator on graphs of so many tasks, placed by HEFT.

    Parameters
    ----------
    tasks : sequence of int
    rounds : int
    progress : callable, optional
    """
    found = []
    for number, count in enumerate(tasks):
        progress(number, len(tasks), f"{count} tasks")
        (choice,) = workloads.choices(f"random:layered?n={count}&rules=segments")
        problem = workloads.instances(choice, [0], None)[0].make()
        parts = single_parts(problem, propose(problem, "heft").placement)
        laid_out, played, whole = [], [], []
        for _ in range(rounds):
            begin = perf_counter()
            durations = [part_time_s(problem, part) for part in parts]
            links = links_of(problem, parts)
            laid_out.append(perf_counter() - begin)
            begin = perf_counter()
            play(durations, [part.device for part in parts], links, 1)
            played.append(perf_counter() - begin)
            begin = perf_counter()
            schedule = simulate(problem, parts)
            whole.append(perf_counter() - begin)
        transfers = sum(event.kind == "transfer" for event in schedule.events)
        events = 2 * count + transfers
        lay_out_s, play_s, simulate_s = map(statistics.median, (laid_out, played, whole))
        rate = events / play_s
        found.append(
            SimulationSpeed(
                count,
                transfers,
                events,
                lay_out_s,
                play_s,
                simulate_s,
                rate,
                events / simulate_s,
                rate >= BAR_EVENTS_PER_S,
            )
        )
    return found
