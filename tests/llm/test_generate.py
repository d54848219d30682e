"""`trisect.generate` and the commands: devices are chosen from measurements, and every error is one line."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trisect
from tests.llm import tiny_llms as kit
from tests.llm.gguf_factory import write_tiny_gguf
from tests.llm.oracle_llama import Oracle
from trisect.cli import main
from trisect.llm.generate import measure, open_bundle
from trisect.llm.graphs.weights_file import WeightsFile
from trisect.llm.phases.device_choice import choose_devices
from trisect.runtime import engines
from trisect.runtime.errors import (
    ContextExceeded,
    InvalidInput,
    InvalidModel,
    StorageFailed,
    UnknownDevice,
)

ORT, OPENVINO = "cpu:ort", "cpu:openvino"


def refused(*words: object, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ends with, in vain."""
    assert main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    match = re.fullmatch(r"error: (.+)\n", err)
    assert match, err
    assert "internal error" not in err
    return match[1]


def test_devices_are_measured_on_request_only(gguf: Path, measurements: list[list[str]]) -> None:
    messages: list[str] = []
    ids = kit.tokens(20).tolist()
    answer = trisect.generate(gguf, ids, max_new_tokens=8, threads=1, progress=lambda *step: messages.append(step[2]))
    assert measurements == []
    assert all(what.startswith("importing") for what in messages)
    assert (answer.stats.prefill, answer.stats.decode) == (ORT, ORT)  # it extends a KV cache in place
    for _ in range(2):
        measure(gguf, threads=1)
        assert measurements == [[d.id for d in engines.find_hardware("auto")]]
    again = trisect.generate(gguf, ids, max_new_tokens=8, threads=1)
    choice = choose_devices(open_bundle(gguf), prompt_tokens=20, new_tokens=8, threads=1)
    assert len(measurements) == 1
    assert len(choice.predictions) == len(engines.find_hardware("auto")) ** 2
    assert choice.predicted is choice.predictions[0]
    assert (choice.prefill.id, choice.decode.id) == (choice.predictions[0].prefill, choice.predictions[0].decode)
    assert (again.stats.prefill, again.stats.decode) == (choice.prefill.id, choice.decode.id)


@pytest.mark.parametrize(("prefill", "decode"), [(ORT, OPENVINO), (OPENVINO, ORT), (OPENVINO, OPENVINO)])
def test_named_devices_need_no_measurement(
    gguf: Path, measurements: list[list[str]], prefill: str, decode: str
) -> None:
    ids = kit.tokens(12).tolist()
    messages: list[str] = []
    answer = trisect.generate(
        gguf,
        ids,
        prefill=prefill,
        decode=decode,
        max_new_tokens=10,
        threads=1,
        precision="float32",
        on_text=messages.append,
    )
    assert measurements == []
    assert (answer.stats.prefill, answer.stats.decode) == (prefill, decode)
    oracle = Oracle(gguf)
    expected = oracle.greedy(ids, 10)
    assert list(answer.token_ids) == expected[: len(answer.token_ids)]
    assert "".join(messages) == answer.text
    sampled = [
        trisect.generate(
            gguf, ids, prefill=prefill, decode=decode, max_new_tokens=10, temperature=1.0, seed=seed, threads=1
        ).text
        for seed in (1, 1, 2)
    ]
    assert sampled[0] == sampled[1] != sampled[2]


def test_invalid_requests_are_rejected_before_anything_is_imported(
    gguf: Path, folders: Path, measurements: list[list[str]]
) -> None:
    with pytest.raises(UnknownDevice, match=r"gpu:cuba.*there are: "):
        trisect.generate(gguf, "hello", decode="gpu:cuba")
    wrong: list[dict[str, Any]] = [{"temperature": -1}, {"top_p": 0}, {"max_new_tokens": 0}, {"precision": "float8"}]
    for options in wrong:
        with pytest.raises(InvalidInput, match=next(iter(options))):
            trisect.generate(gguf, "hello", **options)
    assert not (folders / "bundles").exists()
    with pytest.raises(ContextExceeded, match="the model's context 256; shorten the prompt"):
        trisect.generate(gguf, [1] * 257)
    with pytest.raises(InvalidInput, match="empty"):
        trisect.generate(gguf, "")
    with pytest.raises(InvalidInput, match="no tokens"):
        trisect.generate(gguf, [])
    assert measurements == []


def test_the_command_writes_text_or_one_document(gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", gguf, "-p", "hello", "--prefill", OPENVINO, "--decode", ORT, "--max-new-tokens", 12]
    words += ["--temperature", 1, "--seed", 4, "--threads", 1]
    assert main([str(word) for word in words]) == 0
    text = capsys.readouterr().out
    assert main([str(word) for word in [*words, "--json"]]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["text"] + "\n" == text
    assert document["stats"]["prefill"] == OPENVINO
    assert len(document["token_ids"]) == document["stats"]["new_tokens"]
    stop = document["text"][3:6]
    assert main([str(word) for word in [*words, "--stop", stop]]) == 0
    assert capsys.readouterr().out == document["text"].partition(stop)[0] + "\n"


def test_commands_report_errors_in_one_line(gguf: Path, folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["-p", "hello", "--prefill", ORT, "--decode", ORT, "--threads", 1]
    assert "no model at nowhere.gguf" in refused("generate", "nowhere.gguf", *asked, capsys=capsys)
    assert "no model at nowhere.gguf" in refused("import", "nowhere.gguf", "-o", folders / "x", capsys=capsys)
    assert "cpu:cuba" in refused("generate", gguf, "-p", "x", "--prefill", "cpu:cuba", capsys=capsys)
    long = refused("generate", gguf, "-p", "word " * 300, "--raw", capsys=capsys)
    assert "the model's context 256" in long
    assert "prompt is empty" in refused("generate", gguf, "-p", "", *asked[2:], capsys=capsys)
    assert "temperature" in refused("generate", gguf, *asked, "--temperature", "nan", capsys=capsys)
    assert "precision" in refused("generate", gguf, *asked, "--precision", "low", capsys=capsys)
    content = gguf.read_bytes()
    for cut in (0, 2, 1000, len(content) // 2, len(content) - 1):
        broken = folders / "broken.gguf"
        broken.write_bytes(content[:cut])
        for words in (["generate", broken, *asked], ["import", broken, "-o", folders / "x"]):
            assert "broken.gguf" in refused(*words, capsys=capsys)
    write_tiny_gguf(broken, metadata={"general.architecture": "rwkv"})
    assert "rwkv" in refused("generate", broken, *asked, capsys=capsys)
    assert not (folders / "x").exists()


def test_a_full_disk_while_importing_is_one_line(
    gguf: Path, folders: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: WeightsFile, array: np.ndarray) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(WeightsFile, "add", full)
        line = refused("import", gguf, "-o", folders / "bundle", capsys=capsys)
        assert "the disk is full; the incomplete import was removed" in line
        with pytest.raises(StorageFailed):
            trisect.generate(gguf, "hello")
    assert not (folders / "bundle").exists()
    assert main(["import", str(gguf), "-o", str(folders / "bundle")]) == 0
    answer = trisect.generate(folders / "bundle", "hello", prefill=ORT, decode=ORT, max_new_tokens=2, threads=1)
    assert answer.token_ids


def test_import_shows_how_weights_are_stored(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_tiny_gguf(folders / "k.gguf", quant="Q5_K", hidden=256, ffn=256, kinds={"ffn_up.weight": "Q4_K"})
    for prefer, shown in (("exact", "8 bits in blocks of 32, offsets"), ("speed", "% of rms")):
        assert main(["import", str(path), "-o", str(folders / prefer), "--prefer", prefer]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert any("Q5_K" in line and shown in line for line in lines)
        assert any("Q4_K" in line and "4 bits in blocks of 32, offsets" in line and "exact" in line for line in lines)


def test_a_damaged_bundle_is_one_line(gguf: Path, folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["-p", "hello", "--prefill", ORT, "--decode", ORT, "--threads", 1]
    for name in ("weights.bin", "in_place.onnx", "tokenizer.json", "prompting.json", "bundle.json"):
        folder = folders / name.replace(".", "-")
        assert main(["import", str(gguf), "-o", str(folder)]) == 0
        capsys.readouterr()
        (folder / name).write_bytes((folder / name).read_bytes()[:40])
        refused("generate", folder, *asked, capsys=capsys)
        (folder / name).unlink()
        refused("generate", folder, *asked, capsys=capsys)
    with pytest.raises(InvalidModel):
        trisect.generate(folder, "hello")


@pytest.mark.skipif(sys.platform == "win32", reason="sends a Unix signal")
def test_ctrl_c_while_generating(folders: Path) -> None:
    path = write_tiny_gguf(folders / "long.gguf", quant="F32", metadata={"llama.context_length": 1 << 16})
    bundle = open_bundle(path)
    # No token ends its answer.
    prompting = Path(bundle.folder) / "prompting.json"
    prompting.write_text(json.dumps(json.loads(prompting.read_text()) | {"eos_ids": []}))
    words = ["generate", bundle.folder, "-p", "hello", "--prefill", OPENVINO, "--decode", ORT]
    words += ["--max-new-tokens", "60000", "--threads", "1", "--temperature", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "trisect", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ)
    )
    assert process.stdout is not None
    begun = process.stdout.read(20)
    assert begun
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.decode() == "interrupted\n"
    assert out.endswith(b"\n")
