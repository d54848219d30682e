"""A process that is started runs the function asked for, with this process's modules."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from trisect.runtime.errors import EngineFailed
from trisect.runtime.workers.python_process import start_python


def test_arguments_arrive_and_modules_are_found_where_this_process_finds_them(tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def main(*arguments):\n    print(arguments)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    process = start_python("only_here", 1, [2, None], "häß", stdout=subprocess.PIPE, text=True)
    assert process.communicate(timeout=60)[0] == f"{(1, [2, None], 'häß')}\n"
    assert process.returncode == 0


def test_modules_of_the_current_folder_do_not_run(tmp_path, monkeypatch):
    for name in ("json", "sitecustomize", "trisect", "importlib"):
        (tmp_path / f"{name}.py").write_text("open(__name__ + '.ran', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    for added in ("", ".", str(tmp_path)):
        monkeypatch.setattr(sys, "path", [added, *sys.path])
    process = start_python("trisect.runtime.device", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "has no attribute 'main'" in process.communicate(timeout=60)[1]
    assert not list(tmp_path.glob("*.ran"))


def test_a_program_without_an_interpreter_says_so(monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(EngineFailed, match=r"no worker process can be started: sys.executable is empty; use the exec"):
        start_python("json.tool")


def test_a_system_that_starts_no_process_says_why(monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", refused)
    with pytest.raises(EngineFailed, match="cannot be started: Resource temporarily unavailable") as caught:
        start_python("json.tool")
    assert caught.value.reason == "Resource temporarily unavailable"
