"""Records the copies of tensors into another dtype, layout or memory on a segment boundary.

Engines read and write the host's memory in place wherever they can. Where they cannot, a tensor is copied: a feed that
is not C-ordered, 4-bit elements that numpy stores in bytes, a tensor that a GPU reads. Code that may copy takes a
`ConversionLog`, so that a trace shows what the copies cost; None where it is not read.
"""

from __future__ import annotations

import time
from typing import NamedTuple


class Conversion(NamedTuple):
    """One copy of a tensor into another form."""

    name: str
    start_s: float
    """On the clock of `time.perf_counter`."""
    end_s: float
    size_bytes: int
    """Of the copy."""


class ConversionLog(list[Conversion]):
    """The conversions of one run.

    Examples
    --------
    >>> log = ConversionLog()
    >>> log.record("x", time.perf_counter(), 8)
    >>> [(conversion.name, conversion.size_bytes) for conversion in log]
    [('x', 8)]
    """

    def record(self, name: str, start_s: float, size_bytes: int) -> None:
        """Append a conversion that ends now."""
        self.append(Conversion(name, start_s, time.perf_counter(), size_bytes))
