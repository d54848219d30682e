"""The regular expressions with which published tokenizers split a text into words before merging.

Each is the one in the ``tokenizer.json`` of the model that names it, as llama.cpp's llama-vocab.cpp quotes them; where
llama.cpp computes an approximation (GPT4O and TEKKEN: it omits combining marks), the makers' own is used.
Each takes time in proportion to the text: for none of them does a match that fails repeat what another one tried.
"""

from __future__ import annotations

_CONTRACTIONS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_ANY_CASE = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATH_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LEAD = r"[^\r\n\p{L}\p{N}]?"

DIGIT = r"\p{N}"
DIGITS = r"\p{N}+"
THREE_DIGITS = "[0-9][0-9][0-9]"
PUNCTUATION = r"[\p{P}$+<=>^~|]+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{_CONTRACTIONS}|{_LEAD}\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
QWEN2 = rf"{_CONTRACTIONS}|{_LEAD}\p{{L}}+|\p{{N}}|{_REST}"
QWEN35 = (
    rf"{_CONTRACTIONS}|{_LEAD}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = rf"{_LEAD}{_UPPER}*{_LOWER}+{_ANY_CASE}?|{_LEAD}{_UPPER}+{_LOWER}*{_ANY_CASE}?|\p{{N}}{{1,3}}|{_PATH_REST}"
UP_TO_THREE_DIGITS = r"\p{N}{1,3}"
CHINESE = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = rf"{_LEAD}{_UPPER}*{_LOWER}+|{_LEAD}{_UPPER}+{_LOWER}*|\p{{N}}|{_PATH_REST}"

LINEAR_PATTERNS = frozenset(
    {
        *(DIGIT, DIGITS, THREE_DIGITS, UP_TO_THREE_DIGITS, PUNCTUATION, CHINESE),
        *(GPT2, LLAMA3, QWEN2, QWEN35, GPT4O, TEKKEN, DEEPSEEK3),
        # As other programs write those of Llama 3 and Qwen 2.
        rf"{_ANY_CASE}|{_LEAD}\p{{L}}+|\p{{N}}{{1,3}}|{_REST}",
        rf"{_ANY_CASE}|{_LEAD}\p{{L}}+|\p{{N}}|{_REST}",
        r"\s+",
        " {2,}",
    }
)
