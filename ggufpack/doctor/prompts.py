"""What a Jinja chat template and a Go TEMPLATE say, when no checkpoint is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from ggufpack.chat_template import findings as template_ids
from ggufpack.chat_template.bos import bos_in_front
from ggufpack.chat_template.content_form import in_its_form
from ggufpack.chat_template.conversation import Conversation, Message
from ggufpack.chat_template.findings import make_finding as template_finding
from ggufpack.chat_template.go.errors import GoTemplateError
from ggufpack.chat_template.go.evaluate import render
from ggufpack.chat_template.go.inspect import go_is_used
from ggufpack.chat_template.go.nodes import Template
from ggufpack.chat_template.go.parse import parse
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.stops import derive_stops
from ggufpack.chat_template.strategy import TemplatePlan, choose_template
from ggufpack.doctor.examination import Log
from ggufpack.doctor.findings import make_finding
from ggufpack.errors import ChatTemplateError
from ggufpack.modelfile.render import quoted
from ggufpack.spec import Finding

_SYSTEM, _ASKED, _ANSWERED, _ASKED_AGAIN = (
    Message("system", "Answer in one word."),
    Message("user", "What colour is the sky?"),
    Message("assistant", "Blue."),
    Message("user", "And the grass?"),
)
_CONVERSATIONS = (
    Conversation("one question", (_ASKED,)),
    Conversation("a system text and a question", (_SYSTEM, _ASKED)),
    Conversation("two questions", (_ASKED, _ANSWERED, _ASKED_AGAIN)),
    Conversation("a system text and two questions", (_SYSTEM, _ASKED, _ANSWERED, _ASKED_AGAIN)),
)
_SHOWN = 24


@dataclass(frozen=True)
class JinjaFacts:
    """A chat template in a GGUF, read.

    Attributes:
        template: compiled with the GGUF's special tokens.
        plan: how it would get into Ollama best.
        stops: its stop strings, the end of a turn first.
        bos: the BOS text that it begins with.
    """

    template: ChatTemplate
    plan: TemplatePlan
    stops: tuple[str, ...]
    bos: str


def read_jinja(
    text: str,
    origin: Path | None,
    special_tokens: Mapping[str, str | None],
    special_texts: Sequence[str],
    eos_texts: Sequence[str],
) -> JinjaFacts:
    """Read a chat template.

    Raises:
        ChatTemplateError: not Jinja, or it does not print a plain question.
    """
    template = in_its_form(ChatTemplate(text, special_tokens=special_tokens, origin=origin))
    plan = choose_template(template, text, "auto", None)
    stops = derive_stops(template, special_texts, eos_texts)
    return JinjaFacts(template, plan, stops, bos_in_front(template))


def add_native_losses(log: Log, jinja: JinjaFacts, path: Path | None) -> None:
    """What Ollama's native mode does not carry of it: a GGUF without a TEMPLATE runs so."""
    readings = jinja.plan.readings
    by_reason: dict[str, list[str]] = {}
    for one in () if readings is None else readings.native.refused:
        by_reason.setdefault(one.reason, []).append(one.shape)
    log.add(
        template_finding(template_ids.NATIVE_LOSES, path=path, shape=", ".join(shapes), reason=reason)
        for reason, shapes in by_reason.items()
    )


def check_go_template(
    log: Log,
    text: str,
    *,
    path: Path | None,
    jinja: JinjaFacts | None,
    bos: str | None,
    add_bos: bool | None,
    predict_use: bool = True,
) -> Template | None:
    """The checks of a TEMPLATE, alone and against the chat template of the same model.

    Args:
        log: gets the findings.
        text: the TEMPLATE.
        path: the Modelfile.
        jinja: of the GGUF, ``None`` when there is none or it cannot be read.
        bos: the text of the GGUF's BOS token.
        add_bos: whether the engine adds it.
        predict_use: whether to say what Ollama will do with it; a server says so itself.

    Returns:
        The TEMPLATE; ``None`` when it is no Go template.
    """
    try:
        parsed = parse(text)
    except GoTemplateError as error:
        log.add(
            [
                make_finding(
                    "GP553",
                    f"The TEMPLATE is not a Go template: {error}.",
                    path=path,
                    key="TEMPLATE",
                    action="Correct that line of the TEMPLATE, or leave TEMPLATE out so that Ollama 0.30 and"
                    " later runs the chat template in the GGUF.",
                )
            ]
        )
        return None
    if jinja is None:
        return parsed
    if bos and add_bos and _rendered(parsed, _CONVERSATIONS[0]).startswith(bos):
        log.add([_doubled(bos, path)])
    if predict_use and not go_is_used(text, jinja.template.text):
        log.add([_ignored(path)])
    difference = first_difference(parsed, jinja, bos)
    if difference is not None:
        log.add(
            [
                make_finding(
                    "GP555",
                    f"The TEMPLATE gives another prompt than the chat template in the GGUF: {difference}.",
                    path=path,
                    key="TEMPLATE",
                    action="Take the TEMPLATE that `ggufpack template` prints for the checkpoint, or leave"
                    " TEMPLATE out if the server is of 0.30 or later.",
                )
            ]
        )
    return parsed


def first_difference(parsed: Template, jinja: JinjaFacts, bos: str | None) -> str | None:
    """Where a TEMPLATE's prompt leaves the trained one, in words; ``None`` for nowhere.

    Four short conversations without tools. A BOS in front does not count: an engine may add it.
    Conversations that the chat template refuses are left out.
    """
    for conversation in _CONVERSATIONS:
        trained = _trained(jinja, conversation)
        if trained is None:
            continue
        try:
            actual = render(parsed, conversation, today=date.today())
        except GoTemplateError as error:
            return f"with {conversation.name} it fails ({error})"
        if bos and trained.removeprefix(bos) == actual.removeprefix(bos):
            continue
        if trained != actual:
            at = next(
                (i for i, (a, b) in enumerate(zip(trained, actual, strict=False)) if a != b),
                min(len(trained), len(actual)),
            )
            return (
                f"with {conversation.name}, at character {at + 1} it has {_piece(actual, at)} where the"
                " trained"
                f" prompt has {_piece(trained, at)}"
            )
    return None


def go_turn_ends(parsed: Template, special_texts: Sequence[str]) -> tuple[str, ...]:
    """The first special token that a TEMPLATE writes behind an answer; empty when there is none."""
    text = _rendered(parsed, _CONVERSATIONS[2])
    _, _, behind = text.partition(_ANSWERED.content)
    behind = behind.partition(_ASKED_AGAIN.content)[0]
    found = [
        (behind.index(special), -len(special), special) for special in special_texts if special in behind
    ]
    return (min(found)[2],) if found else ()


def check_stops(
    log: Log, wanted: Sequence[str], given: Sequence[str], ends: Sequence[str], path: Path | None
) -> None:
    """Stop strings of the chat template that neither a PARAMETER nor an end token of the GGUF covers."""
    missing = [stop for stop in wanted if stop not in given and stop not in ends]
    log.add(
        make_finding(
            "GP556",
            f"The chat template ends turns with {stop!r}, and nothing stops the model there: it is neither a"
            " PARAMETER stop nor an end token of the GGUF.",
            path=path,
            key="stop",
            action=f"Add the line: PARAMETER stop {quoted(stop)}",
        )
        for stop in missing
    )


def _trained(jinja: JinjaFacts, conversation: Conversation) -> str | None:
    switches: dict[str, Any] = {}
    if jinja.plan.readings is not None:
        switches = dict(jinja.plan.readings.traits.variables(jinja.plan.think))
    try:
        return jinja.template.render(conversation.for_jinja(), add_generation_prompt=True, **switches)
    except ChatTemplateError:
        return None


def _rendered(parsed: Template, conversation: Conversation) -> str:
    try:
        return render(parsed, conversation, today=date.today())
    except GoTemplateError:
        return ""  # first_difference tells it


def _piece(text: str, at: int) -> str:
    return repr(text[at : at + _SHOWN]) if at < len(text) else "its end"


def _doubled(bos: str, path: Path | None) -> Finding:
    return make_finding(
        "GP561",
        f"The TEMPLATE begins with {bos!r}, and the GGUF has add_bos_token on: Ollama before 0.30 puts"
        " it twice.",
        path=path,
        key="TEMPLATE",
        action=f"Take {bos} out of the TEMPLATE.",
    )


def _ignored(path: Path | None) -> Finding:
    return make_finding(
        "GP554",
        "Ollama 0.30 and later ignores this TEMPLATE without a word and runs the chat template in the GGUF,"
        " which has more capabilities (tools, thinking) by Ollama's reading.",
        path=path,
        key="TEMPLATE",
        action="Leave TEMPLATE out, or take the one that `ggufpack template` prints for the checkpoint;"
        " for one"
        " server, OLLAMA_GO_TEMPLATE=1 makes the TEMPLATE rule.",
    )
