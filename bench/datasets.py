"""Fetches published task graphs from their authors, for studies; none of them is part of trisect.

    python -m trisect.bench.datasets --to data
    python -m trisect.bench.datasets --stg ADDRESS --sha256 HASH --to data

The device-placement graphs are those of one commit; size and hash of each file are checked. Of the Standard Task Graph
set, which its authors publish at `STG_PAGE`, the user gives the address and the hash of an archive. The environment
variable ``TRISECT_DATA`` then names the folder.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import platformdirs
import typer

from trisect.runtime.atomic_write import write_atomically
from trisect.runtime.errors import InvalidInput, InvalidModel, StorageFailed, TrisectError
from trisect.runtime.printable_text import printable_line

from .archives import LIMIT_BYTES, check_sha256, unpack

ENVIRONMENT = "TRISECT_DATA"
"""Environment variable with the folder of published graphs."""
_COMMIT = "b207b6ad27a1407d321f1e028cea96d7f2c90e3e"
_SOURCE = f"https://raw.githubusercontent.com/msr-fiddle/dnn-partitioning/{_COMMIT}"
STG_PAGE = "https://www.kasahara.cs.waseda.ac.jp/schedule/"
_TIMEOUT_S = 60


@dataclass(frozen=True)
class DataFile:
    """One file of the source."""

    path: str
    size_bytes: int
    sha256: str


_TABLES = {
    "latency-inputs/LayerGraphs": """
        bert24_inference 9070 a1140cc38ee90e032683e769203bc160f42b2bb67ebae17c4a269580cd07d95f
        gnmt_inference 24975 9a6b57da6b1536abaa54e1d09e91d9a10e6823a27a55f38bceca07714258f638
        inceptionv3_inference 86322 32dee439d5b8a195797ff6cb483a6d1dcadef3924ffa4751b4861f33ad5946ff
        resnet50_inference 45643 61eb40ca178ff2cccb2a90f2c0e2eb44bff592717728cadba2ed7be82dc0a82e
    """,
    "latency-inputs/OperatorGraphs": """
        bert_l-12_inference 208585 66360c658c05e6399723e91e40f1d6ba75b4e2cb33433359a872102a30f2a302
        bert_l-3_inference 61217 56968af73dd6fd5c3f4c25054541f0a12dc5cb99763f46cc77a473e0caf179fd
        bert_l-6_inference 109616 3aa64b00474289b5e329cf994eab495072564af95dfd2bad0f5a102d69562e35
        resnet50_inference 157350 008f983eda0b0282a5898f1d6848557a3f62266626c58ea7f300ddb58c8ace9c
    """,
    "throughput-inputs/LayerGraphs": """
        bert24_inference 8556 94263bae71fbb8d282e110dc19a0b16d5f80178fd49c875b9a0476911e89fbdb
        bert24_training 17508 8edcf0e9300b16faa608a9eaf3083c6641dec751984f8ee82be8cdfe2126413c
        gnmt_inference 23462 db56efc77d7028848c45369edd8a1a824d11bdc9291df07b4594038c59bcb062
        gnmt_training 48025 452964e4b25c711b2153771b47ba1251dc0b9833bfb41bbcfad5d29c0fb33819
        inceptionv3_inference 80719 3ad6c35dddbf98bbfeb15ac1ad5cd64dd52b773a4e6fa751d8bda80b4c1132a9
        inceptionv3_training 163998 a910adbb9503247239e95cd9ef33798c7672005638e34ca21d5fafabc5b3b769
        resnet50_inference 42593 9a287c4346e3379922ca2dc390d2f19ab6cc83934a4a7b6c0fda4cac360adeb4
        resnet50_training 86136 b32cf4d2c2cdeb9241d1f12177a06c569cc551b1a4511bc41a51c883edb5ed8a
    """,
    "throughput-inputs/OperatorGraphs": """
        bert_L-12_training 611868 edc924ad581d4adca57699691a1702769a1a62adf112883eb94c909943685a08
        bert_l-12_inference 208586 4762b1a1253896ff0cb10ec001f23753b7700737554628e56aaa7965c49baa26
        bert_l-3_inference 61219 1608440c352c6bcf48c0b94146e096690a85c88ccee4ca3ff8e6f1bb7a084f8d
        bert_l-3_training 178691 988a0fb36d5d6a14177575f4e0c88ea8c6c9811f0e22d3036736687cd72619b7
        bert_l-6_inference 109618 aa46cf8c54fcc994b08872ad12658e8f6047f4ed04d117fbd1f583037f155e3d
        bert_l-6_training 320237 4dfa95ffb403b8f058183122f4bbcb52e7397695b413fe1fceb41987049de19d
        resnet50_inference 157352 cf857f11d4f69db258f2f6197e3184c1cde78b296d6a2756f52abb8a67f55dfa
        resnet50_training 385117 328ab3288b757d5a6b85c458d4c9e88d844556c1fa08e58bc4857881da5cfe6b
    """,
}
"""Folder -> name, size in bytes and SHA-256 of each of its files."""

FILES = tuple(
    DataFile(f"{folder}/{name}.json", int(size), sha256)
    for folder, table in _TABLES.items()
    for name, size, sha256 in (line.split() for line in table.strip().splitlines())
)
"""The graphs of github.com/msr-fiddle/dnn-partitioning (MIT)."""


def folders() -> list[Path]:
    """Return the folders that may hold published graphs: the user's, or that of `fetch` and one beside the checkout."""
    folder = os.environ.get(ENVIRONMENT)
    beside = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    return [Path(folder)] if folder else [default_folder(), beside]


def default_folder() -> Path:
    """Return the default folder of `fetch`."""
    return Path(platformdirs.user_cache_dir("trisect")) / "data"


def fetch(folder: Path, *, source: str = _SOURCE, files: Sequence[DataFile] = FILES) -> list[Path]:
    """Download the device-placement graphs that are missing in a folder.

    Parameters
    ----------
    folder : Path
        Parent of the folder ``dnn-partitioning``.
    source : str
        Base URL of the files.
    files : sequence of DataFile

    Returns
    -------
    list of Path

    Raises
    ------
    StorageFailed
        When the source cannot be reached, or the folder cannot be written.
    InvalidModel
        When a file has another hash; it is not stored.
    """
    paths = []
    for file in files:
        target = folder / "dnn-partitioning" / file.path
        if not (target.is_file() and target.stat().st_size == file.size_bytes):
            content = _download(f"{source}/{file.path}", file.size_bytes)
            if hashlib.sha256(content).hexdigest() != file.sha256:
                raise InvalidModel(f"{source}/{file.path} has another SHA-256 than expected", remedy="try again later")
            write_atomically(target, content)
        paths.append(target)
    return paths


def fetch_stg(address: str, sha256: str, folder: Path) -> list[Path]:
    """Download task graphs of the Standard Task Graph set.

    Parameters
    ----------
    address : str
        URL of an archive (``https://...``, ``file:///...``) on the authors' page: a tar, a zip, or one ``.stg``.
    sha256 : str
        The archive's hash.
    folder : Path
        Parent of the folder ``stg``.

    Returns
    -------
    list of Path

    Raises
    ------
    InvalidInput
        For an invalid address or hash.
    StorageFailed
        When the address cannot be reached, or the folder cannot be written.
    InvalidModel
        When the archive has another hash, is damaged, or holds no task graph; nothing is stored.
    """
    check_sha256(sha256)
    content = _download(address, LIMIT_BYTES)
    if len(content) > LIMIT_BYTES:
        raise InvalidModel(f"{address} is larger than any archive of task graphs")
    return unpack(content, sha256, address.rstrip("/").rpartition("/")[2] or address, folder / "stg")


def _download(address: str, size_bytes: int) -> bytes:
    print(f"fetching {address}", file=sys.stderr)
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as answer:
            content: bytes = answer.read(size_bytes + 1)
    except ValueError as error:
        raise InvalidInput(f"invalid address {address!r}", remedy="give a URL such as https://...") from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        raise StorageFailed(f"cannot download {address}: {reason}", remedy="check the network connection") from error
    return content


def main(
    to: Annotated[Path | None, typer.Option("--to", help="Target folder.")] = None,
    stg: Annotated[
        str | None, typer.Option("--stg", help=f"URL of an archive of the Standard Task Graph set; see {STG_PAGE}")
    ] = None,
    sha256: Annotated[str, typer.Option("--sha256", help="Hash of the archive.")] = "",
) -> None:
    """Fetch the device-placement graphs of Tarnawski et al. from their authors' repository, or task graphs."""
    folder = to or default_folder()
    try:
        if sha256 and stg is None:
            raise InvalidInput("--sha256 without an archive", remedy="give its URL with --stg")
        for path in fetch(folder) if stg is None else fetch_stg(stg, sha256, folder):
            typer.echo(path)
    except TrisectError as error:
        typer.echo(printable_line(f"error: {error}"), err=True)
        raise typer.Exit(2) from None


def run(arguments: Sequence[str] | None = None) -> None:
    """Run `main` on command-line arguments."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app(args=arguments)


if __name__ == "__main__":
    run()
