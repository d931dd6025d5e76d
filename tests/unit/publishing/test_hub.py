"""Uploads to the stand-in of the Hub's API, through huggingface_hub itself."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from click.testing import CliRunner

from ggufpack.cli.main import main
from ggufpack.errors import HubError, UsageError
from ggufpack.modelfile.parse import parse
from ggufpack.publishing.contents import RepoFile
from ggufpack.publishing.hub import parse_target, upload
from tests.support.hub_server import TOKEN, HubState, Repository, running_hub
from tests.support.packages import MODELFILE, make_package
from tests.unit.publishing.test_ollama_files import create_request

Publish = Callable[..., dict[str, Any]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubState]:
    with running_hub() as state:
        # read once, at the import of huggingface_hub
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", state.endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield state


@pytest.fixture
def package(tmp_path: Path) -> Path:
    make_package(tmp_path / "p")
    return tmp_path / "p"


@pytest.fixture
def publish(package: Path) -> Publish:
    def run(*options: str, exit_code: int = 0) -> dict[str, Any]:
        done = CliRunner().invoke(
            main, ["publish", str(package), "--to", "hf:anna/fox-GGUF", "--json", *options]
        )
        assert done.exit_code == exit_code, done.output
        assert TOKEN not in done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run


def test_a_repository_of_a_package(hub: HubState, publish: Publish, package: Path) -> None:
    found = publish("--license", "apache-2.0")
    made = hub.repositories["anna/fox-GGUF"]
    assert made.private
    assert made.messages == ["initial commit", "Upload smollm2-demo"]  # one commit: never half a package
    assert set(found["files"]) == set(made.files) - {".gitattributes"}
    for path in package.glob("*.gguf"):
        assert made.files[path.name] == path.read_bytes()
    assert made.lfs == {path.name for path in package.glob("*.gguf")}
    assert made.files["README.md"].startswith(b"---\nlicense: apache-2.0\n")
    assert not {"ggufpack.json", "report.html"} & set(made.files)
    assert (found["private"], found["commit"], found["deleted"]) == (True, made.sha, [])
    assert found["url"] == f"{hub.endpoint}/anna/fox-GGUF"
    assert found["commands"] == [f"ollama run hf.co/anna/fox-GGUF:{kind}" for kind in ("Q8_0", "Q4_K_M")]


def test_round_trip(hub: HubState, publish: Publish) -> None:
    """What the Hub gives Ollama by its documented rules is the package's Modelfile."""
    publish()
    files = hub.repositories["anna/fox-GGUF"].files
    ollama = {name: files[name] for name in ("template", "params", "system")}
    expected = MODELFILE.to_create_request()
    expected.pop("license")
    assert create_request(ollama) == expected
    # and the Modelfile beside it says the same, of a file that is there
    modelfile = parse(files["Modelfile.Q8_0"].decode())
    assert replace(modelfile, from_="") == MODELFILE
    assert modelfile.from_.removeprefix("./") in files


def test_a_dry_run_sends_nothing_and_is_the_same(hub: HubState, publish: Publish, tmp_path: Path) -> None:
    found = publish("--dry-run", "--output", str(tmp_path / "repo"))
    assert found["dry_run"]
    assert not hub.authorizations
    publish()
    files = hub.repositories["anna/fox-GGUF"].files
    assert {path.name: path.read_bytes() for path in (tmp_path / "repo").iterdir()} == {
        name: content for name, content in files.items() if name != ".gitattributes"
    }


def test_an_interrupted_upload_goes_on(hub: HubState, publish: Publish, package: Path) -> None:
    first, second = (
        hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(package.glob("*.gguf"))[::-1]
    )
    hub.break_off = {second}
    error = publish(exit_code=6)["error"]
    assert error["problem"] == "The Hub's storage refused a file of anna/fox-GGUF (403)."
    assert error["action"].startswith("Run the same command again")
    made = hub.repositories["anna/fox-GGUF"]
    assert set(made.files) == {".gitattributes"}  # nothing is visible yet
    assert set(hub.objects) == {first}

    publish()
    assert [oid for oid, _size in hub.received] == [first, second, second]
    assert hub.received[0] == (first, 200_000)
    assert hub.received[1][1] < 200_000
    assert made.lfs == {path.name for path in package.glob("*.gguf")}
    assert len(made.messages) == 2


def test_again_changes_nothing(hub: HubState, publish: Publish) -> None:
    before = publish()["commit"]
    sent = len(hub.received)
    assert publish()["commit"] == before
    assert len(hub.received) == sent
    assert len(hub.repositories["anna/fox-GGUF"].messages) == 2


def test_a_public_repository_needs_a_word(hub: HubState, publish: Publish) -> None:
    hub.repositories["anna/fox-GGUF"] = Repository(private=False)
    error = publish(exit_code=2)["error"]
    assert error["problem"] == "anna/fox-GGUF exists and is public."
    assert not hub.received
    assert publish("--public")["private"] is False


def test_public_makes_a_public_one(hub: HubState, publish: Publish) -> None:
    assert publish("--public")["private"] is False
    assert not hub.repositories["anna/fox-GGUF"].private


def test_public_does_not_open_a_private_one(hub: HubState, package: Path) -> None:
    hub.repositories["anna/x"] = Repository(private=True)
    done = CliRunner().invoke(main, ["publish", str(package), "--to", "hf:anna/x", "--public"])
    assert (done.exit_code, hub.repositories["anna/x"].private) == (0, True)
    assert "anna/x exists and stays private" in done.stderr


def test_what_would_change_the_new_files_does_not_stay(
    hub: HubState, publish: Publish, package: Path
) -> None:
    old = {"template": b"old", "system": b"Talk like a pirate.", "notes.txt": b"mine"}
    hub.repositories["anna/fox-GGUF"] = Repository(True, dict(old))
    native = replace(MODELFILE, template=None, system=None)
    for path in package.iterdir():
        path.unlink()
    package.rmdir()
    make_package(package, ("Q8_0",), modelfiles={"Q8_0": native})
    found = publish()
    assert set(found["deleted"]) == {"template", "system"}
    assert found["template"] is False
    files = hub.repositories["anna/fox-GGUF"].files
    assert not {"template", "system"} & set(files)
    assert files["notes.txt"] == b"mine"


def test_another_model_there_is_not_given_this_prompt(hub: HubState, publish: Publish) -> None:
    hub.repositories["anna/fox-GGUF"] = Repository(True, {"other-Q8_0.gguf": b"other"})
    assert "other-Q8_0.gguf, which is not in this package" in publish(exit_code=2)["error"]["problem"]
    assert hub.repositories["anna/fox-GGUF"].files == {"other-Q8_0.gguf": b"other"}
    assert publish("--replace")["deleted"] == ["other-Q8_0.gguf"]
    assert "other-Q8_0.gguf" not in hub.repositories["anna/fox-GGUF"].files


def test_unverified_is_refused_before_anything_is_sent(hub: HubState, tmp_path: Path) -> None:
    make_package(tmp_path / "bad", ("Q8_0",), wrong=("Q8_0",))
    words = ["publish", str(tmp_path / "bad"), "--to", "hf:anna/x", "--quiet"]
    done = CliRunner().invoke(main, words)
    assert (done.exit_code, hub.authorizations) == (3, set())
    assert "--allow GP163" in done.stderr
    done = CliRunner().invoke(main, [*words, "--allow", "gp163"])
    assert done.exit_code == 0, done.output
    assert b"**Failed.**" in hub.repositories["anna/x"].files["README.md"]


@pytest.mark.parametrize(
    ("part", "status", "problem", "action"),
    [
        ("/repos/create", 401, "The Hub does not accept the token for anna/fox-GGUF (401)", "hf auth login"),
        ("", 403, "The token may not write to anna/fox-GGUF (403)", "hf auth login"),
        ("/repos/create", 500, "The Hub failed (500)", "Run the same command again"),
        ("/commit/", 503, "The Hub failed (503)", "Run the same command again"),
        ("/commit/", 412, "was changed by somebody else in the meantime (412)", "Run the same command again"),
        ("/commit/", 400, "The Hub refused the upload to anna/fox-GGUF (400)", "settings"),
    ],
)
def test_a_refusal_is_one_sentence(
    hub: HubState, publish: Publish, part: str, status: int, problem: str, action: str
) -> None:
    hub.refusals = [(part, status, "said the Hub")]
    error = publish(exit_code=6)["error"]
    assert problem in error["problem"]
    assert "said the Hub" in error["problem"]
    assert "\n" not in error["problem"]
    assert "http" not in error["problem"]  # addresses may be signed
    assert action in error["action"]
    assert "README.md" not in getattr(hub.repositories.get("anna/fox-GGUF"), "files", {})


def test_a_hub_that_is_not_there(hub: HubState, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    error = publish(exit_code=6)["error"]
    assert error["problem"].startswith("The Hub cannot be reached, or broke off (")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "does not accept the token" in publish(exit_code=6)["error"]["problem"]


def test_no_token(hub: HubState, publish: Publish, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert publish(exit_code=6)["error"]["problem"] == "There is no token for the Hub."
    assert not hub.authorizations


def test_a_file_that_changes_while_it_is_sent_is_not_committed(hub: HubState, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"new")
    old = hashlib.sha256(b"old").hexdigest()
    with pytest.raises(HubError, match=r"x\.gguf was changed while it was uploaded"):
        upload("anna/x", [RepoFile("x.gguf", tmp_path / "x.gguf", old)], "m")
    assert set(hub.repositories["anna/x"].files) == {".gitattributes"}


def test_the_token_is_in_no_log(hub: HubState, publish: Publish, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        publish()
        hub.refusals = [("", 403, "no")]
        publish(exit_code=6)
    assert f"Bearer {TOKEN}" in hub.authorizations
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    "text", ["anna/x", "hf:x", "hf:anna/x/y", "hf:anna/../x", "hf:/x", "hf:anna/", "hf:anna/-x", "ms:anna/x"]
)
def test_what_is_no_repository(text: str) -> None:
    with pytest.raises(UsageError, match="is no repository on the Hub"):
        parse_target(text)
    assert parse_target("hf:anna/SmolLM2-1.7B_x") == "anna/SmolLM2-1.7B_x"


@pytest.mark.parametrize("words", [["--dry-run"], ["--output", "x"]])
def test_dry_run_and_output_belong_together(package: Path, words: list[str]) -> None:
    done = CliRunner().invoke(main, ["publish", str(package), "--to", "hf:anna/x", *words])
    assert (done.exit_code, "belong together" in done.stderr) == (2, True)
