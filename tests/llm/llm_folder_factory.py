"""Writes tiny language-model folders as onnxruntime-genai's builder and as optimum write them, from the same weights.

One builder uses GroupQueryAttention, which rotates and masks inside; the other spells attention out in plain operators.
That they agree is what tests compare against.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

LAYERS, HEADS, KV_HEADS, HEAD_DIM, HIDDEN, FFN, VOCAB, CONTEXT = 2, 4, 2, 16, 64, 96, 96, 128
MICROSOFT = "com.microsoft"
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
DATA_FILE = "model.onnx.data"
_NUMPY = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16}


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Float32 weights by name; products as [inputs, outputs]."""
    generator = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return generator.normal(0, 0.15, (rows, columns)).astype(np.float32)

    angles = np.arange(CONTEXT)[:, None] / 10000 ** (np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    result = {
        "embedding": matrix(VOCAB, HIDDEN),
        "head": matrix(HIDDEN, VOCAB),
        "cosines": np.cos(angles).astype(np.float32),
        "sines": np.sin(angles).astype(np.float32),
    }
    for i in range(LAYERS):
        result |= {
            f"{i}.q": matrix(HIDDEN, HEADS * HEAD_DIM),
            f"{i}.k": matrix(HIDDEN, KV_HEADS * HEAD_DIM),
            f"{i}.v": matrix(HIDDEN, KV_HEADS * HEAD_DIM),
            f"{i}.o": matrix(HEADS * HEAD_DIM, HIDDEN),
            f"{i}.up": matrix(HIDDEN, FFN),
            f"{i}.down": matrix(FFN, HIDDEN),
        }
    return result


@dataclass
class Build:
    """How a graph is built; the defaults are the builders' own."""

    dtype: int = TensorProto.FLOAT
    positions: bool = False
    """An input position_ids, which GroupQueryAttention is given too."""
    softcap: bool = False
    int4: bool = False
    """Products in blocks of 4 bits (MatMulNBits)."""
    tied_bits: int = 0
    """4 or 8: embedding and output projection share one table in blocks, with zero points."""
    dynamic_head: bool = False
    """The output projection in 8 bits, its input quantised as it comes."""
    count_of_scores: bool = False
    """An input num_logits_to_keep, as newer exports have."""
    names: dict[str, str] = field(default_factory=dict)
    """Other names for inputs and outputs."""
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def op(self, op: str, inputs: list[str], output: str, *, domain: str = "", **attributes: Any) -> str:
        self.ops(op, inputs, [output], domain=domain, **attributes)
        return output

    def ops(self, op: str, inputs: list[str], outputs: list[str], *, domain: str = "", **attributes: Any) -> None:
        inputs, outputs = ([self.names.get(name, name) for name in group] for group in (inputs, outputs))
        self.nodes.append(helper.make_node(op, inputs, outputs, outputs[0], domain=domain, **attributes))

    def const(self, name: str, array: np.ndarray) -> str:
        """A constant; floats in the graph's own dtype."""
        self.constants[name] = array.astype(_NUMPY[self.dtype]) if array.dtype.kind == "f" else array
        return name

    def ints(self, *values: int) -> str:
        return self.const(f"ints{'_'.join(map(str, values))}", np.array(values, np.int64))


def write_genai_folder(folder: Path, build: Build | None = None, **model: Any) -> Path:
    """A folder of onnxruntime-genai, weights in a file beside the graph; `model` replaces entries of its section."""
    build = build or Build()
    folder.mkdir(parents=True, exist_ok=True)
    w, b = weights(), build
    x = _embed(b, w)
    b.op("ReduceSum", ["attention_mask", b.ints(1)], "sum", keepdims=0)
    b.op("Cast", [b.op("Sub", ["sum", b.ints(1)], "less")], "mask/seqlens", to=TensorProto.INT32)
    b.op("Gather", [b.op("Shape", ["attention_mask"], "mask/shape"), b.const("one", np.array(1))], "mask/width")
    b.op("Cast", ["mask/width"], "mask/total", to=TensorProto.INT32)
    tables = [b.const("cosines", w["cosines"]), b.const("sines", w["sines"])]
    for i in range(LAYERS):
        norm = _norm(b, x, f"{i}/norm")
        qkv = [_product(b, norm, w, f"{i}.{part}") for part in "qkv"]
        past = [f"past_key_values.{i}.{part}" for part in ("key", "value")]
        rest = ["position_ids"] if b.positions else []
        b.ops(
            "GroupQueryAttention",
            [*qkv, *past, "mask/seqlens", "mask/total", *tables, *rest],
            [f"{i}/attention", f"present.{i}.key", f"present.{i}.value"],
            domain=MICROSOFT,
            num_heads=HEADS,
            kv_num_heads=KV_HEADS,
            do_rotary=1,
        )
        x = _rest_of_layer(b, x, f"{i}/attention", w, i)
    _head(b, x, w)
    _save(b, folder / "model.onnx", ["attention_mask", *(["position_ids"] if b.positions else [])])
    inputs = {"input_ids": "input_ids", "past_key_names": "past_key_values.%d.key"}
    decoder = {
        "filename": "model.onnx",
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "num_attention_heads": HEADS,
        "head_size": HEAD_DIM,
        "hidden_size": HIDDEN,
        "inputs": inputs,
        "outputs": {"logits": build.names.get("logits", "logits")},
        **model.pop("decoder", {}),
    }
    sizes = {"context_length": CONTEXT, "vocab_size": VOCAB, "eos_token_id": [2, 5], "bos_token_id": 1}
    document = {"model": {"type": "llama", "decoder": decoder, **sizes, **model}, "search": {}}
    (folder / "genai_config.json").write_text(json.dumps(document))
    _write_tokenizer(folder)
    return folder


def write_optimum_folder(
    folder: Path, build: Build | None = None, *, file: str = "model.onnx", external: bool = False, **model: Any
) -> Path:
    """A folder of optimum (`file` beside the configuration) or transformers.js (``onnx/...``)."""
    build = build or Build()
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    w, b = weights(), build
    x = _embed(b, w)
    b.op("Gather", [b.op("Shape", ["attention_mask"], "mask/shape"), b.const("one", np.array(1))], "total")
    # Column j may be seen from the token at position p where j <= p and the attention mask has a one.
    columns = b.op("Range", [b.const("zero", np.array(0)), "total", b.const("step", np.array(1))], "columns")
    rows = b.op("Unsqueeze", ["position_ids", b.ints(1, 3)], "rows")
    seen = b.op("LessOrEqual", [columns, rows], "seen")
    allowed = b.op("Cast", ["attention_mask"], "allowed", to=TensorProto.BOOL)
    allowed = b.op("Unsqueeze", [allowed, b.ints(1, 2)], "allowed4")
    b.op("And", [seen, allowed], "visible")
    bias = b.op("Where", ["visible", b.const("none", np.array(0.0)), b.const("much", np.array(-1e4))], "bias")
    tables = []
    for name in ("cosines", "sines"):
        gathered = b.op("Gather", [b.const(name, np.tile(w[name], 2)), "position_ids"], f"{name}/rows")
        tables.append(b.op("Unsqueeze", [gathered, b.ints(1)], f"{name}/4"))
    for i in range(LAYERS):
        norm = _norm(b, x, f"{i}/norm")
        heads = {}
        for part, count in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            y = b.op("Reshape", [_product(b, norm, w, f"{i}.{part}"), b.ints(0, 0, count, HEAD_DIM)], f"{i}/{part}/4")
            y = b.op("Transpose", [y], f"{i}/{part}/heads", perm=[0, 2, 1, 3])
            heads[part] = _rotate(b, y, tables, f"{i}/{part}") if part != "v" else y
        for part, name in (("k", "key"), ("v", "value")):
            past = [f"past_key_values.{i}.{name}", heads[part]]
            y = b.op("Concat", past, f"present.{i}.{name}", axis=2)
            y = b.op("Unsqueeze", [y, b.ints(2)], f"{i}/{part}/5")
            y = b.op("Tile", [y, b.ints(1, 1, HEADS // KV_HEADS, 1, 1)], f"{i}/{part}/repeated")
            heads[part] = b.op("Reshape", [y, b.ints(0, HEADS, -1, HEAD_DIM)], f"{i}/{part}/all")
        keys = b.op("Transpose", [heads["k"]], f"{i}/keys", perm=[0, 1, 3, 2])
        scores = b.op("MatMul", [heads["q"], keys], f"{i}/scores")
        scores = b.op("Mul", [scores, b.const("scale", np.array(HEAD_DIM**-0.5))], f"{i}/scaled")
        shares = b.op("Softmax", [b.op("Add", [scores, bias], f"{i}/masked")], f"{i}/shares", axis=-1)
        y = b.op("Transpose", [b.op("MatMul", [shares, heads["v"]], f"{i}/mixed")], f"{i}/back", perm=[0, 2, 1, 3])
        x = _rest_of_layer(b, x, b.op("Reshape", [y, b.ints(0, 0, HEADS * HEAD_DIM)], f"{i}/attention"), w, i)
    _head(b, x, w)
    _save(b, folder / file, ["attention_mask", "position_ids"], external=external)
    entries = {
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "hidden_size": HIDDEN,
        "max_position_embeddings": CONTEXT,
        "vocab_size": VOCAB,
        "eos_token_id": 2,
        "bos_token_id": 1,
        **model,
    }
    (folder / "config.json").write_text(json.dumps({k: v for k, v in entries.items() if v is not None}))
    _write_tokenizer(folder)
    return folder


def edit_graph(path: Path, edit: Any) -> None:
    """Change an ONNX file through its protobuf."""
    model = onnx.load(path, load_external_data=False)
    edit(model)
    path.write_bytes(model.SerializeToString())


def _embed(b: Build, w: dict[str, np.ndarray]) -> str:
    if b.tied_bits:
        width = HIDDEN * b.tied_bits // 8
        table = b.op("Reshape", [_tied_table(b, w)[0], b.ints(VOCAB, width)], "embedding/rows")
        inputs = [table, "input_ids", "tied.scales", "tied.zeros"]
        settings = {"bits": b.tied_bits, "block_size": 16, "gather_axis": 0, "quantize_axis": 1}
        return b.op("GatherBlockQuantized", inputs, "x", domain=MICROSOFT, **settings)
    return b.op("Gather", [b.const("embedding", w["embedding"]), "input_ids"], "x")


def _tied_table(b: Build, w: dict[str, np.ndarray]) -> list[str]:
    """Levels, scales and zero points of the embedding, as MatMulNBits and GatherBlockQuantized both read them."""
    most = (1 << b.tied_bits) - 1
    blocks = w["embedding"].reshape(VOCAB, -1, 16)
    scales = (blocks.max(-1) - blocks.min(-1)) / most
    zeros = np.round(-blocks.min(-1) / scales)
    levels = np.clip(np.round(blocks / scales[..., None] + zeros[..., None]), 0, most).astype(np.uint8)
    zeros = zeros.astype(np.uint8)
    if b.tied_bits == 4:
        levels, zeros = (a[..., ::2] | a[..., 1::2] << 4 for a in (levels, zeros))
    return [b.const("tied.weight", levels), b.const("tied.scales", scales), b.const("tied.zeros", zeros)]


def _product(b: Build, x: str, w: dict[str, np.ndarray], name: str) -> str:
    result = "scores" if name == "head" else f"{name}.product"
    if not b.int4:
        return b.op("MatMul", [x, b.const(f"{name}.weight", w[name])], result)
    columns, rows = w[name].shape
    blocks = w[name].T.reshape(rows, columns // 32, 32)
    scales = np.abs(blocks).max(-1) / 7
    levels = (np.round(blocks / scales[..., None]) + 8).astype(np.uint8)
    b.const(f"{name}.weight", levels[..., ::2] | levels[..., 1::2] << 4)
    inputs = [x, f"{name}.weight", b.const(f"{name}.scales", scales.reshape(-1))]
    return b.op("MatMulNBits", inputs, result, domain=MICROSOFT, N=rows, K=columns, bits=4, block_size=32)


def _norm(b: Build, x: str, name: str) -> str:
    """RMS norm in plain operators, without a weight."""
    mean = b.op("ReduceMean", [b.op("Mul", [x, x], f"{name}/square"), b.ints(-1)], f"{name}/mean", keepdims=1)
    root = b.op("Sqrt", [b.op("Add", [mean, b.const("epsilon", np.array(1e-3))], f"{name}/safe")], f"{name}/root")
    return b.op("Div", [x, root], name)


def _rotate(b: Build, x: str, tables: list[str], name: str) -> str:
    b.ops("Split", [x], [f"{name}/low", f"{name}/high"], axis=-1, num_outputs=2)
    turned = b.op("Concat", [b.op("Neg", [f"{name}/high"], f"{name}/minus"), f"{name}/low"], f"{name}/turned", axis=-1)
    sides = [b.op("Mul", [x, tables[0]], f"{name}/c"), b.op("Mul", [turned, tables[1]], f"{name}/s")]
    return b.op("Add", sides, f"{name}/rotated")


def _rest_of_layer(b: Build, x: str, attention: str, w: dict[str, np.ndarray], i: int) -> str:
    x = b.op("Add", [x, _product(b, attention, w, f"{i}.o")], f"{i}/x")
    up = b.op("Tanh", [_product(b, _norm(b, x, f"{i}/norm2"), w, f"{i}.up")], f"{i}/active")
    return b.op("Add", [x, _product(b, up, w, f"{i}.down")], f"{i}/x2")


def _head(b: Build, x: str, w: dict[str, np.ndarray]) -> None:
    x = _norm(b, x, "final")
    if b.count_of_scores:
        start = b.op("Neg", [b.op("Reshape", ["num_logits_to_keep", b.ints(1)], "keep")], "keep/start")
        x = b.op("Slice", [x, start, b.ints(1 << 62), b.ints(1)], "kept")
    if b.tied_bits:
        settings = {"N": VOCAB, "K": HIDDEN, "bits": b.tied_bits, "block_size": 16}
        b.op("MatMulNBits", [x, *_tied_table(b, w)], "scores", domain=MICROSOFT, **settings)
    elif b.dynamic_head:
        scale = np.abs(w["head"]).max() / 127
        b.const("head.q", np.round(w["head"] / scale).astype(np.int8))
        b.ops("DynamicQuantizeLinear", [x], ["head/x", "head/scale", "head/zero"])
        b.op("MatMulInteger", ["head/x", "head.q", "head/zero"], "head/sum")
        b.op("Cast", ["head/sum"], "head/float", to=TensorProto.FLOAT)
        factor = b.op("Mul", ["head/scale", b.const("head.scale", np.array(scale))], "head/factor")
        b.op("Mul", ["head/float", factor], "scores")
    else:
        _product(b, x, w, "head")
    scores = "scores"
    if b.softcap:
        cap = b.const("cap", np.array(3.0))
        scores = b.op("Mul", [b.op("Tanh", [b.op("Div", ["scores", cap], "cap/in")], "cap/out"), cap], "capped")
    b.op("Identity", [scores], "logits")


def _save(b: Build, path: Path, more: list[str], *, external: bool = True) -> None:
    def tensor(name: str, dtype: int, shape: list[Any]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(b.names.get(name, name), dtype, shape)

    cache = [f"{i}.{part}" for part in ("key", "value") for i in range(LAYERS)]
    inputs = [tensor("input_ids", TensorProto.INT64, ["batch", "sequence"])]
    widths = {"attention_mask": "total_sequence", "position_ids": "sequence"}
    inputs += [tensor(name, TensorProto.INT64, ["batch", widths[name]]) for name in more]
    inputs += [tensor("num_logits_to_keep", TensorProto.INT64, [])] if b.count_of_scores else []
    outputs = [tensor("logits", b.dtype, ["batch", "sequence", VOCAB])]
    for name in cache:
        inputs.append(tensor(f"past_key_values.{name}", b.dtype, ["batch", KV_HEADS, "past", HEAD_DIM]))
        outputs.append(tensor(f"present.{name}", b.dtype, ["batch", KV_HEADS, "total", HEAD_DIM]))
    held = [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in b.constants.items()]
    graph = helper.make_graph(b.nodes, "decoder", inputs, outputs, held)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    location = DATA_FILE if path.name == "model.onnx" else f"{path.name}_data"
    onnx.save(model, path, save_as_external_data=external, location=location, size_threshold=1024)


def _write_tokenizer(folder: Path) -> None:
    words = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|stop|>"]
    vocabulary = {word: i for i, word in enumerate([*words, *(f"w{i}" for i in range(len(words), VOCAB))])}
    encoder = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    encoder.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    encoder.decoder = decoders.WordPiece()
    encoder.add_special_tokens([AddedToken(word, special=True) for word in words])
    encoder.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": {"content": "<|im_end|>"}, "bos_token": "<s>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
