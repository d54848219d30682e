"""Run the commands and the Python code of README.md in their order, in one folder, as a new user would.

Blocks marked ``console`` install software or need other machines, and are not run. A block after the comment
``<!-- slow -->`` is run with ``--slow`` only. Time budgets are cut, and so is what the commands measure without one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(?P<slow><!-- slow -->\n+)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)

BRIEF_COMMAND = f"""#!{sys.executable}
import sys
sys.path.append({str(ROOT)!r})
from tests.brief_measurements import main
sys.exit(main())
"""
"""The command line with shorter measurements."""


@dataclass(frozen=True)
class Block:
    """One example."""

    language: str
    text: str
    slow: bool


def blocks() -> list[Block]:
    text = (ROOT / "README.md").read_text()
    return [Block(m["language"], m["text"], bool(m["slow"])) for m in BLOCK.finditer(text)]


SHELL = [block for block in blocks() if block.language == "sh"]


@pytest.fixture(scope="module")
def user_folder(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a user's, with the models already fetched."""
    if not models.is_dir() or not any(models.iterdir()):
        pytest.skip(f"no models in {models}: run `make test` online")
    folder = tmp_path_factory.mktemp("readme")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "models").symlink_to(models.resolve(), target_is_directory=True)
    (folder / "bin").mkdir()
    command = folder / "bin" / "trisect"
    command.write_text(BRIEF_COMMAND)
    command.chmod(0o755)
    return folder


def test_there_is_something_to_try() -> None:
    assert len(SHELL) >= 5
    assert {"console", "sh", "python"} >= {block.language for block in blocks()}


def parameter(block: Block) -> object:
    title = block.text.splitlines()[0][:60]
    return pytest.param(block, id=title, marks=[pytest.mark.slow] if block.slow else [])


@pytest.mark.parametrize("block", [parameter(block) for block in SHELL])
def test_commands(block: Block, user_folder: Path) -> None:
    folders = [user_folder / "bin", Path(sys.executable).parent, os.environ["PATH"]]
    environment = os.environ | {"PATH": os.pathsep.join(map(str, folders))}
    text = re.sub(r"--budget \S+", "--budget 2s", block.text)
    done = subprocess.run(
        ["bash", "-euc", text], cwd=user_folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_python_examples(user_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All in one namespace, as a reader would type them one after the other."""
    monkeypatch.chdir(user_folder)
    examples = [block.text for block in blocks() if block.language == "python"]
    assert examples
    namespace: dict[str, object] = {}
    for text in examples:
        exec(compile(text, "README.md", "exec"), namespace)
