"""Reads a folder of transformers, ``config.json`` and safetensors, in the terms of a GGUF file.

So every architecture has one definition (`llm/architectures/`), whichever of the two formats its weights come in. What
converters to GGUF change, this does too: the weights of Gemma's norms get their 1 added. Rows of Q and K stay as they
are, in order for rotation by halves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from trisect.runtime.errors import InvalidModel
from trisect.runtime.progress import Progress

from ..architectures import read_config
from ..bundle import Bundle
from ..gguf.file_rows import StackedRows
from ..gguf.gguf_reader import GgufFile, GgufTensor
from ..gguf.quantised_blocks import dequantise
from .folder_config import CONFIG_FILE, read_folder_tokenizer
from .gguf_import import DecoderForms, import_decoder
from .safetensors_file import locate_tensors
from .transformers_config import POST_NORMS, read_transformers_config
from .weight_conversion import Preference

_WHOLE = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}
_PARTS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
    "input_layernorm": "attn_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
_EXPERT = re.compile(r"layers\.(\d{1,4})\.mlp\.experts\.(\d{1,4})\.(gate|up|down)_proj\.weight")
_LAYER = re.compile(r"layers\.(\d{1,4})\.([\w.]+)\.(weight|bias)")


def import_transformers(
    source: Path, folder: Path, *, weights: str, prefer: Preference = "speed", progress: Progress
) -> Bundle:
    """Write a bundle's files into an empty folder, as `import_gguf` does.

    Raises
    ------
    InvalidModel, UnsupportedModel
        If a file is missing, malformed, or of a kind that is not supported.
    OSError
        If a file cannot be written.
    """
    file = read_transformers_model(source)
    config = replace(read_config(file), rope_interleaved=False)
    forms = DecoderForms(weights=weights, prefer=prefer)
    bundle = import_decoder(file, config, read_folder_tokenizer(source), folder, forms=forms, progress=progress)
    return replace(bundle, source=source.name)


def read_transformers_model(folder: Path) -> GgufFile:
    """Return the folder's model as a GGUF file would have it, its vocabulary without texts.

    Raises
    ------
    InvalidModel, UnsupportedModel
        If a file is malformed, or of an architecture that is not supported.
    """
    config = read_transformers_config(folder)
    tensors = _renamed(config.architecture, locate_tensors(folder), tied=config.tied_embeddings)
    tensors |= {name: _tensor(name, values) for name, values in config.factors.items()}
    return GgufFile(folder / CONFIG_FILE, config.metadata, tensors)


def _renamed(name: str, tensors: Mapping[str, GgufTensor], *, tied: object) -> dict[str, GgufTensor]:
    """Return tensors under GGUF's names; those without one keep theirs, and are refused later."""
    parts = {**_PARTS, "post_attention_layernorm": "post_attention_norm" if name in POST_NORMS else "ffn_norm"}
    renamed: dict[str, GgufTensor] = {}
    experts: dict[str, dict[int, GgufTensor]] = {}
    for original, tensor in tensors.items():
        plain = original.removeprefix("model.")
        if plain.endswith(".rotary_emb.inv_freq"):  # old files of Llama; computed from the configuration, as always
            continue
        if match := _EXPERT.fullmatch(plain):
            experts.setdefault(f"blk.{match[1]}.ffn_{match[3]}_exps.weight", {})[int(match[2])] = tensor
            continue
        if original == "lm_head.weight":
            if tied is True:
                continue
            target = "output.weight"
        elif match := _LAYER.fullmatch(plain):
            target = f"blk.{match[1]}.{parts.get(match[2], match[2])}.{match[3]}"
        else:
            target = _WHOLE.get(plain, plain)
        if target in renamed:
            raise InvalidModel(f"two tensors of the model stand for {target}", remedy="remove one of the files")
        if name.startswith("gemma") and target.endswith("norm.weight"):
            renamed[target] = _tensor(target, dequantise(tensor) + 1)
        else:
            renamed[target] = replace(tensor, name=target)
    return renamed | {target: _stacked(target, by_number) for target, by_number in experts.items()}


def _stacked(name: str, experts: Mapping[int, GgufTensor]) -> GgufTensor:
    """Return the weights of a layer's experts as one tensor, as GGUF files have them."""
    tensors = [experts[number] for number in sorted(experts)]
    first, rows = tensors[0], [tensor.data for tensor in tensors if not isinstance(tensor.data, StackedRows)]
    are_alike = all((tensor.shape, tensor.type) == (first.shape, first.type) for tensor in tensors)
    if max(experts) >= len(tensors) or not are_alike:
        raise InvalidModel(f"the experts of {name} are not complete, or not alike", remedy="download the model again")
    return GgufTensor(name, (len(tensors), *first.shape), first.type, StackedRows(rows))


def _tensor(name: str, values: np.ndarray) -> GgufTensor:
    array = np.ascontiguousarray(values, np.float32)
    return GgufTensor(name, array.shape, "F32", array.view(np.uint8).reshape(-1, array.shape[-1] * 4))
