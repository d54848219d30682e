"""Write files so that a reader never sees half of one."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .errors import StorageFailed


def write_atomically(path: Path, content: bytes) -> None:
    """Write a temporary file beside ``path`` and rename it; folders are created.

    Raises
    ------
    StorageFailed
        Disk full or no permission; nothing half-written is left.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise StorageFailed(f"{path} cannot be written: {error.strerror or error}") from error
