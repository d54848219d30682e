"""What `pip install .` installs: the complete package trisect, and no other name."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("runtime", "profiles", "scheduler", "partitioner", "llm", "bench", "trisect")
DATA = (
    "bench/prompts/*.txt",
    "bench/report/*.css",
    "bench/report/*.j2",
    "bench/report/*.js",
    "profiles/capabilities/*.json",
    "profiles/costmodel/shipped_models/*.json",
    "profiles/reference/*.json",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from a copy, because setuptools leaves a build folder behind."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(folder), str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_installs_one_name(wheel: zipfile.ZipFile) -> None:
    top = {PurePosixPath(name).parts[0] for name in wheel.namelist()}
    assert len(top) == 2
    assert "trisect" in top


def test_holds_every_module_and_its_data(wheel: zipfile.ZipFile) -> None:
    modules = [
        path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if "acceptance" not in path.parts
    ]
    data = [path for pattern in DATA for path in ROOT.glob(pattern)]
    ours = {path.relative_to(ROOT).as_posix() for path in (*modules, *data)}
    expected = {name if name.startswith("trisect/") else f"trisect/{name}" for name in ours} | {"trisect/py.typed"}
    assert {name for name in wheel.namelist() if name.startswith("trisect/")} == expected


def test_gives_the_command_and_the_licence(wheel: zipfile.ZipFile) -> None:
    texts = {PurePosixPath(name).name: wheel.read(name).decode() for name in wheel.namelist() if ".dist-info/" in name}
    assert "trisect = trisect.cli:main" in texts["entry_points.txt"]
    assert "Apache License" in texts["LICENSE"]
    assert "License-Expression: Apache-2.0" in texts["METADATA"]
