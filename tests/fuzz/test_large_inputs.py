"""What only size or a loop shows: inputs that once took minutes, gigabytes or for ever.

Each is refused, or read in time that grows with its size; the times are of the processor and generous.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest

from ggufpack.batch.journal import Journal
from ggufpack.chat_template.conversation import Conversation, Message
from ggufpack.chat_template.go.errors import GoTemplateError
from ggufpack.chat_template.go.evaluate import render
from ggufpack.chat_template.go.parse import MAX_CHARACTERS
from ggufpack.chat_template.go.parse import parse as parse_go
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.checkpoint.adapter_config import read_adapter_config
from ggufpack.checkpoint.generation import read_generation
from ggufpack.checkpoint.tensors import read_tensors
from ggufpack.errors import AdapterError, ChatTemplateError, JournalError, ModelfileError, TensorFileError
from ggufpack.modelfile.parse import parse
from tests.unit.checkpoint.builders import write_safetensors


@contextmanager
def within(seconds: float) -> Iterator[None]:
    begun = time.thread_time()
    yield
    assert time.thread_time() - begun < seconds


def test_a_modelfile_of_many_lines() -> None:
    with within(5), pytest.raises(ModelfileError, match="line 1: the quotes"):
        parse('FROM "' + "\n" * 50_000)
    with within(10):
        assert len(parse("FROM a\n" + "LICENSE b\n" * 50_000).license) == 50_000


def test_a_go_template_of_many_actions() -> None:
    with within(10):
        assert len(parse_go("{{- .A -}}\n" * 20_000)) == 20_000


def test_a_go_template_longer_than_any() -> None:
    with within(5):  # the most that is read
        parse_go("{{$a:=1}}" * (MAX_CHARACTERS // 9))
    with within(0.1), pytest.raises(GoTemplateError, match="more than the 262,144 allowed"):
        parse_go(" " * (MAX_CHARACTERS + 1))


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{ range 1000000000 }}{{ end }}", "steps"),
        ("{{ range 1000000000 }}x{{ end }}", "steps|prints"),
        (
            '{{ define "t" }}{{ template "t" . }}{{ template "t" . }}{{ end }}{{ template "t" . }}',
            "deep|steps",
        ),
        ('{{ $x := "ab" }}{{ range 40 }}{{ $x = printf "%s%s" $x $x }}{{ end }}{{ $x }}', "bytes"),
        ('{{ printf "%999999999d" 1 }}', "width"),
        (f'{{{{ printf "%{"9" * 5000}d" 1 }}}}', "width"),
        (f"{{{{ {'1' * 5000} }}}}", "number"),
    ],
)
def test_a_go_template_that_never_ends_or_grows(template: str, problem: str) -> None:
    conversation = Conversation("c", (Message("user", "hi"),))
    with within(20), pytest.raises(GoTemplateError, match=problem):
        render(parse_go("{{ range .Messages }}{{ end }}" + template), conversation, today=date(2026, 1, 1))


@pytest.mark.parametrize(
    "text",
    [
        "{{ " + "1" * 5000 + " }}",
        "{% for a in [1] %}" * 25 + "x" + "{% endfor %}" * 25,
        "{% if a %}" * 120 + "x" + "{% endif %}" * 120,
    ],
)
def test_a_chat_template_that_python_cannot_compile(text: str) -> None:
    with pytest.raises(ChatTemplateError) as caught:
        ChatTemplate(text)
    assert caught.value.finding == "GP420"


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("(a*)*b", "repeats a group"),
        ("(?:a|a)+b", "repeats a group"),
        ("a*a*a*a*b", "more than 3 repetitions"),
        ("(a|a)" * 30, "3 groups"),
        ("a?" * 40 + "b", "more than 3 repetitions"),
        ("(?i)q_proj", "no regular expression"),
        ("a{99999999999}", "no regular expression"),
        ("[", "no regular expression"),
    ],
)
def test_patterns_of_an_adapter_are_bounded(tmp_path: Path, pattern: str, problem: str) -> None:
    config = {"peft_type": "LORA", "rank_pattern": {pattern: 2}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterError, match=problem):
        read_adapter_config(tmp_path)


def test_patterns_match_as_in_peft(tmp_path: Path) -> None:
    patterns = {"a)|(b": 2, r".*layers\.\d+\.(q|k)_proj": 3, "model.lm_head": 4}
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "rank_pattern": patterns}))
    config = read_adapter_config(tmp_path)
    modules = ("x.a", "model.layers.12.k_proj", "model.lm_head", "other")
    assert [config.rank_of(module) for module in modules] == [2, 3, 4, 8]


def test_numbers_that_no_float_holds(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(f'{{"temperature": 1{"0" * 400}}}')
    generation, findings = read_generation(tmp_path, {}, tmp_path / "config.json")
    assert generation.temperature is None
    assert "GP112" in {finding.id for finding in findings}
    for key in ("lora_alpha", "r"):
        (tmp_path / "adapter_config.json").write_text(f'{{"peft_type": "LORA", "{key}": 1{"0" * 400}}}')
        with pytest.raises(AdapterError, match=key):
            read_adapter_config(tmp_path)


def test_names_that_promise_millions_of_shards(tmp_path: Path) -> None:
    for number in range(40):
        write_safetensors(tmp_path / f"model{number}-1-of-99999.safetensors", {f"t{number}": ("U8", (1,))})
    with within(5), pytest.raises(TensorFileError, match="shards are missing") as caught:
        read_tensors(tmp_path)
    assert len(str(caught.value)) < 1000


def _other_program(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE notes (text)")


def _endless_view(connection: sqlite3.Connection) -> None:
    connection.execute("DROP TABLE items")
    columns = (
        "target, key, checkpoint, state, spec_digest, input_digest, lease, owner, token, outcome, outputs"
    )
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    values = ", ".join(f"i AS {column}" for column in columns.split(", "))
    connection.execute(f"CREATE VIEW items AS SELECT {values}, 0.0 AS changed FROM ({endless})")  # noqa: S608


def _no_json(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO items VALUES ('/a','a','/a','done','s',NULL,NULL,NULL,'t','{','{}',0.0)")


def _foreign_state(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO items VALUES ('/a','a','/a','odd','s',NULL,NULL,NULL,'t','{}','{}',0.0)")


@pytest.mark.parametrize("damage", [_endless_view, _no_json, _foreign_state])
def test_a_journal_that_is_somebody_s_program(
    tmp_path: Path, damage: Callable[[sqlite3.Connection], None]
) -> None:
    path = tmp_path / "journal.sqlite"
    Journal(path).close()
    with sqlite3.connect(path) as connection:
        damage(connection)
    connection.close()
    with within(5), pytest.raises(JournalError, match="damaged"), Journal(path) as journal:
        journal.entries()


def test_another_program_s_database_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as connection:
        _other_program(connection)
    connection.close()
    before = path.read_bytes()
    with pytest.raises(JournalError, match="another program"):
        Journal(path)
    assert path.read_bytes() == before
