"""Starts a function of trisect in a Python process that has the module search path of this one.

The current folder is not searched, in no child process: a file `json.py` in it, of a downloaded plan say, must not run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from ..errors import EngineFailed

_BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from importlib import import_module; import_module(sys.argv[2]).main(*json.loads(sys.argv[3]))"
)


SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""Environment of child processes: Python does not search the current folder for modules, nor that of a script."""


def safe_search_path() -> Iterator[str]:
    """Yield the module search path of this process without the current folder, in whatever way that was added."""
    here = os.path.realpath(os.curdir)
    for path in sys.path:
        if os.path.isabs(path) and os.path.realpath(path) != here:
            yield path


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
    paths = json.dumps(list(safe_search_path()))
    command = [sys.executable, "-P", "-c", _BOOTSTRAP, paths, module, json.dumps(arguments)]
    try:
        return subprocess.Popen(command, env=os.environ | SAFE_PATH, **popen_options)
    except OSError as error:
        reason = error.strerror or str(error)
        raise EngineFailed(f"a worker process cannot be started: {reason}", reason=reason) from error
