"""How a checkpoint's chat template gets into Ollama, and what is said about it.

``go``         a learned Go TEMPLATE, proven; every version of Ollama runs it
``native``     the Jinja in the GGUF; Ollama 0.30 and later runs it
``go:prompt``  no chat template: the prompt as it is
``none``       no TEMPLATE at all (encoders)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ggufpack.chat_template import findings as ids
from ggufpack.chat_template.bos import repeats_bos
from ggufpack.chat_template.capabilities import chat_template_capabilities
from ggufpack.chat_template.content_form import refusal_of_a_question
from ggufpack.chat_template.conversation import Conversation, Message
from ggufpack.chat_template.findings import make_finding
from ggufpack.chat_template.go_strategy import REFUSED_BY_JINJA, Refusal
from ggufpack.chat_template.guard import add_guard
from ggufpack.chat_template.readings import FIRST_NATIVE_VERSION, Readings, ServerVersion, read_template
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.errors import ChatTemplateError
from ggufpack.spec import Finding

Strategy = Literal["go", "native", "go:prompt", "none"]

_PROMPT_TEMPLATE = "{{ .Prompt }}"
_SHOWN = 6


@dataclass(frozen=True)
class TemplatePlan:
    """What is written, and why.

    Attributes:
        strategy: see the module.
        go_template: TEMPLATE of the Modelfile; ``None`` for none.
        gguf_chat_template: text for ``tokenizer.chat_template``; ``None`` for no such key.
        emits_bos: whether an engine must put BOS in front (``tokenizer.ggml.add_bos_token``): the
            chat template does, once; ``None`` leaves the tokenizer's own setting.
        think: what a caller has to say for the prompt that the chat template gives by itself;
            ``None`` for nothing.
        refused: what this strategy does not reproduce, or the chat template refuses.
        findings: what the user should know.
        readings: both ways, for the record; ``None`` without a chat template.
    """

    strategy: Strategy
    go_template: str | None
    gguf_chat_template: str | None
    emits_bos: bool | None = None
    think: bool | None = None
    refused: tuple[Refusal, ...] = ()
    findings: tuple[Finding, ...] = ()
    readings: Readings | None = None


def choose_template(
    template: ChatTemplate, jinja_text: str, requested: str, server_version: ServerVersion | None
) -> TemplatePlan:
    """Choose the strategy for ``template``.

    Args:
        template: compiled from ``jinja_text`` with the tokenizer's special tokens.
        jinja_text: the text that goes into the GGUF: the checkpoint's own, or the one that the
            user named instead.
        requested: ``"native"`` forces the GGUF's Jinja. ``"auto"``, and the name or path of a
            template that the caller has read, take what loses less.
        server_version: of the server that will run it; ``None`` when there is none.

    Raises:
        ChatTemplateError: GP426, the server is older than 0.30 and no Go TEMPLATE is right; GP438, the
            template does not even print a plain question, so nothing can be proven.
    """
    readings = read_template(template)
    if readings.traits.chat == "never":
        raise _error(
            make_finding(ids.NO_QUESTION, path=template.origin, problem=refusal_of_a_question(template))
        )
    go_only = server_version is not None and server_version < FIRST_NATIVE_VERSION
    if server_version is not None and go_only and (requested == "native" or readings.go.text is None):
        raise _go_only_error(template, server_version, requested, readings)
    if requested != "native" and (go_only or readings.prefers_go):
        return _go_plan(template, jinja_text, readings, server_version if go_only else None)
    return _native_plan(template, jinja_text, readings, server_version)


def plan_without_template(*, encoder: bool, unused: str | None = None) -> TemplatePlan:
    """The plan for a checkpoint that has no chat template, or no use for it.

    Args:
        encoder: an embedding model, which has no prompt; otherwise a base model, whose prompt is
            passed on unchanged by an explicit TEMPLATE.
        unused: the chat template that an embedding model has from the decoder it was trained from;
            Ollama must not detect one of its own in it.
    """
    if encoder:
        guarded = None if unused is None else add_guard(unused)
        return TemplatePlan("none", None, guarded, findings=(make_finding(ids.ENCODER),))
    return TemplatePlan("go:prompt", _PROMPT_TEMPLATE, None, findings=(make_finding(ids.NO_TEMPLATE),))


def _go_plan(
    template: ChatTemplate, jinja_text: str, readings: Readings, old_server: ServerVersion | None
) -> TemplatePlan:
    go = readings.go
    findings = [
        make_finding(
            ids.GO_TEMPLATE,
            path=template.origin,
            cases=sum(row.exact + row.semantic for row in go.parity.values()),
            exact=sum(row.exact for row in go.parity.values()),
        ),
        make_finding(ids.NEIGHBOURS_JOINED, path=template.origin),
        *_refused_findings(template, go.refused, ids.GO_LOSES),
    ]
    unlike = list(readings.unlike)
    if _cuts_thoughts(template, readings):
        findings.append(make_finding(ids.THOUGHTS_IN_TEXT, path=template.origin))
        unlike = [one for one in unlike if not (one.endswith("in an answer") and "think>" in one)]
    if unlike:
        shown = [*unlike[:_SHOWN], *["…"] * (len(unlike) > _SHOWN)]
        findings.append(make_finding(ids.LOOKS_FOR_TEXTS, path=template.origin, problem=", ".join(shown)))
    if readings.go_reads_calls is False:
        findings.append(make_finding(ids.CALLS_NOT_READ, path=template.origin))
    lost = [name for name in readings.native.capabilities if name not in go.capabilities]
    if old_server is not None and lost:
        findings.append(
            make_finding(
                ids.CAPABILITIES_LOST, version=_version_text(old_server), capabilities=", ".join(lost)
            )
        )
    return TemplatePlan(
        strategy="go",
        go_template=go.text,
        gguf_chat_template=jinja_text,
        emits_bos=bool(readings.traits.bos),  # what the TEMPLATE leaves out
        think=_think(readings, thinks="thinking" in go.capabilities),
        refused=go.refused,
        findings=tuple(findings),
        readings=readings,
    )


def _native_plan(
    template: ChatTemplate, jinja_text: str, readings: Readings, server_version: ServerVersion | None
) -> TemplatePlan:
    own = [one for one in readings.go.refused if one.reason == REFUSED_BY_JINJA]
    refused = (*own, *readings.native.refused)
    findings = [
        make_finding(ids.NATIVE, path=template.origin),
        *_refused_findings(template, refused, ids.NATIVE_LOSES),
    ]
    if readings.go.stopped is not None:
        findings.append(make_finding(ids.LEARNING_STOPPED, path=template.origin, problem=readings.go.stopped))
    if server_version is None:
        findings.append(make_finding(ids.SERVER_UNKNOWN, path=template.origin))
    return TemplatePlan(
        strategy="native",
        go_template=None,
        gguf_chat_template=add_guard(jinja_text),
        # llama.cpp takes the template's BOS away when it adds its own: either setting is right
        emits_bos=None if repeats_bos(template) else bool(readings.traits.bos),
        think=_think(readings, thinks="thinking" in chat_template_capabilities(jinja_text)),
        refused=refused,
        findings=tuple(findings),
        readings=readings,
    )


def _cuts_thoughts(template: ChatTemplate, readings: Readings) -> bool:
    """Whether reasoning that stands in the text of an earlier answer is taken out."""
    thought, go_on = "<think>Kthought1K</think>Kanswer1K", Message("user", "Kuser2K")
    messages = (Message("user", "Kuser1K"), Message("assistant", thought), go_on)
    try:
        prompt = readings.traits.prompt(template, Conversation("thought", messages))
    except ChatTemplateError:
        return False
    return "Kanswer1K" in prompt and thought not in prompt


def _think(readings: Readings, *, thinks: bool) -> bool | None:
    """A server turns thinking on when the caller says nothing; llama-server does so for any model."""
    traits = readings.traits
    if not traits.switches or (traits.unset is True and thinks):
        return None
    return traits.unset is True


def _refused_findings(template: ChatTemplate, refused: Sequence[Refusal], loses: str) -> list[Finding]:
    own = [one.shape for one in refused if one.reason == REFUSED_BY_JINJA]
    findings = []
    if own:
        findings.append(make_finding(ids.CONVERSATIONS_REFUSED, path=template.origin, shapes=", ".join(own)))
    by_reason: dict[str, list[str]] = {}
    for one in refused:
        if one.reason != REFUSED_BY_JINJA:
            by_reason.setdefault(one.reason, []).append(one.shape)
    findings += [
        make_finding(loses, path=template.origin, shape=", ".join(shapes), reason=reason)
        for reason, shapes in by_reason.items()
    ]
    return findings


def _go_only_error(
    template: ChatTemplate, version: ServerVersion, requested: str, readings: Readings
) -> ChatTemplateError:
    if requested == "native":
        reason = "the native strategy was asked for"
    else:
        why = "; ".join(f"{one.shape}: {one.reason}" for one in readings.go.refused[:1])
        reason = f"no Go TEMPLATE gives the same prompts ({why})"
    version_text = _version_text(version)
    return _error(make_finding(ids.GO_ONLY_SERVER, path=template.origin, version=version_text, reason=reason))


def _error(finding: Finding) -> ChatTemplateError:
    return ChatTemplateError(
        finding.message, action=finding.action, path=finding.path, key=finding.key, finding=finding.id
    )


def _version_text(version: ServerVersion) -> str:
    return ".".join(str(part) for part in version)
