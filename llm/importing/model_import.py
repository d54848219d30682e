"""Finds out what kind of language model a path is, and makes a bundle of it, once.

Bundles are kept in a folder of their own under the user's cache, named by the content of what they were made from. A
bundle is written aside and renamed when whole, so that an import that fails or is interrupted leaves nothing behind.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import platformdirs

from trisect.runtime.errors import InvalidModel, StorageFailed, TrisectError, UnsupportedModel
from trisect.runtime.progress import Progress, no_progress

from ..bundle import BUNDLE_FILE, Bundle
from .folder_import import import_folder, is_model_folder
from .gguf_import import import_gguf
from .hub import fetch_from_hub, looks_like_hub_id

IMPORTER = "5"
"""Changes whenever the same source would give other files."""


def bundles_folder() -> Path:
    """Where bundles are kept: ``$TRISECT_BUNDLES``, else under the user's cache."""
    chosen = os.environ.get("TRISECT_BUNDLES")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("trisect", appauthor=False)) / "bundles"


def open_model(
    model: str | Path, *, precision: str = "blocks", folder: Path | None = None, progress: Progress = no_progress
) -> Bundle:
    """The bundle of a language model, imported now if it was not before.

    Parameters
    ----------
    model : str or Path
        A GGUF file; a folder as onnxruntime-genai's builder or optimum writes it; a bundle; or a Hugging Face id.
    precision : {"blocks", "float32"}
        For GGUF: keep quantised weights in blocks, or widen everything to float32.
    folder : Path, optional
        Where to put the bundle instead of the cache.
    progress : callable, optional
        Called with the steps done, all steps, and what is being done.

    Raises
    ------
    InvalidModel, UnsupportedModel
        Where there is no such model, or it cannot be read.
    StorageFailed
        Where the disk is full or refuses.
    """
    path = Path(model)
    if not os.path.exists(path):  # Path.exists passes on the system's complaint of a name that is too long
        if not looks_like_hub_id(str(model)):
            raise InvalidModel(f"there is no model at {model}", remedy="give a .gguf file, a model folder or a hub id")
        path = fetch_from_hub(str(model), progress)
    if (path / BUNDLE_FILE).is_file():
        return Bundle.load(path)
    if path.is_file() and path.suffix == ".onnx":
        raise UnsupportedModel(
            f"{path} is a single ONNX file", remedy="give the folder it is in, with its configuration and tokenizer"
        )
    if path.is_dir() and not is_model_folder(path):
        raise InvalidModel(
            f"{path} holds no language model",
            remedy="it needs ONNX files beside genai_config.json, or beside config.json and tokenizer.json",
        )
    progress(0, 1, "reading")
    sha256 = _fingerprint(path)
    importer = f"{IMPORTER}-{precision}"
    target = folder or bundles_folder() / f"{path.name if path.is_dir() else path.stem}-{sha256[:12]}-{importer}"
    found = _whole_bundle(target)
    if found is not None and (found.source_sha256, found.importer) == (sha256, importer):
        return found
    if folder is not None:
        _refuse_other_content(folder, found)
    return _make(path, target, sha256, importer, precision, progress)


def _whole_bundle(target: Path) -> Bundle | None:
    """The bundle in a folder; None where there is none, or a damaged one, which is then made again."""
    try:
        return Bundle.load(target)
    except InvalidModel:
        return None


def _refuse_other_content(folder: Path, found: Bundle | None) -> None:
    """What an import replaces as a whole must not be anything but what an import made."""
    remedy = "choose another folder"
    if found is not None:
        raise InvalidModel(f"{folder} holds the bundle of another model", remedy=remedy)
    try:
        strange = folder.exists() and not (folder / BUNDLE_FILE).is_file() and any(folder.iterdir())
    except OSError as error:
        raise _storage_failed(folder, error) from error
    if strange:
        raise StorageFailed(f"{folder} holds something else", remedy=remedy)


def _make(path: Path, target: Path, sha256: str, importer: str, precision: str, progress: Progress) -> Bundle:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise _storage_failed(target, error) from error
    try:
        if path.is_dir():
            bundle = import_folder(path, aside, progress=progress)
        else:
            bundle = import_gguf(path, aside, precision=precision, progress=progress)
        replace(bundle, source_sha256=sha256, importer=importer).save(aside)
        found = _whole_bundle(target)
        if found is not None and found.source_sha256 == sha256:  # another process was quicker
            return found
        if target.exists():
            shutil.rmtree(target)
        aside.rename(target)
    except OSError as error:
        raise _storage_failed(target, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Bundle.load(target)


def _storage_failed(target: Path, error: OSError) -> TrisectError:
    if error.errno == errno.ENOSPC:
        remedy = f"free some space, or set TRISECT_BUNDLES to a folder on another disk than {target.parent}"
        return StorageFailed("the disk is full; nothing of the import was kept", remedy=remedy)
    return StorageFailed(f"cannot write {target}: {error.strerror or error}", remedy="choose another folder")


def _fingerprint(path: Path) -> str:
    """SHA-256 of a file; of a folder's models, by the names, sizes and times of their files."""
    digest = hashlib.sha256()
    try:
        if path.is_file():
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        folders = [folder for folder in (path, path / "onnx") if folder.is_dir()]
        for file_path in sorted(p for folder in folders for p in folder.iterdir() if p.is_file()):
            stat = file_path.stat()
            name = file_path.relative_to(path).as_posix()
            digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    except OSError as error:
        raise InvalidModel(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()
