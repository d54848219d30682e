"""What was answered and what happened, kept in one SQLite file in the user's data folder.

A question that was answered before, or a model that has run before, is answered from here, and the answer says so. The
user can erase it: ``trisect history clear``. No names of files are kept, only hashes.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import platformdirs

from trisect.runtime.errors import StorageFailed

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
class PastRun:
    """A model's run that was measured here."""

    devices: tuple[str, ...]
    latency_s: float
    """Median."""
    at: str
    """ISO 8601, UTC."""


def told_shapes(shapes: Mapping[str, int] | None) -> str:
    """Sizes of symbolic dimensions as runs and answers are filed under.

    Examples
    --------
    >>> told_shapes({"n": 2, "batch": 1}), told_shapes(None)
    ('batch=1,n=2', '')
    """
    return ",".join(f"{name}={size}" for name, size in sorted((shapes or {}).items()))


class History:
    """The store; every call opens and closes it, so that many processes can share it.

    Parameters
    ----------
    path : Path, optional
        ``TRISECT_HISTORY`` or the user's data folder when left out.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     history = History(Path(folder) / "history.sqlite")
    ...     history.answer("can it run?", "yes")
    ...     history.answered("can it run?"), history.counts()
    ('yes', {'answers': 1, 'runs': 0})
    """

    def __init__(self, path: Path | None = None) -> None:
        named = os.environ.get(ENVIRONMENT)
        self.path = path or (Path(named) if named else platformdirs.user_data_path("trisect") / "history.sqlite")
        self.moved: Path | None = None
        """Where a damaged file was put."""

    def answer(self, question: str, answer: str) -> None:
        """Remember an answer."""
        with self._open() as connection:
            connection.execute("insert or replace into answers values (?, ?, ?)", (question, answer, _now()))

    def answered(self, question: str) -> str | None:
        """What was answered before; None where nobody asked."""
        with self._open() as connection:
            row = connection.execute("select answer from answers where question = ?", (question,)).fetchone()
        return None if row is None else str(row[0])

    def ran(self, model: str, devices: tuple[str, ...], shapes: str, latency_s: float) -> None:
        """Remember a measured run.

        Parameters
        ----------
        model : str
            Hash of the model.
        devices : tuple of str
            Ids.
        shapes : str
            What its symbolic dimensions were.
        latency_s : float
            Median.
        """
        from .. import __version__

        with self._open() as connection:
            row = (model, ",".join(devices), shapes, latency_s, _now(), __version__)
            connection.execute("insert into runs values (?, ?, ?, ?, ?, ?)", row)

    def best_run(self, model: str, shapes: str) -> PastRun | None:
        """The quickest run of a model at these shapes."""
        asked = "select devices, latency_s, at from runs where model = ? and shapes = ? order by latency_s limit 1"
        with self._open() as connection:
            row = connection.execute(asked, (model, shapes)).fetchone()
        return None if row is None else PastRun(tuple(str(row[0]).split(",")), float(row[1]), str(row[2]))

    def counts(self) -> dict[str, int]:
        """How many answers and runs are kept."""
        with self._open() as connection:
            return {
                table: int(connection.execute(f"select count(*) from {table}").fetchone()[0])
                for table in ("answers", "runs")
            }

    def clear(self) -> dict[str, int]:
        """Erase everything; how much that was."""
        before = self.counts()
        with self._open() as connection:
            connection.execute("delete from answers")
            connection.execute("delete from runs")
        with self._open() as connection:
            connection.execute("vacuum")  # what was erased must not be readable in the file
        return before

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise StorageFailed(f"the history {self.path} cannot be opened: {error}") from error
            self.moved = self.path.with_name(f"{self.path.name}.damaged")
            self.path.replace(self.moved)
            connection = self._connect()
        except OSError as error:
            raise StorageFailed(f"the history {self.path} cannot be opened: {error.strerror or error}") from error
        try:
            with connection:
                yield connection
        except sqlite3.OperationalError as error:
            raise StorageFailed(f"the history {self.path} cannot be written: {error}") from error
        finally:
            connection.close()

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
                raise sqlite3.DatabaseError("of another version")
        except sqlite3.DatabaseError:
            connection.close()
            raise
        return connection


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
