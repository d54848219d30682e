"""Writes and reads a plan's folder: ``plan.json``, one ONNX file per segment and one file that contains all weights.

The folder is written completely or not at all. Nothing in it is trusted when it is read: files must be inside the
folder and have the recorded size and hash, and segments may read weights from the plan's own weights file only.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import onnx
from google.protobuf.message import DecodeError

from ..atomic_write import write_atomically
from ..errors import InvalidPlan
from ..files.atomic_folder import FolderKind, atomic_folder
from ..printable_text import utf8_text
from ..tensors.external_data import checked_size
from ..tensors.onnx_tensors import all_tensors
from ..untrusted_files import MalformedFile, decode_json, open_regular, read_bytes
from .plan_checks import REMEDY, PlanContent, check_content, check_signature, listed_files
from .plan_parts import Segment, Weights

PLAN_FILE = "plan.json"
FORMAT = "trisect-plan"
VERSION = 1
_FOLDER_REMEDY = "give the folder that trisect split wrote"


PlanType = TypeVar("PlanType", bound=PlanContent)


class _ManifestFile(msgspec.Struct):
    file: str
    sha256: str


class _ManifestPlan(msgspec.Struct):
    segments: list[_ManifestFile]
    weights: _ManifestFile | None = None


class _Manifest(msgspec.Struct):
    """The part of ``plan.json`` that lists files."""

    format: str
    version: int
    plan: _ManifestPlan


def plan_files(folder: Path) -> dict[str, str | None] | None:
    """Return the files that a plan lists, with their hashes; None where there is no plan of this version.

    What a plan needs to run is not checked: a damaged plan may be replaced as well.
    """
    try:
        manifest = decode_json(read_bytes(folder / PLAN_FILE), _Manifest)
    except (OSError, MalformedFile):
        return None
    if (manifest.format, manifest.version) != (FORMAT, VERSION):
        return None
    files = [*manifest.plan.segments, *filter(None, [manifest.plan.weights])]
    return {PLAN_FILE: None, **{file.file: file.sha256 for file in files}}


PLAN_FOLDER = FolderKind("a plan", plan_files)


def write_json(plan: PlanContent, folder: Path) -> None:
    """Write ``plan.json``: indented, the same bytes for the same plan, without paths of this machine."""
    fields = {**msgspec.to_builtins(plan, order="deterministic"), "folder": ""}
    fields.pop("verified", None)  # measured: the same plan has the same bytes
    if not fields.get("fixed_inputs"):
        fields.pop("fixed_inputs", None)  # a plan without defaults has the bytes of earlier versions
    comparison = fields["comparison"] or {"alone": (), "plan": {"interval": None}}
    rows = [(row, "interval") for row in (*comparison["alone"], comparison["plan"])]
    predicted = [(fields["predicted"], name) for name in ("latency_interval_s", "segment_intervals_s")]
    for part, name in ((fields, "interval"), (fields, "comparison"), *predicted, *rows):
        if part[name] is None:
            del part[name]  # the same holds for a plan without intervals
    _omit_default_layouts(fields)
    text = msgspec.json.format(msgspec.json.encode({"format": FORMAT, "version": VERSION, "plan": fields}), indent=1)
    write_atomically(folder / PLAN_FILE, text + b"\n")


def _omit_default_layouts(value: Any) -> None:
    """Remove the default layout of tensors, in place: a plan without NHWC has the bytes of earlier versions."""
    if isinstance(value, dict):
        if value.get("layout") == "NCHW":
            del value["layout"]
        for part in value.values():
            _omit_default_layouts(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            _omit_default_layouts(part)


def copy_files(plan: PlanContent, source: Path, target: Path) -> None:
    """Write a plan to another folder, with copies of its files.

    Raises
    ------
    StorageFailed
        As `atomic_folder`.
    """
    with atomic_folder(target, PLAN_FOLDER) as temporary:
        for name in listed_files(plan):
            # Not a link: runtimes refuse weights that have more than one name.
            shutil.copyfile(source / name, temporary / name)
        write_json(plan, temporary)


def read_json(folder: Path, plan_type: type[PlanType]) -> PlanType:
    """Read ``plan.json``, and check the plan and all its files.

    Raises
    ------
    InvalidPlan
        When anything is missing, damaged, tampered with, or of a newer version.
    """
    path = folder / PLAN_FILE
    if utf8_text(str(path.absolute())) != str(path.absolute()):
        raise InvalidPlan(f"engines cannot open files in {folder}: its name is not UTF-8", remedy="rename it")
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        raise InvalidPlan(f"no plan at {folder} ({PLAN_FILE} is missing)", remedy=_FOLDER_REMEDY) from None
    except OSError as error:
        raise InvalidPlan(f"{path} cannot be read: {error.strerror}", remedy=_FOLDER_REMEDY) from error
    _check_version(content, path)
    try:
        document = msgspec.json.decode(content)
        plan = msgspec.convert(document.get("plan"), type=plan_type)
        known = {"format": FORMAT, "version": VERSION, "plan": msgspec.to_builtins(plan)}
        unknown = _unknown_field(document, known)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidPlan(f"{path} is damaged: {error}", remedy=REMEDY) from error
    if unknown is not None:
        raise InvalidPlan(f"{path} is damaged: a plan has no field {unknown!r}", remedy=REMEDY)
    check_content(plan, path)
    for segment in plan.segments:
        _check_segment(folder, segment, plan.weights)
    if plan.weights is not None:
        _check_file(folder / plan.weights.file, plan.weights.sha256, plan.weights.size_bytes)
    return plan


def _unknown_field(read: Any, known: Any) -> str | None:
    """Return a field of the file that is not part of the format; None where there is none."""
    if isinstance(read, Mapping) and isinstance(known, Mapping):
        pairs = [(value, known[name]) for name, value in read.items() if name in known]
        unknown = next((str(name) for name in read if name not in known), None)
        if unknown is not None:
            return unknown
    elif isinstance(read, list):
        pairs = list(zip(read, known, strict=True))
    else:
        return None
    return next(filter(None, (_unknown_field(*pair) for pair in pairs)), None)


def _check_version(content: bytes, path: Path) -> None:
    """Check format and version before any field, so that a newer version is not reported as damaged."""
    try:
        head = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        kind = msgspec.json.decode(head.get("format", msgspec.Raw(b"null")))
        version = msgspec.json.decode(head.get("version", msgspec.Raw(b"null")))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidPlan(f"{path} is damaged: {error}", remedy=REMEDY) from error
    if kind != FORMAT:
        raise InvalidPlan(f"{path} is not a plan of trisect", remedy=_FOLDER_REMEDY)
    if version != VERSION:
        raise InvalidPlan(
            f"{path} has version {version}, expected {VERSION}",
            remedy="upgrade trisect, or make the plan again",
        )


def _check_segment(folder: Path, segment: Segment, weights: Weights | None) -> None:
    path = folder / segment.file
    content = _check_file(path, segment.sha256)
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError:
        raise InvalidPlan(f"{path} is not an ONNX model", remedy=REMEDY) from None
    check_signature(segment, model, path)
    for tensor in all_tensors(model):
        size_bytes = checked_size(tensor, f"{path}: tensor {tensor.name!r}")
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", 0))
        except ValueError:
            offset, length = -1, -1
        inside = weights is not None and offset >= 0 and length == size_bytes and offset + length <= weights.size_bytes
        if weights is None or not inside or entries.get("location") != weights.file:
            raise InvalidPlan(
                f"{path}: tensor {tensor.name!r} is outside the plan's weights",
                remedy="do not trust this plan",
            )


def _check_file(path: Path, sha256: str, size_bytes: int | None = None) -> bytes:
    """Check a file's hash and return its content; nothing where `size_bytes` is given: weights may be large."""
    try:
        # A link may lead outside the folder.
        if path.is_symlink():
            raise InvalidPlan(f"{path} is a link", remedy="copy the plan with its files")
        with open_regular(path) as file:
            if size_bytes is not None and os.fstat(file.fileno()).st_size != size_bytes:
                raise InvalidPlan(f"{path} has another size than when the plan was made", remedy=REMEDY)
            content = file.read() if size_bytes is None else b""
            digest = hashlib.sha256(content) if size_bytes is None else hashlib.file_digest(file, "sha256")
    except FileNotFoundError:
        raise InvalidPlan(f"{path} is missing", remedy=REMEDY) from None
    except OSError as error:
        raise InvalidPlan(f"{path} cannot be read: {error.strerror}", remedy=REMEDY) from error
    if digest.hexdigest() != sha256:
        raise InvalidPlan(f"{path} has another content than when the plan was made", remedy=REMEDY)
    return content
