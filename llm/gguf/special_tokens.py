"""Special tokens of a GGUF file: those that the metadata name by role, and all that end an answer."""

from __future__ import annotations

import numpy as np

from trisect.runtime.errors import InvalidModel

from .gguf_reader import GgufFile

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of tokens, as numbered in the file (`llama_token_type` in llama.h)."""

# Texts of the tokens at which llama.cpp ends an answer (`llama_vocab::impl::load` in llama-vocab.cpp): many files name
# only one of theirs in the metadata. The last six begin another file or repository. Not "</s>": as a tag of HTML it is
# a token of Gemma's vocabulary, and where it does end answers the metadata name it.
_END_TOKENS = frozenset(
    (
        "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>",
        "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>", "<turn|>", "<|tool_response>", "<EOT>", "_<EOT>", "[EOT]",
        "[EOS]", "<eos>", "<end_of_utterance>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "<|fim_pad|>", "<|fim_repo|>", "<|repo_name|>", "<reponame>", "<|file_sep|>", "<fim-pad>",
    )
)  # fmt: skip
# gpt-oss and Solar end each part of an answer with <|end|>, and the answer itself with another token.
_END_OF_PART = "<|end|>"
_END_OF_ANSWER = (frozenset(("<|return|>", "<|call|>")), frozenset(("<|calls|>", "<|flush|>")))
# gpt-oss marks the parts of an answer with these: they are shown, so that its reasoning can be told from its answer.
SHOWN_MARKUP = frozenset(("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"))


def token_id(file: GgufFile, role: str) -> int | None:
    """Return the id of a special token by its role (``bos``, ``eos``, ``eot``, ``unknown``, ``padding``).

    Raises
    ------
    InvalidModel
        If it is not an index into the vocabulary.
    """
    value = file.metadata.get(f"tokenizer.ggml.{role}_token_id")
    tokens = file.metadata.get("tokenizer.ggml.tokens", [])
    if value is None:
        return None
    if not isinstance(value, int) or not isinstance(tokens, list) or not 0 <= value < len(tokens):
        raise InvalidModel(f"{file.path.name}: {role} token {value} is not in the vocabulary")
    return value


def end_tokens(file: GgufFile) -> tuple[int, ...]:
    """Return all tokens that end an answer; the one that the metadata name as ``eos`` first.

    Raises
    ------
    InvalidModel
        If the metadata name a token that is not in the vocabulary.
    """
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    assert isinstance(tokens, list)  # checked by the caller
    kinds = file.metadata.get("tokenizer.ggml.token_type")
    special = np.isin(kinds, (CONTROL, USER_DEFINED)) if isinstance(kinds, np.ndarray) else np.ones(len(tokens), bool)
    # Such a text ends an answer only as a special token: as a plain one it may occur in any answer.
    ends = {text: i for i, text in enumerate(tokens) if text in _END_TOKENS and i < len(special) and special[i]}
    if any(texts <= ends.keys() for texts in _END_OF_ANSWER):
        ends.pop(_END_OF_PART, None)
    named = [token_id(file, role) for role in ("eos", "eot", "eom")]
    return tuple(dict.fromkeys([*(i for i in named if i is not None), *ends.values()]))
