"""`trisect.generate`: import a model, choose devices, load it and generate text; and measuring its phases for that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from trisect.runtime import engines
from trisect.runtime.errors import InvalidInput
from trisect.runtime.progress import Progress, no_progress

from .bundle import Bundle
from .device_abilities import check_wanted
from .gate.numeric_gate import check_numbers
from .importing.model_import import open_model
from .phases.device_choice import measured_phases
from .phases.phase_measurement import PhaseScope
from .phases.phase_profile import PhaseProfile
from .phases.quick_choice import choose_at_once
from .running.generation import Generation, LanguageSession
from .running.kv_layer import KV_CHOICES
from .running.prompt import tokenise
from .running.runners.static_loading import FixedShapes
from .running.sampling import SamplingOptions
from .tokenization.tokenizer import Tokenizer


def generate(
    model: str | Path,
    prompt: str | Sequence[int],
    *,
    prefill: str = "auto",
    decode: str = "auto",
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    stop: str | Sequence[str] = (),
    chat: bool = True,
    threads: int | None = None,
    precision: str = "fast",
    kv_dtype: str = "auto",
    on_text: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Generation:
    """Generate an answer to a prompt with a language model, each phase on the device that is fastest at it.

    Parameters
    ----------
    model : str or Path
        A GGUF file; a folder of transformers, onnxruntime-genai or optimum; a bundle; or a Hugging Face id.
    prompt : str or sequence of int
        Text, or token ids as they are.
    prefill, decode : str
        Device ids, or ``auto``: chosen from measurements on this machine (`measure`), else from those of other models,
        else one device by how its engine keeps the KV cache.
    temperature, top_k, top_p, repetition_penalty, seed
        See `SamplingOptions`; the default is greedy.
    stop : str or sequence of str
        Stop sequences: texts that end the answer.
    chat : bool
        Format the prompt with the model's chat template.
    threads : int, optional
        Compute threads of each engine.
    kv_dtype : str
        Dtype of the KV cache: see `open_bundle`.
    on_text : callable, optional
        Called with each piece of text as it is generated.
    progress : callable
        Called while importing.

    Raises
    ------
    TrisectError
        One of its subclasses, with what to do about it.
    """
    sampling = SamplingOptions(
        repetition_penalty=repetition_penalty, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )
    # Whatever can be rejected at once is rejected before anything is imported or measured.
    if max_new_tokens < 1:
        raise InvalidInput(f"max_new_tokens is {max_new_tokens}", remedy="ask for 1 or more")
    check_wanted(prefill, decode)
    report = progress or no_progress
    bundle = open_bundle(model, precision=precision, kv_dtype=kv_dtype, progress=report)
    tokenizer = Tokenizer.load(bundle.folder)
    checked = tokenise(bundle, tokenizer, prompt, chat=chat)
    bundle = bundle.for_context(len(checked.ids) + max_new_tokens)
    choice = choose_at_once(
        bundle, prefill, decode, prompt_tokens=len(checked.ids), new_tokens=max_new_tokens, threads=threads,
        precision=precision,
    )  # fmt: skip
    check_numbers(bundle, {choice.prefill, choice.decode}, precision=precision, progress=report)
    with LanguageSession(
        bundle, choice.prefill, choice.decode, threads=threads, precision=precision, tokenizer=tokenizer,
        fixed=FixedShapes(len(checked.ids) + max_new_tokens, progress=report),
    ) as session:  # fmt: skip
        return session.generate(checked, max_new_tokens=max_new_tokens, sampling=sampling, stop=stop, on_text=on_text)


def measure(
    model: str | Path,
    devices: str = "auto",
    *,
    budget_s: float | None = None,
    threads: int | None = None,
    precision: str = "fast",
    progress: Progress = no_progress,
) -> tuple[PhaseProfile, dict[str, str]]:
    """Measure and store a model's prefill, decode and KV-cache hand-over, from which devices are chosen.

    What was measured before is not measured again. An interrupted measurement keeps what it has.

    Parameters
    ----------
    devices : str
        Device ids or kinds, comma-separated, or ``auto``.
    budget_s : float, optional
        Time after which only the shortest lengths are still measured.

    Returns
    -------
    profile : PhaseProfile
    excluded : dict of str to str
        Device id -> the reason why it cannot run the model.
    """
    check_wanted(devices)
    bundle = open_bundle(model, precision=precision, progress=progress)
    by_id = {device.id: device for device in engines.find_hardware(devices)}
    scope = PhaseScope(budget_s=budget_s)
    return measured_phases(bundle, by_id, threads=threads, precision=precision, scope=scope, progress=progress)


def open_bundle(
    model: str | Path, *, precision: str = "fast", kv_dtype: str = "auto", progress: Progress = no_progress
) -> Bundle:
    """Return the bundle of a model, imported now if it was not before.

    Parameters
    ----------
    model : str or Path
        See `generate`.
    precision : {"fast", "float32"}
        ``float32`` imports the weights widened to float32.
    kv_dtype : {"auto", "float32", "float16", "bfloat16", "int8"}
        Dtype of the KV cache; see `Bundle.with_kv_dtype`.

    Raises
    ------
    InvalidInput
        For an unknown precision or dtype.
    InvalidModel, UnsupportedModel, StorageFailed
        See `open_model`.
    """
    if precision not in ("fast", "float32"):
        raise InvalidInput(f"precision is {precision!r}", remedy="choose fast or float32")
    choice = next((name for name in KV_CHOICES if name == kv_dtype), None)
    if choice is None:
        raise InvalidInput(f"the KV cache cannot be {kv_dtype!r}", remedy=f"choose {', '.join(KV_CHOICES)}")

    def report(done: int, total: int, text: str) -> None:
        progress(done, total, f"importing: {text}")

    bundle = open_model(model, weights="float32" if precision == "float32" else "blocks", progress=report)
    return bundle.with_kv_dtype(choice)
