"""Task graphs out of an archive that the user names: the Standard Task Graph set, from its authors' page.

What they offer there may change, so whoever fetches an archive says where it is and which SHA-256 it must have, and
nothing is kept of anything else. Archives are read member by member: no path of theirs leads out of the folder, and no
member is larger than a task graph can be.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from trisect.runtime.atomic_write import write_atomically
from trisect.runtime.errors import InvalidInput, InvalidModel

SUFFIX = ".stg"
OPTIMA = "optimal.csv"
LIMIT_BYTES = 256 << 20
"""Of the archive, and of all that is taken out of it."""
_MEMBER_LIMIT_BYTES = 64 << 20


def unpack(content: bytes, sha256: str, name: str, folder: Path) -> list[Path]:
    """Put the task graphs of an archive into a folder.

    Parameters
    ----------
    content : bytes
        A tar, compressed or not, a zip, or one ``.stg`` file.
    sha256 : str
        That it must have, in hexadecimal.
    name : str
        What the archive is called, for messages, and for a single file.
    folder : Path
        Gets the ``.stg`` files below the folders that they have in the archive, and ``optimal.csv``.

    Returns
    -------
    list of Path
        The files, sorted.

    Raises
    ------
    InvalidInput
        For a hash that is none.
    InvalidModel
        When the archive is another than the one with that hash, is damaged, or holds no task graph.
    StorageFailed
        When the folder cannot be written.
    """
    check_sha256(sha256)
    found = hashlib.sha256(content).hexdigest()
    if found != sha256.lower():
        raise InvalidModel(f"{name} has the SHA-256 {found}, not {sha256.lower()}", remedy="nothing of it was kept")
    try:
        files = dict(_members(content, name))
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, RuntimeError) as error:
        raise InvalidModel(f"{name} is damaged: {error}", remedy="fetch it again") from error
    if not any(path.suffix == SUFFIX for path in files):
        raise InvalidModel(f"{name} holds no {SUFFIX} file", remedy="name an archive of task graphs")
    written = []
    for path, text in files.items():
        # The table of optima stands beside the set, wherever the archive has it.
        target = folder / (path.name if path.name == OPTIMA else path)
        write_atomically(target, text)
        written.append(target)
    return sorted(written)


def check_sha256(sha256: str) -> None:
    """Refuse what is no SHA-256.

    Raises
    ------
    InvalidInput
    """
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise InvalidInput(
            f"{sha256!r} is no SHA-256",
            remedy="give 64 hexadecimal digits, as sha256sum prints of a copy that you trust",
        )


def _members(content: bytes, name: str) -> Iterator[tuple[PurePosixPath, bytes]]:
    left = LIMIT_BYTES
    for member, size_bytes, read in _listed(content, name):
        path = PurePosixPath(member.replace("\\", "/"))
        if path.suffix != SUFFIX and path.name != OPTIMA:
            continue
        if path.is_absolute() or ".." in path.parts or ":" in member:
            raise InvalidModel(f"{name} holds {member!r}, which leads out of its folder")
        left -= size_bytes
        if size_bytes > _MEMBER_LIMIT_BYTES or left < 0:
            raise InvalidModel(f"{name} holds more than task graphs are large: {member!r}")
        yield path, read()


def _listed(content: bytes, name: str) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in archive.infolist():
                if not entry.is_dir():
                    yield entry.filename, entry.file_size, partial(archive.read, entry)
    elif name.endswith(SUFFIX):
        yield PurePosixPath(name).name, len(content), lambda: content
    else:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:*") as tar:
            for member in tar:
                stream = tar.extractfile(member) if member.isfile() else None
                if stream is not None:
                    yield member.name, member.size, stream.read
