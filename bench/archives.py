"""Extracts task graphs of an archive that the user downloads: the Standard Task Graph set.

The archives may change, so the user gives the SHA-256 too, and nothing else is stored. Members are checked one by one:
no path leads out of the folder, and none is larger than a task graph can be.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from trisect.runtime.atomic_write import write_atomically
from trisect.runtime.errors import InvalidInput, InvalidModel

SUFFIX = ".stg"
OPTIMA = "optimal.csv"
LIMIT_BYTES = 256 << 20
"""Of the archive, and of all extracted members."""
_MEMBER_LIMIT_BYTES = 64 << 20
_MEMBERS_MAX = 20_000
_DAMAGES = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError, ValueError,
)  # fmt: skip


def unpack(content: bytes, sha256: str, name: str, folder: Path) -> list[Path]:
    """Extract the task graphs of an archive into a folder.

    Parameters
    ----------
    content : bytes
        A tar, compressed or not, a zip, or one ``.stg`` file.
    sha256 : str
        The archive's hash, in hexadecimal.
    name : str
        Name of the archive, for messages, and for a single file.
    folder : Path
        Target of the ``.stg`` files, with their folders in the archive, and of ``optimal.csv``.

    Returns
    -------
    list of Path
        The files, sorted.

    Raises
    ------
    InvalidInput
        For an invalid hash.
    InvalidModel
        When the archive has another hash, is damaged, or holds no task graph.
    StorageFailed
        When the folder cannot be written.
    """
    check_sha256(sha256)
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256.lower():
        raise InvalidModel(
            f"{name} has the SHA-256 {actual}, expected {sha256.lower()}", remedy="nothing was stored; check the hash"
        )
    try:
        files = dict(_members(content, name))
    except _DAMAGES as error:
        raise InvalidModel(f"{name} is damaged: {error}", remedy="fetch it again") from error
    if not any(path.suffix == SUFFIX for path in files):
        raise InvalidModel(f"{name} holds no {SUFFIX} file", remedy="give an archive of task graphs")
    written = []
    for path, text in files.items():
        # The table of optima goes to the top folder, wherever it is in the archive.
        target = folder / (path.name if path.name == OPTIMA else path)
        write_atomically(target, text)
        written.append(target)
    return sorted(written)


def check_sha256(sha256: str) -> None:
    """Check that a text is a SHA-256.

    Raises
    ------
    InvalidInput
    """
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise InvalidInput(
            f"{sha256!r} is not a SHA-256",
            remedy="give 64 hexadecimal digits, as printed by sha256sum for a trusted copy",
        )


def _members(content: bytes, name: str) -> Iterator[tuple[PurePosixPath, bytes]]:
    remaining = LIMIT_BYTES
    for member, size_bytes, read in _listed(content, name):
        path = PurePosixPath(member.replace("\\", "/"))
        if path.suffix != SUFFIX and path.name != OPTIMA:
            continue
        if path.is_absolute() or ".." in path.parts or ":" in member:
            raise InvalidModel(f"{name} holds {member!r}, which leads out of the folder")
        limit = min(_MEMBER_LIMIT_BYTES, remaining)
        # The size that the archive states is not believed: one byte more shows that it is larger.
        text = read(limit + 1) if size_bytes <= limit else b""
        if size_bytes > limit or len(text) > limit:
            raise InvalidModel(f"{name} holds {member!r}, which is larger than any task graph")
        remaining -= len(text)
        yield path, text


def _listed(content: bytes, name: str) -> Iterator[tuple[str, int, Callable[[int], bytes]]]:
    """Yield name, stated size, and a function that reads up to so many bytes, of each file in an archive."""
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            if len(entries) > _MEMBERS_MAX:
                raise _too_many(name)
            for entry in entries:
                if entry.filename and not entry.is_dir():
                    yield entry.filename, entry.file_size, partial(_read_member, archive, entry)
    elif name.endswith(SUFFIX):
        yield PurePosixPath(name).name, len(content), lambda limit: content[:limit]
    else:
        with tarfile.open(fileobj=io.BytesIO(_decompressed(content, name)), mode="r:") as tar:
            for number, member in enumerate(tar):
                if number >= _MEMBERS_MAX:
                    raise _too_many(name)
                stream = tar.extractfile(member) if member.isfile() else None
                if stream is not None:
                    yield member.name, member.size, stream.read


def _read_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> bytes:
    with archive.open(entry) as stream:
        return stream.read(limit)


def _too_many(name: str) -> InvalidModel:
    return InvalidModel(f"{name} holds more than {_MEMBERS_MAX} files", remedy="give a smaller archive")


def _decompressed(content: bytes, name: str) -> bytes:
    """Return a tar that may be compressed; one that is too large is not inflated further."""
    for magic, opened in ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\0", lzma.open)):
        if content.startswith(magic):
            with opened(io.BytesIO(content)) as stream:
                content = stream.read(LIMIT_BYTES + 1)
            if len(content) > LIMIT_BYTES:
                raise InvalidModel(f"{name} is larger than {LIMIT_BYTES >> 20} MiB when it is decompressed")
    return content
