"""Reads inputs from ``.npz`` files, and writes outputs to them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trisect.runtime.errors import InvalidInput, StorageFailed

if TYPE_CHECKING:
    import numpy as np


def read_feeds(file: Path | None) -> dict[str, np.ndarray] | None:
    """Read arrays by input name from an ``.npz`` file; None where no file is named.

    Raises
    ------
    InvalidInput
        When it is missing, damaged, or contains pickled objects, which are not read.
    """
    import zipfile

    import numpy as np

    if file is None:
        return None
    try:
        if file.exists() and not zipfile.is_zipfile(file):
            raise InvalidInput(f"{file} is not an .npz file", remedy="write one with numpy.savez(file, name=array)")
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"cannot read arrays from {file}: {error}") from error


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to an ``.npz`` file, atomically.

    Raises
    ------
    InvalidInput
        For a list or an optional, which such a file cannot contain without pickling.
    StorageFailed
        When the file cannot be written.
    """
    import numpy as np

    for name, array in arrays.items():
        if array.dtype.kind == "O" and not all(isinstance(one, str) for one in array.ravel().tolist()):
            raise InvalidInput(
                f"{file} cannot contain {name!r}, which is a list", remedy="use Session.run in Python to get it"
            )
    plain = {name: array.astype(str) if array.dtype.kind == "O" else array for name, array in arrays.items()}
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as out:
            np.savez(out, allow_pickle=False, **plain)
        os.replace(temporary, file)
    except OSError as error:
        raise StorageFailed(f"cannot write {file}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
