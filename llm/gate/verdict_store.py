"""What was found about the numbers of devices for a model, stored by engine version, so that it is found once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnxruntime as ort

from trisect.profiles.stored.profile_store import default_path
from trisect.runtime.device import Device
from trisect.runtime.files.cache_files import update_cache
from trisect.runtime.untrusted_files import MalformedFile, decode_json, read_bytes

from ..bundle import Bundle

_MAX_FILE_BYTES = 1 << 20
_VERDICTS_MAX = 256
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GateVerdict:
    """Whether a device computes a model's scores as the reference does."""

    device: str
    hardware: str
    """Name of the device."""
    versions: str
    """Of the device's engine and of ONNX Runtime."""
    graph: str
    """File of the bundle that it runs."""
    precision: str
    kl: float | None
    """Largest Kullback-Leibler divergence from float32, in nats; None where there were no numbers."""
    limit: float
    tokens: int
    """Number of tokens after which it was seen."""
    max_run_tokens: int | None
    """New tokens that one run may compute; None = any number."""
    reason: str = ""
    """What was wrong with larger runs, or with all."""

    @property
    def is_right(self) -> bool:
        """Whether the device may be used."""
        return self.kl is not None and self.kl <= self.limit

    @property
    def text(self) -> str:
        """The verdict in a few words."""
        kl = "no numbers" if self.kl is None else f"KL {self.kl:.2g} (limit {self.limit:g})"
        if not self.is_right:
            return f"wrong: {kl} after {self.tokens} tokens"
        if self.max_run_tokens is not None:
            return f"right in runs of up to {self.max_run_tokens} tokens: {kl}"
        return f"right: {kl}"


def stored_verdict(bundle: Bundle, device: Device, graph: str, precision: str) -> GateVerdict | None:
    """Return the verdict on a device in its present version; None where there is none."""
    key = (device.id, device.name, versions_of(device), graph, precision)
    for verdict in _read(_path(bundle)):
        if key == (verdict.device, verdict.hardware, verdict.versions, verdict.graph, verdict.precision):
            return verdict
    return None


def store_verdict(bundle: Bundle, verdict: GateVerdict) -> None:
    """Store a verdict in place of an earlier one on the same device, graph and precision."""
    path = _path(bundle)
    key = (verdict.device, verdict.graph, verdict.precision)

    def merged() -> bytes:
        others = [one for one in _read(path) if (one.device, one.graph, one.precision) != key]
        return msgspec.json.format(msgspec.json.encode([*others[-_VERDICTS_MAX:], verdict]), indent=1)

    update_cache(path, merged, "the check of a device's numbers")


def versions_of(device: Device) -> str:
    """Return the versions that a verdict holds for."""
    return f"{device.engine} {device.engine_version}, onnxruntime {ort.__version__}"


def _path(bundle: Bundle) -> Path:
    machine = default_path("float32")
    return machine.with_name(f"{machine.stem}-gate-{bundle.key}.json")


def _read(path: Path) -> list[GateVerdict]:
    try:
        return decode_json(read_bytes(path, _MAX_FILE_BYTES), list[GateVerdict])
    except FileNotFoundError:
        return []
    except (OSError, MalformedFile) as error:
        _logger.info("not used: %s: %s", path, error)
        return []
