"""Remembers where a split model came from.

A plan folder names its model by file name and hash only, so that it can be moved, shipped and compared; a path in it
could also point a reader at files it has no business with. `verify` needs the whole model, so this machine keeps, in
the user's cache, one small file per model hash with the path that was split.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import platformdirs

from trisect.runtime.errors import InvalidInput
from trisect.runtime.plans.plan import Plan


def remember(plan: Plan, model: Path) -> None:
    """Note where the model of a plan is. A cache that cannot be written is no reason to fail a split."""
    note = _note(plan.model_sha256)
    aside = note.with_name(f".{note.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(str(model.resolve()), encoding="utf-8")
        os.replace(aside, note)
    with contextlib.suppress(OSError):
        aside.unlink()


def find(plan: Plan) -> Path:
    """The model that a plan was made from.

    Raises
    ------
    InvalidInput
        When it was split on another machine, has moved, or has changed since.
    """
    remedy = f"give the model with --model PATH/{plan.model}"
    try:
        model = Path(_note(plan.model_sha256).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise InvalidInput(f"nobody here knows where {plan.model} is, which this plan splits", remedy=remedy) from None
    if not model.is_file():
        raise InvalidInput(f"{model}, which this plan splits, is gone", remedy=remedy)
    return model


def check(plan: Plan, model: Path) -> None:
    """Refuse a model that is not the one that a plan was made from.

    Raises
    ------
    InvalidInput
        When it cannot be read or has another hash.
    """
    try:
        with model.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidInput(f"cannot read the model {model}: {error.strerror}") from error
    if found != plan.model_sha256:
        raise InvalidInput(f"{model} is not the model that this plan splits", remedy="split it again")


def _note(sha256: str) -> Path:
    # The hash comes out of a plan that anybody may have written: hashed once more it is a harmless file name.
    name = hashlib.sha256(sha256.encode()).hexdigest()
    return platformdirs.user_cache_path("trisect") / "origins" / name
