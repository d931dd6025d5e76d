"""A Modelfile as the files of a repository, and refused where it cannot be."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from ggufpack.errors import ModelfileError
from ggufpack.modelfile.model import Modelfile
from ggufpack.publishing.ollama_files import ollama_files, shared_modelfile
from ggufpack.quantize.types import FILE_TYPES
from tests.support.packages import MODELFILE


def create_request(files: dict[str, bytes]) -> dict[str, Any]:
    """What the Hub's bridge makes of a repository, by its documentation: each file is one field, as it is."""
    read: dict[str, Any] = {"template": bytes.decode, "system": bytes.decode, "params": json.loads}
    names = {"params": "parameters"}
    return {names.get(name, name): read[name](content) for name, content in files.items()}


def test_the_files_are_the_create_request() -> None:
    expected = MODELFILE.to_create_request()
    del expected["license"]
    assert create_request(ollama_files(MODELFILE)) == expected
    assert expected["parameters"]["stop"] == ["<|im_end|>", "<|im_start|>"]
    assert expected["system"].endswith("ünïcödé.")


def test_only_what_the_modelfile_has() -> None:
    assert ollama_files(Modelfile("x")) == {}
    assert set(ollama_files(Modelfile("x", system="Be kind."))) == {"system"}


def test_one_modelfile_for_all_types() -> None:
    shared = shared_modelfile(
        {"Q8_0": replace(MODELFILE, from_="./a.gguf"), "Q4_K_M": replace(MODELFILE, from_="./b.gguf")}
    )
    assert shared == MODELFILE
    with pytest.raises(ModelfileError, match="no Modelfile"):
        shared_modelfile({})


@pytest.mark.parametrize(
    ("change", "instruction"),
    [
        ({"template": "{{ .Prompt }}"}, "TEMPLATE"),
        ({"system": None}, "SYSTEM"),
        ({"parameters": ()}, "PARAMETER"),
        ({"license": ()}, "LICENSE"),
    ],
)
def test_modelfiles_that_differ_are_refused(change: dict[str, Any], instruction: str) -> None:
    with pytest.raises(ModelfileError, match=f"Q8_0 and Q4_K_M have different {instruction}") as caught:
        shared_modelfile({"Q8_0": MODELFILE, "Q4_K_M": replace(MODELFILE, **change)})
    assert caught.value.key == instruction


@pytest.mark.parametrize(
    ("change", "instruction"),
    [
        ({"renderer": "qwen3"}, "RENDERER"),
        ({"parser": "qwen3"}, "PARSER"),
        ({"messages": (("user", "Hi"),)}, "MESSAGE"),
        ({"adapters": ("./a.gguf",)}, "ADAPTER"),
        ({"draft": "./d.gguf"}, "DRAFT"),
    ],
)
def test_what_a_repository_cannot_hold_is_refused(change: dict[str, Any], instruction: str) -> None:
    with pytest.raises(ModelfileError, match=f"has {instruction}, for which a repository has no place"):
        shared_modelfile({"Q8_0": replace(MODELFILE, **change)})


# alternatives are tried from the left, so their order matters
LABELS = re.compile(
    "(?:F32|F16|Q4_0|Q4_1|Q8_0|Q5_0|Q5_1|Q2_K|Q3_K_S|Q3_K_M|Q3_K_L|Q4_K_S|Q4_K_M|Q5_K_S|Q5_K_M|Q6_K"
    "|IQ4_NL|IQ4_XS|BF16)(?:_[A-Z]+)?"
)


def quantization_label(name: str) -> str | None:
    """The tag that the Hub reads from a file's name: the last match, in upper case.

    Source: huggingface.js, packages/tasks/src/gguf.ts, parseGGUFQuantLabel, and its list of types in its
    order, without those that ggufpack does not write.
    """
    found: list[str] = LABELS.findall(name.upper())
    return found[-1] if found else None


@pytest.mark.parametrize("kind", FILE_TYPES)
@pytest.mark.parametrize("name", ["smollm2", "my-q8_0-tune", "f16"])
def test_the_tag_of_each_file_is_its_type(name: str, kind: str) -> None:
    assert quantization_label(f"{name}-{kind}.gguf") == kind
