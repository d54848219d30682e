"""Fetches a language model from the Hugging Face hub: of a repository's many files, the few that an import reads.

What was fetched once is found again without a connection. Nothing here waits for ever: every request has a time limit.
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

from .folder_config import GENAI_FILE, choose_graph, is_model_folder

_TIMEOUT_S = 10.0
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_FILE_SUFFIXES = (".gguf", ".onnx", ".json", ".safetensors", ".bin")
_TEXTS = re.compile(r"(config|generation_config|tokenizer|tokenizer_config)\.json|[\w-]+\.jinja", re.ASCII)
_GGUF_PREFERRED = ("Q8_0", "Q4_0", "Q4_1", "F16", "BF16", "F32")


def looks_like_hub_id(text: str) -> bool:
    """Whether a text can be the id of a repository on the hub, ``owner/name``.

    Examples
    --------
    >>> looks_like_hub_id("onnx-community/Qwen3-0.6B-ONNX")
    True
    >>> looks_like_hub_id("./models/qwen"), looks_like_hub_id("models/qwen.gguf"), looks_like_hub_id("qwen")
    (False, False, False)
    """
    plain = _ID.fullmatch(text) is not None and ".." not in text and "--" not in text
    return plain and len(text) <= 96 and not text.lower().endswith(_FILE_SUFFIXES)


def fetch_from_hub(model: str, progress: Progress) -> Path:
    """The folder of a model of the hub, fetched where it was not before.

    Parameters
    ----------
    model : str
        ``owner/name``.
    progress : callable
        Called with the steps done, all steps, and what is being done.

    Raises
    ------
    InvalidModel
        Where there is no such repository, it may not be read, or it cannot be reached and was not fetched before.
    UnsupportedModel
        Where none of its files can be imported.
    StorageFailed
        Where the disk is full.
    """
    import huggingface_hub  # takes a fifth of a second, which only those who fetch should pay
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # documented, but not marked as exported

    progress(0, 1, f"asking the hub for {model}")
    try:
        info = huggingface_hub.HfApi().model_info(model, timeout=_TIMEOUT_S)
        folder, files = choose_files(model, [file.rfilename for file in info.siblings or []])
        fetched = huggingface_hub.snapshot_download(
            model,
            allow_patterns=files,
            etag_timeout=_TIMEOUT_S,
            tqdm_class=_teller(tqdm, progress),
        )
    except TrisectError:
        raise
    except GatedRepoError as error:
        raise InvalidModel(
            f"{model} is only for those who accepted its terms",
            remedy=f"accept them at huggingface.co/{model} and set HF_TOKEN",
        ) from error
    except RepositoryNotFoundError as error:
        raise InvalidModel(
            f"there is neither a path {model} nor a model of that name on the hub",
            remedy="check the name; for a private model set HF_TOKEN",
        ) from error
    except Exception as error:  # what a connection can fail with differs from version to version
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise StorageFailed(f"the disk is full while fetching {model}", remedy="free some space") from error
        return _fetched_before(model, error)
    progress(1, 1, f"fetched {model}")
    return Path(fetched, folder)


def choose_files(model: str, files: Sequence[str]) -> tuple[str, list[str]]:
    """Of a repository's files those that an import reads, and the folder among them that is the model.

    Parameters
    ----------
    model : str
        The repository, for messages.
    files : sequence of str
        Paths of all its files, with ``/``.

    Raises
    ------
    UnsupportedModel
        Where there is no model for trisect among them.

    Examples
    --------
    >>> files = ["README.md", "config.json", "tokenizer.json", "onnx/model.onnx", "onnx/model.onnx_data"]
    >>> choose_files("a/b", files + ["onnx/model_q4.onnx"])
    ('', ['config.json', 'onnx/model.onnx', 'onnx/model.onnx_data', 'tokenizer.json'])
    """
    built = [path.parent for path in map(PurePosixPath, files) if path.name == GENAI_FILE]
    if built:
        # Builds for several devices stand side by side; the one for the CPU has operators that all of them know.
        folder = min(built, key=lambda path: ("cpu" not in str(path).lower(), str(path)))
        return str(folder), sorted(file for file in files if PurePosixPath(file).parent == folder)
    graph = choose_graph(file for file in files if PurePosixPath(file).parent in map(PurePosixPath, ("", "onnx")))
    if graph is not None and "config.json" in files:
        wanted = [f for f in files if f == graph or f.startswith((f"{graph}_data", f"{graph}.data"))]
        return "", sorted([*wanted, *(file for file in files if _TEXTS.fullmatch(file))])
    if gguf := [file for file in files if file.lower().endswith(".gguf")]:
        named = [file for kind in _GGUF_PREFERRED for file in sorted(gguf) if f"{kind}.GGUF" in file.upper()]
        file = (named or sorted(gguf))[0]
        raise UnsupportedModel(
            f"{model} holds GGUF files, of which one has to be chosen",
            remedy=f"fetch one (hf download {model} {file}) and give its path",
        )
    raise UnsupportedModel(
        f"{model} holds no ONNX decoder", remedy="export it with optimum, or look for it among onnx-community's models"
    )


def _fetched_before(model: str, reason: Exception) -> Path:
    """The folder of a model in the hub's cache, when the hub cannot be reached."""
    import huggingface_hub

    try:
        # No patterns: the cache would miss the files that were never wanted, and say that it is incomplete.
        cached = Path(huggingface_hub.snapshot_download(model, local_files_only=True, allow_patterns=[]))
    except Exception:
        raise _not_reached(model, reason) from reason
    # Of a snapshot only what an import reads was fetched: listing the folder says what that was.
    files = [path.relative_to(cached).as_posix() for path in cached.rglob("*") if path.is_file()]
    try:
        found = cached / choose_files(model, files)[0]
    except UnsupportedModel:
        raise _not_reached(model, reason) from reason
    if not is_model_folder(found):
        raise _not_reached(model, reason) from reason
    return found


def _not_reached(model: str, error: Exception) -> InvalidModel:
    text = one_line(error, 120, with_kind=False)
    return InvalidModel(
        f"{model} was not fetched before, and the hub cannot be reached ({text})",
        remedy="check the name and the connection, or give a folder",
    )


class _Silence(io.TextIOBase):
    """Takes what a progress bar draws."""

    def write(self, text: str) -> int:
        return len(text)


def _teller(bar: type[Any], progress: Progress) -> type[Any]:
    """The hub's kind of progress bar, which tells `progress` instead of drawing itself."""

    class Teller(bar):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **{**settings, "file": _Silence(), "disable": False})

        def update(self, n: float | None = 1) -> bool | None:
            shown: bool | None = super().update(n)
            if self.unit == "B" and self.total:
                progress(min(self.n, self.total), self.total, "fetching")
            return shown

    return Teller
