"""Task graphs out of archives: what has the hash is unpacked, and nothing else leaves a trace."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from trisect.bench import archives, datasets
from trisect.bench.workloads import WorkloadRequest, all_workloads
from trisect.runtime.errors import InvalidInput, InvalidModel, StorageFailed

GRAPH = b"""         2
         0          0          0
         1          5          1          0
         2          7          1          1
         3          0          1          2
"""
OPTIMA = b"file,processors,optimum_or_bounds\nrand0000.stg,4,12\n"
MEMBERS = {"50/rand0000.stg": GRAPH, "50/optimal.csv": OPTIMA, "50/README": b"as its authors wrote it"}


def tar(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(("pack", "name"), [(tar, "a.tgz"), (zipped, "a.zip")])
def test_what_is_fetched_is_a_workload(
    pack: Callable[[dict[str, bytes]], bytes], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / name
    source.write_bytes(pack(MEMBERS))
    result = datasets.fetch_stg(source.as_uri(), sha256(source.read_bytes()).upper(), tmp_path / "data")
    assert [path.relative_to(tmp_path / "data").as_posix() for path in result] == [
        "stg/50/rand0000.stg",
        "stg/optimal.csv",
    ]
    monkeypatch.setenv(datasets.ENVIRONMENT, str(tmp_path / "data"))
    workload = next(w for w in all_workloads() if w.name == "stg")
    (instance,) = workload.instances(WorkloadRequest("", (0,), None))
    assert (instance.name, instance.known_bound) == ("50/rand0000", 12.0)
    problem = instance.make()
    assert [problem.time(node, problem.device_ids[0]) for node in problem.graph] == [0, 5, 7, 0]


def test_one_graph_by_itself(tmp_path: Path) -> None:
    source = tmp_path / "rand0007.stg"
    source.write_bytes(GRAPH)
    assert datasets.fetch_stg(source.as_uri(), sha256(GRAPH), tmp_path) == [tmp_path / "stg" / "rand0007.stg"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tar(MEMBERS)[:-40], "damaged"),
        (b"<html>not found</html>", "damaged"),
        (tar({"a.txt": b"nothing"}), "no .stg file"),
        (tar({"../../a.stg": GRAPH}), "leads out of the folder"),
        (tar({"/etc/a.stg": GRAPH}), "leads out of the folder"),
        (zipped({"b/../../a.stg": GRAPH}), "leads out of the folder"),
    ],
    ids=["cut", "a page", "no graph", "upwards", "absolute", "upwards in a zip"],
)
def test_nothing_of_an_invalid_archive_is_stored(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=message):
        archives.unpack(content, sha256(content), "a.tgz", tmp_path / "stg")
    assert not (tmp_path / "stg").exists()


def test_links_in_an_archive_are_not_followed(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        link = tarfile.TarInfo("passwords.stg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(InvalidModel, match=r"no \.stg file"):
        archives.unpack(stream.getvalue(), sha256(stream.getvalue()), "a.tar", tmp_path / "stg")


def test_an_archive_that_swells_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_MEMBER_LIMIT_BYTES", 1000)
    content = zipped({"a.stg": bytes(2000)})
    with pytest.raises(InvalidModel, match="larger than any task graph"):
        archives.unpack(content, sha256(content), "a.zip", tmp_path / "stg")


def test_another_hash_or_none(tmp_path: Path) -> None:
    source = tmp_path / "a.tgz"
    source.write_bytes(tar(MEMBERS))
    with pytest.raises(InvalidModel, match=r"a\.tgz has the SHA-256 [0-9a-f]{64}, expected 0{64}"):
        datasets.fetch_stg(source.as_uri(), "0" * 64, tmp_path / "data")
    with pytest.raises(InvalidInput, match="is not a SHA-256"):
        datasets.fetch_stg(source.as_uri(), "", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_where_nothing_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StorageFailed, match="cannot download"):
        datasets.fetch_stg((tmp_path / "none.tgz").as_uri(), "0" * 64, tmp_path)
    with pytest.raises(InvalidInput, match="invalid address"):
        datasets.fetch_stg("rnd50.tgz", "0" * 64, tmp_path)
    with pytest.raises(SystemExit) as ended:
        datasets.run(["--stg", (tmp_path / "none.tgz").as_uri(), "--sha256", "0" * 64, "--to", str(tmp_path)])
    assert ended.value.code == 2
    assert "check the network connection" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        datasets.run(["--sha256", "0" * 64])
    assert ended.value.code == 2


def test_archives_are_bounded_before_they_are_inflated(tmp_path: Path) -> None:
    """A member that states 100 bytes and inflates to more, many empty members, and a large tar in few bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.stg", bytes(80 << 20))
    bomb = bytearray(buffer.getvalue())
    at = bomb.index(b"PK\x01\x02")
    bomb[at + 24 : at + 28] = (100).to_bytes(4, "little")
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as archive:
        for number in range(20_001):
            archive.writestr(f"{number}", b"")
    large = gzip.compress(bytes(300 << 20), 1)
    for content, name in ((bytes(bomb), "bomb.zip"), (many.getvalue(), "many.zip"), (large, "large.tar.gz")):
        with pytest.raises(InvalidModel, match=name):
            archives.unpack(content, hashlib.sha256(content).hexdigest(), name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_member_without_a_name_is_passed_over(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo(""), b"")
        for name, member in MEMBERS.items():
            archive.writestr(name, member)
    content = stream.getvalue()
    assert archives.unpack(content, sha256(content), "a.zip", tmp_path / "out")
