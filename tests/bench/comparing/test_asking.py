"""Processes that answer questions, and the ways in which they fail to."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trisect.bench.comparing.asking import Asked
from trisect.runtime.errors import EngineFailed

PROGRAM = """
import ctypes, os, sys, time
from trisect.bench.comparing.asking import answer_all
def answer(question):
    what = question["what"]
    if what == "raise": raise ValueError("this\\nand that")
    if what == "crash": os.abort()
    if what == "exit": os._exit(3)
    if what == "hang": time.sleep(600)
    print("noise from Python", flush=True)
    os.write(1, b"noise from C\\n")
    return {"echo": question}
answer_all(answer)
"""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    (tmp_path / "a_program.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Asked("a_program", "the program")


def test_answers_in_order_and_noise_stays_out(asked: Asked) -> None:
    with asked:
        for number in range(3):
            assert asked.ask({"what": "echo", "n": number})["echo"]["n"] == number


def test_an_exception_is_an_answer_and_the_process_lives_on(asked: Asked) -> None:
    with asked:
        with pytest.raises(EngineFailed, match=r"^the program failed: this and that$"):
            asked.ask({"what": "raise"})
        assert asked.ask({"what": "echo"})


@pytest.mark.skipif(sys.platform == "win32", reason="signals by name are POSIX's")
def test_a_crash_is_named(asked: Asked) -> None:
    with asked:
        with pytest.raises(EngineFailed, match="SIGABRT"):
            asked.ask({"what": "crash"})
        with pytest.raises(EngineFailed, match="ended"):
            asked.ask({"what": "echo"})


def test_an_end_is_told(asked: Asked) -> None:
    with asked, pytest.raises(EngineFailed, match="ended"):
        asked.ask({"what": "exit"})


def test_one_that_never_answers_is_ended(asked: Asked) -> None:
    with asked, pytest.raises(EngineFailed, match=r"did not answer within 0\.5 s"):
        asked.ask({"what": "hang"}, limit_s=0.5)
