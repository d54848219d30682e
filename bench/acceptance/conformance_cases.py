"""The cases of ``onnx.backend.test`` as data: model, inputs and expected outputs."""

from __future__ import annotations

import unittest
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from onnx import ModelProto
from onnx.backend.base import Backend
from onnx.backend.test.runner import Runner

from trisect.backend import symbolic_sizes
from trisect.runtime.tensors.onnx_types import declared_spec


@dataclass(frozen=True)
class DataSet:
    """One set of inputs with the outputs that are expected."""

    inputs: Sequence[Any]
    expected: Sequence[Any]
    rtol: float
    atol: float

    def mismatch(self, outputs: Sequence[Any]) -> str:
        """Return how outputs differ from the expected ones, in one line; empty where they agree."""
        try:
            Runner.assert_similar_outputs(self.expected, list(outputs), rtol=self.rtol, atol=self.atol)
        except (AssertionError, TypeError, ValueError) as error:
            return " ".join(str(error).split())[:200] or "the outputs differ"
        return ""


@dataclass(frozen=True)
class ConformanceCase:
    """One case."""

    name: str
    kind: str
    """``Node``, ``Simple``, ``Real``, ``PyTorchConverted``, ``PyTorchOperator``."""
    model: ModelProto
    data_sets: tuple[DataSet, ...]

    @property
    def shapes(self) -> dict[str, int]:
        """Sizes of the symbolic dimensions of the inputs, as ``input.axis``."""
        return symbolic_sizes(self._specs.values(), self.feeds(self.data_sets[0]))

    def feeds(self, data: DataSet) -> dict[str, Any]:
        """Return the inputs by name."""
        return dict(zip(self._specs, data.inputs, strict=False))

    @property
    def _specs(self) -> Mapping[str, Any]:
        constants = {tensor.name for tensor in self.model.graph.initializer}
        return {v.name: declared_spec(v, "the model") for v in self.model.graph.input if v.name not in constants}


def conformance_cases(every: int = 1) -> Iterator[ConformanceCase]:
    """Yield the cases for CPUs that need no download, in a fixed order.

    Parameters
    ----------
    every : int
        Only every Nth case of each kind, starting with the first.
    """
    for kind, test in cases_of(_CollectingRunner(_CollectingBackend, __name__), every):
        _CollectingBackend.model, _CollectingBackend.data = None, []
        result = unittest.TestResult()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            test.run(result)
        yield from _collected(case_name(test), kind)


def _collected(name: str, kind: str) -> Iterator[ConformanceCase]:
    model, data = _CollectingBackend.model, _CollectingBackend.data
    if model is not None and data:
        yield ConformanceCase(name, kind, model, tuple(data))


def cases_of(runner: Runner, every: int) -> Iterator[tuple[str, unittest.TestCase]]:
    """Yield the test cases of a runner with their kinds; see `conformance_cases`."""
    for suite, cases in sorted(runner.test_cases.items()):
        kind = suite.removeprefix("OnnxBackend").removesuffix("Test").removesuffix("Model")
        names = [name for name in sorted(vars(cases)) if name.startswith("test_") and name.endswith("_cpu")]
        for name in names[::every]:
            yield kind, cases(name)


def case_name(test: unittest.TestCase) -> str:
    """Return the name of a case, without that of the device."""
    return test.id().rpartition(".")[2].removesuffix("_cpu")


class _CollectingBackend(Backend):
    """Runs nothing, and stores what it is given."""

    model: ClassVar[ModelProto | None] = None
    data: ClassVar[list[DataSet]] = []
    inputs: ClassVar[Sequence[Any]] = ()

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> Any:
        _CollectingBackend.model = model
        return cls()

    def run(self, inputs: Sequence[Any], **kwargs: Any) -> Sequence[Any]:
        _CollectingBackend.inputs = tuple(inputs)
        return ()

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"


class _CollectingRunner(Runner):
    @classmethod
    def assert_similar_outputs(
        cls, ref_outputs: Any, outputs: Any, rtol: float, atol: float, model_dir: str | None = None
    ) -> None:
        _CollectingBackend.data.append(DataSet(_CollectingBackend.inputs, tuple(ref_outputs), rtol, atol))
