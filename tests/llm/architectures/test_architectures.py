"""Files of every architecture with wrong metadata or tensors are refused in one line, before anything is computed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.llm.architecture_files import FILE_NAMES, HEADS, HIDDEN, VARIANTS, WINDOW, write_architecture
from trisect.llm.architectures import architectures, gemma, read_config, unsupported_architecture
from trisect.llm.gguf.architecture_metadata import ArchitectureMetadata
from trisect.llm.gguf.decoder_metadata import tensor_shapes
from trisect.llm.gguf.gguf_reader import GgufFile
from trisect.llm.graphs.decoder_config import DecoderConfig
from trisect.runtime.errors import InvalidModel, UnsupportedModel

HOSTILE: tuple[Any, ...] = (
    *(0, -1, 1, 3, (1 << 31) - 1, (1 << 64) - 1, 0.0, -2.5, float("nan"), float("inf"), 1e300, 1e-300, True, "x" * 999),
    *(["a"], np.array([], np.int32), np.array([0, 7], np.int32), np.full(5000, 1e30)),
)


@pytest.fixture(scope="module", params=VARIANTS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GgufFile:
    return GgufFile.open(write_architecture(tmp_path_factory.mktemp("gguf") / f"{request.param}.gguf", request.param))


def config_of(tmp_path: Path, variant: str, **changes: Any) -> DecoderConfig:
    return read_config(GgufFile.open(write_architecture(tmp_path / "a.gguf", variant, **changes)))


def refusals(files: Iterator[tuple[str, GgufFile]]) -> Iterator[tuple[str, str]]:
    """What each file was refused for; files that are not refused have to have a sound configuration."""
    for what, file in files:
        try:
            with warnings.catch_warnings(action="error"):
                config = read_config(file)
        except (InvalidModel, UnsupportedModel) as error:
            text = str(error)
            assert "\n" not in text, what
            assert file.path.name in text, what
            yield what, text
        else:
            assert all(np.isfinite([*rope.frequencies, rope.magnitude]).all() for rope in config.ropes), what
            assert tensor_shapes(config).items() <= {n: t.shape for n, t in file.tensors.items()}.items(), what


def test_every_architecture_has_a_test() -> None:
    names = {FILE_NAMES.get(variant, variant) for variant in VARIANTS} | {"mistral3"}
    assert set(architectures()) <= names


def test_shapes_cover_the_file(file: GgufFile) -> None:
    config = read_config(file)
    shapes = tensor_shapes(config)
    assert shapes == {name: file.tensors[name].shape for name in shapes}
    # Further layers predict further tokens.
    others = ("rope_f", f"blk.{len(config.layers)}.")
    assert all(name.startswith(others) for name in file.tensors.keys() - shapes.keys())


def test_hostile_metadata(file: GgufFile) -> None:
    keys = [key for key in file.metadata if not key.startswith(("general.", "tokenizer."))]

    def changed() -> Iterator[tuple[str, GgufFile]]:
        for key in keys:
            without = {name: value for name, value in file.metadata.items() if name != key}
            yield f"no {key}", replace(file, metadata=without)
            for value in HOSTILE:
                yield f"{key} = {value!r}", replace(file, metadata=without | {key: value})

    refused = dict(refusals(changed()))
    assert len(refused) > 4 * len(keys)


def test_missing_surplus_and_misshaped_tensors(file: GgufFile) -> None:
    expected = tensor_shapes(read_config(file))

    def changed() -> Iterator[tuple[str, GgufFile]]:
        for name in expected:
            others = {other: tensor for other, tensor in file.tensors.items() if other != name}
            yield name, replace(file, tensors=others)
            rows = file.tensors[name]
            yield f"{name}#", replace(file, tensors=others | {name: replace(rows, shape=(1, *rows.shape))})
        surplus = replace(file.tensors["output_norm.weight"], name="blk.0.unknown.weight")
        yield "unknown", replace(file, tensors={**file.tensors, surplus.name: surplus})

    refused = dict(refusals(changed()))
    assert "blk.0.unknown.weight" in refused.pop("unknown")
    # Without an output projection, a file has a tied one; without fused or biased parts, it lacks the others.
    for name in [*expected, *(f"{name}#" for name in expected)]:
        if name != "output.weight":
            plain = name.removesuffix("#").split(".")[-2]
            assert plain in refused[name] or "attn_q" in refused[name], name


def test_gemma3_has_local_and_global_layers(tmp_path: Path) -> None:
    config = config_of(tmp_path, "gemma3-scaled")
    assert [layer.window for layer in config.layers] == [WINDOW] * 5 + [None]
    assert [layer.rope for layer in config.layers] == [1] * 5 + [0]
    assert config.ropes[0].frequencies[1] == pytest.approx(1e6 ** (-2 / 32) / 8)
    assert config.ropes[1].frequencies[1] == pytest.approx(1e4 ** (-2 / 32))
    assert config.embedding_scale == pytest.approx(128**0.5)
    flags = np.array([0, 1, 0, 1, 0, 1], np.int32)
    file = GgufFile.open(tmp_path / "a.gguf")
    stated = replace(file, metadata={**file.metadata, "gemma3.attention.sliding_window_pattern": flags})
    assert [layer.window for layer in read_config(stated).layers] == [None, WINDOW] * 3


def test_27b_models_of_gemma_scale_by_the_hidden_size(tmp_path: Path) -> None:
    config = config_of(tmp_path, "gemma2")
    keys = ArchitectureMetadata(GgufFile.open(tmp_path / "a.gguf"), "gemma2")
    assert gemma.attention_scale(keys, config, 46) == config.attention_scale == pytest.approx(32**-0.5)
    assert gemma.attention_scale(keys, config, len(config.layers)) == pytest.approx((HIDDEN / HEADS) ** -0.5)
    many = replace(config, heads=HIDDEN * 2)
    assert gemma.attention_scale(keys, many, len(config.layers)) == pytest.approx(2**0.5)
    stated = replace(keys.file, metadata={**keys.file.metadata, "gemma2.attention.scale": 0.5})
    config = read_config(stated)
    assert gemma.attention_scale(ArchitectureMetadata(stated, "gemma2"), config, len(config.layers)) == 0.5


def test_yarn_blends_frequencies(tmp_path: Path) -> None:
    plain = config_of(tmp_path, "qwen3").ropes[0].frequencies
    yarn = config_of(tmp_path, "qwen3-yarn").ropes[0]
    assert yarn.magnitude == pytest.approx(0.1 * np.log(4) + 1)
    assert yarn.frequencies[0] == plain[0]
    assert yarn.frequencies[-1] == pytest.approx(plain[-1] / 4)
    cosines, sines = yarn.table(3)
    assert cosines[0] == pytest.approx(np.full(16, yarn.magnitude))
    assert np.hypot(cosines, sines) == pytest.approx(np.full((3, 16), yarn.magnitude))


def test_long_factors_are_for_a_context_of_their_own(tmp_path: Path) -> None:
    config = config_of(tmp_path, "phi4")
    assert (config.context_length, config.rotary_dim, config.head_dim) == (256, 16, 32)
    assert config.ropes[0].frequencies[1] == pytest.approx(1e4 ** (-2 / 16) / np.linspace(1, 1.4, 8)[1])
    long = config.for_long_context
    assert long is not None
    assert (long.context_length, long.for_long_context) == (1024, None)
    assert long.ropes[0].frequencies[1] == pytest.approx(1e4 ** (-2 / 16) / np.linspace(1, 30, 8)[1])
    assert long.ropes[0].magnitude == config.ropes[0].magnitude == pytest.approx(1.19)
    assert config_of(tmp_path, "phi4", tensors={"rope_factors_long.weight": None}).for_long_context is None
    with pytest.raises(InvalidModel, match="rope_factors_short"):
        config_of(tmp_path, "phi4", tensors={"rope_factors_short.weight": None})


def test_refused_architectures_are_named_with_similar_ones() -> None:
    assert unsupported_architecture("gemma3n").startswith(
        "the architecture 'gemma3n' is not supported, since it has embeddings per layer; similar: gemma3, "
    )
    assert "'x'" in unsupported_architecture("x")
    assert "\n" not in unsupported_architecture("evil\n\x1b[2J" * 99)
    assert len(unsupported_architecture("y" * 100_000)) < 400
