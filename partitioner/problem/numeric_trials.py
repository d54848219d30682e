"""Whether a device computes a piece as ONNX means it: a trial run beside ONNX's reference implementation.

A device may compile an operator and compute another: ignore an attribute that it does not know, narrow float64 to
float32, make nothing of an infinity. A compile does not show that; a run on made-up values does, most of the time.
Such values can also bring an engine down, so trials run in a process of their own.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec
import numpy as np

from trisect.runtime.device import Device
from trisect.runtime.engines import load
from trisect.runtime.engines.base import LoadOptions, Module
from trisect.runtime.errors import EngineFailed, TrisectError
from trisect.runtime.tensors.containers import unpack
from trisect.runtime.tensors.synthetic_feeds import draw
from trisect.runtime.tensors.tensor_spec import UNKNOWN_RANK, TensorSpec
from trisect.runtime.tensors.value_difference import compare

UNTRIED = "no trial could be made: ONNX's reference has no answer to made-up values"
OFF = "is off by"
"""What is said of an answer that was given and is wrong."""
RELATIVE, ABSOLUTE = 1e-3, 1e-7
"""How far off an answer may be: what ONNX's own conformance tests allow."""
_BFLOAT16_RELATIVE = 2.0**-6
_DRAWS = (0, 0, 0, 0, 0, 1, 1, 2, 2)
"""How wild the values of each trial run are; see `draw`."""
_MOST_BYTES = 1 << 20
_PATIENCE_S = 60.0


class _Question(msgspec.Struct):
    model: str
    device: Device
    reference: Device


class Trials:
    """A process that tries pieces; it ends with this one, and one that an engine brought down is replaced."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def wrong_answer(self, model: Path, device: Device, reference: Device) -> str:
        """What is wrong with a device's answers; empty where nothing is, `UNTRIED` where nobody can tell.

        Parameters
        ----------
        model : Path
            An ONNX file, small: the reference is slow.
        device, reference : Device

        Raises
        ------
        EngineFailed
            Where no such process can be started.
        """
        question = msgspec.json.encode(_Question(str(model), device, reference)) + b"\n"
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            timer = threading.Timer(_PATIENCE_S, process.kill)
            timer.start()
            try:
                process.stdin.write(question)
                process.stdin.flush()
                answer = process.stdout.readline()
            except BrokenPipeError:
                answer = b""
            finally:
                is_late = not timer.is_alive()
                timer.cancel()
            if answer:
                return str(msgspec.json.decode(answer, type=str))
            process.kill()
            process.wait()
            self._process = None
            return f"made no answer in {_PATIENCE_S:g} s" if is_late else f"died (exit code {process.returncode})"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-c", f"from {__name__} import answer_questions; answer_questions()"]
            try:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )
            except OSError as error:
                raise EngineFailed(f"no process can be started for trials: {error.strerror or error}") from error
        return self._process


@cache
def trials() -> Trials:
    """The one process for trials; it is started when something is tried."""
    return Trials()


def answer_questions() -> None:
    """Answer what stands on standard input, a line each, until it ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # engines greet on standard output
    for line in sys.stdin.buffer:
        question = msgspec.json.decode(line, type=_Question)
        answers.write(msgspec.json.encode(wrong_answer(Path(question.model), question.device, question.reference)))
        answers.write(b"\n")
        answers.flush()


def wrong_answer(model: Path, device: Device, reference: Device) -> str:
    """As `Trials.wrong_answer`, in this process."""
    with contextlib.ExitStack() as opened:
        try:
            judge = opened.enter_context(contextlib.closing(load(model, reference)))
        except TrisectError:
            return UNTRIED
        try:
            module = opened.enter_context(contextlib.closing(load(model, device, LoadOptions(threads=1))))
        except TrisectError as error:
            return error.message
        seed = zlib.crc32(model.read_bytes())
        answers = []
        for draw_number, wildness in enumerate(_DRAWS):
            rng = np.random.default_rng((seed, draw_number))
            feeds = {s.name: draw(s.dtype, _sizes(s), rng, wildness=wildness) for s in judge.inputs}
            answers.append(_judged(module, judge, feeds))
    found = [why for why in answers if why not in ("", UNTRIED)]
    return found[0] if found else min(answers)


def _sizes(spec: TensorSpec) -> tuple[int, ...]:
    return (2, 3) if spec.shape == UNKNOWN_RANK else tuple(dim if isinstance(dim, int) else 2 for dim in spec.shape)


def _judged(module: Module, judge: Module, feeds: Mapping[str, np.ndarray]) -> str:
    try:
        wanted = judge.run(feeds)
    except TrisectError:
        return UNTRIED
    if sum(array.nbytes for array in wanted.values()) > _MOST_BYTES:
        return UNTRIED
    try:
        got = module.run(feeds)
    except TrisectError as error:
        return error.message
    for spec in judge.outputs:
        relative = _BFLOAT16_RELATIVE if "bfloat16" in spec.dtype else RELATIVE
        one, other = (unpack(spec.dtype, values[spec.name]) for values in (got, wanted))
        found = compare(one, other, absolute=ABSOLUTE, relative=relative)
        if found.worst > 1:
            return f"{spec.name!r} {OFF} {found.max_abs:.2g} from what ONNX's reference gives"
    return ""
