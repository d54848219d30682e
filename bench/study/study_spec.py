"""The specification of a study: strategies, workloads, seeds and limits; saved as a file, it can be run again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

import msgspec

from trisect.partitioner.strategies import TIME_LIMIT_S, keywords, lookup
from trisect.runtime.errors import InvalidInput
from trisect.runtime.untrusted_files import MalformedFile, read_json, read_toml
from trisect.scheduler.problem.rules import Objective
from trisect.scheduler.problem.search_time_limit import check_time_limit

from .. import workloads
from ..workloads import WorkloadChoice, WorkloadInstance

_BYTES_MAX = 2**20
_REPEAT_EVERY = 20
"""The first instance of each workload, and every 20th after it, runs twice to check determinism."""


@dataclass(frozen=True)
class StudySpec:
    """A study to run."""

    strategies: tuple[str, ...]
    workloads: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    objective: Objective | None = None
    """None: each workload's default."""
    time_limit_s: float = TIME_LIMIT_S
    """For strategies that search."""
    stop_after_s: float = 0.0
    """A run that takes longer is stopped; 0 for twice the time limit plus ten seconds."""
    load: tuple[str, ...] = ()
    """The user's Python files that register strategies or workloads."""

    @property
    def run_limit_s(self) -> float:
        """Time limit of a run."""
        return self.stop_after_s or 2 * self.time_limit_s + 10


@dataclass(frozen=True)
class StudyRun:
    """One strategy on one problem with one seed."""

    strategy: str
    seed: int
    twice: bool = False
    """Whether it is repeated, to check that the strategy is deterministic."""


@dataclass(frozen=True)
class StudyJob:
    """All runs on one problem, which is built once."""

    workload: str
    instance: str
    known_bound: float
    runs: tuple[StudyRun, ...]


def make_spec(
    strategies: Iterable[str],
    workloads: Iterable[str],
    seeds: Iterable[int] = (0,),
    objective: Objective | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    stop_after_s: float = 0.0,
    load: Iterable[str] = (),
) -> StudySpec:
    """Check and build a specification.

    Raises
    ------
    InvalidInput
        For a study without strategies, workloads or seeds, or for invalid limits.
    """
    spec = StudySpec(
        tuple(dict.fromkeys([strategies] if isinstance(strategies, str) else strategies)),
        tuple(dict.fromkeys([workloads] if isinstance(workloads, str) else workloads)),
        tuple(dict.fromkeys(int(seed) for seed in seeds)),
        objective,
        float(time_limit_s),
        float(stop_after_s),
        tuple(load),
    )
    for what, values in (("strategy", spec.strategies), ("workload", spec.workloads), ("seed", spec.seeds)):
        if not values:
            raise InvalidInput(f"a study without a {what}", remedy="give at least one")
    if objective is not None and objective not in get_args(Objective):
        raise InvalidInput(f"no objective {objective!r}", remedy=f"choose one of: {', '.join(get_args(Objective))}")
    if min(spec.seeds) < 0:
        raise InvalidInput(f"the seed {min(spec.seeds)} is negative", remedy="give seeds of 0 or more")
    check_time_limit(spec.time_limit_s)
    if not 0 <= spec.stop_after_s < float("inf"):
        raise InvalidInput(
            f"invalid stop time {spec.stop_after_s} s: expected a number of seconds, 0 or more", remedy="correct it"
        )
    return spec


def make_jobs(spec: StudySpec, choices: Iterable[WorkloadChoice]) -> list[StudyJob]:
    """Return all runs, in the order of the specification.

    On a fixed problem a deterministic strategy runs once, and a stochastic one once per seed; a problem that was drawn
    from a seed is run with that seed.

    Raises
    ------
    UnknownStrategy, UnknownWorkload, InvalidInput
    """
    takes_seed = {name: "seed" in keywords(lookup(name)) for name in spec.strategies}
    jobs = []
    for choice in choices:
        for number, instance in enumerate(workloads.instances(choice, spec.seeds, spec.objective)):
            twice = number % _REPEAT_EVERY == 0
            runs = [
                StudyRun(strategy, seed, twice and seed == seeds[0])
                for strategy in spec.strategies
                for seeds in [_seeds(instance, spec.seeds, takes_seed[strategy])]
                for seed in seeds
            ]
            jobs.append(StudyJob(choice.text, instance.name, instance.known_bound, tuple(runs)))
    return jobs


def spec_choices(spec: StudySpec) -> list[WorkloadChoice]:
    """Return its distinct workloads; a setting with several values makes a workload of each."""
    choices = [choice for text in spec.workloads for choice in workloads.choices(text)]
    return list({choice.text: choice for choice in choices}.values())


def _seeds(instance: WorkloadInstance, seeds: tuple[int, ...], takes_seed: bool) -> tuple[int, ...]:
    if instance.seed is not None:
        return (instance.seed,)
    return seeds if takes_seed else seeds[:1]


def to_toml(spec: StudySpec) -> bytes:
    """Return the specification as the content of a TOML file.

    Examples
    --------
    >>> print(to_toml(StudySpec(("heft",), ("stg",), (0, 1))).decode())
    [study]
    strategies = ["heft"]
    workloads = ["stg"]
    seeds = [0, 1]
    time_limit_s = 10.0
    stop_after_s = 0.0
    load = []
    <BLANKLINE>
    """
    # JSON's strings, numbers and arrays are TOML's too; None is left out.
    lines = [f"{key} = {json.dumps(value)}" for key, value in asdict(spec).items() if value is not None]
    return "\n".join(["[study]", *lines, ""]).encode()


def read_spec(path: Path) -> StudySpec:
    """Read a specification, TOML or JSON.

    Raises
    ------
    InvalidInput
        When the file is missing, malformed or invalid.
    """
    try:
        read = read_json if path.suffix == ".json" else read_toml
        document: dict[str, Any] = read(path, _BYTES_MAX)
        spec = msgspec.convert(document.get("study"), type=StudySpec)
        unknown = set(document["study"]) - {field.name for field in fields(StudySpec)}
    except OSError as error:
        raise InvalidInput(f"the study {path} cannot be read: {error.strerror}", remedy="check the path") from None
    except (MalformedFile, AttributeError, msgspec.ValidationError) as error:
        raise InvalidInput(
            f"{path} is not a study's specification: {error}", remedy="expected a table [study]: see --help"
        ) from None
    if unknown:
        raise InvalidInput(
            f"{path} sets {', '.join(sorted(unknown))}",
            remedy=f"a study has only: {', '.join(f.name for f in fields(StudySpec))}",
        )
    return make_spec(**asdict(spec))
