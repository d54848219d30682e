"""Starts a function of trisect in a Python process that has the module search path of this one."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from ..errors import EngineFailed

_BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from importlib import import_module; import_module(sys.argv[2]).main(*json.loads(sys.argv[3]))"
)


def start_python(module: str, *arguments: Any, **popen_options: Any) -> subprocess.Popen[bytes]:
    """Start a process that calls ``main(*arguments)`` of a module.

    Parameters
    ----------
    *arguments
        JSON values; visible to all users of the machine, so no secrets.
    **popen_options
        For `subprocess.Popen`.

    Raises
    ------
    EngineFailed
        Where the system starts no more processes, or the program does not know its Python interpreter.
    """
    if not sys.executable:
        raise EngineFailed(
            "no worker process can be started: sys.executable is empty", remedy="use the executor 'threads'"
        )
    command = [sys.executable, "-c", _BOOTSTRAP, json.dumps(sys.path), module, json.dumps(arguments)]
    try:
        return subprocess.Popen(command, **popen_options)
    except OSError as error:
        reason = error.strerror or str(error)
        raise EngineFailed(f"a worker process cannot be started: {reason}", reason=reason) from error
