"""The signature is read from the file's headers; damaged files are refused in one line."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from trisect.runtime.engines.common.model_signature import read_signature


def test_reading_a_signature_reads_no_weights(tmp_path):
    """A file whose weights are a hole of a terabyte is described at once."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xw"],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(1, np.float32), "w")],
    )  # fmt: skip
    declared = read_signature(helper.make_model(graph).SerializeToString())
    assert [spec.name for spec in declared.inputs] == ["x"]  # w has a value already
    assert declared.outputs[0].shape == ("...",)

    def varint(number: int) -> bytes:
        out = bytearray()
        while number > 0x7F:
            out.append(number & 0x7F | 0x80)
            number >>= 7
        return bytes([*out, number])

    hole = 1 << 40
    tensor_head = b"\x42\x01w" + b"\x4a" + varint(hole)  # name "w", then raw_data of that length
    tensor = b"\x2a" + varint(len(tensor_head) + hole) + tensor_head
    ends = b"".join(
        bytes([tag]) + varint(len(text)) + text
        for tag, name in ((0x5A, "x"), (0x62, "y"))
        for text in [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]).SerializeToString()]
    )
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.write(b"\x3a" + varint(len(ends) + len(tensor) + hole) + ends + tensor)
        file.truncate(file.tell() + hole)  # sparse: takes no disk
    declared = read_signature(path)
    assert [spec.shape for spec in (*declared.inputs, *declared.outputs)] == [("n", 2), ("n", 2)]
