"""``python -m trisect.bench.acceptance llm-pairs``: answers of all pairs of devices, and steps over capacities."""

from __future__ import annotations

from typing import Annotated

import typer

from trisect.cli.option_parsing import parse_sizes
from trisect.cli.options import Debug, Json, LanguageModel
from trisect.cli.output import print_json, print_table, progress_bar
from trisect.cli.quantities import duration, size
from trisect.cli.request_summary import named_device

_DEVICES = "cpu:ort,cpu:openvino,gpu:webgpu,npu:qnn,npu:npuw"


def llm_pairs(
    model: LanguageModel,
    devices: Annotated[str, typer.Option("--devices", metavar="LIST", help="Devices, comma-separated.")] = _DEVICES,
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", min=2, help="Length of the prompt.")] = 40,
    new_tokens: Annotated[int, typer.Option("--new-tokens", min=2, help="Tokens compared after it.")] = 24,
    capacities: Annotated[
        str,
        typer.Option("--capacities", metavar="LIST", help="Time steps with such capacities instead."),
    ] = "",
    precision: Annotated[str, typer.Option("--precision", metavar="NAME", help="fast or float32.")] = "float32",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare all pairs of devices with the CPU in float32, or time steps of each device over capacities."""
    from trisect.llm.generate import open_bundle
    from trisect.runtime.engines import find_devices

    from ...llm.device_pairs import compare_pairs, time_steps

    with progress_bar("measuring") as report:
        if capacities:
            bundle = open_bundle(model, precision=precision, progress=report)
            sizes = parse_sizes(capacities, "--capacities")
            timed = [
                step
                for device in find_devices(devices)
                for step in time_steps(
                    bundle, device, sizes, filled=prompt_tokens, steps=new_tokens, precision=precision
                )
            ]
            pairs = []
        else:
            timed = []
            pairs = compare_pairs(
                model, devices, prompt_tokens=prompt_tokens, new_tokens=new_tokens, precision=precision, progress=report
            )
    if json:
        print_json({"pairs": pairs, "steps": timed})
    elif timed:
        steps = [(named_device(s.device, s.reality), str(s.capacity), duration(s.step_s)) for s in timed]
        print_table(["device", "capacity", "step"], steps)
    else:
        columns = ["prefill on", "decode on", "mean KL", "max. KL", "same token", "KV hand-over", "cached"]
        rows = [
            (
                named_device(p.prefill, p.prefill_reality), named_device(p.decode, p.decode_reality),
                f"{p.mean_kl:.1e}", f"{p.worst_kl:.1e}", f"{p.same_tokens:.0%}",
                f"{size(p.kv_bytes)}, {duration(p.kv_s)}" if p.kv_bytes else "-", str(p.cached_tokens),
            )
            for p in pairs
        ]  # fmt: skip
        print_table(columns, rows)
