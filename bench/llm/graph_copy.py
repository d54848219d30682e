"""Writes a changed graph of a bundle to another folder, with hard links to the bundle's weights.

Engines look for weights beside the graph, and reject symbolic links out of the folder.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import onnx

from trisect.runtime.atomic_write import write_atomically
from trisect.runtime.errors import StorageFailed
from trisect.runtime.tensors.external_data import check_tensors


def write_graph(model: onnx.ModelProto, source: Path, target: Path) -> None:
    """Write a graph, and link the weight files that it refers to beside it.

    Parameters
    ----------
    model : onnx.ModelProto
        Read without its weights.
    source : Path
        Folder of the weights.
    target : Path
        The ONNX file; its folder is created.

    Raises
    ------
    InvalidModel
        If a weight file is missing or outside the folder.
    StorageFailed
        If a file cannot be written.
    """
    files = {
        entry.value: span.file
        for tensor, span in check_tensors(model, source / target.name)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for name, file in files.items():
            _link_or_copy(file, target.parent / name)
    except OSError as error:
        raise StorageFailed(f"cannot write {target.parent}: {error.strerror or error}") from error
    write_atomically(target, model.SerializeToString())


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
