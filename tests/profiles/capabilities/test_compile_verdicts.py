"""Verdicts come from trial compilation, are cached across processes, and are never read from a damaged file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from onnx import parser

from trisect.profiles.capabilities import compile_verdicts as module
from trisect.profiles.capabilities.compile_verdicts import Capabilities, CompileProbe
from trisect.runtime.child_process import ChildProcessFailed
from trisect.runtime.device import Device, Limits
from trisect.runtime.engines import find_devices
from trisect.runtime.errors import EngineMissing

ORT, OPENVINO = find_devices("cpu:ort,cpu:openvino")
HEAD = '<ir_version: 10, opset_import: ["": 18, "com.microsoft": 1]>'


def piece(text: str, key: str = "piece", **about) -> CompileProbe:
    return CompileProbe(key, parser.parse_model(f"{HEAD} {text}").SerializeToString, **about)


NEG = piece("g (float[2] x) => (float[2] y) { y = Neg(x) }", "Neg", dtypes=frozenset({"float32"}), rank=1)
GELU = piece("g (float[2] x) => (float[2] y) { y = com.microsoft.QuickGelu(x) }", "QuickGelu")
INVERSE = piece("g (float[2,2] x) => (float[2,2] y) { y = com.microsoft.Inverse(x) }", "Inverse")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "capabilities.json"


@pytest.fixture
def compiled(monkeypatch) -> list[str]:
    """The devices on which models were compiled, in order."""
    seen: list[str] = []
    real = module.isolated_compile_failure

    def failure(model, device):
        seen.append(device.id)
        return real(model, device)

    monkeypatch.setattr(module, "isolated_compile_failure", failure)
    return seen


def test_the_engine_decides(path):
    known = Capabilities(path)
    assert known.supports(NEG, ORT).ok
    assert known.supports(NEG, OPENVINO).ok
    assert known.supports(INVERSE, ORT).ok
    verdict = known.supports(INVERSE, OPENVINO)
    assert not verdict.ok
    assert "Inverse" in verdict.reason
    assert "cannot load" not in verdict.reason
    assert "\n" not in verdict.reason


def test_a_verdict_is_compiled_once_and_cached(path, compiled):
    first = Capabilities(path)
    verdicts = [first.supports(INVERSE, device) for device in (ORT, OPENVINO, ORT)]
    assert compiled == ["cpu:ort", "cpu:openvino"]
    first.save()
    again = Capabilities(path)
    assert [again.supports(INVERSE, device) for device in (ORT, OPENVINO, ORT)] == verdicts
    assert again.known(INVERSE, OPENVINO) == verdicts[1]
    assert len(compiled) == 2
    for changed in (replace(ORT, engine_version="0.1"), replace(ORT, name="another processor")):
        assert again.known(INVERSE, changed) is None
    assert "Inverse" in json.loads(path.read_text())["verdicts"][
        f"cpu:openvino | {OPENVINO.name} | openvino {OPENVINO.engine_version}"
    ]  # fmt: skip


def test_two_processes_merge_their_verdicts(path):
    one, other = Capabilities(path), Capabilities(path)
    one.supports(NEG, ORT)
    other.supports(GELU, ORT)
    one.save()
    other.save()
    third = Capabilities(path)
    assert third.known(NEG, ORT) == third.known(GELU, ORT) == module.CompileVerdict(True)


def test_an_unchanged_cache_is_not_written(path):
    Capabilities(path).save()
    assert not path.parent.exists()


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"[]", b'{"schema": 99}', b'{"schema": 1, "verdicts": {"a": 3}}']
)
def test_a_damaged_file_is_moved_aside(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    capabilities = Capabilities(path)
    assert capabilities.known(NEG, ORT) is None
    assert capabilities.moved is not None
    assert capabilities.moved.read_bytes() == content
    assert not path.exists()
    capabilities.supports(NEG, ORT)
    capabilities.save()
    assert Capabilities(path).known(NEG, ORT) == module.CompileVerdict(True)


def test_a_too_large_file_is_not_read(path, monkeypatch):
    monkeypatch.setattr(module, "_SIZE_LIMIT_BYTES", 10)
    path.parent.mkdir()
    path.write_text('{"schema": 1, "verdicts": {}}')
    assert Capabilities(path).moved is not None


def test_limits_need_no_compilation(path, compiled):
    known = Capabilities(path)
    for limits, about, messages in (
        (Limits(static_shapes=True), {"is_static": False}, "requires static shapes"),
        (Limits(maximum_rank=4), {"rank": 5}, "rank 4 at most, not 5"),
        (
            Limits(dtypes=("float16", "int8")),
            {"dtypes": frozenset({"int8", "float64"})},
            "does not support dtype float64",
        ),
    ):
        verdict = known.supports(replace(NEG, **about), replace(ORT, limits=limits))
        assert not verdict.ok
        assert messages in verdict.reason
    assert compiled == []
    assert known.supports(NEG, replace(ORT, limits=Limits(("float32",), True, 1))).ok


def test_a_crash_is_a_verdict_and_after_some_timeouts_a_device_is_not_asked(path):
    def ask(model, device):
        if device is ORT:
            raise ChildProcessFailed("the process", "its process ended (SIGSEGV)")
        raise ChildProcessFailed("the process", "no reply within 30 s: stopped", timed_out=True)

    known = Capabilities(path, ask=ask)
    probes = [replace(NEG, key=str(number)) for number in range(5)]
    reasons = {d.id: [known.supports(probe, d).reason for probe in probes] for d in (ORT, OPENVINO)}
    assert set(reasons["cpu:ort"]) == {"ort failed while it compiled this: its process ended (SIGSEGV)"}
    timed_out = "openvino failed while it compiled this: no reply within 30 s: stopped"
    assert reasons["cpu:openvino"] == [timed_out] * 3 + ["not asked: 3 other parts did not compile in time"] * 2
    assert known.known(probes[4], ORT) is not None
    assert known.known(probes[4], OPENVINO) is None  # what was not asked may be asked next time


def test_a_published_device_cannot_be_probed(path):
    with pytest.raises(EngineMissing):
        Capabilities(path).supports(NEG, Device("npu:away", "npu", "away", "", reality="published"))
