"""Files that workloads are made of: where they are, and one clear line where they are not."""

from __future__ import annotations

from collections.abc import Sequence
from glob import glob
from pathlib import Path

from trisect.runtime.errors import InvalidInput

from ..datasets import ENVIRONMENT, folders


def data_folder(name: str, given: str, source: str) -> Path:
    """The folder of a published set: the one given, else the first of the usual places that has it.

    Raises
    ------
    InvalidInput
        When it is nowhere.
    """
    places = [Path(given)] if given else [folder / name for folder in folders()]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        where = given or f"the folder that {ENVIRONMENT} names"
        raise InvalidInput(f"the files of {name} are not in {where}", remedy=f"they are published at {source}")
    return found


def matching(pattern: str, suffixes: Sequence[str]) -> list[Path]:
    """Files that a path, a folder or a glob pattern names, sorted.

    Raises
    ------
    InvalidInput
        When there is none.
    """
    path = Path(pattern).expanduser()
    if path.is_dir():
        found = [file for file in path.iterdir() if file.suffix in suffixes]
    elif path.is_file():
        found = [path]
    else:
        named = map(Path, glob(str(path), recursive=True))
        found = [file for file in named if file.is_file() and file.suffix in suffixes]
    if not found:
        raise InvalidInput(
            f"no {' or '.join(suffixes)} file at {pattern!r}", remedy="give a path, a folder or a pattern"
        )
    return sorted(found)


def names(paths: Sequence[Path]) -> dict[str, Path]:
    """A name for each file: its own, or with its folder where two are called the same."""
    own = [path.stem for path in paths]
    return {(path.stem if own.count(path.stem) == 1 else path.with_suffix("").as_posix()): path for path in paths}
