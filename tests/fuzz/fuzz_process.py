"""The process in which mutated files are read, and the rule that every reading must keep.

Whatever a file holds, a command ends with exit code 0, 1 or 2, an error is one line without control characters, and
neither takes long nor needs much more memory than the file.
"""

from __future__ import annotations

import contextlib
import io
import re
import resource
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from trisect.runtime.child_process import ChildProcess, ChildProcessFailed, Handler

ROOT = Path(__file__).resolve().parents[2]
CPU_LIMIT_S, HANG_S = 30.0, 180.0
"""Time of the processor that a reading may take, and after which one that still waits counts as hanging: generous,
since other tests run beside it, and cores that share their units count their waiting as work."""
MEMORY_LIMIT_BYTES = 1 << 30
_DATA_LIMIT_BYTES = 8 << 30
"""Protects the machine; beyond it, an allocation fails."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Breach:
    """A mutated file that broke the rule."""

    format_name: str
    number: int
    what: str

    def __str__(self) -> str:
        return f"{self.format_name} {self.number}: {self.what}"


class FuzzProcess:
    """Reads mutated files in a child process, which is replaced when a reading ends it.

    Parameters
    ----------
    valid : Path
        Folder with a sub-folder of valid files per format; see `fuzz_formats.FORMATS`.
    """

    def __init__(self, valid: Path) -> None:
        self._valid = valid
        self._process: ChildProcess | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            self._process.close()

    def check(self, format_name: str, number: int) -> Breach | None:
        """Read one mutated file; return how it broke the rule, or None."""
        if self._process is None:
            self._process = ChildProcess(fuzz_handler, "the fuzzed process", {"PYTHONPATH": str(ROOT)})
        try:
            reply = self._process.request([format_name, number, str(self._valid)], time_limit_s=HANG_S)
        except ChildProcessFailed as failure:
            self._process.close()
            self._process = None
            return Breach(format_name, number, failure.reason)
        return Breach(format_name, number, reply) if reply else None


def fuzz_handler() -> Handler:
    """Return what the child process answers: how a reading broke the rule; empty if it did not."""
    from .fuzz_formats import FORMATS, write_mutant

    resource.setrlimit(resource.RLIMIT_DATA, (_DATA_LIMIT_BYTES, _DATA_LIMIT_BYTES))

    def answer(document: Any) -> str:
        format_name, number, valid = document
        with tempfile.TemporaryDirectory(prefix="trisect-fuzz-") as scratch:
            folder = Path(scratch) / "mutant"
            write_mutant(format_name, number, Path(valid) / slug(format_name), folder)
            before = resource.getrusage(resource.RUSAGE_SELF)
            problem = _read(FORMATS[format_name].read, folder)
            after = resource.getrusage(resource.RUSAGE_SELF)
            size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        grown_bytes = 1024 * (after.ru_maxrss - before.ru_maxrss)
        if problem:
            return problem
        if cpu_s > CPU_LIMIT_S:
            return f"took {cpu_s:.0f} s"
        if grown_bytes > MEMORY_LIMIT_BYTES + size_bytes:
            return f"took {grown_bytes >> 20} MiB"
        return ""

    return answer


def slug(format_name: str) -> str:
    """Return the name of a format's folder."""
    return format_name.replace(" ", "_").replace(",", "")


def _read(read: Any, folder: Path) -> str:
    from trisect.cli import main
    from trisect.runtime.errors import TrisectError

    with _captured() as (out, err):
        try:
            words = read(folder)
        except TrisectError as error:
            return "" if "\n" not in str(error) else f"an error of several lines: {str(error)!r}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        code = main(words) if words is not None else 0
    messages = err.getvalue()
    last = (messages.strip().splitlines() or [""])[-1]
    if code not in (0, 1, 2):
        return f"exit code {code}: {last}"
    if "internal error" in messages or "Traceback" in messages:
        return last
    if code == 2 and not last.startswith("error: "):
        return f"exit code 2 without an error: {last!r}"
    shown = (
        messages if words is not None and words[0] == "generate" else messages + out.getvalue()
    )  # an answer is any text
    if _CONTROL.search(shown):
        return f"control characters: {shown[-300:]!r}"
    return ""


@contextlib.contextmanager
def _captured() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield out, err


def measure_device() -> None:
    """Profile the device that splits use, so that the first of them does not pay for it."""
    from trisect.cli import main

    with _captured():
        assert main(["profile", "--devices", "cpu:ort", "--budget", "5"]) == 0


def prepare(format_name: str, valid: Path) -> None:
    """Write the valid files of a format into a folder of folders, once."""
    from .fuzz_formats import FORMATS

    folder = valid / slug(format_name)
    if not folder.exists():
        folder.mkdir(parents=True)
        with _captured():
            FORMATS[format_name].prepare(folder)
