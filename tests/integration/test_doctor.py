"""doctor with real parts: packages of the library's own build, and a real Ollama."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest

import ggufpack
from ggufpack.doctor import Examination, examine
from ggufpack.modelfile.parse import parse
from ggufpack.registry import OllamaServer
from tests.support.ollama_server import RunningOllama


@pytest.fixture(scope="module")
def package(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    done = ggufpack.build(
        smollm2,
        name="doctor-smol",
        quantization="Q8_0",
        output=tmp_path_factory.mktemp("doctor"),
        register=False,
        verify="none",
        threads=2,
    )
    return done.package.folder


@pytest.fixture
def server(ollama_server: RunningOllama) -> Iterator[OllamaServer]:
    client = OllamaServer(ollama_server.host)
    before = set(client.names())
    yield client
    for name in set(client.names()) - before:
        client.delete(name)
    client.close()


def ids(found: Examination) -> set[str]:
    return {each.id for each in found.findings}


def test_the_real_checkpoint_is_fine_to_the_last_weight(smollm2: Path) -> None:
    found = examine(smollm2, deep=True)
    assert found.status == "fine"
    assert not found.not_checked
    assert {"weights", "converter", "chat template"} <= set(found.checked)


def test_our_own_package_has_no_finding_but_that_it_is_not_verified(package: Path) -> None:
    found = examine(package, deep=True)
    assert ids(found) == {"GP164"}
    assert not found.not_checked


def test_a_wrong_eos_that_the_gguf_package_wrote(package: Path, tmp_path: Path) -> None:
    path = tmp_path / "eos.gguf"
    path.write_bytes(next(package.glob("*.gguf")).read_bytes())
    reader = gguf.GGUFReader(path, "r+")
    field = reader.get_field("tokenizer.ggml.eos_token_id")
    field.parts[field.data[0]][0] = 999_999
    del field, reader
    assert "GP351" in ids(examine(path))


def register(server: OllamaServer, name: str, package: Path, **request: object) -> None:
    path = next(package.glob("*.gguf"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    server.upload_blob(path, digest)
    server.create(name, {path.name: digest}, request)


def test_models_on_a_server(server: OllamaServer, package: Path) -> None:
    modelfile = parse((package / "Modelfile").read_text(encoding="utf-8"))
    register(server, "doctor-good", package, **modelfile.to_create_request())
    register(server, "doctor-wrong", package, template="[INST] {{ .Prompt }} [/INST]")
    register(server, "doctor-bare", package)

    good = examine("doctor-good", host=server.host)
    assert (good.kind, good.status, good.exit_code) == ("model", "fine", 0)
    assert good.facts["template_in_use"] == "TEMPLATE"
    assert good.facts["server_version"] == server.version_text
    assert {"TEMPLATE", "stops", "capabilities", "template in use"} <= set(good.checked)

    wrong = examine("doctor-wrong", host=server.host)
    assert {"GP555", "GP558"} <= ids(wrong)

    # Ollama detects ChatML and leaves the model's own system text out
    bare = examine("doctor-bare", host=server.host)
    assert "GP555" in ids(bare)


def test_a_store_of_another_machine(
    server: OllamaServer, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the blob, what the server shows has to do, and the rest is said to be unchecked."""
    from ggufpack.doctor import server as doctor_server

    register(server, "doctor-far", package, template="[INST] {{ .Prompt }} [/INST]")
    register(server, "doctor-plain", package, template="{{ .Prompt }}")
    monkeypatch.setattr(doctor_server, "local_blob", lambda _stored: None)
    far = examine("doctor-far", host=server.host)
    assert "GP575" in ids(far)
    skipped = {one.check for one in far.not_checked}
    assert {"GGUF weights", "model's chat template", "TEMPLATE against the chat template"} <= skipped
    assert "model's tokenizer" in far.checked
    # as good as no TEMPLATE; whether the GGUF has a chat template is not known, so nothing is said of it
    assert not ids(examine("doctor-plain", host=server.host)) & {"GP451", "GP562", "GP575"}


def test_a_model_that_is_not_there(server: OllamaServer, package: Path) -> None:
    register(server, "doctor-other", package)
    found = examine("doctor-nobody", host=server.host)
    assert (ids(found), found.exit_code) == ({"GP571"}, 6)
    assert "doctor-other" in (found.findings[0].action or "")


def test_from_a_model_of_the_server(server: OllamaServer, package: Path, tmp_path: Path) -> None:
    register(server, "doctor-base", package)
    path = tmp_path / "Modelfile"
    path.write_text("FROM doctor-base\nPARAMETER num_ctx 8192\n")
    assert examine(path, host=server.host).status == "fine"
    path.write_text("FROM doctor-nobody\nPARAMETER num_ctx 8192\n")
    found = examine(path, host=server.host)
    assert (ids(found), found.exit_code) == ({"GP571"}, 6)


def test_a_checkpoint_for_the_server_that_will_run_it(server: OllamaServer, smollm2: Path) -> None:
    found = examine(smollm2, host=server.host)
    assert found.status == "fine"
    assert found.facts["server_version"] == server.version_text
    assert json.dumps(found.to_json())
