"""Imports a language model of any supported format into a bundle, once.

Bundles are cached in a folder under the user's cache directory, named by a hash of their source. A bundle is written to
a temporary folder and renamed when complete, so that a failed or interrupted import leaves nothing behind.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import platformdirs

from trisect.runtime.errors import InvalidInput, InvalidModel, StorageFailed, TrisectError, UnsupportedModel
from trisect.runtime.files.atomic_folder import FolderKind, atomic_folder, check_folder
from trisect.runtime.files.cache_files import not_cached
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.scratch_folder import ScratchFolder
from trisect.runtime.untrusted_files import open_regular

from ..bundle import BUNDLE_FILE, Bundle, read_description
from .folder_config import has_graph, is_model_folder
from .hub import fetch_from_hub, looks_like_hub_id
from .weight_conversion import Preference

IMPORTER = "11"
"""Changes whenever the same source would give other files."""

_HASHED_MAX_BYTES = 256 << 20
_HEADER_BYTES, _SAMPLES, _SAMPLE_BYTES = 16 << 20, 64, 1 << 18
_FILES = re.compile(
    r"(bundle|tokenizer|prompting)\.json|(long\.)?(standard|in_place(\.full)?(\.float16)?|static|lookup)\.onnx|(weights|data_\d+)\.bin"
)
"""Names of the files of a bundle."""

_temporary_folders: list[ScratchFolder] = []

WeightFormat = Literal["blocks", "float32"]
"""Weights as in the source, or widened to float32."""


def bundles_folder() -> Path:
    """Return the folder of cached bundles: ``$TRISECT_BUNDLES``, by default under the user's cache directory."""
    chosen = os.environ.get("TRISECT_BUNDLES")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("trisect", appauthor=False)) / "bundles"


def open_model(
    model: str | Path,
    *,
    weights: WeightFormat = "blocks",
    prefer: Preference = "speed",
    folder: Path | None = None,
    progress: Progress = no_progress,
) -> Bundle:
    """Return the bundle of a language model, imported now if it was not before.

    Parameters
    ----------
    model : str or Path
        A GGUF file; a folder of transformers, onnxruntime-genai or optimum; a bundle; or a Hugging Face id.
    weights : {"blocks", "float32"}
        For GGUF and safetensors: store weights as in the file, or widened to float32.
    prefer : {"speed", "exact"}
        For GGUF: allow forms of the weights with a small error where they measured faster, or exact ones only;
        `Bundle.forms` lists what was chosen.
    folder : Path, optional
        Where to write the bundle; by default the cache.

    Raises
    ------
    InvalidModel, UnsupportedModel
        If there is no such model, or it cannot be read.
    InvalidInput
        If a bundle is to be imported to a folder.
    StorageFailed
        If the disk is full or not writable.
    """
    path = Path(model)
    if not os.path.exists(path):  # Path.exists raises for a name that is too long
        if not looks_like_hub_id(str(model)):
            raise InvalidModel(
                f"there is no model at {model}", remedy="give a .gguf file, a model folder or a Hugging Face id"
            )
        path = fetch_from_hub(str(model), progress)
    if (path / BUNDLE_FILE).is_file():
        if folder is not None:
            raise InvalidInput(f"{path} is imported already", remedy="use it as it is, or copy the folder")
        return Bundle.load(path)
    if path.is_file() and path.suffix == ".onnx":
        raise UnsupportedModel(
            f"{path} is a single ONNX file", remedy="give its folder, with configuration and tokenizer"
        )
    if path.is_dir() and not is_model_folder(path):
        raise InvalidModel(
            f"{path} holds no language model",
            remedy="it needs ONNX or safetensors files beside genai_config.json, or config.json and tokenizer.json",
        )
    progress(0, 100, "reading")
    sha256 = _fingerprint(path)
    importer = f"{IMPORTER}-{weights}" + ("-exact" if prefer == "exact" else "")
    # Any name of a file may be too long for what is added, or none that engines can open.
    name = re.sub(r"[^\w.-]", "_", path.name if path.is_dir() else path.stem, flags=re.ASCII)[:100]
    target = folder or bundles_folder() / f"{name}-{sha256[:12]}-{importer}"
    present = _complete_bundle(target)
    if present is not None and (present.source_sha256, present.importer) == (sha256, importer):
        return present
    if folder is not None and present is not None:
        raise InvalidModel(f"{folder} holds the bundle of another model", remedy="choose another folder")
    kind = FolderKind("a bundle", _described_files if folder is not None else _cached_files)
    if folder is None:
        target = _writable(target, kind)
    else:
        check_folder(target, kind, [path])
    try:
        with atomic_folder(target, kind) as aside:
            _import(path, aside, target, _Forms(weights, prefer), progress, (sha256, importer))
    except StorageFailed:
        present = _complete_bundle(target)  # another process was faster
        if present is None or (present.source_sha256, present.importer) != (sha256, importer):
            raise
        return present
    return Bundle.load(target)


@dataclass(frozen=True)
class _Forms:
    """How weights are to be stored."""

    weights: WeightFormat
    prefer: Preference


def _writable(target: Path, kind: FolderKind) -> Path:
    """Return a folder of the cache; where that cannot be written, one that ends with this process."""
    try:
        check_folder(target, kind)
        return target
    except StorageFailed as error:
        not_cached("the imported model", error)
        folder = ScratchFolder("bundle")
        _temporary_folders.append(folder)
        return folder.path / target.name


def _import(path: Path, aside: Path, target: Path, forms: _Forms, progress: Progress, origin: tuple[str, str]) -> None:
    """Write the bundle of a model into an empty folder.

    Raises
    ------
    StorageFailed
        When the disk is full, or another process has imported the same model meanwhile: it may be in use.
    """
    sha256, importer = origin
    try:
        # Loaded only here: onnx-ir takes a third of a second, which a model in the cache need not wait for.
        if path.is_dir() and not has_graph(path):
            from .transformers_model import import_transformers

            bundle = import_transformers(path, aside, weights=forms.weights, prefer=forms.prefer, progress=progress)
        elif path.is_dir():
            from .folder_import import import_folder

            bundle = import_folder(path, aside, progress=progress)
        else:
            from .gguf_import import import_gguf

            bundle = import_gguf(path, aside, weights=forms.weights, prefer=forms.prefer, progress=progress)
        name, source = (os.fsencode(text).decode(errors="replace") for text in (bundle.name, bundle.source))
        replace(bundle, name=name, source=source, source_sha256=sha256, importer=importer).save(aside)
    except OSError as error:
        raise _storage_failed(target, error) from error
    if _complete_bundle(target) is not None:
        raise StorageFailed(f"{target} was written by another process", remedy="choose another folder")


def _complete_bundle(target: Path) -> Bundle | None:
    """Return the bundle in a folder; None if there is none, or a damaged one, which is then imported again."""
    try:
        return Bundle.load(target)
    except InvalidModel:
        return None


def _described_files(folder: Path) -> dict[str, str | None] | None:
    """Return the files of a bundle whose description can be read; what else it calls a graph is not believed."""
    try:
        read_description(folder)
    except InvalidModel:
        return None
    return _cached_files(folder)


def _cached_files(folder: Path) -> dict[str, str | None]:
    """Return the files that an import may have written; in the cache the description may be damaged."""
    names = [path.name for path in folder.iterdir() if _FILES.fullmatch(path.name)]
    return dict.fromkeys(names)


def _storage_failed(target: Path, error: OSError) -> TrisectError:
    if error.errno == errno.ENOSPC:
        remedy = f"free some space, or set TRISECT_BUNDLES to a folder on another disk than {target.parent}"
        return StorageFailed("the disk is full; the incomplete import was removed", remedy=remedy)
    return StorageFailed(f"cannot write {target}: {error.strerror or error}", remedy="choose another folder")


def _fingerprint(path: Path) -> str:
    """Return a SHA-256 that identifies a file or the files of a folder.

    Of a small file its content; of a large one its size, time, beginning and samples of the rest, so that gigabytes
    are not read whenever a model is opened; of a folder the names, sizes and times of its files.
    """
    digest = hashlib.sha256()
    try:
        if path.is_file():
            with open_regular(path) as file:
                stat = os.fstat(file.fileno())
                if stat.st_size <= _HASHED_MAX_BYTES:
                    return hashlib.file_digest(file, "sha256").hexdigest()
                digest.update(f"{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
                digest.update(file.read(_HEADER_BYTES))
                for index in range(_SAMPLES):
                    file.seek((stat.st_size - _SAMPLE_BYTES) * index // (_SAMPLES - 1))
                    digest.update(file.read(_SAMPLE_BYTES))
                return digest.hexdigest()
        folders = [folder for folder in (path, path / "onnx") if folder.is_dir()]
        for file_path in sorted(p for folder in folders for p in folder.iterdir() if p.is_file()):
            stat = file_path.stat()
            name = file_path.relative_to(path).as_posix()
            digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    except OSError as error:
        raise InvalidModel(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()
