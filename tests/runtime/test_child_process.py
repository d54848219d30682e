"""Child processes that answer requests, and the ways in which they fail to."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

import psutil
import pytest

from tests.runtime.interrupting import interrupted_after
from trisect.runtime import child_process
from trisect.runtime.child_process import ChildProcess, ChildProcessFailed

PROGRAM = """
import os, re, sys, time

def make_handler():
    count = 0

    def answer(request):
        nonlocal count
        count += 1
        what = request["what"]
        if what == "raise": raise ValueError("this\\nand that")
        if what == "crash": os.abort()
        if what == "exit":
            print("out of luck", file=sys.stderr, flush=True)
            os._exit(3)
        if what == "hang": time.sleep(600)
        if what == "hang without Python": re.match("(a+)+b", "a" * 64)
        if what == "memory": return len(bytearray(request["n"]))
        if what == "many": return (number for number in range(request["n"]))
        print("noise from Python", flush=True)
        os.write(1, b"noise from C\\n")
        return {"echo": request, "count": count, "variable": os.environ.get("A_VARIABLE")}

    return answer
"""


@pytest.fixture
def make_handler(tmp_path, monkeypatch) -> Callable[[], Any]:
    """A function that only the child process finds: in a module on its path."""
    (tmp_path / "a_program.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make_handler() -> Any:
        raise AssertionError

    make_handler.__module__, make_handler.__qualname__ = "a_program", "make_handler"
    return make_handler


@pytest.fixture
def child(make_handler: Callable[[], Any]) -> Iterator[ChildProcess]:
    with ChildProcess(make_handler, "the program", {"A_VARIABLE": "set"}) as process:
        yield process


def test_replies_come_in_order_and_output_stays_out_of_them(child: ChildProcess) -> None:
    for number in range(3):
        reply = child.request({"what": "echo", "n": number, "limit": inf})
        assert reply["echo"] == {"what": "echo", "n": number, "limit": inf}
        assert (reply["count"], reply["variable"]) == (number + 1, "set")


def test_an_iterator_is_sent_one_reply_at_a_time(child: ChildProcess) -> None:
    assert [child.request({"what": "many", "n": 3}), child.next_reply(), child.next_reply()] == [0, 1, 2]
    assert child.request({"what": "echo"})["count"] == 2


def test_an_exception_is_an_error_reply_and_the_process_goes_on(child: ChildProcess) -> None:
    with pytest.raises(ChildProcessFailed, match=r"^the program failed: this and that$") as caught:
        child.request({"what": "raise"})
    assert (caught.value.reason, caught.value.timed_out) == ("this and that", False)
    assert not child.has_ended
    assert child.request({"what": "echo"})


@pytest.mark.skipif(sys.platform == "win32", reason="signals by name are POSIX's")
def test_a_crash_is_reported_by_its_signal(child: ChildProcess) -> None:
    with pytest.raises(ChildProcessFailed, match=r"its process ended \(SIGABRT\)"):
        child.request({"what": "crash"})
    assert child.has_ended
    with pytest.raises(ChildProcessFailed, match="its process ended"):
        child.request({"what": "echo"})


def test_an_exit_is_reported_with_its_code_and_what_was_printed_last(child: ChildProcess) -> None:
    child.request({"what": "echo"})
    with pytest.raises(ChildProcessFailed, match=r"its process ended \(exit code 3\): out of luck$"):
        child.request({"what": "exit"})


def test_a_handler_that_cannot_be_imported_is_reported(make_handler: Callable[[], Any]) -> None:
    make_handler.__module__ = "no_such_module"
    with ChildProcess(make_handler, "it") as child, pytest.raises(ChildProcessFailed, match="no_such_module"):
        child.request({})


def test_no_reply_in_time_kills_the_process(child: ChildProcess) -> None:
    with pytest.raises(ChildProcessFailed, match=r"no reply within 0\.5 s: stopped") as caught:
        child.request({"what": "hang"}, time_limit_s=0.5)
    assert caught.value.timed_out
    assert child.has_ended


def test_a_process_that_cannot_be_started_is_reported(make_handler: Callable[[], Any], monkeypatch) -> None:
    monkeypatch.setattr(child_process.sys, "executable", "/no/such/python")
    with pytest.raises(ChildProcessFailed, match="it cannot be started: No such file"):
        ChildProcess(make_handler, "the program")


def test_too_much_memory_kills_the_process(make_handler: Callable[[], Any]) -> None:
    with ChildProcess(make_handler, "the program", memory_limit_bytes=400 << 20) as child:
        assert child.request({"what": "memory", "n": 1 << 20}) == 1 << 20
        with pytest.raises(ChildProcessFailed, match=r"it took more than 0\.42 GB: stopped") as caught:
            child.request({"what": "memory", "n": 1 << 31})
        assert not caught.value.timed_out
        assert child.has_ended


def test_an_interrupted_request_ends_the_process(child: ChildProcess) -> None:
    child.request({"what": "echo"})
    with interrupted_after(0.3):
        child.request({"what": "hang"})
    child._process.wait(60)
    assert child.has_ended


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's signals on pipes")
def test_it_ends_with_a_killed_parent_while_native_code_holds_the_interpreter(make_handler, tmp_path) -> None:
    program = """
import sys
from trisect.runtime.child_process import ChildProcess
def make_handler(): pass
make_handler.__module__ = "a_program"
child = ChildProcess(make_handler, "it")
child.request({"what": "echo"})
print(child.pid, flush=True)
child.request({"what": "hang without Python"})
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.3)
        assert child.is_running()
        parent.kill()
        child.wait(60)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX's process table")
def test_it_ends_with_its_parent_even_while_it_works(make_handler: Callable[[], Any]) -> None:
    child = ChildProcess(make_handler, "the program")
    assert child._process.stdin is not None
    child._process.stdin.write(b'{"what": "hang"}\n')
    child._process.stdin.close()  # as the system does when the parent ends
    child._process.wait(60)
    assert child._process.returncode == 0
    child.close()
