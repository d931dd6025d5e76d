"""The prompt stage: from an opened checkpoint and the user's wish to everything about the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufpack.chat_template import findings as ids
from ggufpack.chat_template import named
from ggufpack.chat_template.bos import bos_in_front
from ggufpack.chat_template.content_form import in_its_form
from ggufpack.chat_template.findings import make_finding
from ggufpack.chat_template.go_strategy import plain_shapes
from ggufpack.chat_template.readings import ServerVersion
from ggufpack.chat_template.render import ChatTemplate, ChatTemplateRefusal
from ggufpack.chat_template.stops import derive_stops
from ggufpack.chat_template.strategy import TemplatePlan, choose_template, plan_without_template
from ggufpack.checkpoint import Checkpoint
from ggufpack.checkpoint.chat_template import MAX_TEMPLATE_BYTES
from ggufpack.checkpoint.jsonfiles import read_text
from ggufpack.errors import CheckpointFileError, UsageError
from ggufpack.spec import Finding


@dataclass(frozen=True)
class Prompt:
    """What the model is asked with, and where it stops.

    Attributes:
        template: the Jinja that was trained with (or that the user named); ``None`` for none.
        plan: how it gets into Ollama.
        stops: stop strings, in order.
        bos: the BOS text that prompts begin with; engines differ in whether they show it.
        special_texts: of the tokenizer, none of which may show in an answer.
        findings: the plan's and those about the source of the template.
    """

    template: ChatTemplate | None
    plan: TemplatePlan
    stops: tuple[str, ...]
    bos: str
    special_texts: tuple[str, ...]
    findings: tuple[Finding, ...]

    def expected(self, messages: Sequence[Any]) -> str | None:
        """The prompt for these messages as trained; ``None`` where the template refuses them.

        ``None`` also where the plan says that this shape is not reproduced: a finding tells the user.
        A last assistant message is continued, as both Ollama and transformers do. Without a
        template a single user message is its own prompt.
        """
        if self.template is None:
            single = len(messages) == 1 and messages[0]["role"] == "user"
            return messages[0]["content"] if single else None
        if plain_shapes(messages) & {one.shape for one in self.plan.refused}:
            return None
        continues = messages[-1]["role"] == "assistant"
        readings = self.plan.readings
        switches: dict[str, Any] = {} if readings is None else readings.traits.variables(self.plan.think)
        try:
            return self.template.render(
                messages, add_generation_prompt=not continues, continue_final_message=continues, **switches
            )
        except ChatTemplateRefusal:
            return None


def prepare_prompt(checkpoint: Checkpoint, requested: str, server_version: ServerVersion | None) -> Prompt:
    """Everything about the prompt.

    Args:
        checkpoint: opened.
        requested: ``"auto"``, ``"native"``, the name of a template of ours, or a Jinja file's path.
        server_version: of the server that will run it, ``None`` when there is none.

    Raises:
        ChatTemplateError: the template is broken, or cannot be carried over to this server.
        UsageError: ``requested`` is neither.
    """
    tokenizer = checkpoint.tokenizer
    special_texts = checkpoint.special_texts
    eos_texts = _eos_texts(checkpoint)
    text, origin, findings = _source(checkpoint, requested)
    if text is None or (checkpoint.embeds and requested == "auto"):
        plan = plan_without_template(encoder=checkpoint.embeds, unused=text)
        stops = () if checkpoint.embeds else eos_texts
        return Prompt(None, plan, stops, "", special_texts, (*findings, *plan.findings))
    own = checkpoint.chat_template
    # of the checkpoint's own family, with tools transformers takes the one for tools
    family = own.named if own is not None and text == own.text else {}
    template = ChatTemplate(text, special_tokens=tokenizer.special, origin=origin, named=family)
    template = in_its_form(template)
    plan = choose_template(template, text, requested, server_version)
    stops = derive_stops(template, special_texts, eos_texts)
    return Prompt(template, plan, stops, bos_in_front(template), special_texts, (*findings, *plan.findings))


def _source(checkpoint: Checkpoint, requested: str) -> tuple[str | None, Path | None, tuple[Finding, ...]]:
    own = checkpoint.chat_template
    if requested in ("auto", "native"):
        if own is None:
            return None, None, ()
        return own.text, own.origin, ()
    if requested in named.names():
        chosen = named.load(requested)
        replaced = _replaced(own, requested)
        return chosen.text, chosen.path, (*replaced, *_missing_turn_end(checkpoint, chosen))
    path = Path(requested)
    if not path.exists():
        raise UsageError(
            f"--template {requested}: this is neither a file nor a name.",
            action=f"Use auto, native, a Jinja file, or one of {', '.join(named.names())}.",
            key="template",
        )
    return read_template_file(path), path, _replaced(own, requested)


def read_template_file(path: Path) -> str:
    """A Jinja file that the user names, held to what a checkpoint's own template is held to.

    Raises:
        UsageError: no regular file, larger than a template can be, unreadable or not UTF-8.
    """
    try:
        return read_text(path, MAX_TEMPLATE_BYTES)
    except CheckpointFileError as error:
        raise UsageError(error.problem, action=error.action, key="template", path=path) from error


def _replaced(own: object, requested: str) -> tuple[Finding, ...]:
    if own is None:
        return ()
    return (make_finding(ids.TEMPLATE_REPLACED, requested=requested),)


def _missing_turn_end(checkpoint: Checkpoint, chosen: named.NamedTemplate) -> tuple[Finding, ...]:
    end = chosen.turn_end
    if end is None or checkpoint.tokenizer.id(end) is not None:
        return ()
    return (make_finding(ids.TURN_END_UNKNOWN, name=chosen.name, token=end),)


def _eos_texts(checkpoint: Checkpoint) -> tuple[str, ...]:
    """eos_token and the text of every id in generation_config.json's eos_token_id."""
    tokenizer = checkpoint.tokenizer
    texts = [tokenizer.eos, *map(tokenizer.text, checkpoint.generation.eos_token_ids)]
    return tuple(dict.fromkeys(text for text in texts if text))
