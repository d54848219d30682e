"""The regular expressions with which published tokenizers split a text into words before merging.

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
TEKKEN = rf"{_LEAD}{_UPPER}*{_LOWER}+|{_LEAD}{_UPPER}+{_LOWER}*|\p{{N}}|{_PATH_REST}"

LINEAR_PATTERNS = frozenset(
    {
        *(DIGIT, DIGITS, THREE_DIGITS, PUNCTUATION, GPT2, LLAMA3, QWEN2, TEKKEN),
        # As other programs write those of Llama 3, Qwen 2 and GPT-4o.
        rf"{_ANY_CASE}|{_LEAD}\p{{L}}+|\p{{N}}{{1,3}}|{_REST}",
        rf"{_ANY_CASE}|{_LEAD}\p{{L}}+|\p{{N}}|{_REST}",
        rf"{_LEAD}{_UPPER}*{_LOWER}+{_ANY_CASE}?|{_LEAD}{_UPPER}+{_LOWER}*{_ANY_CASE}?|\p{{N}}{{1,3}}|{_PATH_REST}",
        r"\p{N}{1,3}",
        r"\s+",
        " {2,}",
    }
)
