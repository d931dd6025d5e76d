from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ggufpack.errors import InvalidModelNameError
from ggufpack.registry.names import latest, parse, suggested, tagged, validate

PART_80 = "8" * 80
HOST_350 = "3" * 350

# Ollama 0.33.0, types/model/name_test.go (TestParseNameParts, TestNameparseNameDefault,
# TestNameIsValid), plus the limits; integration/test_registry.py asks a real server about the same rules
VALID = {
    "registry.ollama.ai/library/dolphin:7b-v2.6-dpo-laser-q6_K": "dolphin:7b-v2.6-dpo-laser-q6_K",
    "scheme://host:1234/namespace/model:tag": "host:1234/namespace/model:tag",
    "host/namespace/model:tag": "host/namespace/model:tag",
    "host:1234/namespace/model": "host:1234/namespace/model:latest",
    "namespace/model": "namespace/model:latest",
    "namespace/model:tag": "namespace/model:tag",
    "model": "model:latest",
    "model:tag": "model:tag",
    "_a/_b:_c": "_a/_b:_c",
    "LIBRARY/Model": "Model:latest",
    "mistral:7b+x".replace("+", "-"): "mistral:7b-x",
    f"{HOST_350}/{PART_80}/{PART_80}:{PART_80}": f"{HOST_350}/{PART_80}/{PART_80}:{PART_80}",
}
INVALID = [
    "",
    " model",
    "my model",
    "model:",
    ":tag",
    "/model",
    "namespace/",
    "host//model",
    "a/b/c/d:e/f",
    "mödel",
    "model@sha256:1",
    "-model",
    ".model",
    "model:-tag",
    "name.space/model",
    "model:ta/g",
    "model\n",
    f"{PART_80}8",
    f"model:{PART_80}8",
    f"{PART_80}8/model",
    f"{HOST_350}3/namespace/model",
    # internal/modelref: these send the request elsewhere
    "model:cloud",
    "model:7b-CLOUD",
    "model:local",
]


@pytest.mark.parametrize(("name", "shortest"), VALID.items())
def test_valid_names(name: str, shortest: str) -> None:
    assert str(parse(name)) == shortest
    assert validate(name) == name


@pytest.mark.parametrize("name", INVALID)
def test_invalid_names_come_with_a_valid_suggestion(name: str) -> None:
    with pytest.raises(InvalidModelNameError) as caught:
        parse(name)
    assert caught.value.exit_code == 2
    assert caught.value.action is not None
    validate(caught.value.action.split('"')[1])


def test_the_error_names_the_part_and_the_character() -> None:
    with pytest.raises(InvalidModelNameError, match=r"the model has ' '.*\"my-model\""):
        parse("My Model")
    with pytest.raises(InvalidModelNameError, match=r"the namespace has '\.'"):
        parse("name.space/model")
    with pytest.raises(InvalidModelNameError, match="the tag is longer than 80"):
        parse("model:" + "x" * 81)


@given(st.text())
@example("..")
@example("-" * 100)
def test_every_suggestion_is_valid_and_stable(text: str) -> None:
    name = suggested(text)
    assert parse(name).tag == "latest"
    assert suggested(name) == name


def test_tags() -> None:
    assert tagged("security", "Q4_K_M") == "security:q4_k_m"
    assert tagged("me/Security", "IQ4_XS") == "me/Security:iq4_xs"
    assert tagged("host:80/me/security", "F16") == "host:80/me/security:f16"
    assert latest("security") == "security:latest"
    with pytest.raises(InvalidModelNameError, match='Give "security"'):
        tagged("security:v2", "Q8_0")
    with pytest.raises(InvalidModelNameError):
        latest("se curity")


def test_one_name_in_two_spellings() -> None:
    assert parse("Library/Model:Q8_0").key == parse("registry.ollama.ai/library/model:q8_0").key
