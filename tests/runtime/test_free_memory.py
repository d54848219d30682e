"""Free memory is what this process can still get: of the machine, or of the container that it runs in."""

from __future__ import annotations

from pathlib import Path

import pytest

from trisect.runtime import free_memory
from trisect.runtime.engines.common.host_info import host_memory_bytes

GB = 1 << 30


def cgroup(folder: Path, names: tuple[str, str], limit: object, used: int, cached: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon {used - cached}\ninactive_file {cached}\nfile 1 2\n")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(free_memory, "_CGROUP_ROOT", tmp_path / "fs")
    monkeypatch.setattr(free_memory, "_OWN_CGROUPS", tmp_path / "own")
    return tmp_path


def test_without_cgroups_the_machine_alone_counts(root: Path) -> None:
    assert free_memory.free_bytes() > 0
    assert free_memory.limit_bytes() is None


@pytest.mark.parametrize(
    ("own", "folder", "names"),
    [
        ("0::/\n", "fs", free_memory._V2_FILES),
        ("0::/user.slice/run-1.scope\n", "fs/user.slice/run-1.scope", free_memory._V2_FILES),
        ("4:cpu,cpuacct:/\n5:memory:/box\n0::/\n", "fs/memory/box", free_memory._V1_FILES),
        ("5:memory:/docker/0123\n", "fs/memory", free_memory._V1_FILES),  # the path is the host's
    ],
)
def test_a_container_with_a_limit(root: Path, own: str, folder: str, names: tuple[str, str]) -> None:
    (root / "own").write_text(own)
    cgroup(root / folder, names, limit=GB, used=3 * GB // 4)
    assert free_memory.free_bytes() == GB // 4
    assert free_memory.limit_bytes() == GB == host_memory_bytes()


def test_cached_pages_of_files_are_free(root: Path) -> None:
    (root / "own").write_text("0::/\n")
    cgroup(root / "fs", free_memory._V2_FILES, limit=GB, used=GB, cached=GB // 2)
    assert free_memory.free_bytes() == GB // 2


def test_a_limit_of_a_parent_holds_too(root: Path) -> None:
    (root / "own").write_text("0::/outer/inner\n")
    cgroup(root / "fs/outer/inner", free_memory._V2_FILES, limit="max", used=GB // 2)
    cgroup(root / "fs/outer", free_memory._V2_FILES, limit=GB, used=GB // 2)
    assert free_memory.free_bytes() == GB // 2


def test_freed_memory_can_be_returned() -> None:
    free_memory.return_freed_memory()
