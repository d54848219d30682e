"""The FLOP table against cases worked out by hand."""

from __future__ import annotations

import pytest

from trisect.partitioner.graph.flops import flops
from trisect.partitioner.graph.op_call import OpCall
from trisect.partitioner.graph.op_class import classify
from trisect.profiles.costmodel.op_features import OpClass


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        # 2 * M * N * K, with the batch
        (OpCall("MatMul", ((2, 3, 5, 7), (7, 11)), ((2, 3, 5, 11),)), 2 * 6 * 5 * 7 * 11),
        (OpCall("MatMul", ((7,), (7, 11)), ((11,),)), 2 * 7 * 11),
        (OpCall("Gemm", ((5, 7), (7, 11), (11,)), ((5, 11),)), 2 * 5 * 7 * 11 + 55),
        (OpCall("Gemm", ((7, 5), (11, 7)), ((5, 11),), {"transA": 1, "transB": 1}), 2 * 5 * 7 * 11),
        (OpCall("MatMulNBits", ((1, 3, 64), (96, 2, 16)), ((1, 3, 96),), {"K": 64, "N": 96}), 2 * 3 * 64 * 96),
        (OpCall("QLinearMatMul", ((4, 8), (), (), (8, 2)), ((4, 2),)), 2 * 4 * 8 * 2),
        (OpCall("MatMulInteger", ((4, 8), (8, 2)), ((4, 2),)), 2 * 4 * 8 * 2),
        # ResNet's first layer: 7x7, 3 -> 64, stride 2, 224 -> 112: 0.236 GFLOP
        (OpCall("Conv", ((1, 3, 224, 224), (64, 3, 7, 7)), ((1, 64, 112, 112),)), 236_027_904),
        (OpCall("Conv", ((1, 8, 4, 4), (8, 1, 3, 3), (8,)), ((1, 8, 4, 4),), {"group": 8}), 128 * (2 * 9 + 1)),
        (OpCall("QLinearConv", ((1, 2, 4, 4), (), (), (3, 2, 1, 1)), ((1, 3, 4, 4),)), 2 * 48 * 2),
        (OpCall("ConvTranspose", ((1, 2, 4, 4), (2, 3, 2, 2)), ((1, 3, 8, 8),)), 2 * 32 * 12),
        # LSTM: 5 tokens, 1 direction, 4 gates of 3 units from 2 inputs and 3 states, and 8 operations per unit
        (OpCall("LSTM", ((5, 1, 2), (1, 12, 2), (1, 12, 3)), ((5, 1, 1, 3),), {"hidden_size": 3}), 5 * (24 * 5 + 24)),
        (OpCall("GRU", ((5, 2, 2), (2, 9, 2), (2, 9, 3)), ((5, 2, 2, 3),), {"hidden_size": 3}), 20 * (18 * 5 + 21)),
        # scores and mixing 2 * 2 * 16 each, softmax 5, for 2 heads of 3 x 3
        (OpCall("Attention", ((1, 2, 3, 16),) * 3, ((1, 2, 3, 16),)), 2 * 9 * (64 + 5)),
        (
            OpCall(
                "Attention", ((1, 3, 32), (1, 7, 16), (1, 7, 16)), ((1, 3, 32),), {"q_num_heads": 2, "kv_num_heads": 1}
            ),
            2 * 3 * 7 * (64 + 5),
        ),
        # com.microsoft: QKV projections, then 2 heads of 16
        (OpCall("Attention", ((1, 3, 32), (32, 96)), ((1, 3, 32),), {"num_heads": 2}), 2 * 3 * 32 * 96 + 2 * 9 * 69),
        # one new token against 9 past ones: 4 heads of 8
        (
            OpCall(
                "GroupQueryAttention",
                ((1, 1, 32), (1, 1, 16), (1, 1, 16), (1, 2, 9, 8), (1, 2, 9, 8)),
                ((1, 1, 32),),
                {"num_heads": 4, "kv_num_heads": 2},
            ),
            4 * 10 * (4 * 8 + 5),
        ),
        (OpCall("MultiHeadAttention", ((2, 3, 32), (2, 5, 32)), ((2, 3, 32),), {"num_heads": 4}), 8 * 15 * 37),
        (OpCall("Einsum", ((2, 3, 4), (2, 4, 5)), ((2, 3, 5),), {"equation": b"bij,bjk->bik"}), 2 * 2 * 3 * 4 * 5),
        (OpCall("Softmax", ((4, 10),), ((4, 10),)), 200),
        (OpCall("MaxPool", ((1, 1, 4, 4),), ((1, 1, 2, 2),), {"kernel_shape": [2, 2]}), 16),
        (OpCall("Add", ((4, 10), (10,)), ((4, 10),)), 40),
        (OpCall("SomethingNew", ((4, 10),), ((4, 10),)), 40),
        (OpCall("Sum", ((4, 10),) * 3, ((4, 10),)), 80),
        (OpCall("Transpose", ((4, 10),), ((10, 4),)), 0),
        # a dilated filter has as many weights as one that is not; strides only make fewer outputs
        (
            OpCall("Conv", ((1, 4, 9, 9), (6, 2, 3, 3)), ((1, 6, 5, 5),), {"group": 2, "dilations": [2, 2]}),
            2 * 150 * 2 * 9,
        ),
        (OpCall("Conv", ((2, 3, 8), (4, 3, 5), (4,)), ((2, 4, 4),)), 32 * (2 * 15 + 1)),
        (OpCall("ConvTranspose", ((1, 4, 3, 3), (4, 2, 2, 2), (4,)), ((1, 4, 6, 6),), {"group": 2}), 2 * 36 * 8 + 144),
        (OpCall("ConvInteger", ((1, 2, 4, 4), (3, 2, 1, 1)), ((1, 3, 4, 4),)), 2 * 48 * 2),
        (OpCall("FusedMatMul", ((7, 5), (7, 11)), ((5, 11),), {"transA": 1}), 2 * 5 * 7 * 11),
        # both directions, one gate
        (OpCall("RNN", ((4, 3, 2), (2, 5, 2), (2, 5, 5)), ((4, 2, 3, 5),), {"hidden_size": 5}), 24 * (2 * 5 * 7 + 25)),
        # past and new keys of opset 23: 3 queries of 2 heads see 4 + 3 keys of 1 head
        (
            OpCall(
                "Attention",
                ((1, 3, 32), (1, 3, 16), (1, 3, 16), None, (1, 1, 4, 16), (1, 1, 4, 16)),
                ((1, 3, 32),),
                {"q_num_heads": 2, "kv_num_heads": 1},
            ),
            2 * 3 * 7 * (64 + 5),
        ),
        (OpCall("QAttention", ((1, 3, 32), (32, 96), (96,)), ((1, 3, 32),), {"num_heads": 2}), 18_432 + 2 * 9 * 69),
        # 2 tokens, 1 head: a state of 4 x 8; decay, outer product, sum, and two more for delta; then read
        (
            OpCall(
                "LinearAttention",
                ((1, 2, 4), (1, 2, 4), (1, 2, 8)),
                ((1, 2, 8),),
                {"q_num_heads": 1, "kv_num_heads": 1, "update_rule": b"gated_delta"},
            ),
            2 * 32 * (2 + 5),
        ),
        # 6 tokens, each through 2 of 4 experts: 8 -> 16 -> 8, with a gate of its own
        (
            OpCall(
                "MoE",
                ((6, 8), (6, 4), (4, 16, 8), None, (4, 8, 16), None, (4, 16, 8)),
                ((6, 8),),
                {"k": 2},
            ),
            2 * 6 * 3 * 2 * 8 * 16,
        ),
        (OpCall("MatMulNBitsMlp", ((1, 3, 64),), ((1, 3, 96),), {"K": 64, "N": 96}), 2 * 2 * 3 * 64 * 96),
        (OpCall("MatMulNBitsQkv", ((1, 3, 64),), ((1, 3, 64),), {"K": 64, "Nq": 64, "Nkv": 32}), 2 * 3 * 64 * 128),
        (OpCall("LinearClassifier", ((5, 4),), ((5,),), {"coefficients": [0.0] * 12}), 2 * 5 * 12),
        # 2 trees of 7 nodes: 3 levels
        (OpCall("TreeEnsembleRegressor", ((5, 4),), ((5, 1),), {"nodes_treeids": [0] * 7 + [1] * 7}), 5 * 2 * 3),
        (OpCall("Einsum", ((4, 4),), ((),), {"equation": b"ii->"}), 4),
        (OpCall("Gather", ((100, 8), (3,)), ((3, 8),)), 0),
    ],
    ids=lambda value: value.op_type if isinstance(value, OpCall) else "",
)
def test_hand_computed(call: OpCall, expected: float) -> None:
    assert flops(call) == expected


def test_a_call_with_nothing_known_still_counts() -> None:
    for op_type in ("MatMul", "Conv", "LSTM", "Attention", "Gemm", "Einsum", "Resize", "DFT", "NonMaxSuppression"):
        assert flops(OpCall(op_type, (None, None, None), (None,))) >= 0


@pytest.mark.parametrize(("rows", "expected"), [(1, OpClass.MATVEC), (4, OpClass.MATVEC), (64, OpClass.MATMUL)])
def test_the_same_matmul_is_bound_by_memory_or_by_compute(rows: int, expected: OpClass) -> None:
    width = 1024
    moved = 4 * (width * width + 2 * rows * width)
    assert classify("MatMul", 2 * rows * width**2, moved, rows * width, "float32") is expected


@pytest.mark.parametrize(
    ("op_type", "dtype", "expected"),
    [
        ("Conv", "float32", OpClass.CONV),
        ("LSTM", "float32", OpClass.RECURRENT),
        ("If", "float32", OpClass.CONTROL_FLOW),
        ("LayerNormalization", "float32", OpClass.NORM),
        ("Add", "float32", OpClass.ELEMENTWISE),
        ("Add", "int64", OpClass.SHAPE),
        ("Gather", "int64", OpClass.SHAPE),
        ("Gather", "float32", OpClass.DATA_MOVEMENT),
        ("GroupQueryAttention", "float32", OpClass.ATTENTION),
    ],
)
def test_classes_by_name(op_type: str, dtype: str, expected: OpClass) -> None:
    assert classify(op_type, 10, 100, 4, dtype) is expected
