"""Every finding of the chat template stage, in one table (GP420 to GP449)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ggufpack.spec import Finding, Severity

SYNTAX_ERROR = "GP420"
RENDER_ERROR = "GP421"
REFUSED = "GP422"
OUTPUT_TOO_LARGE = "GP423"
GO_TEMPLATE = "GP424"
NATIVE = "GP425"
GO_ONLY_SERVER = "GP426"
CAPABILITIES_LOST = "GP427"
NEIGHBOURS_JOINED = "GP428"
NO_TEMPLATE = "GP429"
ENCODER = "GP430"
SERVER_UNKNOWN = "GP431"
CONVERSATIONS_REFUSED = "GP432"
TEMPLATE_REPLACED = "GP433"
TURN_END_UNKNOWN = "GP434"
TOO_SLOW = "GP435"
NATIVE_LOSES = "GP436"
GO_LOSES = "GP437"
NO_QUESTION = "GP438"
THOUGHTS_IN_TEXT = "GP439"
CALLS_NOT_READ = "GP440"
EXAMINATION_STOPPED = "GP441"
LEARNING_STOPPED = "GP442"
LOOKS_FOR_TEXTS = "GP443"


@dataclass(frozen=True)
class FindingKind:
    """What one id stands for. ``message`` and ``action`` are ``str.format`` patterns."""

    severity: Severity
    message: str
    action: str | None = None


FINDINGS: Mapping[str, FindingKind] = MappingProxyType(
    {
        SYNTAX_ERROR: FindingKind(
            Severity.ERROR, "{place}: the chat template is not valid Jinja: {problem}.", "Correct that line."
        ),
        RENDER_ERROR: FindingKind(
            Severity.ERROR,
            "{place}: the chat template fails while it renders: {problem}.",
            "Correct that line, or choose a named template with --template.",
        ),
        REFUSED: FindingKind(
            Severity.ERROR, "{place}: the chat template refuses this conversation: {problem}."
        ),
        OUTPUT_TOO_LARGE: FindingKind(
            Severity.ERROR,
            "{place}: the chat template renders more than {limit} characters.",
            "Look for a loop that repeats itself in the template.",
        ),
        TOO_SLOW: FindingKind(
            Severity.ERROR,
            "{place}: the chat template takes more than {seconds:g} s for one conversation.",
            "Look for a loop that repeats itself in the template.",
        ),
        GO_TEMPLATE: FindingKind(
            Severity.INFO,
            "The chat template is written as a Go TEMPLATE, which Ollama of every version runs: learned from "
            "its renders and proven equal in {cases} held-out conversations ({exact} to the letter, the rest "
            "but for how JSON is spaced and sorted).",
        ),
        NATIVE: FindingKind(
            Severity.INFO,
            "Ollama runs the chat template in the GGUF itself. A comment was put in front of it, so that no "
            "TEMPLATE is detected by its likeness to another model's; what it renders is unchanged.",
        ),
        GO_ONLY_SERVER: FindingKind(
            Severity.ERROR,
            "This server (Ollama {version}) renders Go templates only, and {reason}.",
            "Upgrade Ollama to 0.30 or later.",
        ),
        CAPABILITIES_LOST: FindingKind(
            Severity.WARNING,
            "On this server (Ollama {version}) the model loses what its chat template has for: "
            "{capabilities}. The rest is as trained.",
            "Upgrade Ollama to 0.30 or later.",
        ),
        NEIGHBOURS_JOINED: FindingKind(
            Severity.INFO,
            "Ollama joins neighbouring messages of one role with a blank line before a Go TEMPLATE sees "
            "them; the chat template of the checkpoint keeps them apart.",
        ),
        NO_TEMPLATE: FindingKind(
            Severity.WARNING,
            "The checkpoint has no chat template: the prompt is passed on as it is, for completion only. "
            "In a chat the roles are lost.",
            "If the model was trained on conversations, name its format with --template, such as chatml.",
        ),
        ENCODER: FindingKind(Severity.INFO, "An encoder has no prompt format: no TEMPLATE is written."),
        NATIVE_LOSES: FindingKind(
            Severity.WARNING,
            "Ollama's native mode does not reproduce {shape}: {reason}.",
        ),
        GO_LOSES: FindingKind(Severity.WARNING, "The Go TEMPLATE does not reproduce {shape}: {reason}."),
        NO_QUESTION: FindingKind(
            Severity.ERROR,
            "The chat template does not render a plain question: {problem}",
            "Name a template for plain conversations with --template, or correct this one.",
        ),
        THOUGHTS_IN_TEXT: FindingKind(
            Severity.WARNING,
            "The chat template takes <think>…</think> out of the text of earlier answers; "
            "the Go TEMPLATE does not.",
            "Send reasoning in the field thinking, as Ollama's own answers have it, or leave it out.",
        ),
        CALLS_NOT_READ: FindingKind(
            Severity.WARNING,
            "With the Go TEMPLATE Ollama does not recognise this model's tool calls: they come as text.",
            "Use a server of 0.30 or later, where the chat template itself can run.",
        ),
        EXAMINATION_STOPPED: FindingKind(
            Severity.ERROR,
            "The chat template cannot be examined: {problem}.",
            "Look for loops that repeat themselves in the template, or name another with --template.",
        ),
        LEARNING_STOPPED: FindingKind(
            Severity.WARNING,
            "No Go TEMPLATE was learned of the chat template: {problem}.",
            "Look for loops that repeat themselves in the template.",
        ),
        LOOKS_FOR_TEXTS: FindingKind(
            Severity.WARNING,
            "The chat template makes something of its own of certain texts, lengths or days, which the Go "
            "TEMPLATE does not: {problem}.",
            "Look for them in the template; --template native runs it as it is.",
        ),
        SERVER_UNKNOWN: FindingKind(
            Severity.UNCHECKED,
            "No server was asked for its version: this package needs Ollama 0.30 or later to run the chat "
            "template as trained.",
        ),
        CONVERSATIONS_REFUSED: FindingKind(
            Severity.INFO, "The chat template itself refuses these conversations: {shapes}."
        ),
        TEMPLATE_REPLACED: FindingKind(
            Severity.WARNING,
            "The checkpoint's own chat template is replaced by {requested}: prompts are as that one "
            "gives them.",
            "Leave --template out to keep the trained one.",
        ),
        TURN_END_UNKNOWN: FindingKind(
            Severity.WARNING,
            "The chat template {name} ends a turn with {token}, which is not a token of this tokenizer: the "
            "model was hardly trained with it.",
            "Choose the template that it was trained with.",
        ),
    }
)


def make_finding(id_: str, *, path: Path | None = None, **values: object) -> Finding:
    """The finding ``id_`` with its patterns filled in from ``values``."""
    kind = FINDINGS[id_]
    return Finding(
        id=id_,
        severity=kind.severity,
        message=kind.message.format(**values),
        path=path,
        key="chat_template",
        action=None if kind.action is None else kind.action.format(**values),
    )
