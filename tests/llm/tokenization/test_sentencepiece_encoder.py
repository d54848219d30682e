"""SentencePiece vocabularies are encoded and decoded as Hugging Face's `tokenizers` does, without its merges."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.llm.gguf_factory import write_tiny_gguf
from trisect.llm.gguf.gguf_reader import GgufFile
from trisect.llm.gguf.gguf_tokenizer import read_tokenizer
from trisect.llm.tokenization import sentencepiece_encoder
from trisect.llm.tokenization.encoders import LocalEncoder, make_encoder
from trisect.llm.tokenization.sentencepiece_encoder import Pieces, SentencePieceEncoder
from trisect.llm.tokenization.tokenizer import PIECES_FILE, Tokenizer
from trisect.runtime.errors import InvalidModel

CHARACTERS = [*"the hello123 \n\t.,é世界▁🙂\0", "<s>", "</s>", "<unk>", "<0x41>", "  ", "hello", "\ufffd", "\u0301"]


def encoders(folder: Path, *, prefix: bool, bytes_known: bool) -> tuple[SentencePieceEncoder, LocalEncoder]:
    """The encoder of a tiny GGUF file, and that of `tokenizers` for the same file, through the files in a folder."""
    kinds = {} if bytes_known else {"tokenizer.ggml.token_type": [2, 3, 3, *[1] * 381]}
    metadata = {"tokenizer.ggml.add_space_prefix": prefix, "tokenizer.ggml.add_eos_token": not prefix, **kinds}
    if not bytes_known:  # no pieces of that form: characters that are no pieces become the unknown token
        tokens = ["<unk>", "<s>", "</s>", *(f"[{i}]" for i in range(256)), *"the▁lo12世", "he", "▁the", "ll", "llo"]
        metadata["tokenizer.ggml.tokens"] = tokens + [f"[PAD{i}]" for i in range(len(tokens), 384)]
    file = GgufFile.open(write_tiny_gguf(folder / "tiny.gguf", "mistral", "F32", metadata=metadata))
    read_tokenizer(file).save(folder)
    encoder = Tokenizer.load(folder)._encoder
    library = make_encoder(encoder.document())
    assert isinstance(encoder, SentencePieceEncoder)
    assert isinstance(library, LocalEncoder)
    return encoder, library


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("bytes_known", [True, False])
def test_ids_and_texts_are_those_of_tokenizers(tmp_path: Path, prefix: bool, bytes_known: bool) -> None:
    own, library = encoders(tmp_path, prefix=prefix, bytes_known=bytes_known)
    generator = random.Random(0)
    texts = ["", "hello the hello", "123 12 1", " ", *CHARACTERS]
    texts += ["".join(generator.choices(CHARACTERS, k=generator.randint(1, 30))) for _ in range(300)]
    for text in texts:
        for add_special in (False, True):
            for parse_special in (False, True):
                ids = own.encode(text, add_special=add_special, parse_special=parse_special)
                assert ids == library.encode(text, add_special=add_special, parse_special=parse_special), repr(text)
        assert own.decode(ids) == library.decode(ids)
    for _ in range(300):
        ids = [generator.randrange(own.vocab_size) for _ in range(generator.randint(1, 8))]
        assert own.decode(ids) == library.decode(ids)
    assert own.vocab_size == library.vocab_size
    assert [own.text_of(token) for token in (0, 5, 10**6)] == [library.text_of(token) for token in (0, 5, 10**6)]


def test_long_texts_are_encoded_by_tokenizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, library = encoders(tmp_path, prefix=True, bytes_known=True)
    monkeypatch.setattr(sentencepiece_encoder, "LONG_TEXT_CHARACTERS", 4)
    monkeypatch.setattr(SentencePieceEncoder, "_merged", lambda self, symbols: pytest.fail("merged in Python"))
    assert own.encode("the hello", add_special=True, parse_special=True) == library.encode(
        "the hello", add_special=True, parse_special=True
    )


@pytest.mark.parametrize(
    "pieces",
    [
        Pieces(texts=["a", "b"], order=[0, 2]),
        Pieces(texts=["a", "b"], order=[-1]),
        Pieces(texts=["a", "a"], order=[0]),
        Pieces(texts=["a"], order=[0], before=[7]),
        Pieces(texts=["a" * 2000], order=[0]),
    ],
)
def test_pieces_that_contradict_each_other_are_refused(pieces: Pieces) -> None:
    with pytest.raises(InvalidModel, match="import the model again"):
        SentencePieceEncoder(pieces, lambda: pytest.fail("not needed"))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    encoders(tmp_path, prefix=True, bytes_known=True)
    (tmp_path / PIECES_FILE).write_text('{"texts": "none", "order": []}')
    with pytest.raises(InvalidModel, match="no usable tokenizer"):
        Tokenizer.load(tmp_path)
