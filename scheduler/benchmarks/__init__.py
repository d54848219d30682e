"""Readers of published placement benchmarks: the files of their authors as plain tables."""

from __future__ import annotations

from pathlib import Path

from trisect.runtime.errors import InvalidInput, InvalidModel
from trisect.runtime.untrusted_files import DATA_LIMIT_BYTES, MalformedFile, read_text

from ..problem.problem_tables import ProblemTables
from ..problem.rules import Objective
from .offload_format import read_offload_graph
from .problem_file import is_problem_file, read_problem_file, to_tables
from .stg_format import read_stg


def read_benchmark(path: Path, objective: Objective | None, contiguous: bool, processors: int) -> ProblemTables:
    """Read a benchmark file by its suffix; parameters and errors as for `Problem.read`."""
    if objective not in (None, "latency", "throughput"):
        raise InvalidInput(f"expected the objective latency or throughput, found {objective!r}", remedy="choose one")
    if path.suffix == ".stg":
        if objective == "throughput" or contiguous:
            raise InvalidInput(
                f"{path.name}: expected the objective latency of a standard task graph",
                remedy="choose latency, not contiguous",
            )
        return read_stg(_text(path), path.name, processors)
    if path.suffix == ".json":
        text = _text(path)
        if not is_problem_file(text):
            return read_offload_graph(text, path.name, objective or "throughput", contiguous)
        if contiguous:
            raise InvalidInput(f"{path.name} is not a device-placement graph", remedy="leave contiguous out")
        return to_tables(read_problem_file(text, path.name), path.name, objective)
    raise InvalidModel(f"{path} is not a supported benchmark file", remedy="give a .json or .stg file")


def _text(path: Path) -> str:
    try:
        return read_text(path, DATA_LIMIT_BYTES)
    except MalformedFile as error:
        raise InvalidModel(f"{path}: {error}", remedy="check that it is the right file") from None
    except OSError as error:
        raise InvalidModel(f"{path} cannot be read: {error.strerror}", remedy="check the path") from None
