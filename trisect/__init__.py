"""trisect splits one ONNX model over the CPU, GPU and NPU of a machine, from measured costs.

The names below are all there is to know for use; each is imported when it is first asked for, because the engines
behind them take seconds to load and `import trisect` must not.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trisect.bench.study.running import study as study
    from trisect.partitioner.constraints import Constraints as Constraints
    from trisect.partitioner.strategies import strategy as strategy
    from trisect.runtime.devices import Device as Device
    from trisect.runtime.errors import TrisectError as TrisectError
    from trisect.runtime.plan import Plan as Plan
    from trisect.runtime.session import Session as Session
    from trisect.runtime.timeline import Schedule as Schedule
    from trisect.runtime.timeline import Trace as Trace
    from trisect.scheduler.problem import Problem as Problem
    from trisect.scheduler.solution import Solution as Solution

    from .api import devices as devices
    from .api import split as split
    from .api import verify as verify
    from .context.can_run import can_run as can_run
    from .context.context import create_context as create_context
    from .context.support import op_support_limits_per_device as op_support_limits_per_device
    from .fronts import pareto as pareto
    from .language import generate as generate
    from .replanning import replan as replan
    from .solving import solve as solve

# OpenVINO tells its makers of each import, over the network and without asking; without this package it does not.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

__version__ = "0.1.0.dev0"

_HOMES = {
    "Constraints": "partitioner.constraints",
    "Device": "runtime.devices",
    "Plan": "runtime.plan",
    "Problem": "scheduler.problem",
    "Schedule": "runtime.timeline",
    "Session": "runtime.session",
    "Solution": "scheduler.solution",
    "Trace": "runtime.timeline",
    "TrisectError": "runtime.errors",
    "can_run": "context.can_run",
    "create_context": "context.context",
    "devices": "api",
    "generate": "language",
    "op_support_limits_per_device": "context.support",
    "pareto": "fronts",
    "replan": "replanning",
    "solve": "solving",
    "split": "api",
    "strategy": "partitioner.strategies",
    "study": "bench.study.running",
    "verify": "api",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trisect' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"trisect.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
