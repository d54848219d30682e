"""Answers whether this machine can run a model before it is downloaded: where, in how much memory, and how fast."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path

import msgspec

from trisect import api
from trisect.profiles.stored.profile_data import Profile
from trisect.runtime.device import Device
from trisect.runtime.errors import InvalidInput, StorageFailed, TrisectError
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.untrusted_files import MalformedFile, decode_json

from .history import History, shapes_key
from .model_support import ABILITY_RANK, CONTEXT_TOKENS, ModelSupport, assess_model
from .sources import describe_model
from .sources.model_description import Source

log = logging.getLogger(__name__)


def can_run(
    source: Source,
    devices: str | Iterable[str] = "auto",
    *,
    machine: str | None = None,
    shapes: Mapping[str, int] | None = None,
    context_tokens: int = CONTEXT_TOKENS,
    history: History | None = None,
    progress: Progress | None = None,
) -> ModelSupport:
    """Return whether, where and how fast a model would run, from the files or metadata that are available.

    Parameters
    ----------
    source : path, str or mapping
        An ONNX file with or without weights; a language model's folder, ``config.json`` or GGUF header; a TFLite file;
        or a hub's metadata: ``{"name": ..., "files": [...], "tags": [...], "config": {...}}``.
    devices : str or iterable of str
        As for `trisect.devices`; ``"auto"`` for all hardware.
    machine : str, optional
        A machine from the built-in database, instead of this one.
    shapes : mapping of str to int, optional
        Sizes of an ONNX graph's symbolic dimensions; the others are assumed to be 1, with a note.
    context_tokens : int
        Tokens of prompt and answer that a language model is to hold in memory.
    history : History, optional
        Where answers and runs are recorded; default: the user's own.
    progress : callable, optional

    Raises
    ------
    InvalidInput, InvalidModel, UnsupportedModel
        Where there is nothing to assess, or it is damaged.
    """
    if context_tokens < 1:
        raise InvalidInput(f"context_tokens is {context_tokens}", remedy="ask for 1 or more")
    available, profile = tuple(api.usable_devices(devices, machine=machine)), api.known_profile(machine)
    history = history or History()
    question = _question(source, available, profile, {**(shapes or {}), "context": context_tokens})
    try:
        recorded = _read(history.answer_to(question)) if question else None
    except StorageFailed as error:  # a history is no reason to fail
        log.warning("no earlier answers: %s", error)
        recorded = question = None
    if recorded is not None:
        answer = _with_run(replace(recorded.answer, from_history=True), history, recorded.key, shapes)
    else:
        description = describe_model(source)
        progress = progress or no_progress
        answer = assess_model(description, available, profile, dict(shapes or {}), progress, context_tokens)
        if question:
            text = msgspec.json.encode(_RecordedAnswer(answer, description.key)).decode()
            try:
                history.record_answer(question, text)
            except StorageFailed as error:  # an answer must not fail because the disk is full
                log.warning("the answer is not recorded: %s", error)
        answer = _with_run(answer, history, description.key, shapes)
    if history.moved is None:
        return answer
    note = f"the history was damaged: moved to {history.moved}, and a new one was started"
    return replace(answer, notes=(*answer.notes, note))


def best_of(
    candidates: Sequence[Source],
    devices: str | Iterable[str] = "auto",
    *,
    machine: str | None = None,
    context_tokens: int = CONTEXT_TOKENS,
) -> tuple[int, list[ModelSupport | TrisectError]]:
    """Select the best of several models, or of several forms of one: by ability, then latency, then size.

    Returns
    -------
    index : int
        Of the best candidate.
    answers : list
        One for each candidate; an error where it could not be assessed.

    Raises
    ------
    InvalidInput
        Where none can run.
    """
    answers: list[ModelSupport | TrisectError] = []
    for candidate in candidates:
        try:
            answers.append(can_run(candidate, devices, machine=machine, context_tokens=context_tokens))
        except TrisectError as error:
            answers.append(error)
    able = [(i, a) for i, a in enumerate(answers) if isinstance(a, ModelSupport) and a.ability != "no"]
    if not able:
        raise InvalidInput("none of the candidates can run here", remedy="run can_run on each one for the reasons")
    return min(able, key=lambda pair: _preference(pair[1]))[0], answers


def _preference(answer: ModelSupport) -> tuple[float, ...]:
    """Return a key that sorts answers, the best one first."""
    best = answer.devices.get(answer.best_device or "")
    time_s = answer.measured_latency_s
    if time_s is None and best is not None:
        time_s = best.latency_s if best.decode_tok_s is None else 1 / best.decode_tok_s
    size = answer.memory_bytes
    return (-ABILITY_RANK[answer.ability], inf if time_s is None else time_s, inf if size is None else float(size))


def _question(
    source: Source, devices: Sequence[Device], profile: Profile, shapes: Mapping[str, int] | None
) -> str | None:
    """Return a hash of a file and of everything its answer depends on; None for a source that is cheap to assess."""
    if isinstance(source, Mapping) or not Path(source).is_file():
        return None
    file = Path(source)
    status = file.stat()
    parts = [
        *("can_run 2", str(file.resolve()), str(status.st_size), str(status.st_mtime_ns), shapes_key(shapes)),
        *(f"{d.id} {d.name} {d.engine_version} {d.memory_bytes}" for d in devices),
        profile.provenance.date,
        str(sum(len(device.points) for device in profile.devices.values())),
    ]
    return hashlib.sha256(os.fsencode("\n".join(parts))).hexdigest()


class _RecordedAnswer(msgspec.Struct):
    answer: ModelSupport
    key: str


def _read(text: str | None) -> _RecordedAnswer | None:
    if text is None:
        return None
    try:
        return decode_json(text, _RecordedAnswer)
    except MalformedFile:
        return None  # recorded by another version: assess the model again


def _with_run(answer: ModelSupport, history: History, key: str, shapes: Mapping[str, int] | None) -> ModelSupport:
    """Add the fastest recorded run of the same model on the same machine to an answer."""
    try:
        run = history.fastest_run(key, shapes_key(shapes)) if key else None
    except StorageFailed:  # reported when its answers were read
        run = None
    if run is None or not set(run.devices) <= set(answer.devices):
        return answer
    return replace(
        answer,
        confidence="measured",
        from_history=True,
        measured_latency_s=run.latency_s,
        measured_devices=run.devices,
        notes=(*answer.notes, f"measured on {run.at[:10]} on {', '.join(run.devices)}"),
    )
