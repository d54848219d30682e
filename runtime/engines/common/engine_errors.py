"""Turns a vendor's exceptions into one-line errors that name the device."""

from __future__ import annotations

import re

from ...device import Device
from ...errors import EngineFailed

_NOISE = re.compile(
    r"^(Exception from |FrontEnd API failed|Model wasn't fully converted|Summary:|While validating "
    r"|-- .*with a message:$|$)"
)
_CHECK = re.compile(r"Check '.*' failed at \S+$")
_PREFIX = re.compile(r"^(-- |\[ONNXRuntimeError\] : \d+ : \w+ : |Fatal error: )+")
_SOURCE = re.compile(r"/\S+\.(cc|h|cpp|hpp):\d+ \S+ [^:]+::.*?\) ")


def vendor_message(error: BaseException) -> str:
    """Return the first informative line of a vendor's message, without its source-file prefixes.

    Examples
    --------
    >>> vendor_message(RuntimeError("Exception from core.cpp:1:\\nException from b.cpp:2:\\nno kernel for Foo\\n"))
    'no kernel for Foo'
    """
    lines = [_PREFIX.sub("", line.strip()) for line in str(error).splitlines() if not _NOISE.match(line.strip())]
    checked = [(_CHECK.sub("", line).strip(), bool(_CHECK.search(line))) for line in lines]
    informative = [(line, is_subject) for line, is_subject in checked if line]
    if not informative:
        return type(error).__name__
    subject, continues = informative[0]
    text = f"{subject}: {informative[1][0]}" if continues and len(informative) > 1 else subject
    return _SOURCE.sub("", text)[:400]


def engine_error(
    device: Device, failure: str, error: BaseException | str, *, remedy: str | None = None
) -> EngineFailed:
    """Return the error of an engine that failed on a device, with the vendor's reason in one line.

    Parameters
    ----------
    device : Device
    failure : str
        What the device could not do, as in ``"could not run"``.
    error : BaseException or str
        The vendor's exception, or the reason itself.

    Examples
    --------
    >>> device = Device("npu:x", "npu", "x", "")
    >>> print(engine_error(device, "could not run", RuntimeError("out of tiles")))
    npu:x could not run: out of tiles
    """
    why = error if isinstance(error, str) else vendor_message(error)
    return EngineFailed(f"{device.id} {failure}: {why}", remedy=remedy, device=device.id, reason=why)


def closed_module_error(device: Device) -> EngineFailed:
    """Return the error of a module that is used after it was closed."""
    return EngineFailed(f"the module on {device.id} is closed", remedy="load it again", device=device.id)
