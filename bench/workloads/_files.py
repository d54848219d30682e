"""Finds the files of workloads."""

from __future__ import annotations

from collections.abc import Sequence
from glob import glob
from pathlib import Path

from trisect.runtime.errors import InvalidInput

from ..datasets import ENVIRONMENT, folders


def data_folder(name: str, folder: str, source: str) -> Path:
    """Return the folder of a published set: the user's, else the first default location that exists.

    Raises
    ------
    InvalidInput
        When there is none.
    """
    candidates = [Path(folder)] if folder else [parent / name for parent in folders()]
    existing = next((path for path in candidates if path.is_dir()), None)
    if existing is None:
        where = folder or f"the folder in {ENVIRONMENT}"
        raise InvalidInput(f"the files of {name} are not in {where}", remedy=f"they are published at {source}")
    return existing


def matching(pattern: str, suffixes: Sequence[str]) -> list[Path]:
    """Return the files that a path, a folder or a glob pattern matches, sorted.

    Raises
    ------
    InvalidInput
        When there is none.
    """
    path = Path(pattern).expanduser()
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix in suffixes]
    elif path.is_file():
        files = [path]
    else:
        matches = map(Path, glob(str(path), recursive=True))
        files = [file for file in matches if file.is_file() and file.suffix in suffixes]
    if not files:
        raise InvalidInput(
            f"no {' or '.join(suffixes)} file at {pattern!r}", remedy="give a path, a folder or a pattern"
        )
    return sorted(files)


def names(paths: Sequence[Path]) -> dict[str, Path]:
    """Return a name for each file: its stem, or with its folder where stems are not unique."""
    stems = [path.stem for path in paths]
    return {(path.stem if stems.count(path.stem) == 1 else path.with_suffix("").as_posix()): path for path in paths}
