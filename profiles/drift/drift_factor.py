"""How the speed of a device has changed since its costs were measured: whether these still hold, and by what factor.

The same model may take twice as long an hour later on a shared or warm machine. A small fixed workload, the probe, is
timed with each measurement and again before costs are used; its two times give the factor. Small differences are noise
and are ignored, so that the same request gives the same plan.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

IGNORED_RATIO = 1.1
"""Smaller changes of the probe's time are not distinguished from noise."""
RENEWAL_RATIO = 1.5
"""After a larger change, costs that are cheap to measure are measured again."""
AGE_MAX = timedelta(days=30)
"""Costs that are older are measured again where that is cheap."""
_DIGITS = 3


def drift(probe_then_s: float | None, probe_now_s: float | None) -> float:
    """Return the factor by which times have grown since a measurement; 1 where that is little or unknown.

    Parameters
    ----------
    probe_then_s, probe_now_s : float or None
        Seconds of the device's probe, beside the measurement and now; None = unknown.

    Examples
    --------
    >>> drift(1e-3, 1.4e-3), drift(1e-3, 1.05e-3), drift(None, 1e-3)
    (1.4, 1.0, 1.0)
    """
    if probe_then_s is None or probe_now_s is None:
        return 1.0
    ratio = probe_now_s / probe_then_s
    return float(f"{ratio:.{_DIGITS}g}") if is_changed(ratio, IGNORED_RATIO) else 1.0


def is_changed(ratio: float, limit: float) -> bool:
    """Return whether a ratio of two times is above a limit, in either direction.

    Examples
    --------
    >>> is_changed(1.2, 1.5), is_changed(0.5, 1.5)
    (False, True)
    """
    return not 1 / limit <= ratio <= limit


def is_outdated(date: str, now: datetime, factor: float = 1.0) -> bool:
    """Return whether costs should be measured again: because of their date (ISO 8601), or of their `drift`.

    Examples
    --------
    >>> now = datetime(2026, 3, 1, tzinfo=UTC)
    >>> [is_outdated(date, now) for date in ("2026-02-20T00:00:00+00:00", "2026-01-01T00:00:00+00:00", "")]
    [False, True, True]
    """
    try:
        age = now - datetime.fromisoformat(date).astimezone(UTC)
    except (ValueError, OverflowError):
        return True
    return age > AGE_MAX or is_changed(factor, RENEWAL_RATIO)


def drift_text(factor: float) -> str:
    """Return a factor in words.

    Examples
    --------
    >>> drift_text(1.4), drift_text(0.5)
    ('1.4 times slower', '2 times faster')
    """
    return f"{factor:.3g} times slower" if factor >= 1 else f"{1 / factor:.3g} times faster"
