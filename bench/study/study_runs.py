"""`study`: run strategies on workloads in child processes; every row is stored as it is measured."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from trisect.partitioner.strategies import TIME_LIMIT_S, lookup
from trisect.runtime.errors import InvalidInput
from trisect.runtime.progress import Progress, no_progress
from trisect.scheduler.problem.rules import Objective

from ..workloads import WorkloadChoice
from .job_pool import OnRun, pickled, run_in_this_process, run_jobs
from .strategy_process import StudySetup
from .study_folder import StudyFolder, environment, versions
from .study_result import Study
from .study_rows import ProblemSize, RunOutcome, StudyRow, make_row
from .study_spec import StudyJob, StudyRun, StudySpec, make_jobs, make_spec, spec_choices


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
    progress: Progress | None = None,
) -> Study:
    """Compare strategies on workloads, by simulation.

    Each run is judged by validators that are independent of strategies. One that raises, breaks a rule, never ends,
    ends its process or is not deterministic becomes a row that says so, and the study goes on.

    Parameters
    ----------
    strategies : iterable of str
        Names of strategies, your own among them.
    workloads : iterable of str
        Names of workloads with their settings: ``"stg?processors=8"``, ``"random:layered?n=20,100&ccr=1"``,
        ``"model:nets/*.onnx?machine=nvidia-h200"``.
    seeds : iterable of int
        For random problems, and for stochastic strategies.
    objective : {"latency", "throughput", ...}, optional
        Each workload's default if None.
    time_limit_s : float
        For strategies that search.
    stop_after_s : float
        A run that takes longer is stopped; 0 for twice the time limit plus ten seconds.
    processes : int, optional
        Number of concurrent processes; one per core if None.
    out : path, optional
        Folder for all results. An interrupted study resumes from it.
    progress : callable, optional
        Called with the runs done, all runs, and the last one.

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
    >>> result = study(["heft", "single"], ["random:layered?n=10"], seeds=range(2), processes=1)
    >>> len(result.rows), {row.status for row in result.rows}
    (4, {'ok'})
    """
    spec = make_spec(strategies, workloads, seeds, objective, time_limit_s, stop_after_s)
    return run_spec(spec, processes=processes, out=out, progress=progress or no_progress)


def run_spec(
    spec: StudySpec, *, processes: int | None = None, out: str | Path | None = None, progress: Progress = no_progress
) -> Study:
    """Run a study from its specification; see `study`."""
    if processes is not None and processes < 1:
        raise InvalidInput(f"processes is {processes}", remedy="give 1 or more")
    choices = spec_choices(spec)
    jobs = make_jobs(spec, choices)
    about = environment(spec, choices)
    rows: dict[tuple[str, str, str, int], StudyRow] = {}
    with StudyFolder(Path(out), spec, about) if out is not None else nullcontext() as folder:
        if folder is not None:
            rows = {row.key: row for row in folder.read()}
        total = sum(len(job.runs) for job in jobs)
        row_versions = versions()

        def on_run(job: StudyJob, run: StudyRun, size: ProblemSize, outcome: RunOutcome) -> None:
            row = make_row(_key(job, run), size, outcome, row_versions)
            rows[row.key] = row
            if folder is not None:
                folder.add(row)
            progress(len(rows), total, f"{run.strategy} on {job.workload} {job.instance}")

        missing = _with_runs(jobs, lambda job, run: _key(job, run) not in rows)
        _run(spec, choices, missing, processes or os.cpu_count() or 1, on_run)
    keys = [_key(job, run) for job in jobs for run in job.runs]
    return Study(spec, tuple(rows[key] for key in keys if key in rows), about)


def _key(job: StudyJob, run: StudyRun) -> tuple[str, str, str, int]:
    return job.workload, job.instance, run.strategy, run.seed


def _with_runs(jobs: Iterable[StudyJob], condition: Callable[[StudyJob, StudyRun], bool]) -> list[StudyJob]:
    """Return the jobs with the runs that satisfy a condition, without jobs that have none."""
    filtered = [replace(job, runs=tuple(run for run in job.runs if condition(job, run))) for job in jobs]
    return [job for job in filtered if job.runs]


def _run(
    spec: StudySpec, choices: Sequence[WorkloadChoice], jobs: list[StudyJob], processes: int, on_run: OnRun
) -> None:
    """Run jobs in child processes, and those of functions that cannot be pickled in this process."""
    workload_of = {choice.text: choice.workload for choice in choices}
    functions = {name.partition(":")[0]: lookup(name) for name in spec.strategies}
    own_strategies = {name: f for name, f in functions.items() if not _is_in(f, "trisect.partitioner.")}
    own_workloads = {w.name: w for w in workload_of.values() if not _is_in(w.instances, "trisect.bench.")}
    strategies, workloads = _pickled(own_strategies), _pickled(own_workloads)
    # An empty entry is the folder that the process is in.
    path = tuple(entry or os.getcwd() for entry in sys.path)
    setup = StudySetup(spec.seeds, spec.objective, spec.time_limit_s, path, strategies, workloads)
    local = (own_strategies.keys() - strategies.keys()) | (own_workloads.keys() - workloads.keys())

    def is_local(job: StudyJob, run: StudyRun) -> bool:
        return run.strategy.partition(":")[0] in local or workload_of[job.workload].name in local

    remote_jobs = _with_runs(jobs, lambda job, run: not is_local(job, run))
    local |= run_jobs(remote_jobs, setup, spec.run_limit_s, processes, on_run).keys()
    run_in_this_process(_with_runs(jobs, is_local), setup, spec.run_limit_s, on_run)


def _pickled(values: dict[str, Any]) -> dict[str, str]:
    """Return those that can be pickled, in base 64."""
    texts = {name: pickled(value) for name, value in values.items()}
    return {name: text for name, text in texts.items() if text is not None}


def _is_in(function: Any, package: str) -> bool:
    """Whether every process can import it by name."""
    return str(function.__module__).startswith(package)
