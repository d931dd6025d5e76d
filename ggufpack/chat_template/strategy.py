"""How a checkpoint's chat template gets into Ollama, and what is said about it.

``go:chatml``  a Go TEMPLATE, proven equal; every version of Ollama runs it
``native``     the Jinja in the GGUF; Ollama 0.30 and later runs it
``go:prompt``  no chat template: the prompt as it is
``none``       no TEMPLATE at all (encoders)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from ggufpack.chat_template import findings as ids
from ggufpack.chat_template.capabilities import chat_template_capabilities, prefers_chat_template
from ggufpack.chat_template.findings import make_finding
from ggufpack.chat_template.go_chatml import go_chatml, render_go_chatml
from ggufpack.chat_template.guard import add_guard
from ggufpack.chat_template.native import native_refused
from ggufpack.chat_template.probes import Conversation, probe_conversations
from ggufpack.chat_template.proof import Proof, leading_bos, prompt_of, prove, repeats_bos
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import probe_traits
from ggufpack.errors import ChatTemplateError
from ggufpack.spec import Finding

Strategy = Literal["go:chatml", "native", "go:prompt", "none"]
ServerVersion = tuple[int, int, int]

# The first release that runs a GGUF's Jinja (facts: server/images.go, PreferChatTemplate).
FIRST_NATIVE_VERSION: ServerVersion = (0, 30, 0)

_PROMPT_TEMPLATE = "{{ .Prompt }}"
_NAMES_SHOWN = 5


@dataclass(frozen=True)
class TemplatePlan:
    """What is written, and why.

    Attributes:
        strategy: see the module.
        go_template: TEMPLATE of the Modelfile; ``None`` for none.
        gguf_chat_template: text for ``tokenizer.chat_template``; ``None`` for no such key.
        capabilities: what Ollama will offer beyond completion: ``"tools"``, ``"thinking"``.
        emits_bos: whether an engine must put BOS in front (``tokenizer.ggml.add_bos_token``): the
            chat template does, once; ``None`` leaves the tokenizer's own setting.
        findings: what the user should know.
        refused: names of probe conversations that the template refuses.
        proof: the comparison behind ``go:chatml``, kept for the report when it fails as well.
    """

    strategy: Strategy
    go_template: str | None
    gguf_chat_template: str | None
    capabilities: tuple[str, ...] = ()
    emits_bos: bool | None = None
    findings: tuple[Finding, ...] = ()
    refused: tuple[str, ...] = ()
    proof: Proof | None = None


def choose_template(
    template: ChatTemplate, jinja_text: str, requested: str, server_version: ServerVersion | None
) -> TemplatePlan:
    """Choose the strategy for ``template``.

    Args:
        template: compiled from ``jinja_text`` with the tokenizer's special tokens.
        jinja_text: the text that goes into the GGUF: the checkpoint's own, or the one that the
            user named instead.
        requested: ``"native"`` forces the GGUF's Jinja. ``"auto"``, and the name or path of a
            template that the caller has read, choose by proof.
        server_version: of the server that will run it; ``None`` when there is none.

    Raises:
        ChatTemplateError: GP426, the server is older than 0.30 and the template is no ChatML.
    """
    conversations = probe_conversations()
    default_system = _default_system(template)
    proof = prove(template, partial(render_go_chatml, default_system=default_system), conversations)
    go_only = server_version is not None and server_version < FIRST_NATIVE_VERSION
    if requested != "native" and proof.holds:
        # a TEMPLATE with fewer capabilities than the Jinja is ignored from 0.30 on
        if not prefers_chat_template(jinja_text, (), go_tool_round_trip=False):
            return _chatml_plan(template, jinja_text, default_system, proof, lost=None)
        if server_version is not None and go_only:
            lost = make_finding(
                ids.CAPABILITIES_LOST,
                version=_version_text(server_version),
                capabilities=", ".join(chat_template_capabilities(jinja_text)),
            )
            return _chatml_plan(template, jinja_text, default_system, proof, lost=lost)
    if server_version is not None and go_only:
        raise _go_only_error(template, server_version, requested, proof)
    return _native_plan(template, jinja_text, server_version, proof, len(conversations))


def plan_without_template(*, encoder: bool) -> TemplatePlan:
    """The plan for a checkpoint that has no chat template.

    Args:
        encoder: an embedding model, which has no prompt; otherwise a base model, whose prompt is
            passed on unchanged by an explicit TEMPLATE.
    """
    if encoder:
        return TemplatePlan("none", None, None, findings=(make_finding(ids.ENCODER),))
    return TemplatePlan("go:prompt", _PROMPT_TEMPLATE, None, findings=(make_finding(ids.NO_TEMPLATE),))


def _chatml_plan(
    template: ChatTemplate, jinja_text: str, default_system: str | None, proof: Proof, lost: Finding | None
) -> TemplatePlan:
    findings = [
        make_finding(ids.GO_CHATML, path=template.origin, cases=len(proof.equal)),
        make_finding(ids.NEIGHBOURS_JOINED, path=template.origin),
        *_refused_finding(template, proof, len(proof.equal) + len(proof.refused)),
    ]
    if lost is not None:
        findings.append(lost)
    return TemplatePlan(
        strategy="go:chatml",
        go_template=go_chatml(default_system),
        gguf_chat_template=jinja_text,
        emits_bos=bool(leading_bos(template)),
        findings=tuple(findings),
        refused=proof.refused,
        proof=proof,
    )


def _native_plan(
    template: ChatTemplate,
    jinja_text: str,
    server_version: ServerVersion | None,
    proof: Proof,
    total: int,
) -> TemplatePlan:
    findings = [
        make_finding(ids.NATIVE, path=template.origin),
        *_refused_finding(template, proof, total),
    ]
    findings += [
        make_finding(ids.NATIVE_LOSES, path=template.origin, shape=one.shape, reason=one.reason)
        for one in native_refused(template, probe_traits(template))
    ]
    if server_version is None:
        findings.append(make_finding(ids.SERVER_UNKNOWN, path=template.origin))
    return TemplatePlan(
        strategy="native",
        go_template=None,
        gguf_chat_template=add_guard(jinja_text),
        capabilities=chat_template_capabilities(jinja_text),
        # llama.cpp takes the template's BOS away when it adds its own: either setting is right
        emits_bos=None if repeats_bos(template) else bool(leading_bos(template)),
        findings=tuple(findings),
        refused=proof.refused,
        proof=proof,
    )


def _default_system(template: ChatTemplate) -> str | None:
    """The system text that a ChatML template adds by itself; ``None`` when it adds none."""
    sentinel = "Kuser1K"
    conversation = Conversation("default system", ({"role": "user", "content": sentinel},))
    try:
        prompt = prompt_of(template, conversation, leading_bos(template))
    except ChatTemplateError:
        return None
    opening, closing = "<|im_start|>system\n", f"<|im_end|>\n<|im_start|>user\n{sentinel}"
    if not prompt.startswith(opening) or closing not in prompt:
        return None
    return prompt[len(opening) : prompt.index(closing)]


def _refused_finding(template: ChatTemplate, proof: Proof, total: int) -> list[Finding]:
    if not proof.refused:
        return []
    finding = make_finding(
        ids.CONVERSATIONS_REFUSED,
        path=template.origin,
        count=len(proof.refused),
        total=total,
        names=_some(proof.refused),
    )
    return [finding]


def _go_only_error(
    template: ChatTemplate, version: ServerVersion, requested: str, proof: Proof
) -> ChatTemplateError:
    if requested == "native":
        reason = "the native strategy was asked for"
    elif proof.different:
        reason = f"this chat template is not ChatML: it differs on {_some([d.name for d in proof.different])}"
    else:
        reason = "this chat template refuses plain conversations, so nothing can be proven about it"
    finding = make_finding(
        ids.GO_ONLY_SERVER, path=template.origin, version=_version_text(version), reason=reason
    )
    return ChatTemplateError(
        finding.message, action=finding.action, path=template.origin, key=finding.key, finding=finding.id
    )


def _some(names: tuple[str, ...] | list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _version_text(version: ServerVersion) -> str:
    return ".".join(str(part) for part in version)
