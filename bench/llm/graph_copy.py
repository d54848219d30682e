"""A changed graph of a bundle in a folder of its own, with the bundle's weights beside it under a second name.

Engines look for weights beside the graph, and refuse a link that leads out of the folder.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import onnx

from trisect.runtime.atomic_write import write_atomically
from trisect.runtime.errors import StorageFailed


def write_graph(model: onnx.ModelProto, source: Path, target: Path) -> None:
    """Write a graph, and give the weights that it names a name there.

    Parameters
    ----------
    model : onnx.ModelProto
        Read without its weights.
    source : Path
        Folder that the weights are in.
    target : Path
        The ONNX file; its folder is made.

    Raises
    ------
    StorageFailed
    """
    entries = [entry for tensor in model.graph.initializer for entry in tensor.external_data]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for name in dict.fromkeys(entry.value for entry in entries if entry.key == "location"):
            _same_file(source / name, target.parent / name)
    except OSError as error:
        raise StorageFailed(f"cannot write {target.parent}: {error.strerror or error}") from error
    write_atomically(target, model.SerializeToString())


def _same_file(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no second names
        shutil.copyfile(source, target)
