"""The built-in texts, and reading the user's own."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from ggufpack.chat_template.prompt import Prompt, prepare_prompt
from ggufpack.checkpoint import open_checkpoint
from ggufpack.errors import UsageError
from ggufpack.verification.fidelity import texts as module
from ggufpack.verification.fidelity.builtin import CHATS, PLAIN
from ggufpack.verification.fidelity.texts import Calibration, EvaluationText, builtin_texts, read_calibration

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{% set f = call.function %}[{{ f.name }}:{{ f.arguments | tojson }}]"
    "{% endfor %}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system message') }}{% endif %}" + CHATML
)
BROKEN = "{{ messages[0].content.nothing.more }}" + CHATML
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}


def prompt_of(text: str | None) -> Prompt:
    """What ``prepare_prompt`` makes for a checkpoint with this template."""
    from ggufpack.chat_template.content_form import in_its_form
    from ggufpack.chat_template.render import ChatTemplate
    from ggufpack.chat_template.strategy import plan_without_template

    plan = plan_without_template(encoder=False)
    template = None if text is None else in_its_form(ChatTemplate(text, special_tokens={}))
    return Prompt(template, plan, (), "", (), ())


def read(path: Path, template: str | None = CHATML, *, texts: int = 100, size: int = 10_000) -> Calibration:
    return read_calibration(path, prompt_of(template), max_texts=texts, max_bytes=size)


def lines(folder: Path, *records: Any, name: str = "data.jsonl") -> Path:
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


# --- the built-in set ---------------------------------------------------------


def test_the_built_in_set_is_of_the_announced_size_for_a_real_tokenizer(smollm2: Path) -> None:
    checkpoint = open_checkpoint(smollm2)
    texts = builtin_texts(prepare_prompt(checkpoint, "auto", None))
    tokenizer = Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    lengths = {text.name: len(tokenizer.encode(text.text, add_special_tokens=False).ids) for text in texts}
    assert len(texts) == len(PLAIN) + len(CHATS) == len(lengths)
    assert {name: length for name, length in lengths.items() if not 60 <= length <= 220} == {}
    assert 2_000 <= sum(lengths.values()) <= 3_000


def test_the_built_in_set_has_every_kind_and_many_scripts() -> None:
    texts = builtin_texts(prompt_of(CHATML))
    kinds = {text.kind for text in texts}
    assert kinds >= {"en", "zh", "de", "fr", "es", "ru", "ja", "ar", "hi", "code", "maths", "chat"}
    everything = "".join(text.text for text in texts)
    for script in (
        "[A-z]",
        "[À-ÿ]",
        "[а-я]",
        "[\u0600-\u06ff]",
        "[\u0900-\u097f]",
        "[\u3040-\u30ff]",
        "[\u4e00-\u9fff]",
    ):
        assert len(re.findall(script, everything)) >= 20, script
    assert all(text.text == text.text.replace("\r", "") and text.text.strip() for text in texts)


def test_a_built_in_chat_is_the_whole_conversation_and_ends_with_the_answer() -> None:
    (name, messages), *_ = CHATS
    found = {text.name: text for text in builtin_texts(prompt_of(CHATML)) if text.is_chat}
    assert found[name].text == f"<|user|>{messages[0]['content']}<|end|><|assistant|>{messages[1]['content']}"
    assert all(text.text.endswith(dict(CHATS)[text.name][-1]["content"]) for text in found.values())


def test_chats_that_a_template_refuses_and_all_without_one_are_left_out() -> None:
    without_system = {name for name, messages in CHATS if messages[0]["role"] != "system"}
    chats = {text.name for text in builtin_texts(prompt_of(NO_SYSTEM)) if text.is_chat}
    assert chats == without_system
    assert 0 < len(without_system) < len(CHATS)
    assert [text.name for text in builtin_texts(prompt_of(None))] == [name for name, _kind, _text in PLAIN]


# --- forms of records ---------------------------------------------------------

ASKED = "<|user|>Hi<|end|><|assistant|>Hello."
FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "openai": (CHAT, ASKED),
    "openai, parts": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
                {"role": "assistant", "content": "Hello."},
            ]
        },
        ASKED,
    ),
    "openai, a question at the end": (
        {"messages": [{"role": "user", "content": "Hi"}]},
        "<|user|>Hi<|end|><|assistant|>",
    ),
    "openai, a call": (
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"a": 1}'}}],
                },
                {"role": "tool", "content": "2", "tool_call_id": "1"},
                {"role": "assistant", "content": "Two."},
            ]
        },
        '<|user|>Hi<|end|><|assistant|>[f:{"a": 1}]<|end|><|tool|>2<|end|><|assistant|>Two.',
    ),
    "openai, a call at the end": (
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
            ]
        },
        "<|user|>Hi<|end|><|assistant|>",
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]},
        ASKED,
    ),
    "sharegpt, tools": (
        {
            "system": "S",
            "conversations": [
                {"from": "human", "value": "Hi"},
                {"from": "function_call", "value": '{"name": "f", "arguments": {"a": 1}}'},
                {"from": "observation", "value": "2"},
                {"from": "gpt", "value": "Two."},
            ],
        },
        '<|system|>S<|end|><|user|>Hi<|end|><|assistant|>[f:{"a": 1}]<|end|>'
        "<|tool|>2<|end|><|assistant|>Two.",
    ),
    "alpaca": ({"instruction": "Hi", "input": "", "output": "Hello."}, ASKED),
    "alpaca, everything": (
        {"instruction": "Add.", "input": "1 2", "output": "3", "system": "S", "history": [["a", "b"]]},
        "<|system|>S<|end|><|user|>a<|end|><|assistant|>b<|end|><|user|>Add.\n1 2<|end|><|assistant|>3",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_conversation_becomes_the_prompt(form: str, tmp_path: Path) -> None:
    record, expected = FORMS[form]
    assert read(lines(tmp_path, record)).texts == (EvaluationText("data.jsonl:1", "chat", expected, True),)


def test_plain_records_names_and_kinds(tmp_path: Path) -> None:
    records = [{"text": "Grüezi."}, {"text": "x = 1", "name": "one", "kind": "code"}, {**CHAT, "name": "two"}]
    expected = (
        EvaluationText("data.jsonl:1", "text", "Grüezi.", False),
        EvaluationText("one", "code", "x = 1", False),
        EvaluationText("two", "chat", ASKED, True),
    )
    assert read(lines(tmp_path, *records)).texts == expected
    (tmp_path / "data.json").write_text(json.dumps(records), encoding="utf-8")
    found = read(tmp_path / "data.json").texts
    assert [text.text for text in found] == [text.text for text in expected]
    assert [text.name for text in found] == ["data.json:1", "one", "two"]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ([1], "must be a JSON object, and is an array"),
        ({"prompt": "x"}, "has none of the keys messages, conversations, instruction, text"),
        ({"text": "x", **CHAT}, "key text: stands beside 'messages'"),
        ({"text": " "}, "key text: is empty"),
        ({"text": "\ud800"}, "surrogate"),
        ({"text": "x", "kind": 3}, "key kind: must be a string, and is a number"),
        ({"messages": []}, "key messages: is empty"),
        ({"messages": {}}, "key messages: must be an array, and is an object"),
        ({"messages": ["x"]}, "key messages[0]: must be an object, and is a string"),
        ({"messages": [{"content": "x"}]}, "key messages[0].role: is missing"),
        ({"messages": [{"role": "human", "content": "x"}]}, "key messages[0].role: is 'human'"),
        ({"messages": [{"role": "user", "content": None}]}, "key messages[0].content: must be a string"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "key messages[0].content[0]: is not a part of text",
        ),
        ({"conversations": [{"from": "ghost", "value": "x"}]}, "key conversations[0].from: is 'ghost'"),
        (
            {"conversations": [{"from": "function_call", "value": "f()"}]},
            "key conversations[0].value: is not JSON",
        ),
        ({"instruction": "x"}, "key output: is missing"),
        ({"instruction": "x", "output": "y", "history": ["a"]}, "key history[0]: must be a pair"),
    ],
)
def test_a_bad_record_is_named_with_its_line_and_key(record: Any, said: str, tmp_path: Path) -> None:
    path = lines(tmp_path, {"text": "good"}, record)
    with pytest.raises(UsageError) as caught:
        read(path)
    assert f"{path}, line 2" in caught.value.problem
    assert said in caught.value.problem
    (tmp_path / "data.json").write_text(json.dumps([{"text": "good"}, record]), encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read(tmp_path / "data.json")
    assert f"{tmp_path / 'data.json'}, record 2" in caught.value.problem
    assert said in caught.value.problem


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"text": }', "line 1 is not JSON (column 10"),
        (b'{"text": "a", "text": "b"}', "line 1 gives the key 'text' twice"),
        (b'{"text": "\xff"}', "line 1 is not UTF-8 text (byte 10)"),
        (b"[" * 100_000, "line 1 is not JSON that can be meant"),
    ],
)
def test_a_line_that_is_not_json(line: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(line + b"\n")
    with pytest.raises(UsageError, match=re.escape(said)):
        read(tmp_path / "data.jsonl")


def test_conversations_that_the_template_refuses_are_counted_and_said(tmp_path: Path) -> None:
    refused = {"messages": [{"role": "system", "content": "S"}, *CHAT["messages"]]}
    path = lines(tmp_path, CHAT, refused, {"text": "x"}, refused)
    found = read(path, NO_SYSTEM)
    assert [text.text for text in found.texts] == [ASKED, "x"]
    assert found.refused == 2
    assert found.left_out == (f"the chat template refuses 2 conversations, first {path}, line 2",)
    assert read(path, CHATML).left_out == ()


def test_without_a_template_conversations_are_left_out(tmp_path: Path) -> None:
    path = lines(tmp_path, {"messages": CHAT["messages"][:1]}, {"text": "x"})
    found = read(path, None)
    assert [text.text for text in found.texts] == ["x"]
    assert found.left_out == (f"there is no chat template for 1 conversation, first {path}, line 1",)
    with pytest.raises(UsageError, match=r"gives no text to compare on \(there is no chat template"):
        read(lines(tmp_path, CHAT), None)


def test_a_template_that_fails_is_said_with_the_line(tmp_path: Path) -> None:
    path = lines(tmp_path, CHAT)
    with pytest.raises(UsageError, match="line 1: the chat template fails on it"):
        read(path, BROKEN)


# --- files --------------------------------------------------------------------


def test_a_folder_is_read_in_order_with_its_folders(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "z.md").write_bytes(b"# Z\r\n\r\ntext\r\n")
    (tmp_path / "a.TXT").write_bytes(b"\xef\xbb\xbfone")
    (tmp_path / "c.py").write_text("x = 1\n", encoding="utf-8")
    (tmp_path / ".hidden").write_bytes(b"\xff")
    lines(tmp_path, {"text": "two"}, name="b.JSONL")
    found = read(tmp_path)
    assert [(text.name, text.text) for text in found.texts] == [
        ("a.TXT", "one"),
        ("b/z.md", "# Z\n\ntext\n"),
        ("b.JSONL:1", "two"),
        ("c.py", "x = 1\n"),
    ]
    assert found.left_out == ()
    assert not any(text.is_chat for text in found.texts)


def _empty(folder: Path) -> Path:
    return folder


def _empty_file(folder: Path) -> Path:
    (folder / "a.txt").write_text(" \n", encoding="utf-8")
    return folder


def _binary(folder: Path) -> Path:
    (folder / "a.parquet").write_bytes(b"PAR1\xff\xfe")
    return folder


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.txt")
    return folder


def _link_out(folder: Path) -> Path:
    (folder / "in").mkdir()
    (folder / "secret").write_text("x", encoding="utf-8")
    (folder / "in" / "a.txt").symlink_to(folder / "secret")
    return folder / "in"


def _folder_link(folder: Path) -> Path:
    (folder / "a").mkdir()
    (folder / "b").symlink_to(folder)
    return folder


def _empty_list(folder: Path) -> Path:
    (folder / "a.json").write_text("[]", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_empty, "gives no text to compare on"),
        (_empty_file, "a.txt is empty"),
        (_binary, "a.parquet is not UTF-8 text (byte 4)"),
        (_pipe, "a.txt is not a regular file"),
        (_link_out, "a.txt is a link that leaves the folder"),
        (_folder_link, "b is a link that leads to no file"),
        (_empty_list, "a.json is an empty list"),
        (lambda folder: folder / "nothing", "nothing does not exist"),
    ],
)
def test_what_cannot_be_read(make: Callable[[Path], Path], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        read(make(tmp_path))
    assert caught.value.exit_code == 2


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    (tmp_path / "b.txt").symlink_to("a.txt")
    assert [text.name for text in read(tmp_path).texts] == ["a.txt", "b.txt"]


# --- limits -------------------------------------------------------------------


def test_what_is_over_the_number_of_texts_is_said(tmp_path: Path) -> None:
    first = lines(tmp_path, *({"text": f"text {n}"} for n in range(5)), name="a.jsonl")
    (tmp_path / "b.json").write_text(json.dumps([{"text": "b"}] * 3), encoding="utf-8")
    (tmp_path / "c.txt").write_text("c", encoding="utf-8")
    found = read(tmp_path, texts=3)
    assert [text.text for text in found.texts] == ["text 0", "text 1", "text 2"]
    assert found.left_out == (f"{first} from line 4 on", f"2 more files from {tmp_path / 'b.json'} on")
    assert read(tmp_path, texts=6).left_out == (
        f"{tmp_path / 'b.json'} from record 2 of 3 on",
        f"1 more file from {tmp_path / 'c.txt'} on",
    )
    assert read(tmp_path, texts=9).left_out == ()


@pytest.mark.parametrize("limit", range(8, 22))
def test_a_large_file_is_cut_at_a_space_and_said(limit: int, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("äöü äöü äöü", encoding="utf-8")  # 20 bytes: 6 + 1 + 6 + 1 + 6
    found = read(path, size=limit)
    kept = found.texts[0].text
    if limit >= 20:
        assert (kept, found.left_out) == ("äöü äöü äöü", ())
    else:
        assert kept == ("äöü äöü" if limit >= 14 else "äöü")
        assert found.left_out == (f"{path} after its first {len(kept.encode())} bytes",)


def test_bytes_are_counted_over_all_texts(tmp_path: Path) -> None:
    path = lines(tmp_path, {"text": "12345"}, {"text": "12 45678"}, {"text": "x"})
    found = read(path, size=10)
    assert [text.text for text in found.texts] == ["12345", "12"]
    assert found.left_out == (f"{path}, line 2 after its first 2 bytes", f"{path} from line 3 on")


def test_a_large_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"good text " * 10 + b"\xff")
    assert read(path, size=50).texts[0].text == "good text " * 4 + "good text"
    with pytest.raises(UsageError, match="not UTF-8"):
        read(path, size=200)


def test_sizes_that_cannot_be_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 1 << 20)
    monkeypatch.setattr(module, "MAX_JSON_BYTES", 1 << 20)
    monkeypatch.setattr(module, "MAX_FILES", 3)
    path = lines(tmp_path, {"text": "x" * (1 << 20)})
    with pytest.raises(UsageError, match="line 1, is longer than 1 MiB"):
        read(path)
    path.rename(tmp_path / "data.json")
    with pytest.raises(UsageError, match=r"data.json is larger than 1 MiB. Write it as JSON lines"):
        read(tmp_path / "data.json")
    (tmp_path / "data.json").unlink()
    (tmp_path / "deep").mkdir()
    for number in range(4):
        (tmp_path / "deep" / f"{number}.txt").write_text("x", encoding="utf-8")
    with pytest.raises(UsageError, match="holds more than 3 files"):
        read(tmp_path)
    (tmp_path / "deep" / "0.txt").unlink()
    assert len(read(tmp_path).texts) == 3
