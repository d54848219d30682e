"""The NPU simulator loads and runs a norm whose squares overflow in float16, and is refused for its numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.llm.architecture_files import write_architecture
from trisect.llm.bundle import Bundle
from trisect.llm.gate.numeric_gate import device_verdict, load_gated_runner
from trisect.llm.importing.model_import import open_model
from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.errors import EngineFailed, EngineMissing, UnknownDevice

SCALE = 5_000.0
"""Of embeddings: the residual exceeds 256, whose square is above the maximum of float16."""


@pytest.fixture
def npu(folders: Path) -> Device:
    try:
        return engines.find_devices("npu:qnn")[0]
    except (UnknownDevice, EngineMissing) as error:
        pytest.skip(f"npu:qnn: {error}")


def imported(folder: Path) -> Bundle:
    metadata = {"granite.embedding_scale": SCALE, "granite.logit_scale": 0.3, "granite.context_length": 64}
    path = write_architecture(folder / "large.gguf", "granite", quant="Q8_0", metadata=metadata)
    return open_model(path, folder=folder / "bundle")


def spell_norms_out(path: Path) -> int:
    """Replace each RMSNormalization by the operators that it stands for; return their number."""
    model = onnx.load(path, load_external_data=False)
    graph, nodes, count = model.graph, [], 0
    for node in graph.node:
        if node.op_type != "RMSNormalization":
            nodes.append(node)
            continue
        count += 1
        name, (x, weight) = node.output[0], node.input
        epsilon = next(attribute.f for attribute in node.attribute if attribute.name == "epsilon")
        values = {f"{name}.epsilon": np.float32(epsilon), f"{name}.axes": np.array([-1], np.int64)}
        graph.initializer.extend(numpy_helper.from_array(np.asarray(value), key) for key, value in values.items())
        for kind, inputs, part in (
            ("Mul", [x, x], "square"),
            ("ReduceMean", [f"{name}.square", f"{name}.axes"], "mean"),
            ("Add", [f"{name}.mean", f"{name}.epsilon"], "sum"),
            ("Sqrt", [f"{name}.sum"], "root"),
            ("Div", [x, f"{name}.root"], "normal"),
        ):
            nodes.append(helper.make_node(kind, inputs, [f"{name}.{part}"], f"{name}.{part}"))
        nodes.append(helper.make_node("Mul", [f"{name}.normal", weight], [name], name))
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, path)
    return count


@pytest.mark.slow(42)
def test_a_norm_that_overflows_is_refused(npu: Device, tmp_path: Path) -> None:
    bundle = imported(tmp_path)
    right = device_verdict(bundle, npu, precision="fast")
    assert right is not None
    assert right.is_right, right.text
    assert right.max_run_tokens is None
    assert spell_norms_out(tmp_path / "bundle" / "static.onnx") == 5
    changed = replace(bundle, source_sha256="another")
    with pytest.raises(EngineFailed, match=r"^npu:qnn computes tiny wrongly: (KL|no numbers)"):
        load_gated_runner(changed, npu, decodes=True, exports_cache=False)
    wrong = device_verdict(changed, npu, precision="fast")
    assert wrong is not None
    assert wrong.kl is None or wrong.kl > 3 * wrong.limit
