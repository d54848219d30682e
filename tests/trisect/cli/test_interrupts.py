"""Ctrl-C and a request to end are followed at once: the right exit code, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.partitioner import small_models
from trisect.cli.interrupts import HANDLING_TIME_S, interrupts_handled

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="POSIX's signals, and what Linux says of processes")
COMMAND = [sys.executable, "-P", "-m", "trisect"]


def started(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    (folder / "tmp").mkdir()
    own = {"TMPDIR": str(folder / "tmp"), "XDG_CACHE_HOME": str(folder / "cache"), "TRISECT_HISTORY": str(folder / "h")}
    return subprocess.Popen(
        [*COMMAND, *arguments], env=os.environ | own | {"TRISECT_PROFILES": str(folder / "profiles")}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def handles_signals(pid: int) -> bool:
    """Whether a process has its own handler of SIGTERM, which Python has not."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def has_loaded_engines(pid: int) -> bool:
    return "libopenvino" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize("is_ready", [handles_signals, has_loaded_engines], ids=["starting", "measuring"])
@pytest.mark.parametrize(
    ("number", "code", "line"), [(signal.SIGINT, 130, ["interrupted"]), (signal.SIGTERM, 143, [])], ids=["int", "term"]
)
def test_a_command_ends_when_asked_to(tmp_path, number, code, line, is_ready):
    model = small_models.mlp(tmp_path / "m.onnx", layers=4)
    command = ["split", str(model), "--devices", "cpu:ort,cpu:openvino", "--shape", "batch=1", "-o", f"{tmp_path}/plan"]
    process = started(command, tmp_path)
    while not is_ready(process.pid):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert errors.splitlines() == line
    assert not (tmp_path / "plan").exists()
    assert not list((tmp_path / "tmp").iterdir())


def test_native_code_that_does_not_return_is_not_waited_for(tmp_path):
    program = (
        "import hashlib\nfrom pathlib import Path\nfrom trisect.cli.interrupts import interrupts_handled\n"
        "from trisect.runtime.scratch_folder import ScratchFolder\n"
        f"folder = ScratchFolder('test', Path({str(tmp_path)!r}))\n"
        "with interrupts_handled(until_exit=True):\n"
        "    print('ready', flush=True)\n    hashlib.pbkdf2_hmac('sha256', b'', b'', 2 * 10**9)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "interrupted\n")
    assert not list(tmp_path.iterdir())


def test_a_second_interrupt_ends_an_answer_that_does_not_react(tmp_path):
    program = (
        "import hashlib, time\nfrom pathlib import Path\n"
        "from trisect.cli.interrupts import interrupts_handled, interrupts_requested\n"
        "from trisect.runtime.scratch_folder import ScratchFolder\n"
        f"folder = ScratchFolder('test', Path({str(tmp_path)!r}))\n"
        "with interrupts_handled(until_exit=True), interrupts_requested() as request:\n"
        "    for step in (1, 2):\n"
        "        with request.typing(raises=True):\n            time.sleep(0.2)\n"
        "        print('answering', flush=True)\n"
        "        while step == 1 and not request.is_made:\n            pass\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 2 * 10**9)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(2):  # the first answer reacts; one interrupt of the second is not enough to end everything
            process.stdout.readline()
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2 * HANDLING_TIME_S)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "interrupted\n")
    assert not list(tmp_path.iterdir())


def test_a_request_to_end_is_followed_while_an_answer_does_not_react():
    program = (
        "import hashlib\nfrom trisect.cli.interrupts import interrupts_handled, interrupts_requested\n"
        "with interrupts_handled(until_exit=True), interrupts_requested():\n"
        "    print('ready', flush=True)\n    hashlib.pbkdf2_hmac('sha256', b'', b'', 2 * 10**9)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143


def test_everything_is_as_before_after_the_block():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    threads = threading.active_count()

    def interrupted() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(60)

    with pytest.raises(KeyboardInterrupt), interrupts_handled(until_exit=False):
        interrupted()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert threading.active_count() == threads
