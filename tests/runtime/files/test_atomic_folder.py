"""A folder is replaced only if all that is in it was written by trisect and is unchanged."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trisect.runtime.errors import StorageFailed
from trisect.runtime.files.atomic_folder import FolderKind, atomic_folder, check_folder, remove_folder

CONTENT = b"content"


def listed(folder: Path) -> dict[str, str | None] | None:
    """Return what a list of names says, one a line."""
    names = folder / "list"
    if not names.is_file():
        return None
    hashes: dict[str, str | None] = dict.fromkeys(names.read_text().split(), hashlib.sha256(CONTENT).hexdigest())
    return {**hashes, "list": None}


KIND = FolderKind("a collection", listed)


def write(folder: Path, names: str = "a b", content: bytes = CONTENT) -> None:
    for name in names.split():
        (folder / name).write_bytes(content)
    (folder / "list").write_text(names)


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with atomic_folder(tmp_path / "there", KIND) as new:
        write(new)
    return tmp_path / "there"


def test_new_and_empty_folders_are_filled_and_own_ones_replaced(folder: Path, tmp_path: Path) -> None:
    assert sorted(os.listdir(folder)) == ["a", "b", "list"]
    with atomic_folder(folder, KIND) as new:
        write(new, "c")
    assert sorted(os.listdir(folder)) == ["c", "list"]
    (tmp_path / "empty").mkdir()
    with atomic_folder(tmp_path / "empty", KIND) as new:
        write(new)
    assert sorted(os.listdir(tmp_path)) == ["empty", "there"]


def test_a_folder_with_an_input_is_kept(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder / "a")
    check_folder(folder, KIND, [tmp_path / "elsewhere"])
    for path in (folder / "a", tmp_path / "link"):
        with pytest.raises(StorageFailed, match="which this command reads; name a new folder"):
            check_folder(folder, KIND, [path])


def test_an_incomplete_folder_of_the_kind_may_be_replaced(folder: Path) -> None:
    (folder / "a").unlink()
    with atomic_folder(folder, KIND) as new:
        write(new)
    assert sorted(os.listdir(folder)) == ["a", "b", "list"]


def foreign_list(folder: Path) -> None:
    (folder / "list").unlink()


def other_file(folder: Path) -> None:
    (folder / "thesis").write_bytes(b"mine")


def other_folder(folder: Path) -> None:
    (folder / "src").mkdir()
    (folder / "src" / "thesis").write_bytes(b"mine")


def changed(folder: Path) -> None:
    (folder / "a").write_bytes(b"edited")


def link(folder: Path) -> None:
    (folder / "b").unlink()
    (folder / "b").symlink_to(folder / "a")


def fifo(folder: Path) -> None:
    (folder / "b").unlink()
    os.mkfifo(folder / "b")


CHANGES = [foreign_list, other_file, other_folder, changed, link, fifo]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("late", [False, True])
def test_anything_else_in_a_folder_keeps_it(folder: Path, change: Callable[[Path], None], late: bool) -> None:
    """Before the work, and also when it comes while the new folder is written."""
    if not late:
        change(folder)
        with pytest.raises(StorageFailed, match="name a new folder"):
            check_folder(folder, KIND)
        with pytest.raises(StorageFailed, match="name a new folder"):
            remove_folder(folder, KIND)
    before = tree(folder)

    def replaced() -> None:
        nonlocal before
        with atomic_folder(folder, KIND) as new:
            assert late, "the work was begun"
            write(new, "c")
            change(folder)
            before = tree(folder)

    with pytest.raises(StorageFailed, match="name a new folder"):
        replaced()
    assert tree(folder) == before
    assert os.listdir(folder.parent) == ["there"]


def test_what_appears_at_a_new_name_is_kept(tmp_path: Path) -> None:
    def write_slowly(target: Path, appear: Callable[[Path], None]) -> None:
        with atomic_folder(target, KIND) as new:
            write(new)
            appear(target)

    def make(target: Path) -> None:
        target.mkdir()
        (target / "thesis").touch()

    for appear in (Path.touch, make):
        target = tmp_path / appear.__name__
        with pytest.raises(StorageFailed):
            write_slowly(target, appear)
        assert target.is_file() or os.listdir(target) == ["thesis"]


def test_links_files_and_folders_that_hold_the_user_are_no_targets(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "file").touch()
    (tmp_path / "home" / "below").mkdir(parents=True)
    (tmp_path / "work" / "below").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "below"))
    monkeypatch.chdir(tmp_path / "work" / "below")
    for name, reason in (
        ("link", "is a link"),
        ("dangling", "is a link"),
        ("file", "is a file"),
        ("file/new", "not a folder|Not a directory"),
        ("home", "home directory"),
        ("home/below", "home directory"),
        ("work", "working directory"),
        ("work/below", "working directory"),
        ("a\0b", "null"),
        ("a" * 300, "too long"),
    ):
        with pytest.raises(StorageFailed, match=reason), atomic_folder(tmp_path / name, KIND):
            pytest.fail("the work was begun")
    for path in (Path(), Path("/"), Path("..")):
        with pytest.raises(StorageFailed, match="working directory"):
            check_folder(path, KIND)
    assert sorted(os.listdir(tmp_path)) == ["dangling", "file", "home", "link", "there", "work"]


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    for mask in (0o022, 0o077):
        old = os.umask(mask)
        try:
            with atomic_folder(tmp_path / f"{mask}", KIND) as new:
                write(new)
        finally:
            os.umask(old)
        assert (tmp_path / f"{mask}").stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be locked")
def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from trisect.runtime.files.atomic_folder import FolderKind, atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1]), FolderKind('a collection', lambda folder: None)) as new:\n"
        "    (new / 'large').write_bytes(bytes(10**6)); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], check=False)
    assert killed.returncode < 0
    (left,) = tmp_path.iterdir()
    with atomic_folder(tmp_path / "there", KIND) as slow:
        assert not left.exists()
        with atomic_folder(tmp_path / "there", KIND) as quick:
            assert slow.is_dir()
            write(quick)
        write(slow, "c")
    assert sorted(os.listdir(tmp_path / "there")) == ["c", "list"]
    assert os.listdir(tmp_path) == ["there"]
