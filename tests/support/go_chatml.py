"""ChatML as a Go TEMPLATE, and its twin in Python for the proof.

The text uses only what Ollama has had since its templates know ``.Messages`` (0.3). Its last
assistant message is a prefill: left open, without a generation prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_DEFAULT_SYSTEM = """\
{{- if and (eq $i 0) (ne $m.Role "system") }}<|im_start|>system
DEFAULT<|im_end|>
{{ end }}"""

_TEMPLATE = """\
{{- range $i, $m := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
SYSTEM<|im_start|>{{ $m.Role }}
{{ $m.Content }}
{{- if not (and $last (eq $m.Role "assistant")) }}<|im_end|>
{{ end }}
{{- if and $last (ne $m.Role "assistant") }}<|im_start|>assistant
{{ end }}
{{- end }}"""


def go_chatml(default_system: str | None) -> str:
    """The TEMPLATE.

    Args:
        default_system: system text for conversations whose first message is not a system message;
            ``None`` for none.
    """
    if default_system is None:
        # the line break after $last would be printed without a trimming action behind it
        return _TEMPLATE.replace("1 }}\nSYSTEM", "1 -}}\n")
    # Go has no escape for its own delimiter but a string in an action
    literal = default_system.replace("{{", '{{ "{{" }}')
    return _TEMPLATE.replace("SYSTEM", _DEFAULT_SYSTEM.replace("DEFAULT", literal))


def render_go_chatml(messages: Sequence[Mapping[str, str]], default_system: str | None) -> str:
    """What Ollama renders with ``go_chatml(default_system)``. A test asks Ollama's own engine."""
    joined = join_neighbours(messages)
    text = ""
    if default_system is not None and joined and joined[0]["role"] != "system":
        text += f"<|im_start|>system\n{default_system}<|im_end|>\n"
    for message in joined:
        text += f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n"
    if joined and joined[-1]["role"] == "assistant":
        return text.removesuffix("<|im_end|>\n")
    return text + "<|im_start|>assistant\n" if joined else text


def join_neighbours(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Messages as a TEMPLATE sees them: neighbours of one role are one message.

    Tool results stay apart. Source: Ollama 0.33.0, ``template/template.go``, ``collate``.
    """
    joined: list[dict[str, str]] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"] != "tool":
            joined[-1]["content"] += "\n\n" + message["content"]
        else:
            joined.append(dict(message))
    return joined
