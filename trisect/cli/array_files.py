"""Reads inputs from ``.npz`` files, and writes outputs to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trisect.runtime.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np

_NAME_BYTES_MAX = 65_000
"""A zip archive stores the length of a member's name in 16 bits."""


def read_feeds(file: Path | None) -> dict[str, np.ndarray] | None:
    """Read arrays by input name from an ``.npz`` file; None where no file is named.

    Raises
    ------
    InvalidInput
        When it is missing, damaged, or contains pickled objects, which are not read.
    OutOfMemory
        When the arrays do not fit into the free memory.
    """
    from trisect.runtime.files.array_archive import read_arrays

    return None if file is None else read_arrays(file)


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Write arrays to an ``.npz`` file, atomically.

    Dtypes that numpy lacks (bfloat16, float8, int4) are written as their bytes, which a session accepts.

    Returns
    -------
    dict
        Output name -> name in the file, where they differ: a zip archive cannot contain some names.

    Raises
    ------
    InvalidInput
        For a list or an optional, which such a file cannot contain without pickling.
    StorageFailed
        When the file cannot be written.
    """
    import zipfile

    import numpy as np

    from trisect.runtime.atomic_write import atomic_file

    for name, array in arrays.items():
        if array.dtype.kind == "O" and not all(isinstance(one, str) for one in array.ravel().tolist()):
            raise InvalidInput(
                f"{file} cannot contain {name!r}, which is a list", remedy="use Session.run in Python to get it"
            )
    plain = {name: _plain(array) for name, array in arrays.items()}
    members = _member_names(plain)
    # Not np.savez: it takes arrays as keyword arguments, so none of them may be called "file".
    with atomic_file(file) as out, zipfile.ZipFile(out, "w", allowZip64=True) as archive:
        for name, array in plain.items():
            with archive.open(f"{members[name]}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return {name: member for name, member in members.items() if member != name}


def _plain(array: np.ndarray) -> np.ndarray:
    """Return an array of a dtype that numpy's file format has: text, or bytes for the dtypes of `ml_dtypes`."""
    if array.dtype.kind == "O":
        return array.astype(str)
    return array.view(f"V{array.dtype.itemsize}") if array.dtype.type.__module__ == "ml_dtypes" else array


def _member_names(names: Iterable[str]) -> dict[str, str]:
    """Return a name of the archive for each output: its own, or its number where a zip cannot contain it."""
    names = tuple(names)
    members: dict[str, str] = {}
    for number, name in enumerate(names):
        fits = "\0" not in name and len(name.encode(errors="surrogatepass")) <= _NAME_BYTES_MAX
        stand_in = f"output_{number}"
        while not fits and stand_in in names:
            stand_in += "_"
        members[name] = name if fits else stand_in
    return members
