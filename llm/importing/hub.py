"""Downloads a language model from the Hugging Face hub: only the files that an import reads.

A downloaded model is used again without a connection. Every request has a time limit.
"""

from __future__ import annotations

import errno
import io
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from trisect.runtime.errors import InvalidModel, StorageFailed, TrisectError, UnsupportedModel, one_line
from trisect.runtime.progress import Progress

from .folder_config import CONFIG_FILE, GENAI_FILE, choose_gguf, choose_graph, is_model_folder, weight_files
from .transformers_config import read_transformers_config

_TIMEOUT_S = 10.0
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_FILE_SUFFIXES = (".gguf", ".onnx", ".json", ".safetensors", ".bin")
_WEIGHTS_SUFFIX = ".safetensors"
_CONFIG_FILES = re.compile(r"(config|generation_config|tokenizer|tokenizer_config)\.json|[\w-]+\.jinja", re.ASCII)


def looks_like_hub_id(text: str) -> bool:
    """Return whether a text can be the id of a repository on the hub, ``owner/name``.

    Examples
    --------
    >>> looks_like_hub_id("onnx-community/Qwen3-0.6B-ONNX")
    True
    >>> looks_like_hub_id("./models/qwen"), looks_like_hub_id("models/qwen.gguf"), looks_like_hub_id("qwen")
    (False, False, False)
    """
    is_id = _ID.fullmatch(text) is not None and ".." not in text and "--" not in text
    return is_id and len(text) <= 96 and not text.lower().endswith(_FILE_SUFFIXES)


def fetch_from_hub(model: str, progress: Progress) -> Path:
    """Return the folder of a model of the hub, downloaded if it was not before.

    Parameters
    ----------
    model : str
        ``owner/name``.

    Raises
    ------
    InvalidModel
        If there is no such repository, or no access to it, or no connection and it was not downloaded before.
    UnsupportedModel
        If none of its files can be imported.
    StorageFailed
        If the disk is full.
    """
    import huggingface_hub  # importing it takes 0.2 s
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # documented, but not marked as exported

    progress(0, 100, f"looking up {model} on the hub")
    try:
        info = huggingface_hub.HfApi().model_info(model, timeout=_TIMEOUT_S)
        folder, files = choose_files(model, [file.rfilename for file in info.siblings or []])
        if any(file.endswith(_WEIGHTS_SUFFIX) for file in files):
            # Gigabytes follow, which need not come for a model that is refused by its configuration.
            config = huggingface_hub.hf_hub_download(model, CONFIG_FILE, etag_timeout=_TIMEOUT_S)
            read_transformers_config(Path(config).parent)
        snapshot = huggingface_hub.snapshot_download(
            model,
            allow_patterns=files,
            etag_timeout=_TIMEOUT_S,
            tqdm_class=_progress_bar(tqdm, progress),
        )
    except TrisectError:
        raise
    except GatedRepoError as error:
        raise InvalidModel(
            f"{model} is restricted to users who accepted its terms",
            remedy=f"accept them at huggingface.co/{model} and set HF_TOKEN",
        ) from error
    except RepositoryNotFoundError as error:
        raise InvalidModel(
            f"there is neither a path {model} nor a model of that name on the hub",
            remedy="check the name; for a private model set HF_TOKEN",
        ) from error
    except (
        Exception
    ) as error:  # the exceptions of a failed connection differ between versions; reported by the error raised
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise StorageFailed(f"the disk is full while downloading {model}", remedy="free some space") from error
        return _downloaded_before(model, error)
    progress(100, 100, f"downloaded {model}")
    return Path(snapshot, folder)


def choose_files(model: str, files: Sequence[str]) -> tuple[str, list[str]]:
    """Return the folder of a repository that holds the model, and the files that an import reads.

    Parameters
    ----------
    model : str
        Id of the repository, for messages.
    files : sequence of str
        Paths of all its files, separated by ``/``.

    Raises
    ------
    UnsupportedModel
        If none of them is a model that trisect imports.

    Examples
    --------
    >>> files = ["README.md", "config.json", "tokenizer.json", "onnx/model.onnx", "onnx/model.onnx_data"]
    >>> choose_files("a/b", files + ["onnx/model_q4.onnx"])
    ('', ['config.json', 'onnx/model.onnx', 'onnx/model.onnx_data', 'tokenizer.json'])
    """
    built = [path.parent for path in map(PurePosixPath, files) if path.name == GENAI_FILE]
    if built:
        # There may be builds for several devices; the CPU's has operators that all engines support.
        folder = min(built, key=lambda path: ("cpu" not in str(path).lower(), str(path)))
        return str(folder), sorted(file for file in files if PurePosixPath(file).parent == folder)
    graph = choose_graph(file for file in files if PurePosixPath(file).parent in map(PurePosixPath, ("", "onnx")))
    if graph is not None and "config.json" in files:
        wanted = [f for f in files if f == graph or f.startswith((f"{graph}_data", f"{graph}.data"))]
        return "", sorted([*wanted, *(file for file in files if _CONFIG_FILES.fullmatch(file))])
    weights = weight_files(files)
    if weights and "config.json" in files and "tokenizer.json" in files:
        return "", sorted([*weights, *(file for file in files if _CONFIG_FILES.fullmatch(file))])
    if (file := choose_gguf(files)) is not None:
        raise UnsupportedModel(
            f"{model} holds several GGUF files, of which one has to be chosen",
            remedy=f"download one (hf download {model} {file}) and give its path",
        )
    raise UnsupportedModel(
        f"{model} holds no ONNX decoder, and no safetensors beside config.json and tokenizer.json",
        remedy="export it with optimum, or look for it among onnx-community's models",
    )


def _downloaded_before(model: str, reason: Exception) -> Path:
    """Return the folder of a model in the hub's cache, when the hub cannot be reached."""
    import huggingface_hub

    try:
        # No patterns: with the default, files that were never downloaded would make the cache count as incomplete.
        cached = Path(huggingface_hub.snapshot_download(model, local_files_only=True, allow_patterns=[]))
    except (OSError, ValueError):
        raise _not_reached(model, reason) from reason
    # Only the files that an import reads were downloaded: the folder lists them.
    files = [path.relative_to(cached).as_posix() for path in cached.rglob("*") if path.is_file()]
    try:
        folder = cached / choose_files(model, files)[0]
    except UnsupportedModel:
        raise _not_reached(model, reason) from reason
    if not is_model_folder(folder):
        raise _not_reached(model, reason) from reason
    return folder


def _not_reached(model: str, error: Exception) -> InvalidModel:
    return InvalidModel(
        f"{model} was not downloaded before, and the hub cannot be reached ({one_line(error, 120, with_kind=False)})",
        remedy="check the name and the connection, or give a folder",
    )


class _DiscardedOutput(io.TextIOBase):
    """Discards what a progress bar draws."""

    def write(self, text: str) -> int:
        return len(text)


def _progress_bar(bar: type[Any], progress: Progress) -> type[Any]:
    """Return a subclass of the hub's progress bar that reports to `progress` instead of drawing."""

    class ReportingBar(bar):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **{**settings, "file": _DiscardedOutput(), "disable": False})

        def update(self, n: float | None = 1) -> bool | None:
            drawn: bool | None = super().update(n)
            if self.unit == "B" and self.total:
                progress(min(self.n, self.total), self.total, "downloading")
            return drawn

    return ReportingBar
