from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ggufpack.errors import ModelfileError
from ggufpack.modelfile.model import Modelfile
from ggufpack.modelfile.parse import parse, parse_commands
from ggufpack.modelfile.render import render
from tests.support.go_template_oracle.oracle import GoOracle


def test_all_instructions() -> None:
    text = (
        'FROM ./m.gguf\nADAPTER ./a\nadapter "./b c"\nDRAFT d\nREQUIRES 0.30.0\nRENDERER qwen3\n'
        "PARSER qwen3\n"
        'Template """{{ .Prompt }}\n"""\nSYSTEM "be\nbrief"\n# comment\nPARAMETER stop "<|im_end|>"\n'
        "PARAMETER stop  x y \nPARAMETER num_ctx 4096\nMESSAGE user hi: there\nLICENSE one\nLICENSE two"
    )
    assert parse(text) == Modelfile(
        from_="./m.gguf",
        template="{{ .Prompt }}\n",
        system="be\nbrief",
        parameters=(("stop", "<|im_end|>"), ("stop", "x y"), ("num_ctx", "4096")),
        license=("one", "two"),
        messages=(("user", "hi: there"),),
        adapters=("./a", "./b c"),
        draft="d",
        renderer="qwen3",
        parser="qwen3",
        requires="0.30.0",
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no FROM"),
        ("SYSTEM x", "no FROM"),
        ("FROM", "ends after 'FROM'"),
        ("FROM a\nFORM b", "line 2: 'form' is not an instruction"),
        ("FROM a\n\nFROM b\nFROM c", "more than two FROM"),
        ('FROM a\nSYSTEM "x', "line 2: the quotes opened here are not closed"),
        ('FROM a\nSYSTEM """x""\ny', "not closed"),
        ("FROM a\nMESSAGE tool x", "line 2: 'tool' is not a role"),
        ("FROM a\nPARAMETER top-k 1", "line 2: 'top-' is no word"),
        ("FROM a\r\nFROM\r\n", "line 2"),
    ],
)
def test_errors_name_the_line(text: str, problem: str) -> None:
    with pytest.raises(ModelfileError, match=problem) as caught:
        parse(text)
    assert (caught.value.finding, caught.value.exit_code) == ("GP501", 5)


def test_the_last_of_a_repeated_instruction_counts() -> None:
    assert parse("FROM a\nSYSTEM x\nSYSTEM y").system == "y"


def test_a_second_from_is_a_vision_tower() -> None:
    found = parse("FROM a.gguf\nFROM tower.gguf")
    assert (found.from_, found.projector) == ("a.gguf", "tower.gguf")
    assert parse(render(found)) == found
    assert parse("FROM a.gguf").projector is None


# Characters that this Python does not know may be known to Go (see is_kept).
KNOWN_CHARACTERS = st.characters(exclude_categories=("Cn", "Cs"), max_codepoint=0x1FFFF)
INSTRUCTIONS = [
    "FROM ",
    "from\t",
    "PARAMETER stop ",
    "PARAMETER  ",
    "MESSAGE user ",
    "MESSAGE User ",
    "TEMPLATE ",
]
INSTRUCTIONS += [
    "SYSTEM ",
    "LICENSE ",
    "REQUIRES ",
    "DRAFT ",
    "DRAFT",
    "# c ",
    "#",
    "temperature ",
    "0.5",
    "x",
]
MARKS = [
    '"',
    '""',
    '"""',
    "\n",
    "\r",
    "\r\n",
    " ",
    "\t",
    "\u00a0",
    "\u200d",
    "\ufeff",
    "\u3000",
    "\x00",
    "\x0b",
]
PIECES = st.one_of(
    st.sampled_from(INSTRUCTIONS),
    st.sampled_from(MARKS),
    st.sampled_from(["é", "日", "👍🏽", "\ufe0f", "\u0301"]),
    st.text(KNOWN_CHARACTERS, max_size=6),
)


def asked(oracle: GoOracle, texts: list[str]) -> list[list[tuple[str, str]] | None]:
    answers = oracle.ask("parse", [{"text": text} for text in texts])
    return [
        None if "error" in answer else [(item["name"], item["args"]) for item in answer["commands"]]
        for answer in answers
    ]


def ours(text: str) -> list[tuple[str, str]] | None:
    try:
        commands = parse_commands(text)
    except ModelfileError:
        return None
    named: list[tuple[str, str]] = []
    for command in commands:
        if command.name == "from":
            named.append(("model", command.value))
        elif command.name == "parameter":
            named.append((command.word or "", command.value))
        elif command.name == "message":
            named.append(("message", f"{command.word}: {command.value}"))
        else:
            named.append((command.name, command.value))
    return named


@pytest.mark.go
@settings(max_examples=30, suppress_health_check=list(HealthCheck), deadline=None)
@example(
    texts=['FROM a\nSYSTEM """\n"""', 'FROM a\nSYSTEM """a"""\nb"""', "\u200bFROM a", "FROM \nSYSTEM x", ""]
)
@given(texts=st.lists(st.lists(PIECES, max_size=14).map("".join), min_size=20, max_size=60))
def test_parses_as_ollama_does(texts: list[str], go_oracle: GoOracle) -> None:
    # half of them with a beginning that makes it likely that something is parsed at all
    texts = [text if number % 2 else f"FROM x\n{text}" for number, text in enumerate(texts)]
    for text, expected in zip(texts, asked(go_oracle, texts), strict=True):
        assert ours(text) == expected, repr(text)


@pytest.mark.go
def test_create_request_as_ollama_makes_it(go_oracle: GoOracle) -> None:
    text = (
        'FROM nosuch\nTEMPLATE """{{ .Prompt }} <>&"""\nSYSTEM s\nPARAMETER stop a\nPARAMETER stop "b c"\n'
        "PARAMETER num_ctx 4096\nPARAMETER temperature 0.7\nPARAMETER temperature .5\nPARAMETER use_mmap T\n"
        "PARAMETER mirostat 1\nMESSAGE user hi\nLICENSE l\nREQUIRES v0.30.0\nRENDERER r\nPARSER p\n"
        "PARAMETER top_k +40\nPARAMETER main_gpu 1\n"
    )
    (answer,) = go_oracle.ask("parse", [{"text": text}])
    request: dict[str, Any] = answer["request"]
    expected = {key: request[key] for key in request if key not in {"model", "name", "from"}}
    assert parse(text).to_create_request() == expected
