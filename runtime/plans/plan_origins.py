"""Records the path of the model that a plan was made from.

A plan folder names its model by file name and hash only, so that it can be moved, shipped and compared; a path in it
could also refer to unrelated files of another user. `verify` needs the whole model, so the user's cache has one small
file per model hash with the path of the model.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import platformdirs

from ..atomic_write import write_atomically
from ..errors import InvalidInput, StorageFailed
from ..tensors.external_data import model_files
from ..untrusted_files import open_regular, read_bytes
from .plan import Plan

_PATH_LIMIT_BYTES = 1 << 16

log = logging.getLogger(__name__)


def record(plan: Plan, model: Path) -> None:
    """Record the path of a plan's model; a cache that cannot be written does not fail a split."""
    try:
        write_atomically(_note(plan.model_sha256), os.fsencode(model.resolve()))
    except StorageFailed as error:
        log.info("`trisect verify` will need --model: %s", error)


def find_model(plan: Plan) -> Path:
    """Return the path of the model that a plan was made from.

    Raises
    ------
    InvalidInput
        When it was split on another machine, or has moved since.
    """
    remedy = f"give the model with --model PATH/{plan.model}"
    try:
        model = Path(os.fsdecode(read_bytes(_note(plan.model_sha256), _PATH_LIMIT_BYTES)))
    except OSError:
        raise InvalidInput(
            f"the model {plan.model} of this plan was not split on this machine", remedy=remedy
        ) from None
    if not model.is_file():
        raise InvalidInput(f"{model}, the model of this plan, does not exist any more", remedy=remedy)
    return model


def files_of_model(plan: Plan, model: Path | None = None) -> list[Path]:
    """Return the files of a plan's model, which no result may replace; none where its path is not known.

    Parameters
    ----------
    model : Path, optional
        Its path, where it is not the recorded one.
    """
    try:
        return model_files(model or find_model(plan))
    except InvalidInput:
        return []


def check_model(plan: Plan, model: Path) -> None:
    """Refuse a model that is not the one that a plan was made from.

    Raises
    ------
    InvalidInput
        When it cannot be read or has another hash.
    """
    try:
        with open_regular(model) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidInput(f"cannot read the model {model}: {error.strerror}") from error
    if sha256 != plan.model_sha256:
        raise InvalidInput(f"{model} is not the model of this plan: it has another hash", remedy="split it again")


def _note(sha256: str) -> Path:
    # The hash comes from an untrusted plan: hashed again, it is a safe file name.
    name = hashlib.sha256(sha256.encode()).hexdigest()
    return platformdirs.user_cache_path("trisect") / "origins" / name
