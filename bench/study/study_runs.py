"""`study`: strategies on workloads, each run in a process that may die, every row kept as it comes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from trisect.partitioner.strategies import TIME_LIMIT_S, lookup
from trisect.runtime.errors import InvalidInput
from trisect.runtime.progress import Progress, no_progress
from trisect.scheduler.problem.rules import Objective

from ..workloads import Choice
from .job_pool import pickled, run_here, run_jobs
from .strategy_process import Setup
from .study_folder import Folder, environment, versions
from .study_result import Study
from .study_rows import Outcome, Row, Size, make_row
from .study_spec import Job, Run, Spec, make_jobs, make_spec, spec_choices


def study(
    strategies: str | Iterable[str],
    workloads: str | Iterable[str],
    *,
    seeds: Iterable[int] = (0,),
    objective: Objective | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    stop_after_s: float = 0.0,
    processes: int | None = None,
    out: str | Path | None = None,
    progress: Progress = no_progress,
) -> Study:
    """Compare strategies on workloads, by simulation.

    Each run is judged by validators that know nothing of strategies. One that raises, breaks a rule, never ends, ends
    its process or gives something else the second time becomes a row that says so, and the study goes on.

    Parameters
    ----------
    strategies : iterable of str
        Names of strategies, your own among them.
    workloads : iterable of str
        Names of workloads with their settings: ``"stg?processors=8"``, ``"random:layered?n=20,100&ccr=1"``,
        ``"model:nets/*.onnx?machine=nvidia-h200"``.
    seeds : iterable of int
        For problems that are drawn, and for strategies that draw lots.
    objective : {"latency", "throughput", ...}, optional
        What is usual for each workload when left out.
    time_limit_s : float
        For strategies that search.
    stop_after_s : float
        A run that takes longer is stopped; 0 for twice the time limit and ten seconds.
    processes : int, optional
        How many run side by side; one a core when left out.
    out : path, optional
        Folder to keep all in. A study that was interrupted goes on from there.
    progress : callable, optional
        Called with the runs done, all runs, and what was done last.

    Returns
    -------
    Study
        ``.rows``, ``.summary()``, ``.to_csv(path)``, ``.to_markdown()``, ...

    Raises
    ------
    UnknownStrategy, UnknownWorkload, InvalidInput
        Before anything is run.
    StorageFailed
        When the folder cannot be written.

    Examples
    --------
    >>> found = study(["heft", "single"], ["random:layered?n=10"], seeds=range(2), processes=1)
    >>> len(found.rows), {row.status for row in found.rows}
    (4, {'ok'})
    """
    spec = make_spec(strategies, workloads, seeds, objective, time_limit_s, stop_after_s)
    return run_spec(spec, processes=processes, out=out, progress=progress)


def run_spec(
    spec: Spec, *, processes: int | None = None, out: str | Path | None = None, progress: Progress = no_progress
) -> Study:
    """Run a study from its specification; see `study`."""
    if processes is not None and processes < 1:
        raise InvalidInput(f"{processes} processes", remedy="give one or more")
    jobs = make_jobs(spec)
    known: dict[tuple[str, str, str, int], Row] = {}
    with Folder(Path(out), spec) if out is not None else nullcontext() as folder:
        if folder is not None:
            known = {row.key: row for row in folder.read()}
        total = sum(len(job.runs) for job in jobs)
        made_with = versions()

        def keep(job: Job, run: Run, size: Size, outcome: Outcome) -> None:
            row = make_row(_key(job, run), size, outcome, made_with)
            known[row.key] = row
            if folder is not None:
                folder.add(row)
            progress(len(known), total, f"{run.strategy} on {job.workload} {job.instance}")

        _run(spec, _missing(jobs, known), processes or os.cpu_count() or 1, keep)
    rows = tuple(known[key] for job in jobs for run in job.runs if (key := _key(job, run)) in known)
    return Study(spec, rows, environment(spec))


def _key(job: Job, run: Run) -> tuple[str, str, str, int]:
    return job.workload, job.instance, run.strategy, run.seed


def _missing(jobs: Sequence[Job], known: dict[tuple[str, str, str, int], Row]) -> list[Job]:
    left = [replace(job, runs=tuple(run for run in job.runs if _key(job, run) not in known)) for job in jobs]
    return [job for job in left if job.runs]


def _run(spec: Spec, jobs: list[Job], processes: int, keep: Callable[[Job, Run, Size, Outcome], None]) -> None:
    own = {name.partition(":")[0]: lookup(name) for name in spec.strategies}
    functions, here = _sendable({name: f for name, f in own.items() if not _is_ours(f, "trisect.partitioner.")})
    choices: dict[str, Choice] = {choice.text: choice for choice in spec_choices(spec)}
    theirs = {c.workload.name: c.workload for c in choices.values()}
    strange = {name: w for name, w in theirs.items() if not _is_ours(w.instances, "trisect.bench.")}
    sent, kept = _sendable(strange)
    setup = Setup(spec.seeds, spec.objective, spec.time_limit_s, tuple(_path()), functions, sent)
    here |= kept

    def is_here(job: Job, run: Run) -> bool:
        return run.strategy.partition(":")[0] in here or choices[job.workload].workload.name in here

    away = [replace(job, runs=tuple(run for run in job.runs if not is_here(job, run))) for job in jobs]
    here |= set(run_jobs([job for job in away if job.runs], setup, spec.longest_run_s, processes, keep))
    rest = [replace(job, runs=tuple(run for run in job.runs if is_here(job, run))) for job in jobs]
    run_here([job for job in rest if job.runs], setup, spec.longest_run_s, keep)


def _sendable(things: dict[str, Any]) -> tuple[dict[str, str], set[str]]:
    """What can be sent to another process, pickled, and the names of what cannot."""
    found = {name: pickled(thing) for name, thing in things.items()}
    return {name: text for name, text in found.items() if text}, {name for name, text in found.items() if not text}


def _is_ours(function: Any, room: str) -> bool:
    """Whether every process finds it by its name."""
    return str(function.__module__).startswith(room)


def _path() -> list[str]:
    import sys

    # An empty entry is the folder that the process is in.
    return [place or os.getcwd() for place in sys.path]
