"""Every way trisect can refuse, by meaning.

One tree, so that a caller can catch as much or as little as it means to, and so that the command line can turn each of
them into one line and an exit code. A message names the model, node or device concerned, the reason, and the remedy.
"""

from __future__ import annotations


class TrisectError(Exception):
    """Root of everything trisect raises on purpose.

    Parameters
    ----------
    message : str
        What is wrong, in one line: the thing concerned and the reason.
    remedy : str, optional
        What the user can do about it.

    Examples
    --------
    >>> print(UnknownDevice("no device 'gpu:cuba'", remedy="did you mean gpu:cuda?"))
    no device 'gpu:cuba'; did you mean gpu:cuda?
    """

    exit_code = 2

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        self.message = message
        self.remedy = remedy
        super().__init__(f"{message}; {remedy}" if remedy else message)


class InvalidModel(TrisectError):
    """The model file is missing, damaged, or not what its name says."""


class UnsupportedModel(TrisectError):
    """A sound model of an architecture, quantisation or layout that trisect does not read."""


class UnsupportedOperator(TrisectError):
    """An operator that none of the devices asked for can run."""


class UnknownDevice(TrisectError):
    """A device id that no engine on this machine offers."""


class EngineMissing(TrisectError):
    """The Python package that drives a device is not installed."""


class EngineFailed(TrisectError):
    """An engine refused or broke while compiling or running; names segment, node and device."""


class DeviceLost(EngineFailed):
    """The worker of a device died, or hangs, and could not be brought back; or a node of the cluster is gone."""


class TensorLost(EngineFailed):
    """A tensor went down with the node of the cluster that held it; what made it has to run again."""


class ClusterFailed(TrisectError):
    """A Ray cluster that cannot be started, reached or joined, or that lacks what a plan needs."""


class OutOfMemory(TrisectError):
    """The machine has no memory left for a tensor."""


class InvalidPlan(TrisectError):
    """A plan folder that is damaged, tampered with, or made for something else."""


class InvalidInput(TrisectError):
    """A feed with the wrong name, shape or dtype; a prompt that cannot be used."""


class ContextExceeded(InvalidInput):
    """More tokens than the model's context holds."""


class InfeasibleProblem(TrisectError):
    """No placement can satisfy the constraints."""


class FallbackForbidden(InfeasibleProblem):
    """Work would fall back to a device that a constraint forbids."""


class ProfileMissing(TrisectError):
    """A cost was asked for that nobody measured."""


class PowerUnknown(ProfileMissing):
    """Energy was asked for, and nobody measured or published what a device draws."""


class InvalidProfile(TrisectError):
    """A profile file that is damaged, foreign, or of a newer version."""


class StorageFailed(TrisectError):
    """Disk full, no permission, or a file that vanished while writing."""


class VerificationFailed(TrisectError):
    """Split and unsplit answers differ by more than the tolerance."""

    exit_code = 1
