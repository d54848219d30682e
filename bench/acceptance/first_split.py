"""Times the first split of a model and the next one, against another installed version of trisect.

The first split of a model asks the devices what they support, tries their results and measures the model; the next one
finds all of that in the caches. Both versions take turns on the same models, each with caches of its own.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trisect.runtime.errors import EngineFailed
from trisect.runtime.progress import Progress, no_progress

from ..separate_caches import cache_variables

FIRST_RATIO_MAX, NEXT_RATIO_MAX = 1.5, 1.02
DEVICES = "cpu:ort,cpu:openvino"
_PROFILE_BUDGET_S = 20


@dataclass(frozen=True)
class SplitTimes:
    """Seconds of each round for one model and one version."""

    first_s: list[float] = field(default_factory=list)
    next_s: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class FirstSplitComparison:
    """Times of one model with this version and with the other."""

    model: str
    own: SplitTimes
    other: SplitTimes

    @property
    def first_ratio(self) -> float:
        """Median time of the first split, relative to that of the other version."""
        return statistics.median(self.own.first_s) / statistics.median(self.other.first_s)

    @property
    def next_ratio(self) -> float:
        """Median time of the next split, relative to that of the other version."""
        return statistics.median(self.own.next_s) / statistics.median(self.other.next_s)

    @property
    def met(self) -> bool:
        return self.first_ratio <= FIRST_RATIO_MAX and self.next_ratio <= NEXT_RATIO_MAX


def compare_first_splits(
    models: Sequence[Path], own: Path, other: Path, *, rounds: int = 3, progress: Progress = no_progress
) -> list[FirstSplitComparison]:
    """Split each model with empty caches and again with full ones, the versions in turns.

    Parameters
    ----------
    models : sequence of Path
        ONNX files without symbolic dimensions, or with ones that are assumed to be 1.
    own, other : Path
        The ``trisect`` scripts of the two versions.
    rounds : int
        The median counts.

    Raises
    ------
    EngineFailed
        When a split fails.
    """
    results = [FirstSplitComparison(model.name, SplitTimes(), SplitTimes()) for model in models]
    with tempfile.TemporaryDirectory(prefix="trisect-bench-") as scratch:
        profiles = {
            script: _profiled(script, Path(scratch) / name) for name, script in (("own", own), ("other", other))
        }
        total, done = rounds * len(models) * 2, 0
        for _ in range(rounds):
            for model, result in zip(models, results, strict=True):
                sizes = _sizes(model)
                for script, times in ((other, result.other), (own, result.own)):
                    progress(done, total, model.name)
                    done += 1
                    with tempfile.TemporaryDirectory(dir=scratch) as folder:
                        shutil.copytree(profiles[script], Path(folder) / "profiles")
                        times.first_s.append(_split_s(script, model, sizes, Path(folder)))
                        times.next_s.append(_split_s(script, model, sizes, Path(folder)))
    return results


def _profiled(script: Path, folder: Path) -> Path:
    folder.mkdir()
    _run([script, "profile", "--devices", DEVICES, "--budget", str(_PROFILE_BUDGET_S)], folder)
    return folder / "profiles"


def _split_s(script: Path, model: Path, sizes: Sequence[str], folder: Path) -> float:
    begin = time.perf_counter()
    _run([script, "split", model, "--devices", DEVICES, *sizes, "-o", folder / "plan"], folder)
    return time.perf_counter() - begin


def _sizes(model: Path) -> list[str]:
    import onnx

    proto = onnx.load(model, load_external_data=False)
    held = {tensor.name for tensor in proto.graph.initializer}
    names = {
        dim.dim_param or f"{value.name}.{axis}"
        for value in proto.graph.input
        if value.name not in held
        for axis, dim in enumerate(value.type.tensor_type.shape.dim)
        if not dim.HasField("dim_value")
    }
    return [word for name in sorted(names) for word in ("--shape", f"{name}=1")]


def _run(words: Sequence[str | Path], folder: Path) -> None:
    environment = {**os.environ, **cache_variables(folder)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed version has its modules compiled
    done = subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EngineFailed(f"{words[0]} {words[1]} {words[2]} failed: {' '.join(done.stderr.split())[-300:]}")
