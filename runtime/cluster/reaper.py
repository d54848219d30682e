"""Cleans up after a private Ray when the process that started it is killed.

Ray's servers end with that process, but two helper processes first look for the servers for a minute, and the folder
with sockets and logs remains. A small process waits for the end of a pipe and then cleans up.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress

import psutil

from ..workers.python_process import start_python

_DISMISSED = b"."
_EXIT_TIMEOUT_S = 5.0


class Reaper:
    """A process that cleans up if this process dies before it calls `dismiss`.

    Parameters
    ----------
    processes : iterable of psutil.Process
        To be killed then.
    folder : str
        To be removed then.
    """

    def __init__(self, processes: Iterable[psutil.Process], folder: str) -> None:
        self._process = start_python(
            __name__,
            [process.pid for process in processes],
            folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a terminal must not end it
        )

    def dismiss(self) -> None:
        """End the process: there is nothing to clean up any more."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(_DISMISSED)
            self._process.stdin.close()
        self._process.wait()


def main(pids: list[int], folder: str) -> None:
    """Wait for the parent process and clean up; the main function of the reaper's process."""
    processes = []
    for pid in pids:
        with suppress(psutil.Error):
            processes.append(psutil.Process(pid))  # recognises a later process with the same pid
    if sys.stdin.buffer.read() == _DISMISSED:
        return
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=_EXIT_TIMEOUT_S)
    shutil.rmtree(folder, ignore_errors=True)
