"""What all tests share: real models, tiny ones, folders of their own, and the flag for slow tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from tests.brief_measurements import PLANNING
from tests.slow_sample import slow_sample

if TYPE_CHECKING:
    from tests.llm.tiny_llms import TinyLlms
    from trisect.llm.bundle import Bundle

ROOT = Path(__file__).resolve().parent.parent

# Test processes share the cores: threads of one would wait for those of another, and each measurement is disturbed.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["TRISECT_MEASURE_ONCE"] = "1"

# The same random examples in every run; new ones with `--hypothesis-profile explore`. Neither depends on the time.
_UNTIMED: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("same examples", derandomize=True, **_UNTIMED)
settings.register_profile("explore", print_blob=True, **_UNTIMED)
settings.load_profile("same examples")

STEADY: dict[str, object] = {
    # The clock ends no search that its steps would end, though other processes take most of the processor.
    "trisect.scheduler.problem.search_time_limit.CLOCK_RATE": 0.01,
    # No device becomes faster or slower during a run.
    "trisect.device_speed.probe_time_s": lambda *_: 1e-3,
    "trisect.profiles.drift.device_changes.probe_time_s": lambda *_: 1e-3,
    "trisect.profiles.measuring.device_measurement.probe_time_s": lambda *_: 1e-3,
}
"""Name -> its value in tests, so that their results do not depend on how busy the machine is."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests too")
    parser.addoption("--slow-sample", type=float, default=0.0, metavar="SECONDS", help="run slow tests for so long")
    parser.addoption("--slow-seed", type=int, default=0, metavar="SEED", help="draws the slow tests of the sample")


ONE_AT_A_TIME = (
    "tests/runtime/cluster/",
    "tests/runtime/executors/faults/",
    "tests/trisect/cli/commands/test_plan_commands.py",
    "tests/trisect/test_cluster_devices.py",
)
"""Tests that start Ray, or count the processes and shared memory of this machine: never two of them in parallel."""
LONGEST = ("tests/test_readme.py", *ONE_AT_A_TIME, "tests/trisect/test_network_fitting.py")
"""Run first, so that no process is idle at the end."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))
    if not config.getoption("--slow"):
        reason = pytest.mark.skip(reason="slow: run with --slow")
        slow = {item.nodeid: marker for item in items if (marker := item.get_closest_marker("slow"))}
        costs_s = {name: float(marker.args[0]) for name, marker in slow.items() if marker.args}
        chosen = slow_sample(costs_s, config.getoption("--slow-sample"), config.getoption("--slow-seed"))
        for item in items:
            if item.nodeid in slow.keys() - chosen:
                item.add_marker(reason)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each test file to one process, so that its fixtures are set up once, and `ONE_AT_A_TIME` to a single one."""
    from xdist.scheduler import LoadScopeScheduling

    missing = [path for path in LONGEST if not (ROOT / path).exists()]
    assert not missing, f"tests/conftest.py names paths that do not exist: {missing}"

    class FileScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "one at a time" if nodeid.startswith(ONE_AT_A_TIME) else nodeid.partition("::")[0]

    return FileScheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def _brief_and_steady() -> Iterator[None]:
    """Measure fewer cuts and candidates of each model than a user's split does, and no search or probe by the clock."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (PLANNING | STEADY).items():
            patch.setattr(name, value)
        yield


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
        # Importing a real model takes many seconds: the processes of a run share what they import.
        shared = folder.parent.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
        patch.setenv("TRISECT_BUNDLES", str(shared / "bundles"))
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
