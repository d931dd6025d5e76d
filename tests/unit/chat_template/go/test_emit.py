"""What is written can be read by people, and means what was built."""

from __future__ import annotations

import random
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggufpack.chat_template.conversation import Conversation
from ggufpack.chat_template.go import nodes
from ggufpack.chat_template.go.emit import emit
from ggufpack.chat_template.go.errors import GoTemplateError
from ggufpack.chat_template.go.evaluate import render
from ggufpack.chat_template.go.nodes import Assign, Call, If, Literal, Path, Print, Range, Text
from ggufpack.chat_template.go.parse import parse
from tests.unit.chat_template.go.cases import TemplateMaker, conversation

ROLE, CONTENT = Path("", ("Role",)), Path("", ("Content",))


def rendered(template: nodes.Template, each: Conversation) -> str | None:
    try:
        return render(template, each, today=date(2026, 3, 1))
    except GoTemplateError:
        return None


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_text_does_what_the_nodes_do(rnd: random.Random) -> None:
    template = TemplateMaker(rnd).template()
    each = conversation(rnd, "random")
    assert rendered(parse(emit(template)), each) == rendered(template, each)


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False))
def test_what_was_read_is_written_and_read_the_same(rnd: random.Random) -> None:
    read = parse(emit(TemplateMaker(rnd).template()))
    # a text with a brace in it is read in pieces, so the first reading is not what was built
    assert parse(emit(read)) == read


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet="{}- \n\t\r`\"'\\aé\u00a0🙂", max_size=12), st.text(alphabet="{}-\n a/*", max_size=6))
def test_any_printed_text(before: str, after: str) -> None:
    template = (
        Text(before),
        If(Literal(True), (Text(after), Print(Literal(before)))),
        Text(before),
        Assign("$x", Literal(after)),
        Text(after),
        Range(Path("", ("Messages",)), (Text(before),)),
        Print(Path("$x")),
    )
    one = conversation(random.Random(1), "one")
    turns = sum(
        not index or each.role != one.messages[index - 1].role or each.role == "tool"
        for index, each in enumerate(one.messages)
    )
    expected = before + after + before + before + after + before * turns + after
    assert render(parse(emit(template)), one, today=date(2026, 3, 1)) == expected


def test_layout() -> None:
    def is_role(role: str) -> Call:
        return Call("eq", (ROLE, Literal(role)))

    template = (
        nodes.Define("bare", (Print(Path("")),)),
        Assign("$n", Literal(0)),
        Range(
            Path("", ("Messages",)),
            (
                If(
                    is_role("user"),
                    (Text("<user>\n"), Print(CONTENT), Text("</user>\n")),
                    (
                        If(
                            is_role("assistant"),
                            (
                                Text("{"),
                                If(Call("not", (CONTENT,)), (nodes.Break(),)),
                                nodes.Include("bare", CONTENT),
                                Text("{{x}}"),
                            ),
                            (Print(Literal('say "hi"')),),
                        ),
                    ),
                ),
                Assign("$n", Call("len", (Call("print", (Path("$n"), Literal("\n"))),)), declare=False),
            ),
            "$i",
            "$m",
        ),
        Text("<end>"),
    )
    assert (
        emit(template)
        == """\
{{- define "bare" }}{{ . }}
{{- end }}
{{- $n := 0 }}
{{- range $i, $m := .Messages }}
  {{- if eq .Role "user" }}<user>
{{ .Content }}</user>
{{ else if eq .Role "assistant" }}{
    {{- if not .Content }}
      {{- break }}
    {{- end }}{{ template "bare" .Content }}{{ "{{" }}x}}
  {{- else }}{{ `say "hi"` }}
  {{- end }}
  {{- $n = len (print $n "\\n") }}
{{- end }}<end>"""
    )


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a\nb{{ nope }}", 2, "function 'nope' not defined"),
        ("{{ if 1 }}\n\n{{ $x }}{{ end }}", 3, "undefined variable $x"),
        ("\n{{ if 1 }}\n", 3, "unexpected the end of the text"),
        ('{{ template "x" }}', 1, "write a dot"),
        ("{{ 1 }}\n{{ end }}", 2, "unexpected 'end'"),
        ("\n{{/* never closed", 2, "unclosed comment"),
        ("\n\n{{ .X", 3, "unclosed action"),
        ("\n{{ print '' }}", 2, "malformed character"),
        ("\n{{ range $v = .X }}{{ end }}", 2, "not supported"),
        ("\n{{ .X 1 }}", 2, "cannot have arguments"),
    ],
)
def test_an_error_names_the_line(text: str, line: int, problem: str) -> None:
    with pytest.raises(GoTemplateError, match=f"^line {line}: ") as caught:
        parse(text)
    assert problem in caught.value.problem


@pytest.mark.parametrize(
    "text", ["{{ print " + "(" * 5000 + "1 }}", "{{ if 1 }}" * 5000, "{{ if 0 }}" + "{{ else if 1 }}" * 5000]
)
def test_deep_nesting_is_an_error_and_no_crash(text: str) -> None:
    with pytest.raises(GoTemplateError, match="deep"):
        parse(text)
