"""Published placement benchmarks, read from the files of their authors; none of them is part of trisect."""

from __future__ import annotations

from pathlib import Path

from trisect.runtime.errors import InvalidInput, InvalidModel

from ..problem.problem import Objective, Problem
from .offload_format import read_offloading
from .problem_tables import is_tables, read_tables, to_problem
from .stg_format import read_stg

_LARGEST_BYTES = 256 * 2**20


def read_problem(path: Path, objective: Objective | None, contiguous: bool, processors: int) -> Problem:
    """Read a problem by what the file's name ends in; see `Problem.read`."""
    if objective not in (None, "latency", "throughput"):
        raise InvalidInput(f"no objective {objective!r}", remedy="there are: latency, throughput")
    if path.suffix == ".stg":
        if objective == "throughput" or contiguous:
            raise InvalidInput(f"{path.name} is a task graph of the STG set", remedy="its objective is latency")
        return read_stg(_text(path), path.name, processors)
    if path.suffix == ".json":
        text = _text(path)
        if not is_tables(text):
            return read_offloading(text, path.name, objective or "throughput", contiguous)
        if contiguous:
            raise InvalidInput(f"{path.name} is no device-placement graph", remedy="leave contiguous out")
        return to_problem(read_tables(text, path.name), path.name, objective)
    raise InvalidModel(f"{path} is no benchmark that trisect reads", remedy="give a .json or .stg file")


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise InvalidModel(
                f"{path} is larger than {_LARGEST_BYTES} bytes", remedy="check that it is the right file"
            )
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InvalidModel(f"{path} is not text", remedy="check that it is the right file") from None
    except OSError as error:
        raise InvalidModel(f"{path} cannot be read: {error.strerror}", remedy="check the path") from None
