"""A Go TEMPLATE: refused with GoTemplateError by the parser, or rendered within limits, or refused then."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from ggufpack.chat_template.conversation import Conversation, Message, ToolCall
from ggufpack.chat_template.go.errors import GoTemplateError
from ggufpack.chat_template.go.evaluate import MAX_BYTES, render
from ggufpack.chat_template.go.inspect import capabilities
from ggufpack.chat_template.go.parse import parse

WORDS = tuple(
    word.encode()
    for word in (
        *(
            "{{ ",
            " }}",
            "{{- ",
            " -}}",
            "{{ end }}",
            "{{ if ",
            "{{ range ",
            "{{ with ",
            "{{ else }}",
            "{{ define ",
        ),
        *("{{ template ", ".Messages", ".Content", ".Role", ".Tools", ".ToolCalls", ".System", ".Prompt"),
        *("$x := ", "$x = ", "printf ", "json ", "len ", "index ", "slice ", "eq ", "and ", "or ", "not "),
        *(
            "break",
            "continue",
            "%d",
            "%q",
            "%9999999s",
            "1000000000",
            "/* */",
            "`",
            '"',
            "$",
            "|",
            ".Function",
        ),
    )
)
_TOOL = {
    "type": "function",
    "function": {
        "name": "get",
        "description": "d",
        "parameters": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
    },
}
_CONVERSATION = Conversation(
    "fuzz",
    (
        Message("system", "be brief"),
        Message("user", "hi"),
        Message("assistant", "", thinking="hm", calls=(ToolCall("1", "get", {"a": 1}),)),
        Message("tool", "2", tool_name="get", tool_call_id="1"),
        Message("user", "thanks"),
    ),
    (_TOOL,),
    think=True,
)


def one_input(data: bytes) -> None:
    try:
        template = parse(data.decode("utf-8", "replace"))
    except GoTemplateError:
        return
    capabilities(template)
    try:
        prompt = render(template, _CONVERSATION, today=date(2026, 1, 1))
    except GoTemplateError:
        return
    assert len(prompt.encode()) <= (len(_CONVERSATION.messages) + 1) * 3 * MAX_BYTES


def seeds() -> Iterator[bytes]:
    yield b"{{ if .System }}{{ .System }}\n{{ end }}{{ .Prompt }} {{ .Response }}"
    yield (
        b'{{- range $i, $m := .Messages }}<|{{ .Role }}|>{{ if eq .Role `user` }}{{ .Content | printf "%q" }}'
        b"{{ else if .ToolCalls }}{{ range .ToolCalls }}{{ json .Function.Arguments }}{{ end }}{{ end }}"
        b"{{ if eq (len (slice $.Messages $i)) 1 }}<|assistant|>{{ end }}{{ end -}}"
    )
    yield (
        b'{{ define "t" }}{{ . }}{{ end }}{{ $x := "a" }}'
        b'{{ range .Messages }}{{ $x = .Role }}{{ template "t" $x }}{{ end }}'
    )
    yield b"{{ range 3 }}{{ break }}{{ end }}{{ with .Tools }}{{ index . 0 }}{{ end }}{{ 0x1F }}{{ 'a' }}"
    yield b"{{ .Messages }}"
