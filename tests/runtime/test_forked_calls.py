"""Calls in a forked process: results and errors come back, and no crash, hang or allocation reaches this process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.runtime.interrupting import interrupted_after
from trisect.runtime.child_process import ChildProcessFailed
from trisect.runtime.errors import InvalidModel
from trisect.runtime.forked_calls import call_forked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")


def call(function, time_limit_s: float = 60.0, memory_limit_bytes: int = 1 << 30) -> bytes:
    return call_forked(function, "the call", time_limit_s, memory_limit_bytes)


def new_children(before: list[psutil.Process]) -> list[psutil.Process]:
    """Return this process's children that are not among earlier ones, of which some may have ended since."""
    return [child for child in psutil.Process().children() if child not in before]


def raise_(error: BaseException) -> bytes:
    raise error


def test_a_large_result_arrives_whole_from_another_process():
    large = os.urandom(5 << 20)
    assert call(lambda: large) == large
    assert int(call(lambda: str(os.getpid()).encode())) != os.getpid()


def test_a_lower_limit_of_the_user_stays():
    code = (
        "import resource; limit = 20 << 30; resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "from trisect.runtime.forked_calls import call_forked\n"
        "own = lambda: str(resource.getrlimit(resource.RLIMIT_AS)[0]).encode()\n"
        "print(int(call_forked(own, 'the call', 60.0, 1 << 50)) == limit)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr


def test_errors_come_back_as_what_they_were():
    with pytest.raises(InvalidModel, match=r"^broken; fix it$") as caught:
        call(lambda: raise_(InvalidModel("broken", remedy="fix it", reason="why")))
    assert caught.value.reason == "why"
    with pytest.raises(ValueError, match=r"^KeyError: 'x'$"):
        call(lambda: raise_(KeyError("x")))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (os.abort, r"its process ended \(SIGABRT\)"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), r"its process ended \(SIGSEGV\)"),
        (lambda: bytes(2 << 30), r"it takes more than 1\.1 GB of memory"),
    ],
)
def test_what_would_end_this_process_is_an_error(function, reason):
    with pytest.raises(ChildProcessFailed, match=f"^the call failed: {reason}$"):
        call(function)


@pytest.mark.parametrize(("function", "limit"), [(lambda: re.match("(a+)+b", "a" * 64), "1"), (signal.pause, r"5")])
def test_it_is_killed_when_its_time_is_over_though_it_holds_the_interpreter_or_waits(function, limit):
    before = psutil.Process().children()
    with pytest.raises(ChildProcessFailed, match=f"it takes more than {limit} s") as caught:
        call(function, time_limit_s=1.0)
    assert caught.value.timed_out
    assert new_children(before) == []


def test_an_interrupt_ends_it():
    before = psutil.Process().children()
    with interrupted_after(0.2):
        call(lambda: time.sleep(60))
    assert new_children(before) == []


def test_it_ends_when_this_process_is_killed(tmp_path: Path):
    program = """
import os, re
from trisect.runtime.forked_calls import call_forked
output = os.dup(1)
def hang():
    os.write(output, f"{os.getpid()}\\n".encode())
    re.match("(a+)+b", "a" * 64)
call_forked(hang, "it", 60.0, 1 << 30)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        child.wait(60)
