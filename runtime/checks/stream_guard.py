"""Compares some items of a stream with the whole model, in a thread beside the stream.

A device may compute right for hours and then no longer: a driver with a fault, memory that flips, inputs that nothing
was tested with. The reference runs on one core, on copies of the items, so that the stream is hardly slowed; where it
falls behind by more than one item, the stream waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Queue

import numpy as np

from ..engines import find_devices
from ..engines.base import Module
from ..errors import EngineFailed, InvalidModel, TrisectError, UnsupportedModel
from ..plans import plan_origins
from ..plans.plan import Plan
from ..plans.plan_parts import Segment
from ..tensors.containers import deep_copy
from ..tensors.tensor_spec import Arrays
from .sensitivity import sensitive_outputs
from .tensor_checks import TensorCheck, Verification, compare_tensors
from .tolerances import Tolerance, default_tolerance
from .whole_model import REFERENCES, WholeModel, boundary_of, load_whole, random_operator, run_whole

_WAITING_MAX = 1

RunSplit = Callable[[Plan, Arrays], dict[str, np.ndarray]]
"""Runs a plan on feeds, in a session of its own."""


@dataclass(frozen=True)
class GuardOptions:
    """How a stream is compared with the whole model."""

    every: int
    """Every how many items one is compared; the first item always is."""
    model: str | Path | None = None
    """The whole model; where None, the file that was split on this machine."""
    tolerance: float | None = None
    """As for `trisect.runtime.verification.verify`."""


class StreamGuard:
    """The whole model on a reference device, and a thread that compares items with it.

    Parameters
    ----------
    plan : Plan
        What the stream runs.
    options : GuardOptions
    run_split : callable
        Runs the plan again, to find the segment where a difference begins.

    Raises
    ------
    InvalidInput
        For a model that is not found, or not the one that was split.
    InvalidModel, UnsupportedModel
        For a model that cannot be read, or that draws random numbers.
    EngineFailed
        Where no reference device can load it.
    """

    def __init__(self, plan: Plan, options: GuardOptions, run_split: RunSplit) -> None:
        model_path = Path(options.model) if options.model is not None else plan_origins.find_model(plan)
        plan_origins.check_model(plan, model_path)
        self._plan = plan
        self._every = options.every
        self._run_split = run_split
        self._model = WholeModel.read(model_path)
        missing = {spec.name for spec in plan.outputs} - {value.name for value in self._model.proto.graph.output}
        if missing:
            raise InvalidModel(
                f"{model_path.name} has no output {min(missing)!r}", remedy="give the model that was split"
            )
        random = random_operator(self._model.proto)
        if random is not None:
            raise UnsupportedModel(
                f"{model_path.name} cannot be guarded: {random} gives other numbers in each run",
                remedy="open the session without guard_every",
            )
        self._tolerance = (
            default_tolerance(self._model.proto, devices=plan.used_devices)
            if options.tolerance is None
            else Tolerance(options.tolerance)
        )
        self._module = self._load()
        self._error: TrisectError | None = None
        self._items: Queue[tuple[int, dict[str, np.ndarray], dict[str, np.ndarray]] | None] = Queue(_WAITING_MAX)
        self._thread = threading.Thread(target=self._work, name="trisect guard", daemon=True)
        self._thread.start()

    def check(self, number: int, feeds: Arrays, outputs: Arrays) -> None:
        """Have an item of a stream compared, if it is its turn; the arrays are copied.

        Raises
        ------
        EngineFailed
            Where an earlier item was wrong.
        """
        self._raise_error()
        if number % self._every == 0:
            copies = [{name: deep_copy(array) for name, array in arrays.items()} for arrays in (feeds, outputs)]
            self._items.put((number, copies[0], copies[1]))

    def finish(self) -> None:
        """Wait until all items are compared.

        Raises
        ------
        EngineFailed
            Where one was wrong.
        """
        self._items.join()
        self._raise_error()

    def close(self) -> None:
        """End the thread and free the model; a second call does nothing."""
        if self._thread.is_alive():
            self._items.put(None)
            self._thread.join()
            self._module.close()

    def _load(self) -> Module:
        devices = find_devices(REFERENCES)
        for device in devices:
            try:
                return load_whole(self._model, device, threads=1)
            except (EngineFailed, UnsupportedModel):
                if device is devices[-1]:
                    raise
        raise AssertionError("no device to run the whole model on")

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _work(self) -> None:
        while (item := self._items.get()) is not None:
            try:
                if self._error is None:
                    self._compare(*item)
            except TrisectError as error:
                self._error = error
            except Exception as error:  # raised in the thread of the stream
                self._error = EngineFailed(f"item {item[0]} could not be compared: {error}")
            finally:
                self._items.task_done()
        self._items.task_done()

    def _compare(self, number: int, feeds: Arrays, outputs: Arrays) -> None:
        reference = self._module.device
        whole = self._module.run(feeds)
        verification = compare_tensors(self._plan, (), outputs, whole, self._tolerance, reference.id)
        wrong = [check for check in verification.checks if not check.ok]
        if not wrong:
            return
        specs = [spec for spec in self._plan.outputs if any(check.name == spec.name for check in wrong)]
        sensitive = sensitive_outputs(self._model, reference, feeds, specs, whole, self._tolerance)
        wrong = [check for check in wrong if check.name not in sensitive]
        if wrong:
            worst = max(wrong, key=lambda check: check.worst)
            segment = self._culprit(feeds, worst)
            source = "an input" if segment is None else f"segment {segment.index} on {segment.device}"
            error = EngineFailed(
                f"item {number} of the stream is wrong: {worst.difference}, compared with the whole model on "
                f"{reference.id}; the difference comes from {source}",
                remedy="verify the plan with trisect verify, or split without that device",
                device=segment.device if segment is not None else None,
            )
            error.segment = segment.index if segment is not None else None
            raise error

    def _culprit(self, feeds: Arrays, worst: TensorCheck) -> Segment | None:
        """Return the first segment with right inputs and wrong outputs; else the one that returned the wrong output."""
        index = worst.segment
        boundary = boundary_of(self._plan, self._model)
        if boundary:
            again = self._compare_boundary(feeds)
            if again is not None and again.drift_segment is not None:
                index = again.drift_segment
        return next((segment for segment in self._plan.segments if segment.index == index), None)

    def _compare_boundary(self, feeds: Arrays) -> Verification | None:
        boundary = boundary_of(self._plan, self._model)
        try:
            device, whole = run_whole(self._model, [self._module.device], boundary, feeds)
            split = self._run_split(replace(self._plan, outputs=(*self._plan.outputs, *boundary)), feeds)
        except TrisectError:
            return None
        return compare_tensors(self._plan, boundary, split, whole, self._tolerance, device.id)
