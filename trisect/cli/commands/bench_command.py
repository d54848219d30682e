"""``trisect bench``: compare strategies, devices and other systems on this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..command_help import PlainCommand, PlainGroup
from ..option_parsing import parse_sizes
from ..options import Debug, Json, KvDtypeName, LanguageModel, Threads
from ..output import note, print_json, print_table, progress_bar
from ..quantities import duration, size
from ..request_summary import named_device
from . import bench_model_command as bench_model

if TYPE_CHECKING:
    from trisect.bench.acceptance.target_check import TargetCheck
    from trisect.bench.llm.answer_quality import AnswerQuality
    from trisect.bench.llm.llm_result import LlmBench

_DEFAULT = "model"


class BenchGroup(PlainGroup):
    """Interprets ``trisect bench MODEL.onnx`` as ``trisect bench model MODEL.onnx``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        word = args[0] if args else ""
        is_misspelt = get_close_matches(word, self.commands) and not Path(word).exists()
        if word and word not in self.commands and word not in ctx.help_option_names and not is_misspelt:
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


bench_app = typer.Typer(
    cls=BenchGroup,
    help="Compare strategies, devices and other systems on this machine: trisect bench MODEL.onnx",
    no_args_is_help=True,
    subcommand_metavar="MODEL.onnx | COMMAND [ARGS]...",
)
bench_app.command(_DEFAULT, cls=PlainCommand)(bench_model.model)


@bench_app.callback()
def _root_options() -> None:
    """Compare strategies, devices and other systems on this machine: trisect bench MODEL.onnx."""


@bench_app.command(cls=PlainCommand)
def llm(
    model: LanguageModel,
    devices: Annotated[
        str,
        typer.Option(
            "--devices", metavar="LIST", help="Devices to compare; auto leaves out simulators and software drivers."
        ),
    ] = "auto",
    prompt_tokens: Annotated[
        str, typer.Option("--prompt-tokens", metavar="LIST", help="Prompt lengths, comma-separated.")
    ] = "512",
    new_tokens: Annotated[int, typer.Option("--new-tokens", min=2, help="Number of generated tokens.")] = 64,
    batch: Annotated[
        str, typer.Option("--batch", metavar="LIST", help="Batch sizes to measure, comma-separated; 0: none.")
    ] = "1,2,4",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Number of interleaved runs, after a warm-up.")] = 7,
    threads: Threads = None,
    kv_dtype: KvDtypeName = "auto",
    quality: Annotated[
        bool, typer.Option("--quality", help="Compare the logits with those of the float32 model.")
    ] = False,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--picture", metavar="FILE", help="Write an HTML page: speed curves, and where a pair of devices is faster."
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check", hidden=True, help="Exit 1 if a target is missed.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure prefill and decode on every device and pair of devices, and on the peers that are installed."""
    from trisect.bench.llm.answer_quality import bench_quality
    from trisect.bench.llm.llm_comparison import bench_llm

    if picture is not None:
        from trisect.bench.report import check_installed
        from trisect.bench.report.crossover_page import write_crossover
        from trisect.runtime.files.output_paths import check_output_file

        check_output_file(picture, [Path(model)])
        check_installed()  # fail before minutes of measuring
    lengths = parse_sizes(prompt_tokens, "--prompt-tokens")
    batches = [] if batch == "0" else parse_sizes(batch, "--batch")
    with progress_bar("measuring") as report:
        result = bench_llm(
            model, devices, prompt_tokens=lengths, new_tokens=new_tokens, batches=batches, rounds=rounds,
            threads=threads, kv_dtype=kv_dtype, progress=report,
        )  # fmt: skip
        qualities = bench_quality(model, devices, kv_dtype=kv_dtype, progress=report) if quality else []
    if picture is not None and result.crossover is not None:
        write_crossover(result.model, result.crossover, picture, result.batches)
    targets = _check_targets(result, qualities)
    if json:
        import msgspec

        print_json(msgspec.to_builtins(result) | {"quality": qualities, "bars": targets})
    else:
        for line in result.notes:
            note(line)
        _print_runs(result)
        _print_batches(result)
        if qualities:
            rows = [
                (q.contender, f"{q.mean_kl:.4f}", f"{q.worst_kl:.3f}", f"{q.agreement:.1%}", f"{q.tokens}")
                for q in qualities
            ]
            columns = ["system", "mean KL", "max. KL", "same top token", "tokens"]
            print_table(columns, rows, title="teacher-forced, compared with the float32 model")
    if check and not all(target.met for target in targets):
        raise typer.Exit(1)


def _check_targets(result: LlmBench, qualities: Sequence[AnswerQuality]) -> Sequence[TargetCheck]:
    """Compare the result with trisect's own targets, which only a checkout has."""
    if importlib.util.find_spec("trisect.bench.acceptance") is None:
        return ()
    from trisect.bench.acceptance.llm_targets import llm_target_checks

    return llm_target_checks(result, qualities)


def _print_batches(result: LlmBench) -> None:
    if not result.batches:
        return
    rows = [
        (
            p.device,
            str(p.batch),
            f"{p.prefill_tok_s:,.0f}",
            f"{p.decode_tok_s:,.0f}",
            f"{p.decode_tok_s / p.batch:,.0f}",
        )
        for p in sorted(result.batches, key=lambda point: (point.device, point.batch))
    ]
    columns = ["device", "batch", "prefill tok/s", "decode tok/s", "decode per sequence"]
    length = result.batches[0].prompt_tokens
    print_table(columns, rows, title=f"batched sequences of {length} tokens, measured")


def _print_runs(result: LlmBench) -> None:
    columns = [
        "system", "prefill on", "decode on", "prefill tok/s", "decode tok/s", "KV hand-over", "end to end", "predicted",
        "memory",
    ]  # fmt: skip
    for length in dict.fromkeys(run.prompt_tokens for run in result.runs):
        runs = sorted((r for r in result.runs if r.prompt_tokens == length), key=lambda run: run.end_to_end_s)
        rows = [
            (
                run.peer or "trisect",
                named_device(run.prefill, run.prefill_reality),
                named_device(run.decode, run.decode_reality),
                f"{run.prefill_tok_s:,.0f}",
                f"{run.decode_tok_s:,.0f}",
                f"{size(run.kv_bytes)}, {duration(run.kv_s)}" if run.kv_bytes else "-",
                f"{duration(run.end_to_end_s)} ±{run.spread / 2:.0%}",
                duration(run.predicted_s),
                size(run.rss_bytes),
            )
            for run in runs
        ]
        title = f"{length} tokens in, {runs[0].new_tokens} out: medians of {result.rounds} interleaved runs, measured"
        print_table(columns, rows, title=title)
    limits = result.limits
    work = limits.prefill_flops_per_token
    prefill = f", one of prefill takes {work / 1e9:.3g} GFLOP" if work else ""  # not known of experts and delta layers
    note(
        f"measured limits: {limits.read_bandwidth_bytes_per_s / 1e9:.1f} GB/s read, "
        f"{limits.peak_flops / 1e9:,.0f} GFLOP/s in matrix products; a token of decode reads "
        f"{size(limits.decode_bytes_per_token)}{prefill}"
    )
