"""The user's policy: a small TOML file whose options no application can override.

    # trisect/policy.toml in the user's configuration folder, or the file that TRISECT_POLICY names
    avoid = ["gpu"]
    power_preference = "low-power"

The keys are the fields of `ContextOptions`. An application's option that conflicts with one is overridden, and the
context has a note about it.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from trisect.runtime.errors import InvalidInput
from trisect.runtime.untrusted_files import MalformedFile, read_toml

from .context_options import DEFAULTS, ContextOptions

ENVIRONMENT = "TRISECT_POLICY"
"""Environment variable that names the file; empty = no policy."""
_MAX_SIZE_BYTES = 1 << 16


def policy_path() -> Path | None:
    """Return the path of the user's policy; None where there is no policy."""
    named = os.environ.get(ENVIRONMENT)
    if named is not None:
        return Path(named) if named else None
    default = platformdirs.user_config_path("trisect") / "policy.toml"
    return default if default.is_file() else None


def read_policy(path: Path | None) -> ContextOptions:
    """Read the user's options; without a file, none is set.

    Raises
    ------
    InvalidInput
        For a file that is named but missing, is not valid TOML, or contains an unknown option or value: a policy that
        cannot be read is never ignored.

    Examples
    --------
    >>> read_policy(None) == ContextOptions()
    True
    """
    if path is None:
        return DEFAULTS
    try:
        options = read_toml(path, _MAX_SIZE_BYTES)
    except OSError as error:
        raise InvalidInput(
            f"policy {path}: cannot be read: {error.strerror or error}", remedy=f"fix it, or unset {ENVIRONMENT}"
        ) from error
    except MalformedFile as error:
        raise InvalidInput(f"policy {path}: {error}", remedy="fix the file") from error
    try:
        return ContextOptions.parse(**options)
    except InvalidInput as error:
        raise InvalidInput(f"policy {path}: {error.message}", remedy=error.remedy) from error
