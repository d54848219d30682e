"""Writes TFLite files."""

from __future__ import annotations

from pathlib import Path

import flatbuffers
import tflite as schema


def write_tflite(path: Path, codes: list[int], custom: str | None = None) -> Path:
    """Write a model that lists operators and has no graph."""
    builder = flatbuffers.Builder(0)
    name = builder.CreateString(custom) if custom else None
    operators = []
    for code in codes:
        schema.OperatorCodeStart(builder)
        schema.OperatorCodeAddDeprecatedBuiltinCode(builder, min(code, 127))
        schema.OperatorCodeAddBuiltinCode(builder, code)
        if name is not None and code == schema.BuiltinOperator.CUSTOM:
            schema.OperatorCodeAddCustomCode(builder, name)
        operators.append(schema.OperatorCodeEnd(builder))
    schema.ModelStartOperatorCodesVector(builder, len(operators))
    for operator in reversed(operators):
        builder.PrependUOffsetTRelative(operator)
    listed = builder.EndVector()
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, 3)
    schema.ModelAddOperatorCodes(builder, listed)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path
