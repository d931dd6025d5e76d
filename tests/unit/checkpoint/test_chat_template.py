"""The source of the chat template, against transformers and gguf-py themselves."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from gguf import SpecialVocab
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models

from ggufpack.checkpoint.chat_template import MAX_TEMPLATE_BYTES, ChatTemplate, read_chat_template
from ggufpack.errors import ChatTemplateError, CheckpointFileError, GgufpackError

from .builders import VOCABULARY, write_json

JINJA: dict[str, bytes | None] = {
    "no file": None,
    "file": b"FILE {{ messages }}\n",
    "file with CRLF": b"FILE\r\n{{ messages }}\rend\r\n",
    "empty file": b"",
}
ADDITIONAL: dict[str, dict[str, bytes]] = {
    "none": {},
    "tool_use": {"tool_use.jinja": b"TOOLS\r\n"},
    "default": {"default.jinja": b"ADDITIONAL DEFAULT"},
    "other": {"rag.jinja": b"RAG", "notes.txt": b"x"},
}
CONFIG: dict[str, Any] = {
    "nothing": None,
    "text": "CONFIG\r\n{{ messages }}",
    "same as file": "FILE {{ messages }}\n",
    "list": [{"name": "default", "template": "LIST"}, {"name": "tool_use", "template": "LIST TOOLS"}],
    "list of one": [{"name": "default", "template": "LIST"}],
    "list with two defaults": [{"name": "default", "template": "A"}, {"name": "default", "template": "B"}],
    "list without default": [{"name": "rag", "template": "LIST RAG"}],
    "object": {"default": "OBJECT", "tool_use": "OBJECT TOOLS"},
}


def make(
    folder: Path, jinja: str, additional: str, config: str, *, processor: str | None = None
) -> dict[str, Any]:
    tokenizer = RustTokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))  # noqa: S106
    tokenizer.save(str(folder / "tokenizer.json"))
    content: dict[str, Any] = {"unk_token": "<unk>"}
    if CONFIG[config] is not None:
        content["chat_template"] = CONFIG[config]
    write_json(folder / "tokenizer_config.json", content)
    text = JINJA[jinja]
    if text is not None:
        (folder / "chat_template.jinja").write_bytes(text)
    for name, template in ADDITIONAL[additional].items():
        (folder / "additional_chat_templates").mkdir(exist_ok=True)
        (folder / "additional_chat_templates" / name).write_bytes(template)
    if processor is not None:
        write_json(folder / "chat_template.json", {"chat_template": processor})
    return content


def transformers_picks(folder: Path, *, tools: bool = False) -> str | None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
    try:
        picked: str = tokenizer.get_chat_template(tools=[{}] if tools else None)
    except ValueError:
        return None
    return picked


def converter_picks(folder: Path) -> str | None:
    template = SpecialVocab(folder).chat_template
    if isinstance(template, list):
        return {item["name"]: item["template"] for item in template}.get("default")
    return template if isinstance(template, str) else None


def ids(folder: Path, config: dict[str, Any]) -> list[str]:
    return [finding.id for finding in read_chat_template(folder, config)[1]]


@pytest.mark.parametrize(
    ("jinja", "additional", "config"), list(itertools.product(JINJA, ADDITIONAL, CONFIG))
)
def test_picks_what_transformers_picks(tmp_path: Path, jinja: str, additional: str, config: str) -> None:
    content = make(tmp_path, jinja, additional, config)
    template, findings = read_chat_template(tmp_path, content)
    expected = transformers_picks(tmp_path)
    assert (None if template is None else template.text) == expected
    found = {finding.id for finding in findings}
    several = jinja != "no file" or ADDITIONAL[additional] or CONFIG[config] is not None
    assert ("GP403" in found) == (expected is None and bool(several))
    with_tools = transformers_picks(tmp_path, tools=True)
    assert ("GP402" in found) == (expected is not None and with_tools != expected)
    if template is not None:
        assert template.named["default"] == template.text
        assert with_tools in template.named.values()


@pytest.mark.parametrize(("jinja", "config"), list(itertools.product(JINJA, CONFIG)))
def test_says_when_the_converter_picks_another(tmp_path: Path, jinja: str, config: str) -> None:
    content = make(tmp_path, jinja, "none", config)
    if config == "object":
        # gguf-py ignores an object; it is reported all the same, other readers may use it
        assert ids(tmp_path, content).count("GP401") == (1 if jinja != "no file" else 0)
        return
    template, findings = read_chat_template(tmp_path, content)
    different = converter_picks(tmp_path) != (None if template is None else template.text)
    assert ("GP401" in [finding.id for finding in findings]) == different


def test_the_finding_names_both_files(tmp_path: Path) -> None:
    content = make(tmp_path, "file", "none", "text")
    template, (finding,) = read_chat_template(tmp_path, content)
    assert template is not None
    assert template.origin == tmp_path / "chat_template.jinja"
    assert finding.path == tmp_path / "tokenizer_config.json"
    assert "chat_template.jinja" in finding.message
    assert "llama.cpp" in finding.message


def test_no_template(tmp_path: Path) -> None:
    assert read_chat_template(tmp_path, make(tmp_path, "no file", "none", "nothing")) == (None, ())


def test_the_processors_file_is_the_last_resort(tmp_path: Path) -> None:
    content = make(tmp_path, "no file", "none", "nothing", processor="PROCESSOR")
    template, findings = read_chat_template(tmp_path, content)
    assert template == ChatTemplate("PROCESSOR", tmp_path / "chat_template.json", {"default": "PROCESSOR"})
    assert [finding.id for finding in findings] == ["GP404"]
    assert transformers_picks(tmp_path) is None
    assert converter_picks(tmp_path) == "PROCESSOR"


@pytest.mark.parametrize(("processor", "expected"), [("PROCESSOR", ["GP401"]), ("FILE {{ messages }}\n", [])])
def test_a_processors_file_that_differs_is_reported(
    tmp_path: Path, processor: str, expected: list[str]
) -> None:
    content = make(tmp_path, "file", "none", "nothing", processor=processor)
    assert ids(tmp_path, content) == expected


@pytest.mark.parametrize(
    "value",
    [
        7,
        True,
        ["x"],
        [{"name": "default"}],
        [{"template": "x"}],
        [{"name": 1, "template": "x"}],
        {"default": 1},
    ],
)
def test_a_template_that_is_no_text(tmp_path: Path, value: object) -> None:
    with pytest.raises(ChatTemplateError) as caught:
        read_chat_template(tmp_path, {"chat_template": value})
    assert caught.value.key == "chat_template"
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("place", ["file", "additional", "config", "list", "processor"])
@pytest.mark.parametrize("surplus", [0, 1])
def test_a_template_has_at_most_one_mebibyte(tmp_path: Path, place: str, surplus: int) -> None:
    text = "x" * (MAX_TEMPLATE_BYTES + surplus)
    config: dict[str, Any] = {}
    if place == "file":
        (tmp_path / "chat_template.jinja").write_text(text)
    elif place == "additional":
        (tmp_path / "additional_chat_templates").mkdir()
        (tmp_path / "additional_chat_templates" / "default.jinja").write_text(text)
    elif place == "processor":
        write_json(tmp_path / "chat_template.json", {"chat_template": text})
    else:
        config["chat_template"] = text if place == "config" else [{"name": "default", "template": text}]
    if surplus:
        with pytest.raises(GgufpackError, match="1,048,57"):
            read_chat_template(tmp_path, config)
    else:
        template, _ = read_chat_template(tmp_path, config)
        assert template is not None
        assert template.text == text


def test_a_template_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(CheckpointFileError, match="not UTF-8"):
        read_chat_template(tmp_path, {})


def test_a_template_is_not_shown_in_the_representation() -> None:
    assert "SECRET" not in repr(ChatTemplate("SECRET", Path("x"), {"default": "SECRET"}))


def test_json_keeps_what_the_file_would_normalise(tmp_path: Path) -> None:
    content = make(tmp_path, "no file", "none", "text")
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["chat_template"] == CONFIG["text"]
    template, _ = read_chat_template(tmp_path, content)
    assert template is not None
    assert "\r\n" in template.text
