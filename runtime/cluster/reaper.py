"""Cleans up after a private Ray when the process that started it is killed.

Ray's servers end with that process, but two helper processes first look for the servers for a minute, and the folder
with sockets and logs remains. A small process waits for the end of a pipe and then cleans up.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress

import psutil

from ..workers.python_process import start_python

_DISMISSED = b".\n"
_EXIT_TIMEOUT_S = 5.0
_ROUNDS_MAX = 5


class Reaper:
    """A process that cleans up if this process dies before it calls `dismiss`.

    Parameters
    ----------
    folder : str
        Of Ray: processes that name it on their command line, and those of `add`, are killed then, and it is removed.
    """

    def __init__(self, folder: str) -> None:
        self._process = start_python(
            __name__,
            folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a terminal must not end it
        )

    def add(self, processes: Iterable[psutil.Process]) -> None:
        """Add processes that are to be killed too."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(b"".join(b"%d\n" % process.pid for process in processes))
            self._process.stdin.flush()

    def dismiss(self) -> None:
        """End the process: there is nothing to clean up any more."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(_DISMISSED)
            self._process.stdin.close()
        self._process.wait()


def main(folder: str) -> None:
    """Wait for the parent process and clean up; the main function of the reaper's process."""
    added = []
    for line in sys.stdin.buffer:
        if line == _DISMISSED:
            return
        if int(line) != os.getpid():
            with suppress(psutil.Error):
                added.append(psutil.Process(int(line)))  # recognises a later process with the same pid
    for _ in range(_ROUNDS_MAX):  # a process that is just starting may start others
        processes = [*(process for process in added if process.is_running()), *_processes_of(folder)]
        if not processes:
            break
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(processes, timeout=_EXIT_TIMEOUT_S)
    shutil.rmtree(folder, ignore_errors=True)


def _processes_of(folder: str) -> list[psutil.Process]:
    """Return the processes, apart from this one, that name a folder on their command line."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if process.pid != os.getpid() and any(folder in argument for argument in process.info["cmdline"] or ())
    ]
