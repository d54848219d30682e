"""What a study is, in a file that another can run again: strategies, workloads, seeds and limits, and no results."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any, get_args

import msgspec

from trisect.partitioner.strategies import TIME_LIMIT_S, keywords, lookup
from trisect.runtime.errors import InvalidInput
from trisect.scheduler.problem.rules import Objective

from .. import workloads
from ..workloads import Choice, Instance

_LARGEST_BYTES = 2**20
_SAMPLE = 20
"""Every so manyth instance is run twice, and the first of each workload."""


@dataclass(frozen=True)
class Spec:
    """A study before it is run."""

    strategies: tuple[str, ...]
    workloads: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    objective: Objective | None = None
    """None: what is usual for each workload."""
    time_limit_s: float = TIME_LIMIT_S
    """For strategies that search."""
    stop_after_s: float = 0.0
    """A run that takes longer is stopped; 0 for twice the time limit and ten seconds."""
    load: tuple[str, ...] = ()
    """Python files of the user's that register strategies or workloads."""

    @property
    def longest_run_s(self) -> float:
        """After how long a run is stopped."""
        return self.stop_after_s or 2 * self.time_limit_s + 10


@dataclass(frozen=True)
class Run:
    """One strategy on one problem with one seed."""

    strategy: str
    seed: int
    twice: bool = False
    """Whether it is repeated, to see that it gives the same."""


@dataclass(frozen=True)
class Job:
    """One problem with all that is to be run on it, so that it is made once."""

    workload: str
    instance: str
    known_bound: float
    runs: tuple[Run, ...]


def make_spec(
    strategies: Iterable[str],
    workloads: Iterable[str],
    seeds: Iterable[int] = (0,),
    objective: Objective | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    stop_after_s: float = 0.0,
    load: Iterable[str] = (),
) -> Spec:
    """Check what a user wants.

    Raises
    ------
    InvalidInput
        For a study of nothing, or limits that make no sense.
    """
    spec = Spec(
        tuple(dict.fromkeys([strategies] if isinstance(strategies, str) else strategies)),
        tuple(dict.fromkeys([workloads] if isinstance(workloads, str) else workloads)),
        tuple(dict.fromkeys(int(seed) for seed in seeds)),
        objective,
        float(time_limit_s),
        float(stop_after_s),
        tuple(load),
    )
    for what, given in (("strategy", spec.strategies), ("workload", spec.workloads), ("seed", spec.seeds)):
        if not given:
            raise InvalidInput(f"a study without a {what}", remedy="name at least one")
    if objective is not None and objective not in get_args(Objective):
        raise InvalidInput(f"no objective {objective!r}", remedy=f"there are: {', '.join(get_args(Objective))}")
    if min(spec.seeds) < 0:
        raise InvalidInput(f"the seed {min(spec.seeds)}", remedy="give seeds from 0")
    if not (isfinite(spec.time_limit_s) and spec.time_limit_s > 0 and 0 <= spec.stop_after_s < float("inf")):
        raise InvalidInput(f"a time limit of {spec.time_limit_s} s", remedy="give seconds above zero")
    return spec


def make_jobs(spec: Spec) -> list[Job]:
    """All that is to be run, in the order in which it is told.

    A problem that is always the same is run once by a strategy that draws no lots, and once a seed by one that does;
    a problem that was drawn from a seed is run with that seed.

    Raises
    ------
    UnknownStrategy, UnknownWorkload, InvalidInput
    """
    takes_seed = {name: "seed" in keywords(lookup(name)) for name in spec.strategies}
    jobs = []
    for choice in spec_choices(spec):
        for number, instance in enumerate(workloads.instances(choice, spec.seeds, spec.objective)):
            twice = number % _SAMPLE == 0
            runs = [
                Run(strategy, seed, twice and seed == seeds[0])
                for strategy in spec.strategies
                for seeds in [_seeds(instance, spec.seeds, takes_seed[strategy])]
                for seed in seeds
            ]
            jobs.append(Job(choice.text, instance.name, instance.known_bound, tuple(runs)))
    return jobs


def spec_choices(spec: Spec) -> list[Choice]:
    """Its workloads, a setting with several values taken apart; each once."""
    found = [choice for text in spec.workloads for choice in workloads.choices(text)]
    return list({choice.text: choice for choice in found}.values())


def _seeds(instance: Instance, seeds: tuple[int, ...], draws: bool) -> tuple[int, ...]:
    if instance.seed is not None:
        return (instance.seed,)
    return seeds if draws else seeds[:1]


def to_toml(spec: Spec) -> bytes:
    """The specification as a file's content.

    Examples
    --------
    >>> print(to_toml(Spec(("heft",), ("stg",), (0, 1))).decode())
    [study]
    strategies = ["heft"]
    workloads = ["stg"]
    seeds = [0, 1]
    time_limit_s = 10.0
    stop_after_s = 0.0
    load = []
    <BLANKLINE>
    """
    # JSON's texts, numbers and lists of them are TOML's too; what has no value is left out.
    lines = [f"{key} = {json.dumps(value)}" for key, value in asdict(spec).items() if value is not None]
    return "\n".join(["[study]", *lines, ""]).encode()


def read_spec(path: Path) -> Spec:
    """Read a specification, TOML or JSON.

    Raises
    ------
    InvalidInput
        When the file is missing, damaged, or says what makes no sense.
    """
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise InvalidInput(f"{path} is too large for a study", remedy="check that it is the right file")
        text = path.read_text(encoding="utf-8")
        document: dict[str, Any] = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        found = msgspec.convert(document.get("study"), type=Spec)
        unknown = set(document["study"]) - {field.name for field in fields(Spec)}
    except OSError as error:
        raise InvalidInput(f"the study {path} cannot be read: {error.strerror}", remedy="check the path") from None
    except (ValueError, AttributeError, msgspec.ValidationError) as error:
        raise InvalidInput(f"{path} is no study: {error}", remedy="it has a table [study]: see --help") from None
    if unknown:
        raise InvalidInput(f"{path} sets {', '.join(sorted(unknown))}, which no study has", remedy="check the names")
    return make_spec(**asdict(found))
