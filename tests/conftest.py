"""What all tests share: real models, tiny ones, folders of their own, and the flag for slow tests."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.llm.tiny_llms import TinyLlms
    from trisect.llm.bundle import Bundle

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


ONE_AT_A_TIME = ("tests/runtime/cluster/", "tests/runtime/executors/faults/")
"""Tests that start Ray, or count the processes and shared memory of this machine: never two of them in parallel.
Modules elsewhere join them by ``pytestmark = pytest.mark.xdist_group("one at a time")``."""


@pytest.hookimpl(wrapper=True)  # before pytest-xdist's own, which reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
    for item in items:  # a file is a group: its fixtures are set up once, in one process
        file = item.nodeid.partition("::")[0]
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group("one at a time" if file.startswith(ONE_AT_A_TIME) else file))
    # The longest groups first, so that no process is idle at the end.
    items.sort(key=lambda item: not item.nodeid.startswith(("tests/test_readme.py", *ONE_AT_A_TIME)))
    if not config.getoption("--slow"):
        reason = pytest.mark.skip(reason="slow: run with --slow")
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(reason)
    return (yield)


@pytest.fixture(scope="session")
def models() -> Path:
    """Folder of real models, where `make test` puts them; tests skip what is not there."""
    return Path(os.environ.get("TRISECT_MODELS", ROOT / ".cache" / "models"))


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests out of the user's cache, and the user's cache out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setenv("TRISECT_PROFILES", str(folder / "profiles"))
        patch.setenv("TRISECT_BUNDLES", str(folder / "bundles"))
        yield


@pytest.fixture(scope="session")
def tiny_llms(tmp_path_factory: pytest.TempPathFactory) -> TinyLlms:
    """Makes language models of random weights."""
    from tests.llm.tiny_llms import TinyLlms

    return TinyLlms(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def smollm2(models: Path) -> Path:
    """A real language model: SmolLM2-135M-Instruct in Q4_1."""
    path = models / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in {models}: run `python -m trisect.bench.models smollm2 --to {models}`")
    return path


@pytest.fixture(scope="session")
def smollm2_blocks(smollm2: Path) -> Bundle:
    """The real model, imported with its weights in blocks."""
    from trisect.llm.importing.model_import import open_model

    return open_model(smollm2)


@pytest.fixture(scope="session")
def smollm2_float32(smollm2: Path) -> Bundle:
    """The real model, imported with its weights in float32: the reference."""
    from trisect.llm.importing.model_import import open_model

    return open_model(smollm2, weights="float32")
