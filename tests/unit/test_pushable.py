"""What a package's record decides about a push; the push itself is in integration/test_push.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ggufpack
from ggufpack.errors import (
    InvalidModelNameError,
    ModelNotFoundError,
    ServerUnreachableError,
    UsageError,
    VerificationError,
)
from ggufpack.package_folder import RECORD_NAME
from ggufpack.pushable import check_status, expected_digests, package_at, registered_as
from tests.support import records
from tests.support.ollama_server import free_port

TYPES = ("Q8_0", "Q4_K_M")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / RECORD_NAME).write_text(json.dumps(records.record(TYPES)))
    return tmp_path


def test_the_type_in_the_tag_or_the_first(folder: Path) -> None:
    package = package_at(folder)
    assert package is not None
    digests = {file.quantization: file.sha256 for file in package.files}
    for tag, kind in (("q4_k_m", "Q4_K_M"), ("Q4_K_M", "Q4_K_M"), ("latest", "Q8_0"), ("v1", "Q8_0")):
        expected = (f"smollm2-demo:{kind.lower()}", digests[kind])
        assert registered_as(package, folder, tag) == expected
    assert check_status(package, folder) == ()


def test_a_package_that_failed(tmp_path: Path) -> None:
    (tmp_path / RECORD_NAME).write_text(json.dumps(records.record(TYPES, wrong=["Q8_0"])))
    package = package_at(tmp_path)
    assert package is not None
    with pytest.raises(VerificationError, match="says failed") as caught:
        check_status(package, tmp_path)
    assert (caught.value.finding, caught.value.exit_code) == ("GP163", 7)
    with pytest.raises(ModelNotFoundError, match="was not registered"):
        registered_as(package, tmp_path, "latest")


def test_a_folder_with_a_models_name_is_a_package_only_with_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "security").mkdir()
    assert package_at("security") is None
    for word in ("./security", str(tmp_path / "security"), "./nothing"):
        with pytest.raises(UsageError):
            package_at(word)
    (tmp_path / "security" / RECORD_NAME).write_text(json.dumps(records.record(TYPES)))
    assert package_at("security") is not None


def test_what_is_expected(folder: Path) -> None:
    assert expected_digests(None) == frozenset()
    assert expected_digests("sha256:" + "AB" * 32) == expected_digests("ab" * 32) == {"ab" * 32}
    assert expected_digests(folder) == {"a" * 64, "b" * 64}
    for wrong in (
        "sha256:" + "g" * 64,
        "sha256:abc",
        "sha512:" + "a" * 64,
        "",
        "ab" * 32 + "\n",
        folder / "no",
    ):
        with pytest.raises(UsageError):
            expected_digests(wrong)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("security", "no namespace of yours"),
        ("library/security", "no namespace of yours"),
        ("registry.ollama.ai/library/security", "no namespace of yours"),
        ("http://registry.lan/team/security", "has a scheme in it"),
        ("team/sec urity", "not a model name"),
        ("team/security:cloud", "another place"),
    ],
)
def test_names_that_nobody_can_push_to_are_refused_before_the_server_is_asked(name: str, words: str) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    with pytest.raises(InvalidModelNameError, match=words) as caught:
        ggufpack.push("mine", to=name, host=nobody)
    assert caught.value.exit_code == 2
    assert caught.value.action
    with pytest.raises(ServerUnreachableError):
        ggufpack.push("mine", to="team/security", host=nobody)


def test_a_package_needs_a_name(folder: Path) -> None:
    with pytest.raises(UsageError, match="where to"):
        ggufpack.push(folder)
