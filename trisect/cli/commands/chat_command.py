"""``trisect chat``: talk to a language model, turn by turn; each turn computes only what is new."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trisect.runtime.errors import InvalidInput, TrisectError, one_line

from ..chat_input import ChatInput, is_interactive
from ..interrupts import InterruptRequest, interrupts_requested
from ..options import Debug, Json, KvDtypeName, LanguageModel, Seed, Temperature, Threads, TopP
from ..output import has_no_reader, note, print_generated, print_json, progress_bar
from ..request_summary import loss_summary, named_device, request_summary

if TYPE_CHECKING:
    from trisect.llm.running.conversation import Conversation
    from trisect.llm.running.generation import Generation

_COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?", re.DOTALL)
_HELP = """\
/help            show this list
/reset           forget all messages; the system prompt stays
/system [TEXT]   set the system prompt, or remove it
/stats           show devices and speed of the last answer
/save FILE       write the conversation to a new JSON file
/exit            end the chat (also Ctrl-D)
Ctrl-C stops an answer; a second one ends the chat where the engine does not react.
A message between \"\"\" and \"\"\" may have several lines; // at its beginning stands for /."""
_TYPICAL_PROMPT_TOKENS, _TYPICAL_ANSWER_TOKENS = 256, 128
"""Size of a turn for which the devices are chosen."""
_TURNS = 2
"""For which devices of fixed shapes are loaded; what is older is left out of the conversation."""


def chat(
    model: LanguageModel,
    system: Annotated[str, typer.Option("--system", metavar="TEXT", help="System prompt.")] = "",
    prefill: Annotated[
        str, typer.Option("--prefill", metavar="DEVICE", help="Device for prefill (the messages), or auto.")
    ] = "auto",
    decode: Annotated[
        str, typer.Option("--decode", metavar="DEVICE", help="Device for decode (the answers), or auto.")
    ] = "auto",
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Maximum number of tokens of an answer.")
    ] = 512,
    context: Annotated[
        int | None,
        typer.Option(
            "--context",
            min=1,
            metavar="TOKENS",
            help="Length of the conversation, for devices that compile for a fixed one (default: two turns) and models "
            "with other rotary factors for long contexts.",
        ),
    ] = None,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    threads: Threads = None,
    kv_dtype: KvDtypeName = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Talk to a language model. Type /help for its commands; in a pipe, each line is a message."""
    from trisect.llm.device_abilities import check_wanted
    from trisect.llm.gate.numeric_gate import check_numbers
    from trisect.llm.generate import open_bundle
    from trisect.llm.phases.quick_choice import choose_at_once
    from trisect.llm.running.conversation import Conversation
    from trisect.llm.running.generation import LanguageSession
    from trisect.llm.running.runners.static_loading import FixedShapes
    from trisect.llm.running.sampling import SamplingOptions

    sampling = SamplingOptions(temperature=temperature, top_p=top_p, seed=seed)
    check_wanted(prefill, decode)
    with progress_bar("preparing") as progress:
        bundle = open_bundle(model, kv_dtype=kv_dtype, progress=progress).for_context(context or 0)
        choice = choose_at_once(
            bundle, prefill, decode, prompt_tokens=_TYPICAL_PROMPT_TOKENS, new_tokens=_TYPICAL_ANSWER_TOKENS,
            threads=threads,
        )  # fmt: skip
        check_numbers(bundle, {choice.prefill, choice.decode}, progress=progress)
        progress(0, 1, "loading")
        session = LanguageSession(
            bundle, choice.prefill, choice.decode, threads=threads, keeps_cache=True,
            fixed=FixedShapes(context or _TURNS * (_TYPICAL_PROMPT_TOKENS + max_new_tokens), progress=progress),
        )  # fmt: skip
    with session:
        conversation = Conversation(session, system=system, max_new_tokens=max_new_tokens, sampling=sampling)
        for line in (*bundle.notes, *choice.notes):
            note(line)
        for device in dict.fromkeys((choice.prefill, choice.decode)):
            if not device.is_real:
                note(f"{named_device(device.id, device.reality)}: its times hold for no hardware")
        talk = _Chat(conversation, bundle.name, as_json=json)
        talk.run()
    if json:
        print_json({"model": bundle.name, "system": conversation.system, "answers": talk.answers})


class _Chat:
    """The loop over messages and commands."""

    def __init__(self, conversation: Conversation, model: str, *, as_json: bool) -> None:
        self._conversation = conversation
        self._model = model
        self._as_json = as_json
        self.answers: list[Generation] = []
        self._commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: note(_HELP, lines=True),
            "reset": self._reset,
            "system": self._set_system,
            "stats": self._show_stats,
            "save": self._save,
        }

    def run(self) -> None:
        """Answer messages until the input or the reader of the output ends."""
        is_terminal = is_interactive() and not self._as_json
        # In a pipe, Ctrl-C ends the command as it does any other.
        with interrupts_requested() if is_terminal else nullcontext(InterruptRequest()) as request:
            lines = ChatInput(request, is_terminal=is_terminal)
            if is_terminal:
                note(f"chat with {self._model}; /help shows the commands")
            while not has_no_reader():
                try:
                    message = lines.next_message()
                    if message is None or message.strip() in ("/exit", "/quit", "/bye"):
                        return
                    if message.strip():
                        self._handle(message, lambda: request.is_made or has_no_reader())
                except TrisectError as error:
                    if not is_terminal:
                        raise
                    note(f"error: {error}")

    def _handle(self, message: str, should_stop: Callable[[], bool]) -> None:
        command = _COMMAND.fullmatch(message.strip())
        if command is None:
            self._answer(message[1:] if message.startswith("//") else message, should_stop)
            return
        action = self._commands.get(command[1])
        if action is None:
            raise InvalidInput(f"/{command[1]} is no command", remedy="/help shows all; // stands for / in a message")
        action((command[2] or "").strip())

    def _answer(self, message: str, should_stop: Callable[[], bool]) -> None:
        on_text = None if self._as_json else print_generated
        answer = self._conversation.ask(message, on_text=on_text, should_stop=should_stop)
        if not self._as_json:
            print_generated("\n")
        has_begun = bool(answer.token_ids)
        if has_begun:
            self.answers.append(answer)
        remarks: Sequence[str] = [
            remark
            for remark, applies in (
                ("interrupted", answer.finish == "interrupted" and has_begun),
                ("interrupted before the answer began: the message is forgotten", not has_begun),
                (f"cut after {answer.stats.new_tokens} tokens: see --max-new-tokens", answer.finish == "length"),
                ("cut: the model's context is full", answer.finish == "context"),
                (
                    f"the oldest {self._conversation.left_out} messages no longer fit into the context",
                    self._conversation.left_out > 0,
                ),
            )
            if applies
        ]
        for remark in (*map(loss_summary, answer.losses), *remarks):
            note(f"({remark})")

    def _reset(self, _: str) -> None:
        self._conversation.reset()
        note("(all messages are forgotten)")

    def _set_system(self, text: str) -> None:
        self._conversation.system = text
        note("(the system prompt is set)" if text else "(no system prompt)")

    def _show_stats(self, _: str) -> None:
        if not self.answers:
            raise InvalidInput("there is no answer yet", remedy="write a message first")
        note(request_summary(self.answers[-1].stats))

    def _save(self, name: str) -> None:
        import msgspec

        from trisect.runtime.atomic_write import write_atomically

        if not name:
            raise InvalidInput("/save has no file name", remedy="write /save chat.json")
        try:
            path = Path(name).expanduser()
            is_taken = path.exists()
        except (OSError, RuntimeError, ValueError) as error:  # too long, of an unknown user, with a NUL
            raise InvalidInput(
                f"cannot save to {name[:80]}: {one_line(error)}", remedy="choose another name"
            ) from error
        if is_taken:
            raise InvalidInput(f"{path} exists already", remedy="choose another name")
        document = {"model": self._model, "system": self._conversation.system, "messages": self._conversation.messages}
        write_atomically(path, msgspec.json.format(msgspec.json.encode(document)) + b"\n")
        note(f"(saved to {path})")
