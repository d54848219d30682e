"""Reads what all decoders have in common from a GGUF file, and checks the file's tensors against a configuration.

Architectures start from `read_decoder` and change what is theirs. `check_tensors` guarantees that every tensor of the
configuration is present with the right shape, and no other tensor: one that is not used would mean that the model
computes something else.
"""

from __future__ import annotations

from ..graphs.decoder_config import DecoderConfig, LayerConfig
from .architecture_metadata import ArchitectureMetadata
from .rope_metadata import read_rope, rope_dimensions

_HEAD_DIM_MAX = 1 << 10
"""Twice that of any model: rotary tables are as wide, and as long as the context."""


def read_decoder(
    keys: ArchitectureMetadata, *, rope_interleaved: bool = False, rope_factors: str | None = None
) -> DecoderConfig:
    """Read a decoder as Llama has it: one norm before each part, SiLU, rotary embeddings in every layer.

    Parameters
    ----------
    rope_interleaved : bool
        Whether rotary embeddings rotate neighbouring rows of Q and K, or halves of a head.
    rope_factors : str, optional
        Name of a tensor that may divide the rotary frequencies.

    Raises
    ------
    UnsupportedModel
        For a kind of layer or position scaling that is not supported, with its name.
    InvalidModel
        If metadata are missing or inconsistent.
    """
    file = keys.file
    keys.refuse_nonzero("expert_count", "mixture of experts")
    keys.refuse_nonzero("attention.temperature_scale", "position-dependent attention temperature")
    hidden, heads = keys.integer("embedding_length", 1 << 20), keys.integer("attention.head_count", 1 << 14)
    kv_heads = keys.integer("attention.head_count_kv", 1 << 14, default=heads)
    head_dim = keys.integer("attention.key_length", 1 << 14, default=hidden // heads)
    if keys.integer("attention.value_length", 1 << 14, default=head_dim) != head_dim:
        raise keys.unsupported("values of another length than keys")
    rotated = rope_dimensions(keys, head_dim)
    if rope_interleaved and rotated != head_dim:
        raise keys.unsupported("rotary embeddings on only part of each head")
    if heads % kv_heads or head_dim % 2 or not 2 <= head_dim <= _HEAD_DIM_MAX:
        raise keys.invalid(f"{heads} heads, {kv_heads} key/value heads of {head_dim}")
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise keys.invalid("it has no vocabulary")
    layers = keys.integer("block_count", 4096)
    # A forged layer count would make the list of expected tensors millions of names.
    if layers > len(file.tensors):
        raise keys.invalid(f"{layers} layers in {len(file.tensors)} tensors")
    window = keys.integer("attention.sliding_window", 1 << 31, default=0) or None
    return DecoderConfig(
        architecture=keys.architecture,
        name=str(file.metadata.get("general.name", file.path.stem)),
        layers=(LayerConfig(window=window),) * layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=keys.integer("feed_forward_length", 1 << 24),
        context_length=keys.integer("context_length", 1 << 31),
        vocab=len(tokens),
        norm_epsilon=keys.real("attention.layer_norm_rms_epsilon"),
        attention_scale=keys.real("attention.scale", default=0.0) or head_dim**-0.5,
        ropes=(read_rope(keys, rotated, factors=rope_factors),),
        rope_interleaved=rope_interleaved,
        tied_embeddings="output.weight" not in file.tensors,
        qkv_bias="blk.0.attn_q.bias" in file.tensors or "blk.0.attn_qkv.bias" in file.tensors,
        fused_qkv="blk.0.attn_qkv.weight" in file.tensors,
    )


def tensor_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a model with this configuration, named as in the file."""
    hidden, queries, pairs, ffn = config.hidden, config.query_size, config.kv_size, config.ffn
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (config.vocab, hidden),
        "output_norm.weight": (hidden,),
    }
    if not config.tied_embeddings:
        shapes["output.weight"] = (config.vocab, hidden)
    layer: dict[str, tuple[int, ...]] = {}
    if config.pre_norms:
        layer |= {"attn_norm.weight": (hidden,), "ffn_norm.weight": (hidden,)}
    parts = {"qkv": queries + 2 * pairs} if config.fused_qkv else {"q": queries, "k": pairs, "v": pairs}
    layer |= {f"attn_{part}.weight": (rows, hidden) for part, rows in parts.items()}
    if config.qkv_bias:
        layer |= {f"attn_{part}.bias": (rows,) for part, rows in parts.items()}
    layer |= {"attn_output.weight": (hidden, queries), "ffn_down.weight": (hidden, ffn)}
    if config.output_bias:
        layer["attn_output.bias"] = (hidden,)
    if config.fused_gate_up:
        layer["ffn_up.weight"] = (2 * ffn, hidden)
    else:
        layer |= {"ffn_gate.weight": (ffn, hidden), "ffn_up.weight": (ffn, hidden)}
    if config.post_norms:
        layer |= {"post_attention_norm.weight": (hidden,), "post_ffw_norm.weight": (hidden,)}
    if config.head_norm is not None:
        sizes = (config.head_dim,) * 2 if config.head_norm == "head" else (queries, pairs)
        layer |= {f"attn_{part}_norm.weight": (size,) for part, size in zip("qk", sizes, strict=True)}
    return shapes | {f"blk.{i}.{name}": shape for i in range(len(config.layers)) for name, shape in layer.items()}


def check_tensors(keys: ArchitectureMetadata, config: DecoderConfig) -> None:
    """Check that the file has the tensors of a configuration, and no others.

    Raises
    ------
    InvalidModel
        If one is missing or has another shape.
    UnsupportedModel
        If there is another one.
    """
    expected = tensor_shapes(config)
    for name, shape in expected.items():
        tensor = keys.file.tensors.get(name)
        if tensor is None:
            raise keys.invalid(f"tensor {name} is missing")
        if tensor.shape != shape:
            raise keys.invalid(f"tensor {name} has shape {list(tensor.shape)}, expected {list(shape)}")
    if unknown := sorted(keys.file.tensors.keys() - expected.keys() - keys.read_tensors):
        raise keys.unsupported(f"the tensor {unknown[0]}")
