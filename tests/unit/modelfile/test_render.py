from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ggufpack.errors import ModelfileError
from ggufpack.modelfile.model import Modelfile
from ggufpack.modelfile.parse import parse
from ggufpack.modelfile.render import inexpressible, quoted, render
from tests.support.go_chatml import go_chatml
from tests.support.go_template_oracle.oracle import GoOracle

VALUES = st.one_of(
    st.text(st.characters(exclude_categories=("Cn", "Cs"), max_codepoint=0x1FFFF), max_size=12),
    st.lists(
        st.sampled_from(
            ['"', '""', '"""', "\n", "\r", " ", "\t", "a", "#", "é日👍🏽", "\u00a0", "\u200d", "{{ .X }}"]
        ),
        max_size=10,
    ).map("".join),
).filter(bool)


@st.composite
def modelfiles(draw: st.DrawFn) -> Modelfile:
    keys = st.sampled_from(["stop", "num_ctx", "temperature"])
    roles = st.sampled_from(["system", "user", "assistant"])
    return Modelfile(
        from_=draw(VALUES),
        template=draw(st.none() | VALUES),
        system=draw(st.none() | VALUES),
        parameters=tuple(draw(st.lists(st.tuples(keys, VALUES), max_size=3))),
        license=tuple(draw(st.lists(VALUES, max_size=2))),
        messages=tuple(draw(st.lists(st.tuples(roles, VALUES), max_size=2))),
        adapters=tuple(draw(st.lists(VALUES, max_size=1))),
        draft=draw(st.none() | VALUES),
        renderer=draw(st.none() | VALUES),
        parser=draw(st.none() | VALUES),
        requires=draw(st.none() | VALUES),
    )


def test_golden() -> None:
    modelfile = Modelfile(
        from_="./m.gguf",
        template="{{ .Prompt }}",
        system='Say "hi"\nor not',
        parameters=(("num_ctx", "8192"), ("stop", "<|im_end|>"), ("stop", "\n\nUser:"), ("stop", " x")),
        license=("MIT\n",),
        requires="0.30.0",
    )
    assert render(modelfile) == (
        'FROM ./m.gguf\nREQUIRES 0.30.0\nTEMPLATE {{ .Prompt }}\nSYSTEM """Say "hi"\nor not"""\n'
        'PARAMETER num_ctx 8192\nPARAMETER stop <|im_end|>\nPARAMETER stop """\n\nUser:"""\n'
        'PARAMETER stop " x"\n'
        'LICENSE """MIT\n"""\n'
    )


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(modelfiles())
@example(Modelfile("a", system='"'))
@example(Modelfile("a", system='""'))
@example(Modelfile("a", system='x"'))
@example(Modelfile("a", system='"""'))
@example(Modelfile("a", system='in the """ middle\nof a line'))
@example(Modelfile("a", system="tab\tand\r\nline ends"))
def test_what_is_written_is_read_back(modelfile: Modelfile) -> None:
    findings = inexpressible(modelfile)
    if findings:
        with pytest.raises(ModelfileError) as caught:
            render(modelfile)
        assert (caught.value.finding, caught.value.key) == (findings[0].id, findings[0].key)
    else:
        assert parse(render(modelfile)) == modelfile


@pytest.mark.go
@settings(max_examples=12, suppress_health_check=list(HealthCheck), deadline=None)
@given(st.lists(modelfiles(), min_size=10, max_size=30))
def test_what_is_written_is_read_back_by_ollama(go_oracle: GoOracle, made: list[Modelfile]) -> None:
    written = [modelfile for modelfile in made if not inexpressible(modelfile)]
    answers = go_oracle.ask("parse", [{"text": render(modelfile)} for modelfile in written])
    for modelfile, answer in zip(written, answers, strict=True):
        read: dict[str, list[str]] = {}
        for command in answer["commands"]:
            read.setdefault(command["name"], []).append(command["args"])
        assert read["model"] == [modelfile.from_]
        assert read.get("template", [None])[0] == modelfile.template
        assert read.get("system", [None])[0] == modelfile.system
        assert read.get("license", []) == list(modelfile.license)
        assert read.get("stop", []) == [value for key, value in modelfile.parameters if key == "stop"]
        assert read.get("message", []) == [f"{role}: {content}" for role, content in modelfile.messages]


@pytest.mark.parametrize(
    ("value", "finding", "named"),
    [
        ('ends a line with """\nand goes on', "GP502", "SYSTEM"),
        ('"""\n', "GP502", "SYSTEM"),
        ("no\u00a0break", "GP503", "U\\+00A0"),
        ("family 👨\u200d👩", "GP503", "U\\+200D"),
        ("nul\x00", "GP503", "U\\+0000"),
    ],
)
def test_what_text_cannot_say(value: str, finding: str, named: str) -> None:
    modelfile = Modelfile("a", system=value)
    with pytest.raises(ModelfileError, match=named) as caught:
        render(modelfile)
    assert (caught.value.finding, caught.value.key) == (finding, "SYSTEM")
    assert [item.id for item in inexpressible(modelfile)] == [finding]
    assert modelfile.to_create_request() == {"system": value}  # the API can


def test_the_plainest_quoting_is_taken() -> None:
    assert [quoted(value) for value in ("x", " x", 'a"b', '"a', "", "a\nb")] == [
        "x",
        '" x"',
        'a"b',
        '""a"',
        '""',
        '"""a\nb"""',
    ]


def test_the_go_template_for_chatml_can_be_written() -> None:
    modelfile = Modelfile("a", template=go_chatml("You are Qwen."))
    assert parse(render(modelfile)) == modelfile
