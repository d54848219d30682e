"""Adapts another tool's decoder to the inputs and outputs of a bundle's graphs, without changing its weights.

It changes the names; the batch size, to one sequence; the dtypes of inputs and outputs, to float32 whatever is computed
inside; the scores, to those of the last token; and how the graph receives the number of tokens. A graph with
``GroupQueryAttention`` can be adapted in two ways: for a cache in place, which two numbers describe, and for a growing
one, which the attention mask describes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from trisect.runtime.errors import InvalidModel, UnsupportedModel

from ..importing.folder_config import ExportedDecoder
from .block_embedding import decompose_block_embeddings
from .graph_editor import GraphEditor
from .lm_head import LmHead, keep_last_token

_ATTENTION = "GroupQueryAttention"
_SEQLENS, _TOTAL, _COSINES = 5, 6, 7  # input indices of GroupQueryAttention
_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
_END = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Decoder:
    """A decoder with the interface of a bundle."""

    model: ir.Model
    head: LmHead | None
    """The part that computes the scores; None if it was not recognised."""
    rotary_positions: int | None
    """Number of positions in the graph's rotary embedding tables; None if it has none."""
    half: bool
    """Whether keys and values are computed in float16."""


def can_extend_in_place(model: ir.Model) -> bool:
    """Return whether all of a decoder's cache is read by GroupQueryAttention, which can extend it in place."""
    caches = [value for value in model.graph.inputs if value.shape is not None and len(value.shape) == 4]
    readers = [node for value in caches for node in value.consumers()]
    return bool(readers) and all(node.op_type == _ATTENTION for node in readers)


def adapt(model: ir.Model, config: ExportedDecoder, *, in_place: bool) -> Decoder:
    """Adapt a decoder's graph.

    Parameters
    ----------
    model : onnx_ir.Model
        As `load_model` returns it; changed.
    in_place : bool
        Adapt it to a cache in place, else to a growing one.

    Raises
    ------
    InvalidModel
        If inputs or outputs are missing or contradict `config`.
    UnsupportedModel
        If the inputs or outputs are not those of a decoder with a KV cache.
    """
    return _Adapter(model, config).adapt(in_place=in_place)


class _Adapter:
    """The adaptation of one graph."""

    def __init__(self, model: ir.Model, config: ExportedDecoder) -> None:
        self._model = model
        self._graph = model.graph
        self._config = config
        self._label = config.graph.name
        ours = {theirs: name for name, theirs in config.names.items()}
        self._inputs = {ours.get(str(v.name), str(v.name)): v for v in self._graph.inputs}
        self._outputs = {ours.get(str(v.name), str(v.name)): v for v in self._graph.outputs}
        self._edit = GraphEditor(model.graph, "interface")
        self._half = False

    def adapt(self, *, in_place: bool) -> Decoder:
        """See `adapt`."""
        self._fix_logits_count()
        self._check_names()
        for group in (self._inputs, self._outputs):
            for name, value in group.items():
                self._check(name, value)
        # Other outputs than scores and cache would be computed for nothing.
        wanted = ["logits", *self._cache("present")]
        self._outputs = {name: self._outputs[name] for name in wanted}
        logits, head = keep_last_token(self._graph, self._outputs["logits"])
        self._outputs["logits"] = logits
        attention = [node for node in self._graph if node.op_type == _ATTENTION]
        tokens = self._token_count()
        self._rename_inputs_and_outputs(in_place)
        if in_place:
            self._add_length_inputs(attention, tokens)
        else:
            self._add_fresh_outputs(tokens)
            decompose_block_embeddings(self._graph)
        self._graph.sort()
        RemoveUnusedNodesPass()(self._model)
        self._reset_inner_values()
        return Decoder(self._model, head, _rotary_positions(attention), self._half)

    def _cache(self, prefix: str) -> list[str]:
        return [f"{prefix}.{layer}.{part}" for layer in range(self._config.layers) for part in ("key", "value")]

    def _fix_logits_count(self) -> None:
        """Fix the input of newer exports that selects how many tokens' scores are computed: the last one's."""
        count = self._inputs.pop("num_logits_to_keep", None)
        if count is None:
            return
        self._graph.inputs.remove(count)
        shape = [1] * len(count.shape) if count.shape is not None else []
        count.const_value = ir.tensor(np.ones(shape, count.dtype.numpy() if count.dtype else np.int64))
        self._graph.register_initializer(count)

    def _check_names(self) -> None:
        if "use_cache_branch" in self._inputs:
            raise UnsupportedModel(
                f"{self._label} has the input use_cache_branch, as merged decoders of old exports do",
                remedy="export the model again with a current optimum, or take a current transformers.js export",
            )
        expected = {"input_ids", "attention_mask", "position_ids", *self._cache("past_key_values")}
        if "input_ids" not in self._inputs:
            raise UnsupportedModel(
                f"{self._label} has no input input_ids", remedy="give a decoder that takes token ids"
            )
        missing = [name for name in self._cache("past_key_values") if name not in self._inputs]
        missing += [name for name in ("logits", *self._cache("present")) if name not in self._outputs]
        if missing:
            raise InvalidModel(
                f"{self._label} lacks {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else ""),
                remedy=f"export all {self._config.layers} layers with their KV cache (text-generation-with-past)",
            )
        if unknown := sorted(set(self._inputs) - expected):
            raise UnsupportedModel(
                f"{self._label} has the input {unknown[0]}, which trisect cannot provide",
                remedy="give a decoder of text only, with keys and values as its only cache",
            )

    def _check(self, name: str, value: ir.Value) -> None:
        """Check dtype and shape of an input or output against the folder's configuration."""
        config = self._config
        part = name.split(".")[0]
        if part in ("past_key_values", "present"):
            dtypes, dims = _FLOATS, [None, config.kv_heads, None, config.head_dim]
        elif part == "logits":
            dtypes, dims = _FLOATS, [None, None, config.vocab]
        elif name in ("input_ids", "position_ids", "attention_mask"):
            dtypes, dims = _INTEGERS, [None, None]
        else:
            return
        if value.dtype not in dtypes:
            raise UnsupportedModel(
                f"{self._label}: {name} is {'untyped' if value.dtype is None else value.dtype.name.lower()}",
                remedy=f"export it as {' or '.join(dtype.name.lower() for dtype in dtypes)}",
            )
        shape = None if value.shape is None else [d if isinstance(d, int) else None for d in value.shape]
        if shape is None and part != "present":
            raise InvalidModel(f"{self._label} has no shape for {name}", remedy="export the model again")
        if shape is None:
            return
        if len(shape) != len(dims):
            raise UnsupportedModel(f"{self._label}: {name} has {len(shape)} dimensions, expected {len(dims)}")
        known_dims = [pair for pair in zip(shape, dims, strict=True) if None not in pair]
        if any(actual != expected for actual, expected in known_dims):
            raise InvalidModel(
                f"{self._label}: {name} is {shape}, expected {dims} by the folder's configuration",
                remedy="use the configuration that belongs to this file",
            )
        if part != "logits" and any(d is not None for d in (shape[0], shape[-2 if len(dims) == 4 else 1]) if d != 1):
            raise UnsupportedModel(
                f"{self._label}: {name} has the fixed shape {shape}", remedy="export it with dynamic axes"
            )

    def _rename_inputs_and_outputs(self, in_place: bool) -> None:
        """Set names, order, shapes and dtypes of inputs and outputs; insert casts where the inner dtype differs."""
        config = self._config
        inputs, outputs = self._inputs, self._outputs
        before, after = ("capacity", "capacity") if in_place else ("past", "total")
        shapes: dict[str, list[int | str]] = {
            **{name: [1, "tokens"] for name in ("input_ids", "position_ids")},
            "attention_mask": [1, "total"],
            **{name: [1, config.kv_heads, before, config.head_dim] for name in self._cache("past_key_values")},
            **{name: [1, config.kv_heads, after, config.head_dim] for name in self._cache("present")},
            "logits": [1, 1, config.vocab],
        }
        self._graph.outputs.clear()
        for name in inputs:
            inner = inputs[name]
            dtype = ir.DataType.FLOAT if name.startswith("past") else ir.DataType.INT64
            if inner.dtype != dtype:
                inputs[name] = ir.Value(name=name, type=ir.TensorType(dtype))
                cast = self._edit.node("Cast", [inputs[name]], to=inner.dtype)
                self._half = self._half or inner.dtype == ir.DataType.FLOAT16
                inner.replace_all_uses_with(cast)
        for name in outputs:
            inner = outputs[name]
            if inner.dtype != ir.DataType.FLOAT:
                outputs[name] = self._edit.node("Cast", [inner], to=ir.DataType.FLOAT)
            elif inner.producer() is None:
                outputs[name] = self._edit.node("Identity", [inner])
        for group in (inputs, outputs):
            for name, value in group.items():
                value.name, value.shape = name, ir.Shape(shapes[name])
        for value in outputs.values():
            value.dtype = ir.DataType.FLOAT
        self._graph.inputs[:] = [inputs[name] for name in shapes if name in inputs]
        self._graph.outputs.extend(outputs.values())

    def _token_count(self) -> ir.Value:
        """Return the number of tokens that a run computes, int64 [1]."""
        shape = self._edit.node("Shape", [self._inputs["input_ids"]])
        return self._edit.node("Gather", [shape, self._edit.ints(1)], axis=0)

    def _add_length_inputs(self, attention: list[ir.Node], tokens: ir.Value) -> None:
        """Replace attention mask and positions by two numbers, which a runner updates in place."""
        last = ir.Value(name="seqlens_k", type=ir.TensorType(ir.DataType.INT32), shape=ir.Shape([1]))
        total = ir.Value(name="total_sequence_length", type=ir.TensorType(ir.DataType.INT32), shape=ir.Shape([]))
        for node in attention:
            if len(node.inputs) <= _TOTAL or node.inputs[_TOTAL] is None:
                raise InvalidModel(f"{self._label}: {node.name} has no input for the length of its cache")
            node.replace_input_with(_SEQLENS, last)
            node.replace_input_with(_TOTAL, total)
        one = self._edit.ints(1)
        wide = self._edit.node("Reshape", [self._edit.node("Cast", [total], to=ir.DataType.INT64), one])
        if (mask := self._inputs.pop("attention_mask", None)) is not None:
            shape = self._edit.node("Concat", [one, wide], axis=0)
            mask.replace_all_uses_with(self._edit.node("ConstantOfShape", [shape], value=ir.tensor(np.array([1]))))
        if (positions := self._inputs.pop("position_ids", None)) is not None:
            scalar = self._edit.ints()
            begin = self._edit.node("Reshape", [self._edit.node("Sub", [wide, tokens]), scalar])
            end = self._edit.node("Reshape", [wide, scalar])
            row = self._edit.node("Range", [begin, end, self._edit.constant(np.array(1))])
            positions.replace_all_uses_with(self._edit.node("Reshape", [row, self._edit.ints(1, -1)]))
        past = [self._inputs[name] for name in self._cache("past_key_values")]
        self._graph.inputs[:] = [self._inputs["input_ids"], last, total, *past]

    def _add_fresh_outputs(self, tokens: ir.Value) -> None:
        """Add outputs with what a run appends to the cache, so that a hand-over does not copy all of it."""
        start = self._edit.node("Neg", [tokens])
        ends, axes = self._edit.ints(_END), self._edit.ints(2)
        for name in self._cache("present"):
            value = self._edit.node("Slice", [self._outputs[name], start, ends, axes])
            value.name, value.dtype = name.replace("present", "fresh"), ir.DataType.FLOAT
            value.shape = ir.Shape([1, self._config.kv_heads, "tokens", self._config.head_dim])
            self._graph.outputs.append(value)

    def _reset_inner_values(self) -> None:
        """Rename inner values that collide with inputs and outputs, and remove inner shapes, which no longer hold."""
        outer_names = {value.name for value in (*self._graph.inputs, *self._graph.outputs)}
        for number, node in enumerate(self._graph.all_nodes()):
            for index, value in enumerate(node.outputs):
                if value.name in outer_names and not value.is_graph_output():
                    value.name = f"trisect.inner.{number}.{index}"
                if node.graph is self._graph and not value.is_graph_output():
                    value.type = value.shape = None


def _rotary_positions(attention: list[ir.Node]) -> int | None:
    sizes = []
    for node in attention:
        table = node.inputs[_COSINES] if len(node.inputs) > _COSINES else None
        if table is not None and table.const_value is not None:
            sizes.append(int(table.const_value.shape.numpy()[0]))
    return min(sizes, default=None)
