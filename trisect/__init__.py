"""trisect splits an ONNX model over the CPU, GPU and NPU of a machine, by measured costs.

`__all__` lists the public names. Each is imported on first use, so that `import trisect` does not load the engines,
which takes seconds.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trisect.bench.study.study_runs import study as study
    from trisect.llm.generate import generate as generate
    from trisect.partitioner.problem.constraints import Constraints as Constraints
    from trisect.partitioner.strategies import strategy as strategy
    from trisect.runtime.device import Device as Device
    from trisect.runtime.errors import TrisectError as TrisectError
    from trisect.runtime.plans.plan import Plan as Plan
    from trisect.runtime.plans.timeline import Schedule as Schedule
    from trisect.runtime.plans.timeline import Trace as Trace
    from trisect.runtime.sessions.session import Session as Session
    from trisect.scheduler.problem.problem import Problem as Problem
    from trisect.scheduler.problem.solution import Solution as Solution

    from .api import devices as devices
    from .api import split as split
    from .context.can_run import can_run as can_run
    from .context.context import create_context as create_context
    from .context.op_support import op_support_limits_per_device as op_support_limits_per_device
    from .measured_runs import verify as verify
    from .pareto_plans import pareto as pareto
    from .replanning import replan as replan
    from .solving import solve as solve

# ONNX Runtime records events for its vendor when it is imported, before disable_telemetry_events() can be called;
# OpenVINO reports each import over the network, unless this package is missing.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

__version__ = "0.1.0.dev0"

_MODULES = {
    "Constraints": "partitioner.problem.constraints",
    "Device": "runtime.device",
    "Plan": "runtime.plans.plan",
    "Problem": "scheduler.problem.problem",
    "Schedule": "runtime.plans.timeline",
    "Session": "runtime.sessions.session",
    "Solution": "scheduler.problem.solution",
    "Trace": "runtime.plans.timeline",
    "TrisectError": "runtime.errors",
    "can_run": "context.can_run",
    "create_context": "context.context",
    "devices": "api",
    "generate": "llm.generate",
    "op_support_limits_per_device": "context.op_support",
    "pareto": "pareto_plans",
    "replan": "replanning",
    "solve": "solving",
    "split": "api",
    "strategy": "partitioner.strategies",
    "study": "bench.study.study_runs",
    "verify": "measured_runs",
}
"""Public name -> the module that defines it, relative to this package."""

__all__ = [*_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'trisect' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"trisect.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
