"""FLOPs of attention operators: scores, softmax and weighted sum of values, and projections where they are included."""

from __future__ import annotations

from .op_call import FlopsRule, OpCall, register_in

RULES: dict[str, FlopsRule] = {}
_rule = register_in(RULES)


def _core_attention(batch: int, heads: int, queries: int, keys: int, qk_size: int, v_size: int) -> float:
    """Scores, softmax (five operations each: maximum, difference, exponent, sum, division), weighted sum of values."""
    return batch * heads * queries * keys * (2 * qk_size + 2 * v_size + 5)


@_rule("Attention", "QAttention", "PackedAttention", "DecoderMaskedSelfAttention", "LongformerAttention")
def _attention(call: OpCall) -> float:
    query = call.input(0)
    if "q_num_heads" in call.attributes or len(query) == 4:
        return _standard_attention(call)
    # com.microsoft: input [batch, tokens, inputs], weights [inputs, 3 * hidden], past [2, batch, heads, past, size]
    weight, heads = call.input(1), int(call.attributes.get("num_heads", 1))
    if len(query) < 3 or len(weight) < 2:
        return call.written
    batch, tokens, inputs = query
    size = weight[1] // 3 // heads
    past = call.input(8 if call.op_type == "QAttention" else 4)
    keys = tokens + (past[3] if len(past) == 5 else 0)
    if call.op_type == "LongformerAttention":
        # Each token attends to `window` tokens on either side.
        keys = min(keys, 2 * int(call.attributes.get("window", keys)) + 1)
    return 2 * batch * tokens * inputs * weight[1] + _core_attention(batch, heads, tokens, keys, size, size)


def _standard_attention(call: OpCall) -> float:
    """ONNX's own: [batch, heads, tokens, size], or [batch, tokens, heads * size] with head counts as attributes."""
    query, key, value = call.input(0), call.input(1), call.input(2)
    past = call.input(4)
    past_tokens = past[2] if len(past) == 4 else 0
    if len(query) == 4 and len(key) == 4 and len(value) == 4:
        return _core_attention(query[0], query[1], query[2], key[2] + past_tokens, query[3], value[3])
    if len(query) != 3 or len(key) != 3 or len(value) != 3:
        return call.written
    heads, kv_heads = int(call.attributes["q_num_heads"]), int(call.attributes.get("kv_num_heads", 1))
    return _core_attention(query[0], heads, query[1], key[1] + past_tokens, query[2] // heads, value[2] // kv_heads)


@_rule("MultiHeadAttention", "DecoderMaskedMultiHeadAttention")
def _multi_head(call: OpCall) -> float:
    query, key, heads, past = call.input(0), call.input(1), int(call.attributes["num_heads"]), call.input(6)
    if len(query) < 3:
        return call.written
    packed = len(query) == 5
    tokens, size = query[1], query[4] if packed else query[2] // heads
    keys = tokens if packed or not key else key[1] if len(key) == 3 else key[2]
    return _core_attention(query[0], heads, tokens, keys + (past[2] if len(past) == 4 else 0), size, size)


@_rule("GroupQueryAttention", "SparseAttention")
def _group_query(call: OpCall) -> float:
    query, past = call.input(0), call.input(3)
    heads, kv_heads = int(call.attributes["num_heads"]), int(call.attributes["kv_num_heads"])
    if len(query) != 3:
        return call.written
    packed = len(call.inputs) < 2 or call.inputs[1] is None
    size = query[2] // (heads + 2 * kv_heads if packed else heads)
    rotary = 6 * query[0] * query[1] * (heads + kv_heads) * size if call.attributes.get("do_rotary") else 0
    return rotary + _core_attention(
        query[0], heads, query[1], query[1] + (past[2] if len(past) == 4 else 0), size, size
    )


@_rule("PackedMultiHeadAttention", "PagedAttention")
def _packed_heads(call: OpCall) -> float:
    # [tokens, heads * size] of all sequences in one row: the length of each depends on the data.
    query, heads = call.input(0), int(call.attributes["num_heads"])
    if len(query) < 2:
        return call.written
    tokens, size = query[0], query[-1] if len(query) > 2 else query[1] // heads
    return _core_attention(1, heads, tokens, tokens, size, size)


@_rule("DecoderAttention")
def _decoder_attention(call: OpCall) -> float:
    # [tokens, batch, hidden], projections included; keys and values in one product.
    query, key, heads = call.input(0), call.input(1), int(call.attributes["num_heads"])
    if len(query) != 3 or len(key) != 3:
        return call.written
    tokens, batch, hidden = query
    projections = 2 * batch * hidden * hidden * (tokens + 2 * key[0])
    return projections + _core_attention(batch, heads, tokens, key[0], hidden // heads, hidden // heads)


@_rule("LinearAttention")
def _linear_attention(call: OpCall) -> float:
    # A state of keys x values per head: each token decays it, adds an outer product and reads it; delta reads it first.
    query, key, value = call.input(0), call.input(1), call.input(2)
    if len(query) != 3 or len(key) != 3 or len(value) != 3:
        return call.written
    heads, kv_heads = int(call.attributes["q_num_heads"]), int(call.attributes["kv_num_heads"])
    rule = call.attributes.get("update_rule", "gated_delta")
    text = rule.decode() if isinstance(rule, bytes) else str(rule)
    state = (key[2] // kv_heads) * (value[2] // kv_heads)
    update = 2 + ("gated" in text) + 2 * ("delta" in text)
    return query[0] * query[1] * state * (2 * heads + update * kv_heads)
