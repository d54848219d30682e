"""``trisect chat`` in a terminal (through a pty) and in a pipe."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.llm.gguf_factory import write_tiny_gguf

pty = pytest.importorskip("pty")
ON_ORT = ["--prefill", "cpu:ort", "--decode", "cpu:ort", "--threads", "1"]
PATIENCE_S, PRESSED_AGAIN_S = 60, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, whose answers hold control characters, and a long context."""
    folder = tmp_path_factory.mktemp("chat")
    write_tiny_gguf(folder / "tiny.gguf", quant="F32", metadata={"llama.context_length": 8192})
    return folder


def command(folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "trisect", "chat", str(folder / "tiny.gguf"), *ON_ORT, *options]


class Terminal:
    """A command in a terminal, with what it has written so far."""

    def __init__(self, words: list[str], folder: Path) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            words, stdin=slave, stdout=slave, stderr=slave, cwd=folder, start_new_session=True,
            env=os.environ | {"TERM": "dumb", "INPUTRC": os.devnull},
        )  # fmt: skip
        os.close(slave)
        self.text = ""

    def type(self, line: str) -> None:
        os.write(self.master, f"{line}\n".encode())

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def wait_for(self, pattern: str, *, interrupts: bool = False) -> str:
        """Read until the pattern occurs; return what was read up to its end, and forget that.

        With `interrupts`, Ctrl-C is pressed until then: readline sees one that comes between its prompt and its waiting
        for a key only with the next key or signal.
        """
        begin = pressed = time.monotonic()
        if interrupts:
            self.interrupt()
        while not (match := re.search(pattern, self.text)):
            assert time.monotonic() < begin + PATIENCE_S, f"{pattern!r} is not in {self.text[-2000:]!r}"
            if interrupts and time.monotonic() > pressed + PRESSED_AGAIN_S:
                pressed = time.monotonic()
                self.interrupt()
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self.master, 65536).decode(errors="replace")
                except OSError:  # the command has ended
                    assert re.search(pattern, self.text), self.text[-2000:]
        seen, self.text = self.text[: match.end()], self.text[match.end() :]
        return seen

    def close(self) -> int:
        code = self.process.wait(PATIENCE_S)
        os.close(self.master)
        return code


@pytest.fixture
def terminal(folder: Path) -> Iterator[Terminal]:
    opened = Terminal(command(folder, "--max-new-tokens", "6"), folder)
    yield opened
    with contextlib.suppress(OSError):
        opened.process.kill()
        opened.process.wait()


def test_a_chat_in_a_terminal(terminal: Terminal, folder: Path) -> None:
    terminal.wait_for("/help shows the commands")
    terminal.wait_for("> ")
    terminal.type("hello")
    answer = terminal.wait_for(r"cut after 6 tokens.*\n")
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", answer)
    terminal.wait_for("> ")
    terminal.type("and then")
    terminal.wait_for(r"cut after 6 tokens")
    terminal.type("/stats")
    assert re.search(r"cpu:ort: prompt \d+ tokens \(\d+ cached\) at", terminal.wait_for("first token after"))
    for line, reply in (
        ("/help", "/system"),
        ("/nothing", "/nothing is no command"),
        ("/system be brief", "the system prompt is set"),
        ("/save talk.json", r"saved to talk\.json"),
        ("/save talk.json", "exists already"),
        ("/save ~unknown-user/talk.json", "cannot save to"),
        (f"/save {'x' * 300}", "cannot save to|cannot be written"),
        ("/reset", "all messages are forgotten"),
    ):
        terminal.wait_for("> ")
        terminal.type(line)
        terminal.wait_for(reply)
    saved = json.loads((folder / "talk.json").read_text())
    assert saved["system"] == "be brief"
    assert [message["role"] for message in saved["messages"]] == ["user", "assistant"] * 2
    terminal.wait_for("> ")
    terminal.type("/exit")
    assert terminal.close() == 0


def test_ctrl_c_ends_an_answer_and_ctrl_d_the_chat(folder: Path) -> None:
    terminal = Terminal(command(folder, "--max-new-tokens", "8000"), folder)
    terminal.wait_for("> ")
    terminal.wait_for("Ctrl-D ends the chat", interrupts=True)  # at the prompt: the line is discarded
    terminal.wait_for("> ")
    terminal.type("hello")
    terminal.wait_for(r"hello\r\n[\s\S]{20}")  # the answer has begun
    terminal.wait_for(r"\(interrupted\)", interrupts=True)
    terminal.wait_for("> ")
    os.write(terminal.master, b"\x04")
    assert terminal.close() == 0


def run(folder: Path, text: bytes, *options: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(folder, *options), input=text, capture_output=True, timeout=PATIENCE_S, check=False, cwd=folder
    )


def test_each_line_of_a_pipe_is_a_message(folder: Path) -> None:
    done = run(folder, b'hello\n\n"""two\nlines"""\n/stats\n', "--max-new-tokens", "3", "--system", "be brief")
    assert done.returncode == 0, done.stderr
    assert b"> " not in done.stderr
    assert done.stderr.count(b"cut after 3 tokens") == 2
    assert b"cached" in done.stderr


def test_one_document_for_a_whole_chat(folder: Path) -> None:
    done = run(folder, b"hello\nand then\n", "--max-new-tokens", "3", "--json")
    document = json.loads(done.stdout)
    assert [answer["finish"] for answer in document["answers"]] == ["length", "length"]
    assert document["answers"][1]["stats"]["cached_tokens"] > 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [(b"hello\n/nothing\n", b"/nothing is no command"), (b"\xff\xfe\n", b"standard input is not UTF-8")],
)
def test_errors_end_a_chat_in_a_pipe(folder: Path, text: bytes, reason: bytes) -> None:
    done = run(folder, text, "--max-new-tokens", "2")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(b"error: " + reason)


def test_a_base_model_is_refused(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf", metadata={"tokenizer.chat_template": None})
    done = run(tmp_path, b"hello\n")
    assert done.returncode == 2
    assert b"base model" in done.stderr
