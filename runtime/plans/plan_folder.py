"""A plan as a folder: ``plan.json`` beside one ONNX file per segment and one file that holds all weights.

The folder is made whole or not at all. On the way back nothing in it is believed: files must be where a plan's are,
as long and as they were written, and the segments may read weights from the plan's own file only.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import onnx
from google.protobuf.message import DecodeError

from ..errors import InvalidPlan, StorageFailed
from ..tensors.onnx_tensors import all_tensors
from .plan import Plan

PLAN_FILE = "plan.json"
FORMAT = "trisect-plan"
VERSION = 1
_REMEDY = "make the plan again with trisect split"


@dataclass(frozen=True)
class _Document:
    """What stands in ``plan.json``."""

    format: str
    version: int
    plan: Plan


@contextmanager
def folder_in_the_making(folder: Path) -> Iterator[Path]:
    """A new folder beside the wanted one, put in its place when the block ends well and removed when it does not.

    Raises
    ------
    StorageFailed
        When `folder` holds something that is no plan, or the disk is full or forbidden.
    """
    folder = Path(os.path.abspath(folder))
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / PLAN_FILE).is_file())):
        raise StorageFailed(f"{folder} holds something that is no plan", remedy="name a new folder")
    aside: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        yield aside
        aside.chmod(0o755)
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
            folder.rename(old / "plan")
            aside.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            aside.rename(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageFailed(
            f"the plan cannot be written to {folder}: {reason}", remedy="free some space or name another folder"
        ) from error
    finally:
        if aside is not None and aside.exists():
            shutil.rmtree(aside, ignore_errors=True)


def write_json(plan: Plan, folder: Path) -> None:
    """Write ``plan.json``: indented, the same bytes for the same plan, nothing of the machine's paths in it."""
    document = msgspec.to_builtins(_Document(FORMAT, VERSION, replace(plan, folder="")), order="deterministic")
    _omit_default_layouts(document)
    text = msgspec.json.format(msgspec.json.encode(document), indent=1)
    part = folder / f"{PLAN_FILE}.part"
    part.write_bytes(text + b"\n")
    part.replace(folder / PLAN_FILE)


def _omit_default_layouts(value: Any) -> None:
    """Remove the layout of tensors that have the model's, in place: a plan without NHWC is as in earlier versions."""
    if isinstance(value, dict):
        if value.get("layout") == "NCHW":
            del value["layout"]
        for part in value.values():
            _omit_default_layouts(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            _omit_default_layouts(part)


def save(plan: Plan, folder: Path) -> Plan:
    """See `Plan.save`."""
    if not plan.folder:
        raise StorageFailed("this plan has no segment files to save", remedy="make it with trisect.split")
    source = Path(plan.folder)
    if folder.exists() and folder.resolve() == source.resolve():
        write_json(plan, folder)
        return plan
    with folder_in_the_making(folder) as aside:
        for name in _files(plan):
            # Not a link: runtimes refuse weights that have more than one name.
            shutil.copyfile(source / name, aside / name)
        write_json(plan, aside)
    return replace(plan, folder=os.path.abspath(folder))


def load(folder: Path) -> Plan:
    """See `Plan.load`."""
    path = folder / PLAN_FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InvalidPlan(
            f"no plan at {folder} ({PLAN_FILE} is missing)", remedy="give the folder that trisect split wrote"
        ) from None
    except OSError as error:
        raise InvalidPlan(
            f"{path} cannot be read: {error.strerror}", remedy="give the folder that trisect split wrote"
        ) from error
    _check_version(content, path)
    try:
        raw = msgspec.json.decode(content)
        document = msgspec.convert(raw, type=_Document)
        strange = _unknown_field(raw, msgspec.to_builtins(document))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidPlan(f"{path} is damaged: {error}", remedy=_REMEDY) from error
    if strange is not None:
        raise InvalidPlan(f"{path} is damaged: no plan has a field {strange!r}", remedy=_REMEDY)
    plan = document.plan
    _check_references(plan, path)
    for segment in plan.segments:
        _check_segment(folder, segment.file, segment.sha256, plan)
    if plan.weights is not None:
        _check_file(folder / plan.weights.file, plan.weights.sha256, plan.weights.size_bytes)
    return replace(plan, folder=os.path.abspath(folder))


def _files(plan: Plan) -> list[str]:
    return [segment.file for segment in plan.segments] + ([plan.weights.file] if plan.weights is not None else [])


def _unknown_field(given: Any, understood: Any) -> str | None:
    """A field of the file that was not understood: a slip of the pen, or damage."""
    if isinstance(given, dict) and isinstance(understood, dict):
        for name, value in given.items():
            found = _unknown_field(value, understood[name]) if name in understood else str(name)
            if found is not None:
                return found
    elif isinstance(given, list):
        for one, other in zip(given, understood, strict=True):
            found = _unknown_field(one, other)
            if found is not None:
                return found
    return None


def _check_version(content: bytes, path: Path) -> None:
    """Say what the file is before its fields are looked at, so that a newer version is not called damaged."""
    try:
        head = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        kind = msgspec.json.decode(head.get("format", msgspec.Raw(b"null")))
        version = msgspec.json.decode(head.get("version", msgspec.Raw(b"null")))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidPlan(f"{path} is damaged: {error}", remedy=_REMEDY) from error
    if kind != FORMAT:
        raise InvalidPlan(f"{path} is not a plan of trisect", remedy="give the folder that trisect split wrote")
    if version != VERSION:
        raise InvalidPlan(
            f"{path} has version {version}, this trisect reads {VERSION}",
            remedy="upgrade trisect, or make the plan again",
        )


def _check_references(plan: Plan, path: Path) -> None:
    """Names and numbers that the rest of the runtime relies on."""
    for name in _files(plan):
        if not name or name != Path(name).name or "\\" in name or name.startswith("."):
            raise InvalidPlan(f"{path} names the file {name!r}, outside its folder", remedy="do not trust this plan")
    if [segment.index for segment in plan.segments] != list(range(len(plan.segments))):
        raise InvalidPlan(f"{path}: segments are not numbered from 0", remedy=_REMEDY)
    devices = {device.id for device in plan.devices}
    for segment in plan.segments:
        if segment.device not in devices:
            raise InvalidPlan(
                f"{path}: segment {segment.index} runs on {segment.device!r}, not among the plan's devices",
                remedy=_REMEDY,
            )
    for transfer in plan.transfers:
        if not (-1 <= transfer.source < len(plan.segments) and -1 <= transfer.target < len(plan.segments)):
            raise InvalidPlan(
                f"{path}: tensor {transfer.tensor!r} moves between segments that are not there", remedy=_REMEDY
            )


def _check_segment(folder: Path, name: str, sha256: str, plan: Plan) -> None:
    content = _check_file(folder / name, sha256)
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError:
        raise InvalidPlan(f"{folder / name} is not an ONNX model", remedy=_REMEDY) from None
    for tensor in all_tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", 0))
        except ValueError:
            offset, length = -1, -1
        weights = plan.weights
        inside = weights is not None and offset >= 0 and length >= 0 and offset + length <= weights.size_bytes
        if weights is None or not inside or entries.get("location") != weights.file:
            raise InvalidPlan(
                f"{folder / name}: tensor {tensor.name!r} lies outside the plan's weights",
                remedy="do not trust this plan",
            )


def _check_file(path: Path, sha256: str, size_bytes: int | None = None) -> bytes:
    """The file's content (empty when `size_bytes` is given: weights are hashed, not held) after checking its hash."""
    try:
        # Outside the folder by a link is outside, whatever the name says.
        if path.is_symlink():
            raise InvalidPlan(f"{path} is a link", remedy="copy the plan with its files")
        with path.open("rb") as file:
            if size_bytes is not None and os.fstat(file.fileno()).st_size != size_bytes:
                raise InvalidPlan(f"{path} is not as long as when the plan was made", remedy=_REMEDY)
            content = file.read() if size_bytes is None else b""
            digest = hashlib.sha256(content) if size_bytes is None else hashlib.file_digest(file, "sha256")
    except FileNotFoundError:
        raise InvalidPlan(f"{path} is missing", remedy=_REMEDY) from None
    except OSError as error:
        raise InvalidPlan(f"{path} cannot be read: {error.strerror}", remedy=_REMEDY) from error
    if digest.hexdigest() != sha256:
        raise InvalidPlan(f"{path} is not as it was when the plan was made", remedy=_REMEDY)
    return content
