"""Devices of a cluster: listing, planning and running on them."""

from __future__ import annotations

import json
import socket

import numpy as np
import pytest

from tests.runtime.cluster.conftest import TOKEN, RunningCluster
from tests.trisect.conftest import expected
from trisect import Plan, api
from trisect.cli import main
from trisect.runtime.errors import InvalidInput


@pytest.mark.parametrize("words", [["devices"], ["profile"], ["split", "MODEL", "-o", "OUT"], ["run", "PLAN"]])
def test_an_unreachable_cluster_is_an_error(words, model, plan_folder, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as free:
        unreachable = f"127.0.0.1:{free.getsockname()[1]}"
    real = {"MODEL": model, "OUT": tmp_path / "plan", "PLAN": plan_folder}
    assert main([*(str(real.get(word, word)) for word in words), "--address", unreachable]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"no Ray cluster can be reached at {unreachable}" in " ".join(err.split())
    assert not (tmp_path / "plan").exists()


def test_a_cluster_is_not_measured_with_a_models_operators(model):
    with pytest.raises(InvalidInput, match="leave the model out"):
        api.profile(model=model, address="127.0.0.1:1")


@pytest.mark.slow
def test_a_model_is_split_over_a_cluster_and_run_there(model, measured, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    running = RunningCluster()
    try:
        running.tell("add edge1")
        assert main(["devices", "edge1", "--address", running.address, "--json"]) == 0
        listed = [device["id"] for device in json.loads(capsys.readouterr().out)["devices"]]
        assert "edge1/cpu:ort" in listed
        assert all(device.startswith("edge1/") for device in listed)
        folder = tmp_path / "plan"
        wanted = "head/cpu:ort,edge1/cpu:openvino"
        plan = api.split(model, wanted, "zigzag", shapes={"batch": 3}, out=folder, address=running.address)
        assert {segment.device for segment in plan.segments} == set(wanted.split(","))
        x = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
        feeds, out = tmp_path / "in.npz", tmp_path / "out.npz"
        np.savez(feeds, x=x)
        words = ["run", str(folder), "--address", running.address, "--feeds", str(feeds), "--out", str(out), "--json"]
        assert main(words) == 0
        events = json.loads(capsys.readouterr().out)["trace"]["events"]
        assert {event["device"] for event in events if event["kind"] == "compute"} == set(wanted.split(","))
        with np.load(out) as made:
            np.testing.assert_allclose(made[Plan.load(folder).outputs[0].name], expected(x), rtol=1e-5, atol=1e-6)
        profile = api.profile(wanted, budget_s=1.0, address=running.address)
        assert set(profile.devices) == set(wanted.split(","))
        assert {(link.source, link.target) for link in profile.links} == {
            ("head/cpu:ort", "edge1/cpu:openvino"),
            ("edge1/cpu:openvino", "head/cpu:ort"),
        }
    finally:
        running.close()
