"""Checks before any work whether a result may be written where the user says: no file of the user's is ever destroyed.

A file given by name is replaced, as with other tools, but not through a link, and never one that the command reads.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from ..errors import InvalidInput, StorageFailed, TrisectError
from ..printable_text import utf8_text

_ELSEWHERE = "name another file"


def check_output_file(path: Path, inputs: Iterable[Path | None] = ()) -> None:
    """Check that a file can be written, and that this would not replace an input of the same command.

    Parameters
    ----------
    inputs : iterable of Path or None
        Files and folders that the command reads; None stands for an option that was left out.

    Raises
    ------
    InvalidInput
        When it is one of the inputs, or inside a folder that is one.
    StorageFailed
        When it is something other than a regular file, or its folder does not exist or is not writable.
    """
    check_replaceable_file(path)
    for source in filter(None, inputs):
        if _is_same(path, source):
            raise InvalidInput(f"{path} is an input of this command and would be overwritten", remedy=_ELSEWHERE)
        if source.is_dir() and is_inside(path, source):
            raise InvalidInput(f"{path} is inside {source}, which this command reads", remedy=_ELSEWHERE)
    folder = Path(os.path.abspath(path)).parent
    _check_writable(folder, path)


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether a path, links resolved, is below a folder."""
    try:
        return Path(os.path.realpath(folder)) in Path(os.path.realpath(path)).parents
    except (OSError, ValueError):
        return False


def check_replaceable_file(path: Path) -> None:
    """Check that nothing but a regular file would be replaced.

    Raises
    ------
    StorageFailed
        When the path is a folder, link, pipe, socket or device, or no file can have this name.
    """
    mode = _mode(path)
    if mode is None:
        return
    if stat.S_ISREG(mode):
        if not os.access(path, os.W_OK):
            raise StorageFailed(f"{path} cannot be written: it is read-only", remedy=_ELSEWHERE)
        return
    kinds = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    kind = kinds.get(stat.S_IFMT(mode), "a device")
    raise StorageFailed(f"{path} cannot be written: it is {kind}, expected a file or nothing", remedy=_ELSEWHERE)


def check_output_folder(folder: Path) -> bool:
    """Check that a folder can be made, or replaced by a new one; return whether it contains anything.

    Whether its content may be replaced is for the caller to decide.

    Raises
    ------
    StorageFailed
        When it is not a folder, or one that no result may replace: a link, a mounted disk, the working directory, the
        user's home, or one that contains these.
    """
    mode, remedy = _mode(folder), "name a new folder"
    if utf8_text(os.path.abspath(folder)) != os.path.abspath(folder):
        raise StorageFailed(f"engines cannot open files in {folder}: its name is not UTF-8", remedy=remedy)
    if mode is None:
        parent = Path(os.path.abspath(folder)).parent
        while _mode(parent) is None and parent != parent.parent:
            parent = parent.parent
        _check_writable(parent, folder)
        return False
    if stat.S_ISLNK(mode):
        raise StorageFailed(f"{folder} is a link", remedy="name the folder that it leads to, or a new one")
    if not stat.S_ISDIR(mode):
        raise StorageFailed(f"{folder} is a file, expected a folder", remedy=remedy)
    real = Path(os.path.realpath(folder))
    for what, protected in (("the working directory", Path.cwd), ("the home directory", Path.home)):
        try:
            if Path(os.path.realpath(protected())).is_relative_to(real):
                raise StorageFailed(f"{folder} is or contains {what}, which cannot be replaced", remedy=remedy)
        except (OSError, RuntimeError):  # the working directory was removed; there is no home
            continue
    if os.path.ismount(real):
        raise StorageFailed(f"{folder} is where a disk is mounted", remedy="name a new folder in it")
    _check_writable(real.parent, folder)
    try:
        with os.scandir(real) as entries:
            return next(entries, None) is not None
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(path: Path, error: OSError) -> TrisectError:
    """Return the error for a file or folder that the operating system refuses to write."""
    return StorageFailed(f"{path} cannot be written: {error.strerror or error}", remedy="name another")


def _mode(path: Path) -> int | None:
    """Return the mode of what is at a path, links not followed; None where nothing is."""
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # a ValueError for a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise StorageFailed(f"{os.fspath(path)[:300]} cannot be written: {reason}") from error


def _check_writable(folder: Path, path: Path) -> None:
    if not folder.is_dir():
        raise StorageFailed(f"{path} cannot be written: there is no folder {folder}", remedy="name another")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageFailed(f"{path} cannot be written: no permission to write to {folder}", remedy="name another")


def _is_same(path: Path, other: Path) -> bool:
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):
        return False
