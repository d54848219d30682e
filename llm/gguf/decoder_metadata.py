"""Reads what all decoders have in common from a GGUF file, and checks the file's tensors against a configuration.

Architectures start from `read_decoder` and change what is theirs. `check_tensors` guarantees that every tensor of the
configuration is present with the right shape, and no other tensor: one that is not used would mean that the model
computes something else.
"""

from __future__ import annotations

from dataclasses import replace

from ..graphs.decoder_config import DecoderConfig, ExpertsConfig, LayerConfig
from .architecture_metadata import ArchitectureMetadata
from .rope_metadata import read_rope, rope_dimensions

_EXPERTS_MAX = 1 << 12
_HEAD_DIM_MAX = 1 << 10
"""Twice that of any model: rotary tables are as wide, and as long as the context."""


def read_decoder(
    keys: ArchitectureMetadata,
    *,
    rope_interleaved: bool = False,
    rope_factors: str | None = None,
    has_experts: bool = False,
) -> DecoderConfig:
    """Read a decoder as Llama has it: one norm before each part, SiLU, rotary embeddings in every layer.

    Parameters
    ----------
    rope_interleaved : bool
        Whether rotary embeddings rotate neighbouring rows of Q and K, or halves of a head.
    rope_factors : str, optional
        Name of a tensor that may divide the rotary frequencies.
    has_experts : bool
        Whether the architecture continues with `with_experts`; others are refused if they have any.

    Raises
    ------
    UnsupportedModel
        For a kind of layer or position scaling that is not supported, with its name.
    InvalidModel
        If metadata are missing or inconsistent.
    """
    file = keys.file
    if not has_experts:
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


def with_experts(keys: ArchitectureMetadata, config: DecoderConfig, experts: ExpertsConfig) -> DecoderConfig:
    """Return a configuration with a mixture of experts in every layer.

    Parameters
    ----------
    experts : ExpertsConfig
        Its numbers of experts are replaced by those of the file.

    Raises
    ------
    UnsupportedModel
        For shared experts, and for factors of the experts' weights.
    InvalidModel
        If a number is missing, or more experts are used than there are.
    """
    count, used = keys.integer("expert_count", _EXPERTS_MAX), keys.integer("expert_used_count", _EXPERTS_MAX)
    keys.refuse_nonzero("expert_shared_count", "shared experts")
    if keys.real("expert_weights_scale", default=0.0) not in (0.0, 1.0):
        raise keys.unsupported("a factor of the experts' weights")
    if used > count:
        raise keys.invalid(f"{used} of {count} experts are used")
    width = keys.integer("expert_feed_forward_length", 1 << 24, default=max(1, config.ffn // used))
    return replace(config, ffn=width, experts=replace(experts, count=count, used=used))


def tensor_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a model with this configuration, named as in the file."""
    hidden = config.hidden
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (config.vocab, hidden),
        "output_norm.weight": (hidden,),
    }
    if not config.tied_embeddings:
        shapes["output.weight"] = (config.vocab, hidden)
    common = _feed_forward_shapes(config)
    if config.pre_norms:
        common |= {"attn_norm.weight": (hidden,), f"{config.ffn_norm_name}.weight": (hidden,)}
    if config.post_norms:
        common |= {"post_attention_norm.weight": (hidden,), "post_ffw_norm.weight": (hidden,)}
    attention, recurrent = common | _attention_shapes(config), common | _delta_shapes(config)
    return shapes | {
        f"blk.{index}.{name}": shape
        for index, layer in enumerate(config.layers)
        for name, shape in (recurrent if layer.recurrent else attention).items()
    }


def _attention_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    hidden, queries, pairs = config.hidden, config.query_size, config.kv_size
    rows = 2 * queries if config.attention_gate else queries
    parts = {"qkv": rows + 2 * pairs} if config.fused_qkv else {"q": rows, "k": pairs, "v": pairs}
    layer: dict[str, tuple[int, ...]] = {f"attn_{part}.weight": (rows, hidden) for part, rows in parts.items()}
    if config.qkv_bias:
        layer |= {f"attn_{part}.bias": (rows,) for part, rows in parts.items()}
    layer["attn_output.weight"] = (hidden, queries)
    if config.output_bias:
        layer["attn_output.bias"] = (hidden,)
    if config.attention_sinks:
        layer["attn_sinks.weight"] = (config.heads,)
    if config.head_norm is not None:
        sizes = (config.head_dim,) * 2 if config.head_norm == "head" else (queries, pairs)
        layer |= {f"attn_{part}_norm.weight": (size,) for part, size in zip("qk", sizes, strict=True)}
    return layer


def _delta_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    delta, hidden = config.delta, config.hidden
    if delta is None:
        return {}
    return {
        "attn_qkv.weight": (delta.channels, hidden),
        "attn_gate.weight": (delta.value_size, hidden),
        "ssm_alpha.weight": (delta.value_heads, hidden),
        "ssm_beta.weight": (delta.value_heads, hidden),
        "ssm_conv1d.weight": (delta.channels, delta.kernel),
        "ssm_dt.bias": (delta.value_heads,),
        "ssm_a": (delta.value_heads,),
        "ssm_norm.weight": (delta.head_dim,),
        "ssm_out.weight": (hidden, delta.value_size),
    }


def _feed_forward_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    hidden, ffn, experts = config.hidden, config.ffn, config.experts
    if experts is not None:
        rows = {"gate_inp": (), "gate_exps": (ffn,), "up_exps": (ffn,), "down_exps": (hidden,)}
        columns = {"gate_inp": hidden, "gate_exps": hidden, "up_exps": hidden, "down_exps": ffn}
        shapes: dict[str, tuple[int, ...]] = {
            f"ffn_{part}.weight": (experts.count, *row, columns[part]) for part, row in rows.items()
        }
        if experts.biases:
            shapes |= {f"ffn_{part}.bias": (experts.count, *row) for part, row in rows.items()}
        return shapes
    if config.fused_gate_up:
        return {"ffn_up.weight": (2 * ffn, hidden), "ffn_down.weight": (hidden, ffn)}
    return {"ffn_gate.weight": (ffn, hidden), "ffn_up.weight": (ffn, hidden), "ffn_down.weight": (hidden, ffn)}


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
