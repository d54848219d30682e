"""What a user means by generating text: import, measure, choose devices, load, write. Thin, as `trisect.api` is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.errors import EngineFailed, InvalidInput, InvalidModel, ProfileMissing, UnsupportedModel
from trisect.runtime.progress import Progress, no_progress

from .bundle import Bundle
from .importing.model_import import open_model
from .phases.phase_choice import PhasePrediction, choose_phases
from .phases.phase_measurement import PhaseProfile, load_phases, measure_phases, phases_path, save_phases
from .running.answer_text import check_prompt, encode_prompt
from .running.generation import Generation, GenerationStats, LanguageSession
from .running.sampling import SamplingOptions
from .running.tokenizer import Tokenizer

"""Called with the steps done, all steps, and what is being done."""


@dataclass(frozen=True)
class PhaseChoice:
    """Devices chosen for a request, and what each pair was predicted to take."""

    prefill: Device
    decode: Device
    predictions: tuple[PhasePrediction, ...]
    """All pairs that could be chosen, the best first; empty where nothing was to choose and nothing is measured."""
    notes: tuple[str, ...] = ()

    @property
    def predicted(self) -> PhasePrediction | None:
        """What the chosen pair was predicted to take."""
        return self.predictions[0] if self.predictions else None


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
    on_text: Callable[[str], None] | None = None,
    progress: Progress = no_progress,
) -> Generation:
    """Answer a prompt with a language model, each phase on the device that is best at it.

    Parameters
    ----------
    model : str or Path
        A GGUF file, a folder as onnxruntime-genai's builder or optimum writes it, a bundle, or a Hugging Face id.
    prompt : str or sequence of int
        Text, or token ids as they are.
    prefill, decode : str
        Device ids, or ``auto``: chosen from what was measured on this machine, which is done now if it was not before.
    max_new_tokens : int
    temperature, top_k, top_p, repetition_penalty, seed
        See `SamplingOptions`; the default is greedy.
    stop : str or sequence of str
        Texts that end the answer.
    chat : bool
        Put the prompt into the model's chat format.
    threads : int, optional
        Computing threads of each engine.
    precision : {"fast", "float32"}
    on_text : callable, optional
        Called with each piece of text as it is made.
    progress : callable, optional
        Called with the progress of importing and measuring.

    Raises
    ------
    TrisectError
        One of its kinds, with what to do about it.
    """
    sampling = SamplingOptions(
        repetition_penalty=repetition_penalty, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )
    # What can be refused at once is refused before anything is imported or measured.
    if max_new_tokens < 1:
        raise InvalidInput(f"max_new_tokens is {max_new_tokens}", remedy="ask for 1 or more")
    check_devices(prefill, decode)
    bundle = open_bundle(model, precision=precision, progress=progress)
    ids = prompt_ids(bundle, prompt, chat=chat)
    choice = choose_devices(
        bundle, prefill, decode, prompt_tokens=len(ids), new_tokens=max_new_tokens, threads=threads,
        precision=precision, progress=progress,
    )  # fmt: skip
    with LanguageSession(bundle, choice.prefill, choice.decode, threads=threads, precision=precision) as session:
        return session.generate(
            prompt, max_new_tokens=max_new_tokens, sampling=sampling, stop=stop, chat=chat, on_text=on_text
        )


def check_devices(*wanted: str) -> None:
    """Refuse names that no engine here offers, before anything long is begun on their behalf.

    Raises
    ------
    UnknownDevice
    """
    for names in wanted:
        engines.find_devices(names)


def open_bundle(model: str | Path, *, precision: str = "fast", progress: Progress = no_progress) -> Bundle:
    """The bundle of a model, imported now if it was not before."""
    if precision not in ("fast", "float32"):
        raise InvalidInput(f"precision is {precision!r}", remedy="choose fast or float32")
    weights = "float32" if precision == "float32" else "blocks"
    return open_model(
        model, precision=weights, progress=lambda done, total, text: progress(done, total, f"importing: {text}")
    )


def prompt_ids(bundle: Bundle, prompt: str | Sequence[int], *, chat: bool) -> list[int]:
    """Token ids of a prompt that the model can read, without loading the model."""
    ids = encode_prompt(Tokenizer.load(bundle.folder), prompt, chat=chat) if isinstance(prompt, str) else list(prompt)
    check_prompt(bundle, ids)
    return ids


def choose_devices(
    bundle: Bundle,
    prefill: str = "auto",
    decode: str = "auto",
    *,
    prompt_tokens: int,
    new_tokens: int,
    threads: int | None = None,
    precision: str = "fast",
    progress: Progress = no_progress,
) -> PhaseChoice:
    """Choose a device for each phase from measurements, and predict what the request will take.

    Parameters
    ----------
    bundle : Bundle
    prefill, decode : str
        Device ids or kinds that are allowed, comma-separated, or ``auto``.
    prompt_tokens, new_tokens : int
        The request; `new_tokens` is the most it will make.

    Raises
    ------
    UnknownDevice
        For a name that no engine here offers.
    """
    candidates = {"prefill": engines.find_hardware(prefill), "decode": engines.find_hardware(decode)}
    everything = {device.id: device for found in candidates.values() for device in found}
    if all(len(found) == 1 for found in candidates.values()):
        path = phases_path(bundle, precision, threads)
        try:
            load_phases(path, bundle, list(everything.values()))
        except ProfileMissing:  # not worth half a minute, only to say what a choice already made will take
            pair = candidates["prefill"][0], candidates["decode"][0]
            return PhaseChoice(*pair, (), _notes((prefill, decode), everything, {}))
    profile, refused = measured_phases(bundle, everything, threads=threads, precision=precision, progress=progress)
    for phase, wanted in (("prefill", prefill), ("decode", decode)):
        candidates[phase] = [d for d in candidates[phase] if d.id not in refused]
        if not candidates[phase]:
            reasons = "; ".join(refused.values())
            raise EngineFailed(f"no device of {wanted!r} can run {phase}: {reasons}", remedy="choose another device")
    predictions = choose_phases(
        profile,
        prefill=[d.id for d in candidates["prefill"]],
        decode=[d.id for d in candidates["decode"]],
        prompt_tokens=prompt_tokens,
        new_tokens=min(new_tokens, max(1, bundle.context_length - prompt_tokens)),
    )
    best = predictions[0]
    notes = _notes((prefill, decode), everything, refused)
    return PhaseChoice(everything[best.prefill], everything[best.decode], tuple(predictions), notes)


def _notes(wanted: Sequence[str], devices: Mapping[str, Device], refused: Mapping[str, str]) -> tuple[str, ...]:
    notes = [f"{device} is left out: {why}" for device, why in refused.items()]
    able = [device for device in devices if device not in refused]
    if "auto" in wanted and len(able) == 1:
        notes.append(f"one device can run this model here, {able[0]}: nothing to split over")
    return tuple(notes)


def measured_phases(
    bundle: Bundle,
    devices: Mapping[str, Device],
    *,
    threads: int | None,
    precision: str,
    progress: Progress,
) -> tuple[PhaseProfile, dict[str, str]]:
    """Measured phases of a model, from disk or measured now; and the devices that cannot run it, with their reasons."""
    path = phases_path(bundle, precision, threads)
    able, refused = [], {}
    for device in devices.values():
        try:
            bundle.graph_for(device.engine)
            able.append(device)
        except (InvalidModel, UnsupportedModel) as error:
            refused[device.id] = error.message
    while able:
        try:
            return load_phases(path, bundle, able), refused
        except ProfileMissing:
            pass
        try:
            profile = measure_phases(bundle, able, threads=threads, precision=precision, progress=progress)
            save_phases(profile, path)
            return profile, refused
        except EngineFailed as error:
            failed = next((device for device in able if device.id == error.device), None)
            if failed is None:
                raise
            refused[failed.id] = error.message
            able.remove(failed)
    raise EngineFailed(f"no device can run {bundle.name}: {'; '.join(refused.values())}", remedy="try another model")


@dataclass(frozen=True)
class MeasuredRequest:
    """One request on one pair of devices, measured, beside what was predicted."""

    stats: GenerationStats
    """The run of median duration."""
    predicted: PhasePrediction


def measure_request(
    bundle: Bundle,
    prompt: Sequence[int],
    predictions: Iterable[PhasePrediction],
    *,
    new_tokens: int,
    threads: int | None = None,
    precision: str = "fast",
    repeats: int = 3,
    progress: Progress = no_progress,
) -> list[MeasuredRequest]:
    """Run the same request on several pairs, one loaded after the other, warmed up once.

    Parameters
    ----------
    bundle : Bundle
    prompt : sequence of int
    predictions : iterable of PhasePrediction
        The pairs, with what each was predicted to take.
    new_tokens : int
        Made whatever the model says.
    """
    measured = []
    pairs = list(predictions)
    devices = {device.id: device for device in engines.discover()}
    for at, predicted in enumerate(pairs):
        progress(at, len(pairs), f"measuring {predicted.prefill} -> {predicted.decode}")
        pair = devices[predicted.prefill], devices[predicted.decode]
        with LanguageSession(bundle, *pair, threads=threads, precision=precision) as session:
            runs = [
                session.generate(prompt, max_new_tokens=new_tokens, ignore_eos=True).stats for _ in range(repeats + 1)
            ]
        runs = sorted(runs[1:], key=lambda stats: stats.end_to_end_s)
        measured.append(MeasuredRequest(runs[len(runs) // 2], predicted))
    return measured
