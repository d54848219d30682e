"""The user's own word: a small TOML file that no application can overrule.

    # trisect/policy.toml in the user's configuration folder, or the file that TRISECT_POLICY names
    avoid = ["gpu"]
    power_preference = "low-power"

The keys are those of `Wishes`; what an application says against them is overridden, and it is told.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import platformdirs

from trisect.runtime.errors import InvalidInput

from .requested_options import Wishes

ENVIRONMENT = "TRISECT_POLICY"
"""Environment variable that names the file; empty = no policy."""
_SIZE_LIMIT_BYTES = 1 << 16


def policy_path() -> Path | None:
    """Where the user's policy is; None where there is none."""
    named = os.environ.get(ENVIRONMENT)
    if named is not None:
        return Path(named) if named else None
    usual = platformdirs.user_config_path("trisect") / "policy.toml"
    return usual if usual.is_file() else None


def read_policy(path: Path | None) -> Wishes:
    """The user's wishes; those of nobody where there is no file.

    Raises
    ------
    InvalidInput
        For a file that is named but missing, that is no TOML, or that says what nobody understands: a policy that
        cannot be read must not be taken for none.

    Examples
    --------
    >>> read_policy(None) == Wishes()
    True
    """
    if path is None:
        return Wishes()
    try:
        if path.stat().st_size > _SIZE_LIMIT_BYTES:
            raise InvalidInput(f"the policy {path} is too large", remedy=f"keep it below {_SIZE_LIMIT_BYTES} bytes")
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or error
        raise InvalidInput(
            f"the policy {path} cannot be read: {reason}", remedy=f"mend it, or unset {ENVIRONMENT}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the policy {path} is not sound TOML: {error}", remedy="mend it") from error
    try:
        return Wishes.of(**said)
    except InvalidInput as error:
        raise InvalidInput(f"the policy {path}: {error.message}", remedy=error.remedy) from error
