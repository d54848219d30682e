"""A study's folder: what was asked, every row as it came, and the machine that it came from. It can be gone on with."""

from __future__ import annotations

import inspect
import os
import platform
import sqlite3
import sys
from collections.abc import Iterable
from dataclasses import astuple
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from trisect import __version__
from trisect.partitioner.strategies import lookup
from trisect.profiles.stored.profile_store import write_aside
from trisect.runtime.errors import InvalidInput, StorageFailed

from .study_rows import COLUMNS, Row
from .study_spec import Spec, read_spec, spec_choices, to_toml

SPEC = "study.toml"
ROWS = "rows.sqlite"
ENVIRONMENT = "environment.json"
_TYPES = {int: "INTEGER NOT NULL", float: "REAL NOT NULL", float | None: "REAL"}
_PACKAGES = ("networkx", "numpy", "onnx", "onnx-ir", "ortools")


def versions() -> str:
    """What a row was made with."""
    return f"trisect {__version__}, python {platform.python_version()}"


def environment(spec: Spec) -> dict[str, Any]:
    """The machine, the versions, and where strategies and workloads came from."""
    return {
        "versions": {"trisect": __version__, "python": sys.version.split()[0], **dict(_versions(_PACKAGES))},
        "machine": {"platform": platform.platform(), "processor": platform.machine(), "cpus": os.cpu_count()},
        "strategies": {name: _origin(lookup(name)) for name in spec.strategies},
        "workloads": {
            choice.text: {"provenance": choice.workload.provenance, "licence": choice.workload.licence}
            for choice in spec_choices(spec)
        },
    }


def _versions(packages: Iterable[str]) -> Iterable[tuple[str, str]]:
    for package in packages:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue


def _origin(function: Any) -> dict[str, str]:
    """Where a strategy is written; of a user's own its source too, for it is nowhere else."""
    module = str(function.__module__)  # of a function made by exec there is none
    if module.startswith("trisect."):
        return {"module": module}
    try:
        return {"module": module, "source": inspect.getsource(function)}
    except (OSError, TypeError):
        return {"module": module}


class Folder:
    """Rows on disk while a study runs; a context manager that holds the folder alone."""

    def __init__(self, path: Path, spec: Spec) -> None:
        self.path = path
        known = path / SPEC
        if known.exists():
            if read_spec(known) != spec:
                raise InvalidInput(f"{path} holds another study", remedy="choose another folder, or move it away")
        elif path.is_dir() and any(path.iterdir()):
            raise InvalidInput(f"{path} is not empty and holds no study", remedy="choose another folder")
        else:
            write_aside(known, to_toml(spec))
        write_aside(path / ENVIRONMENT, msgspec.json.format(msgspec.json.encode(environment(spec)), indent=1))
        self._rows = connect(path / ROWS)
        self._unsaved = 0

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *exception: object) -> None:
        self._rows.commit()
        self._rows.close()

    def read(self) -> list[Row]:
        """Rows that are there already."""
        return read_rows(self._rows, self.path / ROWS)

    def add(self, row: Row) -> None:
        """Keep a row; what is lost when the power goes is the last few."""
        insert(self._rows, [row])
        self._unsaved += 1
        if self._unsaved >= 100 or row.plan_time_s > 1:
            self._rows.commit()
            self._unsaved = 0


def connect(path: Path) -> sqlite3.Connection:
    """Open a table of rows, made where there is none.

    Raises
    ------
    StorageFailed
        When it cannot be written, is damaged, or another process holds it.
    """
    hints = get_type_hints(Row)
    columns = ", ".join(f'"{name}" {_TYPES.get(hints[name], "TEXT NOT NULL")}' for name in COLUMNS)
    try:
        rows = sqlite3.connect(path, timeout=1)
        rows.execute("PRAGMA locking_mode = EXCLUSIVE")
        rows.execute(f"CREATE TABLE IF NOT EXISTS runs ({columns}, PRIMARY KEY (workload, instance, strategy, seed))")
        rows.commit()
        return rows
    except sqlite3.Error as error:
        raise StorageFailed(
            f"the rows in {path} cannot be written: {error}", remedy="does another study use it?"
        ) from error


def insert(table: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Put rows into a table; one that is there already is replaced."""
    places = ", ".join("?" * len(COLUMNS))
    try:
        table.executemany(f"INSERT OR REPLACE INTO runs VALUES ({places})", map(astuple, rows))
    except sqlite3.Error as error:
        raise StorageFailed(f"a row cannot be stored: {error}") from error


def read_rows(table: sqlite3.Connection, path: Path) -> list[Row]:
    """All rows of a table."""
    try:
        found = table.execute(f"SELECT {', '.join(COLUMNS)} FROM runs").fetchall()
    except sqlite3.Error as error:
        raise StorageFailed(f"the rows in {path} cannot be read: {error}", remedy="move the file away") from error
    return [Row(*row) for row in found]


def read_folder(path: Path) -> tuple[Spec, list[Row], dict[str, Any]]:
    """What a study's folder holds: specification, rows, environment.

    Raises
    ------
    InvalidInput, StorageFailed
        When it is no such folder, or damaged.
    """
    spec = read_spec(path / SPEC)
    try:
        about = msgspec.json.decode((path / ENVIRONMENT).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        raise InvalidInput(f"{path / ENVIRONMENT} cannot be read: {error}", remedy="run the study again") from error
    table = connect(path / ROWS)
    try:
        return spec, read_rows(table, path / ROWS), about
    finally:
        table.close()
