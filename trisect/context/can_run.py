"""Whether this machine can run a model, asked before it is downloaded: per device, with memory, speed and certainty."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path

import msgspec

from trisect.profiles.stored.profile_data import Profile
from trisect.runtime.device import Device
from trisect.runtime.errors import InvalidInput, StorageFailed, TrisectError
from trisect.runtime.progress import Progress, no_progress

from .. import api
from .history import History, told_shapes
from .model_support import RANK, Answer, judge
from .sources import Source, describe


def can_run(
    source: Source,
    devices: str | Iterable[str] = "auto",
    *,
    machine: str | None = None,
    shapes: Mapping[str, int] | None = None,
    history: History | None = None,
    progress: Progress = no_progress,
) -> Answer:
    """Say whether, where and how fast a model would run, from what is there of it.

    Parameters
    ----------
    source : path, str or mapping
        An ONNX file with or without weights; a language model's folder, ``config.json`` or GGUF header; a TFLite file;
        or what a hub tells: ``{"name": ..., "files": [...], "tags": [...], "config": {...}}``.
    devices : str or iterable of str
        As for `trisect.devices`; ``"auto"`` for hardware.
    machine : str, optional
        A published machine instead of this one.
    shapes : mapping of str to int, optional
        Sizes of an ONNX graph's symbolic dimensions; those not given are taken as 1, and the answer says so.
    history : History, optional
        Where answers and runs are remembered; the user's own when left out.
    progress : callable, optional

    Returns
    -------
    Answer

    Raises
    ------
    InvalidInput, InvalidModel, UnsupportedModel
        Where there is nothing to judge, or it is damaged.
    """
    there, profile = tuple(api.usable_devices(devices, machine=machine)), api.known_profile(machine)
    history = history or History()
    question = _question(source, there, profile, shapes)
    earlier = history.answered(question) if question else None
    answer = _read(earlier)
    if answer is not None:
        answer = _with_run(replace(answer, from_history=True), history, _key_of(earlier), shapes)
    else:
        description = describe(source)
        answer = judge(description, there, profile, dict(shapes or {}), progress)
        if question:
            kept = msgspec.json.encode({"answer": answer, "key": description.key}).decode()
            with contextlib.suppress(StorageFailed):  # a full disk is no reason not to answer
                history.answer(question, kept)
        answer = _with_run(answer, history, description.key, shapes)
    if history.moved is None:
        return answer
    return replace(
        answer, notes=(*answer.notes, f"the history was damaged: it is now {history.moved}, a new one is begun")
    )


def best_of(
    candidates: Sequence[Source], devices: str | Iterable[str] = "auto", *, machine: str | None = None
) -> tuple[int, list[Answer | TrisectError]]:
    """Which of several models, or of several forms of one, to take.

    The one that runs on the most wanted terms: wholly before partly, then the quicker, then the smaller.

    Returns
    -------
    index : int
        Of the best candidate.
    answers : list
        One for each; an error where it could not be judged.

    Raises
    ------
    InvalidInput
        Where none can run.
    """
    answers: list[Answer | TrisectError] = []
    for candidate in candidates:
        try:
            answers.append(can_run(candidate, devices, machine=machine))
        except TrisectError as error:
            answers.append(error)
    able = [(i, a) for i, a in enumerate(answers) if isinstance(a, Answer) and a.ability != "no"]
    if not able:
        raise InvalidInput("none of the candidates runs here", remedy="ask can_run about each for its reasons")
    return min(able, key=lambda pair: _worth(pair[1]))[0], answers


def _worth(answer: Answer) -> tuple[float, ...]:
    best = answer.devices.get(answer.best_device or "")
    time_s = answer.measured_latency_s
    if time_s is None and best is not None:
        time_s = best.latency_s if best.decode_tok_s is None else 1 / best.decode_tok_s
    size = answer.memory_bytes
    return (-RANK[answer.ability], inf if time_s is None else time_s, inf if size is None else float(size))


def _question(
    source: Source, devices: Sequence[Device], profile: Profile, shapes: Mapping[str, int] | None
) -> str | None:
    """The same for the same file, devices, versions and measurements; None for what is cheap to ask again."""
    if isinstance(source, Mapping) or not Path(source).is_file():
        return None
    file = Path(source)
    found = file.stat()
    told = [
        *("can_run 1", str(file.resolve()), str(found.st_size), str(found.st_mtime_ns), told_shapes(shapes)),
        *(f"{d.id} {d.name} {d.engine_version} {d.memory_bytes}" for d in devices),
        profile.provenance.date,
        str(sum(len(device.points) for device in profile.devices.values())),
    ]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


class _Kept(msgspec.Struct):
    answer: Answer
    key: str


def _read(text: str | None) -> Answer | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=_Kept).answer
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # of an older trisect: ask again


def _key_of(text: str | None) -> str:
    return msgspec.json.decode(text, type=_Kept).key if text else ""


def _with_run(answer: Answer, history: History, key: str, shapes: Mapping[str, int] | None) -> Answer:
    """The answer with what happened when this very model ran here."""
    run = history.best_run(key, told_shapes(shapes)) if key else None
    if run is None or not set(run.devices) <= set(answer.devices):
        return answer
    return replace(
        answer,
        confidence="measured",
        from_history=True,
        measured_latency_s=run.latency_s,
        measured_devices=run.devices,
        notes=(*answer.notes, f"it ran here on {run.at[:10]} on {', '.join(run.devices)}"),
    )
