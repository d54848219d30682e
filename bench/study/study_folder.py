"""A study's folder: its specification, its rows as they are measured, and its environment; a study resumes from it."""

from __future__ import annotations

import inspect
import os
import platform
import sqlite3
import sys
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import astuple
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from trisect import __version__
from trisect.partitioner.strategies import lookup
from trisect.runtime.atomic_write import write_atomically
from trisect.runtime.errors import InvalidInput, StorageFailed
from trisect.runtime.untrusted_files import MalformedFile, decode_json, read_bytes

from ..workloads import WorkloadChoice
from .study_rows import COLUMNS, StudyRow
from .study_spec import StudySpec, read_spec, to_toml

SPEC = "study.toml"
ROWS = "rows.sqlite"
ENVIRONMENT = "environment.json"
_WRITTEN = (ENVIRONMENT, "rows.csv", "rows.parquet", "summary.md", "summary.tex")
"""Files that a study writes beside its rows."""
_TYPES = {int: "INTEGER NOT NULL", float: "REAL NOT NULL", float | None: "REAL"}
_PACKAGES = ("networkx", "numpy", "onnx", "onnx-ir", "ortools")


def versions() -> str:
    """Return the versions that a row records."""
    return f"trisect {__version__}, python {platform.python_version()}"


def environment(spec: StudySpec, choices: Iterable[WorkloadChoice]) -> dict[str, Any]:
    """Return the machine, the versions, and the origin of strategies and workloads."""
    return {
        "versions": {"trisect": __version__, "python": sys.version.split()[0], **dict(_versions(_PACKAGES))},
        "machine": {"platform": platform.platform(), "processor": platform.machine(), "cpus": os.cpu_count()},
        "strategies": {name: _origin(lookup(name)) for name in spec.strategies},
        "workloads": {
            choice.text: {"provenance": choice.workload.provenance, "licence": choice.workload.licence}
            for choice in choices
        },
    }


def _versions(packages: Iterable[str]) -> Iterable[tuple[str, str]]:
    for package in packages:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue


def _origin(function: Any) -> dict[str, str]:
    """Return a strategy's module, and the source of a user's own."""
    module = str(function.__module__)  # a function made by exec has none
    if module.startswith("trisect."):
        return {"module": module}
    try:
        return {"module": module, "source": inspect.getsource(function)}
    except (OSError, TypeError, tokenize.TokenError):
        return {"module": module}


class StudyFolder:
    """Rows on disk while a study runs; a context manager that locks the folder."""

    def __init__(self, path: Path, spec: StudySpec, about: Mapping[str, Any]) -> None:
        self.path = path
        spec_file = path / SPEC
        if spec_file.exists():
            if read_spec(spec_file) != spec:
                raise InvalidInput(f"{path} holds another study", remedy="choose another folder, or move it away")
            foreign = [name for name in _WRITTEN if os.path.lexists(path / name)]
            if foreign and not (path / ROWS).is_file():
                raise InvalidInput(
                    f"{path / foreign[0]} is not of this study and would be overwritten", remedy="choose another folder"
                )
        elif path.is_dir() and any(path.iterdir()):
            raise InvalidInput(f"{path} is not empty and holds no study", remedy="choose another folder")
        else:
            write_atomically(spec_file, to_toml(spec))
        write_atomically(path / ENVIRONMENT, msgspec.json.format(msgspec.json.encode(about), indent=1))
        self._rows = connect(path / ROWS)
        self._unsaved = 0

    def __enter__(self) -> StudyFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        self._rows.commit()
        self._rows.close()

    def read(self) -> list[StudyRow]:
        """Return the rows of earlier runs."""
        return read_rows(self._rows, self.path / ROWS)

    def add(self, row: StudyRow) -> None:
        """Store a row; a power failure loses the last few."""
        insert(self._rows, [row])
        self._unsaved += 1
        if self._unsaved >= 100 or row.plan_time_s > 1:
            self._rows.commit()
            self._unsaved = 0


def connect(path: Path) -> sqlite3.Connection:
    """Open a table of rows; it is created where there is none.

    Raises
    ------
    StorageFailed
        When it cannot be written, is damaged, or another process holds it.
    """
    hints = get_type_hints(StudyRow)
    columns = ", ".join(f'"{name}" {_TYPES.get(hints[name], "TEXT NOT NULL")}' for name in COLUMNS)
    try:
        rows = sqlite3.connect(path, timeout=1)
        rows.execute("PRAGMA locking_mode = EXCLUSIVE")
        rows.execute(f"CREATE TABLE IF NOT EXISTS runs ({columns}, PRIMARY KEY (workload, instance, strategy, seed))")
        rows.commit()
        return rows
    except sqlite3.Error as error:
        raise StorageFailed(
            f"the rows in {path} cannot be written: {error}",
            remedy="stop the other study that uses it, or choose another folder",
        ) from error


def insert(table: sqlite3.Connection, rows: Iterable[StudyRow]) -> None:
    """Insert rows into a table; an existing row is replaced."""
    places = ", ".join("?" * len(COLUMNS))
    try:
        table.executemany(f"INSERT OR REPLACE INTO runs VALUES ({places})", map(astuple, rows))
    except sqlite3.Error as error:
        raise StorageFailed(f"a row cannot be stored: {error}") from error


def read_rows(table: sqlite3.Connection, path: Path) -> list[StudyRow]:
    """Return all rows of a table."""
    try:
        values = table.execute(f"SELECT {', '.join(COLUMNS)} FROM runs").fetchall()
    except sqlite3.Error as error:
        raise StorageFailed(f"the rows in {path} cannot be read: {error}", remedy="move the file away") from error
    return [StudyRow(*row) for row in values]


def read_folder(path: Path) -> tuple[StudySpec, list[StudyRow], dict[str, Any]]:
    """Return the specification, rows and environment in a study's folder.

    Raises
    ------
    InvalidInput, StorageFailed
        When the folder holds no study, or is damaged.
    """
    spec = read_spec(path / SPEC)
    try:
        about = decode_json(read_bytes(path / ENVIRONMENT), dict[str, Any])
    except (OSError, MalformedFile) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidInput(f"{path / ENVIRONMENT} cannot be read: {reason}", remedy="run the study again") from error
    table = connect(path / ROWS)
    try:
        return spec, read_rows(table, path / ROWS), about
    finally:
        table.close()
