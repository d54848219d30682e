"""Builds a tokenizer from the vocabulary in a GGUF file.

There are two families: byte-level BPE (``gpt2``: GPT-2, Llama 3, Qwen, SmolLM), whose pre-tokenizer the file states by
name only; and SentencePiece BPE (``llama``: Llama 2, Mistral, TinyLlama), where each token's score is its merge
priority. Names and rules are those of llama.cpp, the reference implementation of GGUF. One differs: ``tekken`` is split
by its makers' rule, which llama.cpp approximates (it omits combining marks).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Encoder

from trisect.runtime.errors import InvalidModel, TrisectError, UnsupportedModel

from ..running.chat_formats import published_format
from ..tokenization import split_patterns
from ..tokenization.encoders import LocalEncoder
from ..tokenization.sentencepiece_encoder import Pieces, SentencePieceEncoder
from ..tokenization.tokenizer import Prompting, Tokenizer
from .gguf_reader import GgufFile
from .special_tokens import BYTE, CONTROL, SHOWN_MARKUP, UNKNOWN, USER_DEFINED, end_tokens, token_id

_TOKEN_LENGTH_MAX = 1024
_VOCABULARY_LENGTH_MAX = 1 << 23
"""Characters of all tokens, five times those of the largest vocabulary: the merges of more take too long to find."""


@dataclass(frozen=True)
class _PreTokenizer:
    """How a text is split into words before merging."""

    patterns: tuple[str, ...]
    """Regular expressions, applied one after the other; each splits the pieces of the one before it."""
    whole_words: bool = False
    """A word that is a token of the vocabulary becomes that token, regardless of merges."""
    add_bos: bool = False
    """Default if the file does not state it."""


_GPT2_RULE = _PreTokenizer((split_patterns.GPT2,))
_DIGIT_RULE = _PreTokenizer((split_patterns.DIGIT, split_patterns.GPT2))
_LLAMA3_RULE = _PreTokenizer((split_patterns.LLAMA3,), whole_words=True, add_bos=True)
_QWEN2_RULE = _PreTokenizer((split_patterns.QWEN2,))
_MARKUP = (CONTROL, USER_DEFINED)
_PHI3_KEEPS_SPACE_BEHIND = ("<unk>", "<s>", "<|endoftext|>")
_DEFAULT_RULE = _PreTokenizer(
    (split_patterns.PUNCTUATION, split_patterns.GPT2, split_patterns.DIGITS, split_patterns.THREE_DIGITS)
)
_PRE_TOKENIZERS = {
    **dict.fromkeys(
        (
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "gigachat",
            "mellum",
            "exaone4",
            "trillion",
            "granite-docling",
            "a.x-4.0",
        ),
        _GPT2_RULE,
    ),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"), _DIGIT_RULE
    ),
    **dict.fromkeys(
        ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "lfm2", "midm-2.0"), _LLAMA3_RULE
    ),
    **dict.fromkeys(
        ("qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2", "kormo"), _QWEN2_RULE
    ),
    "qwen35": _PreTokenizer((split_patterns.QWEN35,)),
    **dict.fromkeys(("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), _PreTokenizer((split_patterns.LLAMA3,))),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "minimax-m2"), _PreTokenizer((split_patterns.GPT4O,))),
    "tekken": _PreTokenizer((split_patterns.TEKKEN,), whole_words=True, add_bos=True),
    **dict.fromkeys(
        ("deepseek-v3", "hunyuan-dense"),
        _PreTokenizer((split_patterns.UP_TO_THREE_DIGITS, split_patterns.CHINESE, split_patterns.DEEPSEEK3)),
    ),
    "default": _DEFAULT_RULE,
}


def read_tokenizer(file: GgufFile) -> Tokenizer:
    """Return the tokenizer of a GGUF model.

    Raises
    ------
    UnsupportedModel
        For an unsupported kind of tokenizer or pre-tokenizer, with its name.
    InvalidModel
        If vocabulary, merges or scores are missing or inconsistent.
    """
    vocabulary = _vocabulary(file)
    kinds = _token_types(file, len(vocabulary))
    model = file.metadata.get("tokenizer.ggml.model")
    try:
        if model == "gpt2":
            encoder, add_bos = _byte_level(file, vocabulary)
        elif model == "llama":
            encoder, add_bos = _sentencepiece(file, vocabulary, kinds), True
        else:
            raise UnsupportedModel(
                f"{file.path.name} has a tokenizer of the kind {model!r}", remedy="supported are gpt2 and llama"
            )
        _add_special_tokens(encoder, file, vocabulary, kinds)
        _add_bos_and_eos(encoder, file, add_bos)
    except TrisectError:
        raise
    except Exception as error:  # the binding raises bare Exception
        raise _invalid(file, str(error)) from error
    template = file.metadata.get("tokenizer.chat_template")
    if not isinstance(template, str) or not template:
        names = [file.path.stem, *(str(file.metadata.get(f"general.{key}", "")) for key in ("name", "finetune"))]
        template = published_format(" ".join(names), {text for text, i in vocabulary.items() if kinds[i] in _MARKUP})
    library = LocalEncoder(encoder)
    own = SentencePieceEncoder(_pieces(file, vocabulary, kinds), lambda: library) if model == "llama" else None
    prompting = Prompting(end_tokens(file), token_id(file, "bos"), template)
    return Tokenizer(library if own is None or _strips_behind_markup(file) else own, prompting)


def _vocabulary(file: GgufFile) -> dict[str, int]:
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(text, str) for text in tokens):
        raise _invalid(file, "no vocabulary")
    if max(map(len, tokens)) > _TOKEN_LENGTH_MAX:
        raise _invalid(file, f"a token has more than {_TOKEN_LENGTH_MAX} characters")
    if sum(map(len, tokens)) > _VOCABULARY_LENGTH_MAX:
        raise _invalid(file, f"its tokens have more than {_VOCABULARY_LENGTH_MAX} characters together")
    vocabulary = {text or f"[EMPTY_{index}]": index for index, text in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise _invalid(file, "a token appears twice")
    return vocabulary


def _token_types(file: GgufFile, size: int) -> np.ndarray:
    kinds = file.metadata.get("tokenizer.ggml.token_type")
    if kinds is None:
        return np.ones(size, np.int32)
    if not isinstance(kinds, np.ndarray) or len(kinds) != size:
        raise _invalid(file, "the token types do not match the vocabulary")
    return kinds


def _byte_level(file: GgufFile, vocabulary: dict[str, int]) -> tuple[Encoder, bool]:
    name = file.metadata.get("tokenizer.ggml.pre", "default")
    words = _PRE_TOKENIZERS.get(str(name))
    if words is None:
        raise UnsupportedModel(
            f"{file.path.name} has the unknown pre-tokenizer {name!r}",
            remedy=f"supported are {', '.join(_PRE_TOKENIZERS)}",
        )
    lines = file.metadata.get("tokenizer.ggml.merges")
    if not isinstance(lines, list):
        raise _invalid(file, "no merges")
    merges = []
    for line in lines:
        # The first half may itself begin with a space.
        at = line.find(" ", 1)
        if at < 0 or at + 1 == len(line):
            raise _invalid(file, f"the merge {line!r}")
        merges.append((line[:at], line[at + 1 :]))
    encoder = Encoder(models.BPE(vocabulary, merges, ignore_merges=words.whole_words))
    encoder.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in words.patterns]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    encoder.decoder = decoders.ByteLevel()
    return encoder, words.add_bos


def _sentencepiece(file: GgufFile, vocabulary: dict[str, int], kinds: np.ndarray) -> Encoder:
    scores = file.metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, np.ndarray) or len(scores) != len(vocabulary) or not np.isfinite(scores).all():
        raise _invalid(file, "no score for every token")
    unknown = token_id(file, "unknown")
    texts = list(vocabulary)
    encoder = Encoder(
        models.BPE(
            vocabulary,
            _merges_by_score(vocabulary, scores, kinds),
            unk_token=None if unknown is None else texts[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    space = normalizers.Replace(" ", "\u2581")
    decode = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    if file.metadata.get("tokenizer.ggml.add_space_prefix", True):
        encoder.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), space])
        decode.append(decoders.Strip(" ", 1, 0))
    else:
        encoder.normalizer = space
    encoder.decoder = decoders.Sequence(decode)
    return encoder


def _merges_by_score(vocabulary: dict[str, int], scores: np.ndarray, kinds: np.ndarray) -> list[tuple[str, str]]:
    """Return all pairs of tokens that form another token, those of the best score first.

    Special tokens and bytes are excluded: text that only looks like them must not become them.
    """
    texts = list(vocabulary)
    by_score = [texts[i] for i in _by_score(scores, kinds)]
    plain = frozenset(by_score)
    # The second half is looked up first, since it is the rarer one: beginnings of words are tokens more often.
    return [
        (first, second)
        for text in by_score
        for at in range(1, len(text))
        if (second := text[at:]) in plain and (first := text[:at]) in plain
    ]


def _by_score(scores: np.ndarray, kinds: np.ndarray) -> list[int]:
    """Return the tokens that take part in merges, those of the best score first."""
    is_plain = ~np.isin(kinds, (UNKNOWN, CONTROL, USER_DEFINED, BYTE))
    order = np.lexsort((np.arange(len(scores)), -scores))
    tokens: list[int] = order[is_plain[order]].tolist()
    return tokens


def _pieces(file: GgufFile, vocabulary: dict[str, int], kinds: np.ndarray) -> Pieces:
    scores = file.metadata["tokenizer.ggml.scores"]
    assert isinstance(scores, np.ndarray)  # checked by _sentencepiece
    special, ordinary = _markup(list(vocabulary), kinds)
    before, after = _surrounding(file, True)
    return Pieces(
        texts=list(vocabulary),
        order=_by_score(scores, kinds),
        special=special,
        ordinary=ordinary,
        unknown=token_id(file, "unknown"),
        adds_space=bool(file.metadata.get("tokenizer.ggml.add_space_prefix", True)),
        before=before,
        after=after,
    )


def _markup(texts: list[str], kinds: np.ndarray) -> tuple[list[int], list[int]]:
    """Return the tokens that are matched in a text before anything else: special ones, and user-defined ones."""
    matched = np.flatnonzero(np.isin(kinds, (UNKNOWN, CONTROL, USER_DEFINED))).tolist()
    ordinary = [i for i in matched if kinds[i] == USER_DEFINED or texts[i] in SHOWN_MARKUP]
    return [i for i in matched if kinds[i] != USER_DEFINED and texts[i] not in SHOWN_MARKUP], ordinary


def _strips_behind_markup(file: GgufFile) -> bool:
    """Return whether markup removes the white space behind it: Phi-3's, which only the model's name tells."""
    name = str(file.metadata.get("general.name", "")).lower()  # as in llama.cpp's llama-vocab.cpp
    return "phi-3" in name or "phi3" in name


def _add_special_tokens(encoder: Encoder, file: GgufFile, vocabulary: dict[str, int], kinds: np.ndarray) -> None:
    """Add the tokens that are matched in a text before anything else: special and user-defined ones."""
    strips = _strips_behind_markup(file)
    texts = list(vocabulary)
    special_ids, ordinary_ids = _markup(texts, kinds)
    special = [
        AddedToken(texts[i], special=True, normalized=False, rstrip=strips and texts[i] not in _PHI3_KEEPS_SPACE_BEHIND)
        for i in special_ids
    ]
    ordinary = [AddedToken(texts[i], special=False, normalized=False, rstrip=strips) for i in ordinary_ids]
    encoder.add_special_tokens(special)
    encoder.add_tokens(ordinary)


def _add_bos_and_eos(encoder: Encoder, file: GgufFile, add_bos: bool) -> None:
    """Add the tokens that precede and follow every text."""
    texts = file.metadata["tokenizer.ggml.tokens"]
    assert isinstance(texts, list)  # checked by _vocabulary
    before, after = _surrounding(file, add_bos)
    template = [*(texts[i] for i in before), "$A", *(texts[i] for i in after)]
    special = [(texts[i], i) for i in (*before, *after)]
    if special:
        encoder.post_processor = processors.TemplateProcessing(
            single=template, pair=[*template, "$B:1"], special_tokens=list(dict.fromkeys(special))
        )


def _surrounding(file: GgufFile, add_bos: bool) -> tuple[list[int], list[int]]:
    """Return the tokens that precede every text, and those that follow it."""
    sides: list[list[int]] = []
    for name, article, default in (("bos", "a", add_bos), ("eos", "an", False)):
        is_added = file.metadata.get(f"tokenizer.ggml.add_{name}_token", default)
        token = token_id(file, name) if is_added else None
        if is_added and token is None:
            raise _invalid(file, f"it requires {article} {name.upper()} token but names none")
        sides.append([] if token is None else [token])
    return sides[0], sides[1]


def _invalid(file: GgufFile, reason: str) -> InvalidModel:
    return InvalidModel(f"{file.path.name} has an invalid tokenizer: {reason}", remedy="download it again")
