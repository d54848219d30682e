"""Stores what an execution provider has compiled, and loads it instead of compiling again.

ONNX Runtime writes a model of ``EPContext`` nodes and the compiled code beside it. For 30 layers on Qualcomm's NPU,
compiling takes minutes and loading the result less than a second.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import onnxruntime as ort

from ...device import Device
from ...errors import EngineFailed, InvalidModel
from ..base import LoadOptions
from .ort_module import OrtModule
from .ort_session import Provider, open_module

_MODEL = "model.onnx"
log = logging.getLogger(__name__)


def is_stored(model: Path, device: Device, options: LoadOptions, provider: Provider) -> bool:
    """Return whether a model was compiled before, in the same versions and for the same sizes."""
    folder = options.compiled_folder
    return folder is not None and (Path(folder) / _key(model, device, options, provider) / _MODEL).is_file()


def open_compiled(model: Path, device: Device, options: LoadOptions, provider: Provider) -> OrtModule:
    """Load a model that was compiled before, or compile it now and store the result.

    Parameters
    ----------
    options : LoadOptions
        Its `compiled_folder` belongs to this model's weights: the name of the result depends on the graph, the sizes,
        the device and the versions only.

    Raises
    ------
    EngineFailed
        As `open_module`; a folder that cannot be written is none.
    """
    assert options.compiled_folder is not None
    target = Path(options.compiled_folder) / _key(model, device, options, provider)
    if (target / _MODEL).is_file():
        try:
            return open_module(target / _MODEL, device, options, provider)
        except (EngineFailed, InvalidModel) as error:  # damaged, or of another driver
            log.info("%s is compiled again: %s", model, error)
            shutil.rmtree(target, ignore_errors=True)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".compiling-", dir=target.parent))
    except OSError as error:
        log.info("what is compiled of %s is not stored: %s", model, error)
        return open_module(model, device, options, provider)
    try:
        settings = {
            "ep.context_enable": "1", "ep.context_embed_mode": "0", "ep.context_file_path": str(aside / _MODEL),
        }  # fmt: skip
        module = open_module(model, device, replace(options, extra={**options.extra, **settings}), provider)
        try:
            if (aside / _MODEL).is_file():
                os.rename(aside, target)
        except OSError as error:  # another process was faster
            log.info("what is compiled of %s is not stored: %s", model, error)
        return module
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _key(model: Path, device: Device, options: LoadOptions, provider: Provider) -> str:
    versions = [ort.__version__, device.engine_version, device.native, device.name]
    settings = [options.precision, dict(options.shapes), dict(options.extra), dict(provider.options)]
    digest = hashlib.sha256(json.dumps([versions, settings], sort_keys=True, default=str).encode())
    digest.update(model.read_bytes())
    return digest.hexdigest()[:32]
