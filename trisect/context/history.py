"""Answers to `can_run` and measured runs, recorded in one SQLite file in the user's data folder.

A question that was answered before, and a model that has run before, are answered from the history, and the answer says
so. ``trisect history clear`` erases it. It contains no file names, only hashes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import platformdirs

from trisect.runtime.errors import StorageFailed
from trisect.runtime.untrusted_files import check_regular

ENVIRONMENT = "TRISECT_HISTORY"
"""Environment variable that names the file."""
_SCHEMA = 1
_TABLES = """
create table answers (question text primary key, answer text not null, at text not null);
create table runs (
    model text not null, devices text not null, shapes text not null, latency_s real not null, at text not null,
    trisect text not null
);
create index runs_of on runs (model, shapes);
"""


@dataclass(frozen=True)
class RecordedRun:
    """The median of a model's runs, measured on this machine."""

    devices: tuple[str, ...]
    """Device ids."""
    latency_s: float
    at: str
    """ISO 8601, UTC."""


def shapes_key(shapes: Mapping[str, int] | None) -> str:
    """Return the sizes of symbolic dimensions as the key under which runs and answers are recorded.

    Examples
    --------
    >>> shapes_key({"n": 2, "batch": 1}), shapes_key(None)
    ('batch=1,n=2', '')
    """
    return ",".join(f"{name}={size}" for name, size in sorted((shapes or {}).items()))


class History:
    """The recorded answers and runs; every call opens and closes the file, so that many processes can share it.

    Parameters
    ----------
    path : Path, optional
        Default: ``TRISECT_HISTORY``, else a file in the user's data folder.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     history = History(Path(folder) / "history.sqlite")
    ...     history.record_answer("can it run?", "yes")
    ...     history.answer_to("can it run?"), history.counts()
    ('yes', {'answers': 1, 'runs': 0})
    """

    def __init__(self, path: Path | None = None) -> None:
        named = os.environ.get(ENVIRONMENT)
        self.path = path or (Path(named) if named else platformdirs.user_data_path("trisect") / "history.sqlite")
        self.moved: Path | None = None
        """New path of a damaged file that was moved aside."""

    def record_answer(self, question: str, answer: str) -> None:
        """Record an answer; it replaces an earlier one to the same question."""
        with self._open() as connection:
            connection.execute("insert or replace into answers values (?, ?, ?)", (question, answer, _now()))

    def answer_to(self, question: str) -> str | None:
        """Return the recorded answer to a question; None where there is none."""
        with self._open() as connection:
            row = connection.execute("select answer from answers where question = ?", (question,)).fetchone()
        return None if row is None else str(row[0])

    def record_run(self, model: str, devices: tuple[str, ...], shapes: str, latency_s: float) -> None:
        """Record a measured run.

        Parameters
        ----------
        model : str
            Hash of the model.
        devices : tuple of str
            Device ids.
        shapes : str
            Sizes of its symbolic dimensions; see `shapes_key`.
        latency_s : float
            Median.
        """
        from trisect import __version__

        with self._open() as connection:
            row = (model, ",".join(devices), shapes, latency_s, _now(), __version__)
            connection.execute("insert into runs values (?, ?, ?, ?, ?, ?)", row)

    def fastest_run(self, model: str, shapes: str) -> RecordedRun | None:
        """Return the fastest recorded run of a model at these shapes; None where there is none."""
        query = (
            "select devices, latency_s, at from runs where model = ? and shapes = ? and latency_s > 0 "
            "and typeof(latency_s) in ('real', 'integer') order by latency_s limit 1"
        )
        with self._open() as connection:
            row = connection.execute(query, (model, shapes)).fetchone()
        return None if row is None else RecordedRun(tuple(str(row[0]).split(",")), float(row[1]), str(row[2]))

    def counts(self) -> dict[str, int]:
        """Return the numbers of recorded answers and runs."""
        with self._open() as connection:
            return {
                table: int(connection.execute(f"select count(*) from {table}").fetchone()[0])
                for table in ("answers", "runs")
            }

    def clear(self) -> dict[str, int]:
        """Erase everything; return how many answers and runs that were."""
        before = self.counts()
        with self._open() as connection:
            connection.execute("delete from answers")
            connection.execute("delete from runs")
        with self._open() as connection:
            connection.execute("vacuum")  # deleted rows must not remain readable in the file
        return before

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            if os.path.exists(self.path):
                check_regular(self.path)
            connection = self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise StorageFailed(f"the history {self.path} cannot be opened: {error}") from error
            connection = self._replaced()
        except OSError as error:
            raise StorageFailed(f"the history {self.path} cannot be opened: {error.strerror or error}") from error
        try:
            with connection:
                yield connection
        except sqlite3.DatabaseError as error:  # damaged within, locked, or on a full disk
            raise StorageFailed(f"the history {self.path} cannot be used: {error}", remedy="move it away") from error
        finally:
            connection.close()

    def _replaced(self) -> sqlite3.Connection:
        """Move a damaged file aside, and start a new one."""
        # It may be a file of the user's that TRISECT_HISTORY names by mistake: nothing is overwritten.
        names = (f"{self.path.name}.damaged{number or ''}" for number in itertools.count())
        moved = next(path for path in map(self.path.with_name, names) if not os.path.lexists(path))
        try:
            self.path.replace(moved)
            self.moved = moved
            return self._connect()
        except (OSError, sqlite3.Error) as error:
            raise StorageFailed(
                f"the history {self.path} is damaged, and cannot be moved to {moved}: {error}"
            ) from error

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=5.0)
        try:
            version = int(connection.execute("pragma user_version").fetchone()[0])
            tables = connection.execute(
                "select count(*) from sqlite_master where name in ('answers', 'runs')"
            ).fetchone()
            if version == 0 and not tables[0]:
                connection.executescript(f"begin; {_TABLES} pragma user_version = {_SCHEMA}; commit;")
            elif version != _SCHEMA or tables[0] != 2:
                raise sqlite3.DatabaseError("the file has another schema")
        except sqlite3.DatabaseError:
            connection.close()
            raise
        return connection


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
