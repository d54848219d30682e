"""The exceptions that trisect raises on purpose, one class for each meaning.

They form one tree, so that a caller can catch as much or as little as it wants, and so that the command line can turn
each of them into one line and an exit code. A message names the model, node or device concerned, the reason, and what
to do.
"""

from __future__ import annotations

import copy
from typing import NamedTuple, Self


class TrisectError(Exception):
    """Base class of all exceptions that trisect raises on purpose.

    Parameters
    ----------
    message : str
        What is wrong, in one line: the object concerned and the reason.
    remedy : str, optional
        What the user can do about it.
    reason : str, optional
        The cause alone, without what it happened to; the message when left out.

    Examples
    --------
    >>> print(UnknownDevice("no device 'gpu:cuba'", remedy="did you mean gpu:cuda?"))
    no device 'gpu:cuba'; did you mean gpu:cuda?
    """

    def __init__(self, message: str, *, remedy: str | None = None, reason: str | None = None) -> None:
        self.message = message
        self.remedy = remedy
        self.reason = message if reason is None else reason
        super().__init__(f"{message}; {remedy}" if remedy else message)

    def with_message(self, message: str) -> Self:
        """Return a copy of this error with another message; everything else stays."""
        error = copy.copy(self)
        TrisectError.__init__(error, message, remedy=self.remedy, reason=self.reason)
        return error


class InvalidModel(TrisectError):
    """The model file is missing, damaged, or not of the format that its name says."""


class UnsupportedModel(TrisectError):
    """A valid model of an architecture, quantisation or layout that trisect cannot read."""


class UnsupportedOperator(TrisectError):
    """An operator that none of the requested devices can run."""


class UnknownDevice(TrisectError):
    """A device id that no engine on this machine lists."""


class EngineMissing(TrisectError):
    """The Python package that drives a device is not installed."""


class EngineFailed(TrisectError):
    """An engine or its process failed while compiling or running; the message names segment, nodes and device.

    Parameters
    ----------
    message, remedy, reason
        See `TrisectError`.
    device : str, optional
        Id of the device that failed, where it was one device.

    Examples
    --------
    >>> error = EngineFailed("cpu:ort cannot load m.onnx: no kernel for Foo", device="cpu:ort", reason="no kernel")
    >>> error.device, error.with_message("segment 0: no kernel for Foo").reason
    ('cpu:ort', 'no kernel')
    """

    def __init__(
        self, message: str, *, remedy: str | None = None, device: str | None = None, reason: str | None = None
    ) -> None:
        super().__init__(message, remedy=remedy, reason=reason)
        self.device = device
        self.segment: int | None = None
        """Index of the segment that it ran, where it was one of a plan's."""


class VerificationFailed(TrisectError):
    """A plan computes something else than the model that it was made from."""


class DeviceLost(EngineFailed):
    """The worker of a device died or hangs and could not be restarted, or a node of the cluster is gone."""


class TensorLost(EngineFailed):
    """The cluster node that held a tensor is gone; the segments that compute it have to run again."""


class ClusterFailed(TrisectError):
    """A Ray cluster cannot be started, reached or joined, or lacks a node or device that a plan needs."""


class RunCancelled(TrisectError):
    """A run that was ended from another thread before it had computed everything."""


class OutOfMemory(TrisectError):
    """The machine has no memory left for a tensor."""


class InvalidPlan(TrisectError):
    """A plan folder that is damaged, was modified, or was made for another model or machine."""


class InvalidInput(TrisectError):
    """An input with the wrong name, shape or dtype, an invalid option, or an unusable prompt."""


class ContextExceeded(InvalidInput):
    """More tokens than the model's context holds."""


class InfeasibleProblem(TrisectError):
    """No placement can satisfy the constraints."""


class FallbackForbidden(InfeasibleProblem):
    """Part of the model would fall back to a device that a constraint forbids."""


class ProfileMissing(TrisectError):
    """A cost is needed that was not measured."""


class PowerUnknown(ProfileMissing):
    """Energy is needed, but the power of a device was neither measured nor published."""


class InvalidProfile(TrisectError):
    """A profile file that is damaged, of another format, or of a newer version."""


class StorageFailed(TrisectError):
    """A file cannot be written: disk full, no permission, or removed meanwhile."""


class ErrorRecord(NamedTuple):
    """An exception as plain data, to send from one process to another."""

    kind: str
    """Name of the class in this module."""
    message: str
    remedy: str | None = None
    device: str | None = None
    reason: str | None = None
    segment: int | None = None


def error_record(error: Exception) -> ErrorRecord:
    """Return an exception as plain data; one that is not trisect's becomes an `EngineFailed` or `OutOfMemory`.

    Examples
    --------
    >>> error_record(ValueError("two\\nlines")).message
    'ValueError: two lines'
    """
    if isinstance(error, TrisectError):
        device, segment = (error.device, error.segment) if isinstance(error, EngineFailed) else (None, None)
        return ErrorRecord(type(error).__name__, error.message, error.remedy, device, error.reason, segment)
    if isinstance(error, MemoryError):
        return ErrorRecord(OutOfMemory.__name__, "the worker has no memory left", "use a smaller window")
    return ErrorRecord(EngineFailed.__name__, one_line(error))


def error_from_record(record: ErrorRecord) -> TrisectError:
    """Return the exception that a record describes; a class unknown here becomes `EngineFailed`."""
    kind = globals().get(record.kind)
    if not (isinstance(kind, type) and issubclass(kind, TrisectError)):
        kind = EngineFailed
    error = kind(record.message, remedy=record.remedy, reason=record.reason)
    if isinstance(error, EngineFailed):
        error.device, error.segment = record.device, record.segment
    return error


def one_line(error: BaseException, limit: int = 400, *, with_kind: bool = True) -> str:
    """Return an exception's message on one line, of ``limit`` characters at most.

    Parameters
    ----------
    error : BaseException
    limit : int
    with_kind : bool
        Whether the line starts with the exception's class; without a message it is the class alone.

    Examples
    --------
    >>> one_line(KeyError("x")), one_line(ValueError("a\\n b"), with_kind=False)
    ("KeyError: 'x'", 'a b')
    """
    text = " ".join(str(error).split())
    if with_kind and text:
        text = f"{type(error).__name__}: {text}"
    return (text or type(error).__name__)[:limit]
