"""Quantities as the text that tables show: durations, sizes, rates, and predictions with their intervals."""

from __future__ import annotations

import math

Interval = tuple[float, float]
"""The ends of an interval that contains the measured value with 90 % probability."""

_UNITS = {
    "latency": ((1.0, "s"), (1e3, "ms"), (1e6, "us")),
    "throughput": ((1.0, "items/s"),),
    "energy": ((1.0, "J"), (1e3, "mJ")),
    "memory": ((1e-12, "TB"), (1e-9, "GB"), (1e-6, "MB"), (1e-3, "kB"), (1.0, "B")),
}
"""Per objective the factors from its base unit; the first one that gives at least 1 is used."""
_SHOWN_AS_ONE = 0.9995
"""The smallest number that three significant digits show as 1."""
_ELLIPSIS = "..."
_HEAD_SHARE = 0.6


def quantity(value: float, objective: str, interval: Interval | None = None) -> str:
    """Format a value of an objective, with its interval where that is known.

    Parameters
    ----------
    value : float
        Seconds (of throughput: per item), joules or bytes.
    objective : {"latency", "throughput", "energy", "memory"}
    interval : (float, float), optional
        In the unit of `value`.

    Examples
    --------
    >>> quantity(0.0123, "latency"), quantity(0.5, "energy"), quantity(2e6, "memory")
    ('12.3 ms', '500 mJ', '2 MB')
    >>> quantity(0.0086, "latency", (0.00791, 0.011))
    '8.6 ms, 90 %: 7.91-11 ms'
    >>> quantity(0.01, "throughput", (0.008, 0.0125))
    '100 items/s, 90 %: 80-125 items/s'
    """
    if interval is None:
        return size(round(value)) if objective == "memory" else _with_unit(value, objective)
    return f"{_with_unit(value, objective)}, 90 %: {interval_text(interval, value, objective)}"


def interval_text(interval: Interval | None, value: float | None, objective: str = "latency") -> str:
    """Format an interval in the unit in which `quantity` shows its value; a dash where one of them is not known.

    Examples
    --------
    >>> interval_text((0.0009, 0.0011), 0.00095), interval_text(None, 0.00095)
    ('900-1,100 us', '-')
    """
    if interval is None or value is None:
        return "-"
    low, high = interval
    if objective == "throughput":
        value, low, high = _rate(value), _rate(high), _rate(low)
    factor, unit = _unit(value, objective)
    return f"{_digits(low * factor)}-{_digits(high * factor)} {unit}"


def duration(seconds: float | None) -> str:
    """Format a duration.

    Examples
    --------
    >>> duration(0.0123456), duration(2.5e-6), duration(75.0), duration(None)
    ('12.3 ms', '2.5 us', '75 s', '-')
    >>> duration(0.0009999), duration(0.0009)
    ('1 ms', '900 us')
    """
    return "-" if seconds is None else _with_unit(seconds, "latency")


def size(size_bytes: int | None) -> str:
    """Format a size.

    Examples
    --------
    >>> size(999), size(2_500_000), size(None)
    ('999 B', '2.5 MB', '-')
    """
    if size_bytes is None:
        return "-"
    factor, unit = _unit(size_bytes, "memory")
    return f"{size_bytes * factor:.4g} {unit}"


def plural(count: int, noun: str) -> str:
    """Format a count with its noun.

    Examples
    --------
    >>> plural(1, "segment"), plural(2, "segment")
    ('1 segment', '2 segments')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def shortened(text: str, length_max: int) -> str:
    """Return a text without its middle where it is longer than `length_max` characters.

    Examples
    --------
    >>> shortened("/backbone/block.1/Conv_output_0", 20), shortened("x", 20)
    ('/backbone/b...tput_0', 'x')
    """
    if len(text) <= length_max:
        return text
    head = max(1, math.ceil((length_max - len(_ELLIPSIS)) * _HEAD_SHARE))
    tail = max(1, length_max - len(_ELLIPSIS) - head)
    return f"{text[:head]}{_ELLIPSIS}{text[-tail:]}"


def _with_unit(value: float, objective: str) -> str:
    value = _rate(value) if objective == "throughput" else value
    factor, unit = _unit(value, objective)
    return f"{_digits(value * factor)} {unit}"


def _rate(period_s: float) -> float:
    return 1 / period_s if period_s > 0 else math.inf


def _unit(value: float, objective: str) -> tuple[float, str]:
    units = _UNITS[objective]
    return next((pair for pair in units if value * pair[0] >= _SHOWN_AS_ONE), units[-1])


def _digits(value: float) -> str:
    """Return a number with three significant digits, never in scientific notation where it is large."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"
