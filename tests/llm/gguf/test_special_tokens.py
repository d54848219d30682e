"""Which tokens end an answer: beside llama.cpp's, and where the two differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.llm.gguf_factory import CONTROL, NORMAL, write_tiny_gguf
from tests.llm.llama_cpp import LlamaCpp
from trisect.llm.gguf.gguf_reader import GgufFile
from trisect.llm.gguf.special_tokens import end_tokens, token_id
from trisect.runtime.errors import InvalidModel


def tiny(folder: Path, **metadata: Any) -> Path:
    return write_tiny_gguf(
        folder / "tiny.gguf", metadata={f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    )


def with_tokens(folder: Path, *texts: str, **metadata: Any) -> Path:
    """A vocabulary that begins with these special tokens."""
    tokens = [*texts, "a", "b", "ab", *(f"t{i}" for i in range(381 - len(texts)))]
    kinds = [CONTROL] * len(texts) + [NORMAL] * (384 - len(texts))
    return tiny(folder, tokens=tokens, token_type=kinds, merges=["a b"], eos_token_id=0, bos_token_id=1, **metadata)


def test_named_tokens_come_first(tmp_path: Path) -> None:
    assert end_tokens(GgufFile.open(tiny(tmp_path))) == (2, 0)
    assert end_tokens(GgufFile.open(tiny(tmp_path, eot_token_id=1))) == (2, 1, 0)
    assert end_tokens(GgufFile.open(tiny(tmp_path, eom_token_id=1, eot_token_id=7))) == (2, 7, 1, 0)


def test_plain_text_ends_nothing(tmp_path: Path) -> None:
    # As plain text in the vocabulary, <|endoftext|> may stand in any answer.
    assert end_tokens(GgufFile.open(tiny(tmp_path, token_type=[NORMAL] * 384))) == (2,)


@pytest.mark.parametrize(
    "texts",
    [
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<reponame>"),
        ("<|end_of_text|>", "<|start_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|begin_of_text|>"),
        ("<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        ("<|endoftext|>", "<|user|>", "<|end|>", "<|assistant|>"),
        ("<|return|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>"),
        ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"),
    ],
    ids=["chatml", "llama 3", "gemma", "phi-3", "gpt-oss", "granite"],
)
def test_ends_of_published_formats_are_llama_cpps(tmp_path: Path, llama_cpp: LlamaCpp, texts: tuple[str, ...]) -> None:
    path = with_tokens(tmp_path, *texts)
    ends = end_tokens(GgufFile.open(path))
    assert sorted(ends) == llama_cpp.end_tokens(path)
    assert ends[0] == 0


def test_rejects_a_token_outside_the_vocabulary(tmp_path: Path) -> None:
    file = GgufFile.open(tiny(tmp_path, eot_token_id=384))
    assert token_id(file, "eos") == 2
    assert token_id(file, "unknown") is None
    with pytest.raises(InvalidModel, match="eot token 384 is not in the vocabulary"):
        end_tokens(file)
