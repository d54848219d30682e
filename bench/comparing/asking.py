"""A process that answers questions: one JSON document a line, over its standard input and output.

Whatever is compared runs in a process of its own, so that no engine's threads, memory or settings touch another's; a
process that waits for its next question takes no time from the one that runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, Self

from trisect.runtime.errors import EngineFailed

Answer = dict[str, Any]


class Asked:
    """A process that serves `answer_all`; a context manager.

    Parameters
    ----------
    module : str
        Python module that is run as the process's main program.
    name : str
        What the process is, for messages.
    """

    def __init__(self, module: str, name: str) -> None:
        self._name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is the asker's to handle
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, question: Answer, *, limit_s: float | None = None) -> Answer:
        """Ask and wait for the answer.

        Parameters
        ----------
        question : dict
        limit_s : float, optional
            The process is ended when it has not answered by then.

        Raises
        ------
        EngineFailed
            With the reason that the process gives, or with how it ended.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(limit_s, end) if limit_s is not None else None
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            stdin.write(json.dumps(question) + "\n")
            stdin.flush()
            line = stdout.readline()
        except (OSError, ValueError):
            line = ""
        finally:
            if timer is not None:
                timer.cancel()
        answer: Answer = json.loads(line) if line else {"error": self._ending(late.is_set(), limit_s)}
        if "error" in answer:
            raise EngineFailed(f"{self._name} failed: {answer['error']}", reason=answer["error"])
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # a question that it never read is still in the pipe
                    stream.close()

    def _ending(self, is_late: bool, limit_s: float | None) -> str:
        if is_late:
            return f"it did not answer within {limit_s:g} s"
        code = self._process.wait()
        return f"its process ended ({signal.Signals(-code).name})" if code < 0 else "its process ended"


def answer_all(answer: Callable[[Answer], Answer]) -> None:
    """Answer questions until standard input ends; an exception becomes an answer too."""
    # Libraries print to standard output from C too; only answers may reach the pipe.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            given = answer(json.loads(line))
        except Exception as error:  # what is compared may fail in any way; the comparison goes on without it
            given = {"error": " ".join(str(error).split())[:300] or type(error).__name__}
        answers.write(json.dumps(given) + "\n")
        answers.flush()
