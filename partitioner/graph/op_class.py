"""Classifies operators by the hardware resource that bounds them, at their actual shapes.

A matrix product is compute-bound (MATMUL) or memory-bound (MATVEC) by its
arithmetic intensity, not by its name: one and the same node is the first in an LLM's prefill and the second in decode.
"""

from __future__ import annotations

from trisect.profiles.costmodel.op_features import OpClass

COMPUTE_BOUND_FLOPS_PER_BYTE = 8.0
"""Arithmetic intensity from which a matrix product is compute-bound: CPUs do 5 to 10 operations per byte from memory,
accelerators more; a product of 1 row does 0.5 per byte (float32), 4 with 4-bit weights, one of 64 rows 16 and more."""

_MATRIX = frozenset(
    "MatMul MatMulInteger QLinearMatMul FusedMatMul TransposeMatMul DynamicQuantizeMatMul MatMulIntegerToFloat "
    "MatMulNBits MatMulBnb4 MatMulFpQ4 Gemm FusedGemm GemmFastGelu QGemm Einsum MoE QMoE MatMulInteger16 "
    "FusedMatMulActivation SparseToDenseMatMul QOrderedMatMul MatMulBlockQuantizedFp4Weight GemmFloat8 "
    "MatMulBlockQuantizedFp8Weight MatMulNBitsMlp MatMulNBitsQkv LinearClassifier LinearRegressor".split()
)
_BY_NAME: dict[str, OpClass] = {
    **dict.fromkeys(
        "Conv FusedConv ConvInteger QLinearConv ConvTranspose ConvTransposeWithDynamicPads NhwcConv NhwcFusedConv "
        "DeformConv CausalConvWithState".split(),
        OpClass.CONV,
    ),
    **dict.fromkeys(
        "Attention MultiHeadAttention GroupQueryAttention SparseAttention QAttention PagedAttention "
        "PackedAttention DecoderMaskedMultiHeadAttention PackedMultiHeadAttention LinearAttention DecoderAttention "
        "DecoderMaskedSelfAttention LongformerAttention".split(),
        OpClass.ATTENTION,
    ),
    **dict.fromkeys("LSTM GRU RNN DynamicQuantizeLSTM AttnLSTM".split(), OpClass.RECURRENT),
    **dict.fromkeys("If Loop Scan SequenceMap".split(), OpClass.CONTROL_FLOW),
    **dict.fromkeys("Shape Size Constant ConstantOfShape Range NonZero".split(), OpClass.SHAPE),
    **dict.fromkeys(
        "Cast CastLike BitCast Concat DepthToSpace Expand Flatten Gather GatherBlockQuantized GatherElements "
        "GatherND Identity OneHot Pad QLinearConcat Reshape ReverseSequence ScatterElements ScatterND Slice "
        "SpaceToDepth Split Squeeze Tile Transpose Trilu Unsqueeze Compress ConcatFromSequence SequenceAt "
        "SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SplitToSequence Optional "
        "OptionalGetElement OptionalHasElement".split(),
        OpClass.DATA_MOVEMENT,
    ),
    **dict.fromkeys(
        "AveragePool GlobalAveragePool GlobalMaxPool GlobalLpPool MaxPool LpPool NhwcMaxPool QLinearAveragePool "
        "QLinearGlobalAveragePool ArgMax ArgMin BatchNormalization GroupNorm GroupNormalization "
        "InstanceNormalization LayerNormalization LogSoftmax LpNormalization LRN MeanVarianceNormalization "
        "RMSNormalization SimplifiedLayerNormalization SkipGroupNorm SkipLayerNormalization "
        "SkipSimplifiedLayerNormalization EmbedLayerNormalization Softmax QLinearSoftmax BiasSoftmax Hardmax "
        "CumSum TopK ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
        "ReduceSum ReduceSumSquare NonMaxSuppression".split(),
        OpClass.NORM,
    ),
}
_LIGHT = frozenset({OpClass.ELEMENTWISE, OpClass.DATA_MOVEMENT, OpClass.NORM})
_SHAPE_ELEMENTS_MAX = 64
_INDEX_DTYPES = frozenset({"int64", "int32", "bool"})


def classify(op_type: str, flops: float, bytes_moved: int, output_elements: int, output_dtype: str) -> OpClass:
    """Return the class of one operator.

    Parameters
    ----------
    bytes_moved : int
        Bytes read and written, weights included.
    output_dtype : str
        numpy's name of the dtype.

    Examples
    --------
    >>> one_row, many_rows = 2 * 1024 * 1024, 2 * 512 * 1024 * 1024
    >>> classify("MatMul", one_row, 4 * 1024 * (1024 + 2), 1024, "float32").value
    'matvec'
    >>> classify("MatMul", many_rows, 4 * 1024 * (1024 + 2 * 512), 512 * 1024, "float32").value
    'matmul'
    >>> classify("Add", 3, 72, 3, "int64").value
    'shape'
    """
    if op_type in _MATRIX:
        bound = flops >= COMPUTE_BOUND_FLOPS_PER_BYTE * max(1, bytes_moved)
        return OpClass.MATMUL if bound else OpClass.MATVEC
    named = _BY_NAME.get(op_type, OpClass.ELEMENTWISE)
    # A few integers are a shape or an index, whatever the operator.
    few_integers = output_dtype in _INDEX_DTYPES and output_elements <= _SHAPE_ELEMENTS_MAX
    return OpClass.SHAPE if few_integers and named in _LIGHT else named
