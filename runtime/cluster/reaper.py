"""Ends what a private Ray leaves behind when the process that started it is killed.

Ray's servers end with that process, but two helpers of theirs first look for the servers for a minute, and the folder
of sockets and logs stays. A small process waits for the end of a pipe, and then clears up.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress

import psutil

_BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from trisect.runtime.cluster.reaper import main; main()"
)
_DISMISSED = b"."


class Reaper:
    """Waits for this process to die.

    Parameters
    ----------
    processes : iterable of psutil.Process
        To be ended then.
    folder : str
        To be removed then.
    """

    def __init__(self, processes: Iterable[psutil.Process], folder: str) -> None:
        pids = [process.pid for process in processes]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOTSTRAP, json.dumps(sys.path), json.dumps(pids), folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a terminal is not for it
        )

    def dismiss(self) -> None:
        """It is not needed any longer."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(_DISMISSED)
            self._process.stdin.close()
        self._process.wait()


def main() -> None:
    """Runs in the process that waits."""
    pids, folder = json.loads(sys.argv[2]), sys.argv[3]
    processes = []
    for pid in pids:
        with suppress(psutil.Error):
            processes.append(psutil.Process(pid))  # knows the process from a later one of that number
    if sys.stdin.buffer.read() == _DISMISSED:
        return
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=5.0)
    shutil.rmtree(folder, ignore_errors=True)
