"""Published graphs fetched from where their authors put them, for studies; none of them is part of trisect.

    python -m trisect.bench.datasets --to data
    python -m trisect.bench.datasets --stg ADDRESS --sha256 HASH --to data

The device-placement graphs are of one commit, each checked against the size and hash written down here before it gets
its name. Of the Standard Task Graph set, which its authors offer at `STG_PAGE`, the user names an archive and its hash.
The folder is then named to trisect in the environment variable ``TRISECT_DATA``.
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

from .archives import LIMIT_BYTES, check_sha256, unpack

ENVIRONMENT = "TRISECT_DATA"
"""Environment variable that names the folder of published graphs."""
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


FILES = (
    DataFile(
        "latency-inputs/LayerGraphs/bert24_inference.json",
        9_070,
        "a1140cc38ee90e032683e769203bc160f42b2bb67ebae17c4a269580cd07d95f",
    ),
    DataFile(
        "latency-inputs/LayerGraphs/gnmt_inference.json",
        24_975,
        "9a6b57da6b1536abaa54e1d09e91d9a10e6823a27a55f38bceca07714258f638",
    ),
    DataFile(
        "latency-inputs/LayerGraphs/inceptionv3_inference.json",
        86_322,
        "32dee439d5b8a195797ff6cb483a6d1dcadef3924ffa4751b4861f33ad5946ff",
    ),
    DataFile(
        "latency-inputs/LayerGraphs/resnet50_inference.json",
        45_643,
        "61eb40ca178ff2cccb2a90f2c0e2eb44bff592717728cadba2ed7be82dc0a82e",
    ),
    DataFile(
        "latency-inputs/OperatorGraphs/bert_l-12_inference.json",
        208_585,
        "66360c658c05e6399723e91e40f1d6ba75b4e2cb33433359a872102a30f2a302",
    ),
    DataFile(
        "latency-inputs/OperatorGraphs/bert_l-3_inference.json",
        61_217,
        "56968af73dd6fd5c3f4c25054541f0a12dc5cb99763f46cc77a473e0caf179fd",
    ),
    DataFile(
        "latency-inputs/OperatorGraphs/bert_l-6_inference.json",
        109_616,
        "3aa64b00474289b5e329cf994eab495072564af95dfd2bad0f5a102d69562e35",
    ),
    DataFile(
        "latency-inputs/OperatorGraphs/resnet50_inference.json",
        157_350,
        "008f983eda0b0282a5898f1d6848557a3f62266626c58ea7f300ddb58c8ace9c",
    ),
    DataFile(
        "throughput-inputs/LayerGraphs/bert24_inference.json",
        8_556,
        "94263bae71fbb8d282e110dc19a0b16d5f80178fd49c875b9a0476911e89fbdb",
    ),
    DataFile(
        "throughput-inputs/LayerGraphs/bert24_training.json",
        17_508,
        "8edcf0e9300b16faa608a9eaf3083c6641dec751984f8ee82be8cdfe2126413c",
    ),
    DataFile(
        "throughput-inputs/LayerGraphs/gnmt_inference.json",
        23_462,
        "db56efc77d7028848c45369edd8a1a824d11bdc9291df07b4594038c59bcb062",
    ),
    DataFile(
        "throughput-inputs/LayerGraphs/gnmt_training.json",
        48_025,
        "452964e4b25c711b2153771b47ba1251dc0b9833bfb41bbcfad5d29c0fb33819",
    ),
    DataFile(
        "throughput-inputs/LayerGraphs/inceptionv3_inference.json",
        80_719,
        "3ad6c35dddbf98bbfeb15ac1ad5cd64dd52b773a4e6fa751d8bda80b4c1132a9",
    ),
    DataFile(
        "throughput-inputs/LayerGraphs/inceptionv3_training.json",
        163_998,
        "a910adbb9503247239e95cd9ef33798c7672005638e34ca21d5fafabc5b3b769",
    ),
    DataFile(
        "throughput-inputs/LayerGraphs/resnet50_inference.json",
        42_593,
        "9a287c4346e3379922ca2dc390d2f19ab6cc83934a4a7b6c0fda4cac360adeb4",
    ),
    DataFile(
        "throughput-inputs/LayerGraphs/resnet50_training.json",
        86_136,
        "b32cf4d2c2cdeb9241d1f12177a06c569cc551b1a4511bc41a51c883edb5ed8a",
    ),
    DataFile(
        "throughput-inputs/OperatorGraphs/bert_L-12_training.json",
        611_868,
        "edc924ad581d4adca57699691a1702769a1a62adf112883eb94c909943685a08",
    ),
    DataFile(
        "throughput-inputs/OperatorGraphs/bert_l-12_inference.json",
        208_586,
        "4762b1a1253896ff0cb10ec001f23753b7700737554628e56aaa7965c49baa26",
    ),
    DataFile(
        "throughput-inputs/OperatorGraphs/bert_l-3_inference.json",
        61_219,
        "1608440c352c6bcf48c0b94146e096690a85c88ccee4ca3ff8e6f1bb7a084f8d",
    ),
    DataFile(
        "throughput-inputs/OperatorGraphs/bert_l-3_training.json",
        178_691,
        "988a0fb36d5d6a14177575f4e0c88ea8c6c9811f0e22d3036736687cd72619b7",
    ),
    DataFile(
        "throughput-inputs/OperatorGraphs/bert_l-6_inference.json",
        109_618,
        "aa46cf8c54fcc994b08872ad12658e8f6047f4ed04d117fbd1f583037f155e3d",
    ),
    DataFile(
        "throughput-inputs/OperatorGraphs/bert_l-6_training.json",
        320_237,
        "4dfa95ffb403b8f058183122f4bbcb52e7397695b413fe1fceb41987049de19d",
    ),
    DataFile(
        "throughput-inputs/OperatorGraphs/resnet50_inference.json",
        157_352,
        "cf857f11d4f69db258f2f6197e3184c1cde78b296d6a2756f52abb8a67f55dfa",
    ),
    DataFile(
        "throughput-inputs/OperatorGraphs/resnet50_training.json",
        385_117,
        "328ab3288b757d5a6b85c458d4c9e88d844556c1fa08e58bc4857881da5cfe6b",
    ),
)
"""The graphs of github.com/msr-fiddle/dnn-partitioning (MIT)."""


def folders() -> list[Path]:
    """Where published graphs may be: what the user named, what `fetch` filled, a checkout's neighbour."""
    named = os.environ.get(ENVIRONMENT)
    beside = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    return [Path(named)] if named else [default_folder(), beside]


def default_folder() -> Path:
    """Where `fetch` puts them when nobody says."""
    return Path(platformdirs.user_cache_dir("trisect")) / "data"


def fetch(folder: Path, *, source: str = _SOURCE, files: Sequence[DataFile] = FILES) -> list[Path]:
    """Put the device-placement graphs into a folder, downloading those that are missing.

    Parameters
    ----------
    folder : Path
        Gets ``dnn-partitioning``.
    source : str
        Address that the files are below.
    files : sequence of DataFile

    Returns
    -------
    list of Path

    Raises
    ------
    StorageFailed
        When the source cannot be reached or the folder not be written.
    InvalidModel
        When what comes is not what is written down here; nothing is kept of it.
    """
    found = []
    for file in files:
        target = folder / "dnn-partitioning" / file.path
        if not (target.is_file() and target.stat().st_size == file.size_bytes):
            content = _download(f"{source}/{file.path}", file.size_bytes)
            if hashlib.sha256(content).hexdigest() != file.sha256:
                raise InvalidModel(f"{source} does not hold the {file.path} that was expected")
            write_atomically(target, content)
        found.append(target)
    return found


def fetch_stg(address: str, sha256: str, folder: Path) -> list[Path]:
    """Put task graphs of the Standard Task Graph set into a folder.

    Parameters
    ----------
    address : str
        Of an archive (``https://...``, ``file:///...``), as its authors' page links it: a tar, a zip, or one ``.stg``.
    sha256 : str
        That it must have.
    folder : Path
        Gets ``stg``.

    Returns
    -------
    list of Path

    Raises
    ------
    InvalidInput
        For an address or a hash that is none.
    StorageFailed
        When the address cannot be reached or the folder not be written.
    InvalidModel
        When what comes has another hash, is damaged, or holds no task graph; nothing is kept of it.
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
        raise InvalidInput(f"{address!r} is no address", remedy="give one that begins with https://") from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        raise StorageFailed(f"cannot download {address}: {reason}", remedy="is this machine online?") from error
    return content


def main(
    to: Annotated[Path | None, typer.Option("--to", help="Folder to put them into.")] = None,
    stg: Annotated[
        str | None, typer.Option("--stg", help=f"Address of an archive of the Standard Task Graph set; see {STG_PAGE}")
    ] = None,
    sha256: Annotated[str, typer.Option("--sha256", help="What the archive must have.")] = "",
) -> None:
    """Fetch the device-placement graphs of Tarnawski et al. from their authors' repository, or task graphs."""
    folder = to or default_folder()
    try:
        if sha256 and stg is None:
            raise InvalidInput("a hash without an archive", remedy="name its address with --stg")
        for path in fetch(folder) if stg is None else fetch_stg(stg, sha256, folder):
            typer.echo(path)
    except TrisectError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def run(arguments: Sequence[str] | None = None) -> None:
    """Run `main` on command-line arguments."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app(args=arguments)


if __name__ == "__main__":
    run()
