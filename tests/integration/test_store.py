"""Offline stores and a real Ollama: it takes them, and would have written the same bytes itself."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from ggufpack import build
from ggufpack.cli.main import main
from ggufpack.errors import ModelExistsError, StoreError, VerificationError
from ggufpack.registry import OllamaServer, register
from ggufpack.store.check import check_store
from ggufpack.store.export import export_models
from ggufpack.store.folder import StoreFolder
from ggufpack.store.package import Packaged, add_packages, read_package
from ggufpack.store.unpack import import_archive
from tests.support.ollama_build import OllamaProgram
from tests.support.ollama_server import RunningOllama, running_ollama

HELLO = [{"role": "user", "content": "hello"}]
# everything that Go's JSON writes in its own way, and a name twice
AWKWARD = {
    "template": '{{ range .Messages }}<|{{ .Role }}|>{{ .Content }} & "\u2028\n{{ end }}<|assistant|>',
    "system": "Be <brief> & “kind”.\t\\ \u007f é 日本 😀",
    "parameters": {
        "stop": ["<|user|>", "a&b>", "\u2028\u2029\u0001\b\f\x7f\\\"'", "é😀"],
        "num_ctx": 512,
        "temperature": 0.1,
        "top_p": 1e-07,
        "min_p": 1.0,
        "repeat_penalty": 0.000001,
        "seed": -1,
        "num_keep": 9007199254740993,
        "presence_penalty": 123456789.125,
        "frequency_penalty": 1.5e-10,
    },
    "license": ["Apache <2.0>\n", "and more", "Apache <2.0>\n"],
    "messages": [{"role": "user", "content": "<hi> & \u2029"}, {"role": "assistant", "content": "ho\n"}],
    "requires": "0.24.0",
}


@contextmanager
def serving(program: OllamaProgram, folder: Path, store: Path) -> Iterator[OllamaServer]:
    """A server of this store alone."""
    folder.mkdir()
    with running_ollama(program, folder, store) as running:
        server = OllamaServer(running.host)
        yield server
        server.close()


def created(server: OllamaServer, running: RunningOllama, packaged: Packaged) -> Path:
    """The manifest that the server's own create makes."""
    register(server, packaged.names, packaged.gguf, packaged.blob.sha256, packaged.request)
    return manifest_of(running.store, packaged)


def manifest_of(store: Path, packaged: Packaged) -> Path:
    """The file of its first name."""
    (path,) = store.glob(f"manifests/*/library/{packaged.names[0].replace(':', '/')}")
    return path


def files_of(store: Path, manifest: Path) -> dict[str, bytes]:
    """The manifest and every small blob that it names, by part."""
    value = json.loads(manifest.read_bytes())
    found = {"manifest": manifest.read_bytes()}
    for layer in [value["config"], *value["layers"]]:
        kind = layer["mediaType"].rpartition(".")[2]
        if kind != "model":
            blob = store / "blobs" / layer["digest"].replace(":", "-")
            found[f"{kind} {layer['digest'][:14]}"] = blob.read_bytes()
    return found


TYPES = ("Q8_0", "Q4_K_M", "F16", "F32")


@pytest.fixture(scope="module")
def package(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of all ``TYPES``, built without a server. Shared: read it only."""
    folder = tmp_path_factory.mktemp("packages")
    result = build(
        tiny_model("llama-spm"), name="twin", quantization=TYPES, output=folder, register=False, verify="none"
    )
    return result.package.folder


@pytest.fixture
def server(ollama_server: RunningOllama) -> Iterator[OllamaServer]:
    """The session's server, left without models."""
    server = OllamaServer(ollama_server.host)
    yield server
    for name in server.names():
        server.delete(name)
    server.close()


def test_a_store_is_what_the_server_would_have_made(
    package: Path, server: OllamaServer, ollama_server: RunningOllama, tmp_path: Path
) -> None:
    # other tests' models, and blobs that lost their names
    names_before, blobs_before = ollama_server.manifests(), ollama_server.blobs()
    packages = read_package(package)
    assert [packaged.names for packaged in packages][:2] == [("twin:q8_0", "twin:latest"), ("twin:q4_k_m",)]
    store = StoreFolder(tmp_path / "store")
    for packaged, stored in zip(packages, add_packages(store, packages), strict=True):
        theirs = created(server, ollama_server, packaged)
        ours = manifest_of(store.root, packaged)
        assert files_of(store.root, ours) == files_of(ollama_server.store, theirs)
        assert stored.digest == hashlib.sha256(theirs.read_bytes()).hexdigest()
    names = {"/".join(path.parts[-4:]) for path in store.root.glob("manifests/*/*/*/*")}
    assert names == ollama_server.manifests() - names_before
    blobs = {path.name for path in (store.root / "blobs").iterdir()}
    assert blobs - blobs_before == ollama_server.blobs() - blobs_before


def test_texts_and_numbers_are_written_as_go_writes_them(
    package: Path, server: OllamaServer, ollama_server: RunningOllama, tmp_path: Path
) -> None:
    packaged = replace(read_package(package)[0], request=AWKWARD)
    store = StoreFolder(tmp_path / "store")
    add_packages(store, [packaged])
    # the server is not asked what it shows: it prints numbers through float32
    server.upload_blob(packaged.gguf, packaged.blob.sha256)
    server.create("twin:q8_0", {packaged.gguf.name: packaged.blob.sha256}, AWKWARD)
    theirs = manifest_of(ollama_server.store, packaged)
    assert files_of(store.root, manifest_of(store.root, packaged)) == files_of(ollama_server.store, theirs)


@pytest.mark.parametrize("architecture", ["bert", "gpt-oss", "gemma3"])
def test_other_architectures_are_equal_too(
    architecture: str,
    tiny_model: Callable[[str], Path],
    server: OllamaServer,
    ollama_server: RunningOllama,
    tmp_path: Path,
) -> None:
    build(
        tiny_model(architecture),
        name="other",
        quantization="F16",
        output=tmp_path,
        register=False,
        verify="none",
        store=tmp_path / "store",
    )
    (packaged,) = read_package(tmp_path / "other")
    theirs = files_of(ollama_server.store, created(server, ollama_server, packaged))
    assert files_of(tmp_path / "store", manifest_of(tmp_path / "store", packaged)) == theirs


def test_one_build_for_a_server_and_a_store(
    smollm2: Path, server: OllamaServer, ollama_server: RunningOllama, tmp_path: Path
) -> None:
    result = build(
        smollm2,
        name="both",
        quantization="Q8_0",
        output=tmp_path,
        host=server.host,
        verify="none",
        store=tmp_path / "store",
        system='Be <brief> & "kind".',
    )
    assert result.registered == result.stored == ("both:q8_0", "both:latest")
    for name in result.stored:
        (ours,), (theirs,) = (
            [*root.glob(f"manifests/*/library/{name.replace(':', '/')}")]
            for root in (tmp_path / "store", ollama_server.store)
        )
        assert files_of(tmp_path / "store", ours) == files_of(ollama_server.store, theirs)


def test_an_imported_store_is_served(package: Path, ollama_program: OllamaProgram, tmp_path: Path) -> None:
    source, store = StoreFolder(tmp_path / "here"), StoreFolder(tmp_path / "there")
    (stored, *_) = add_packages(source, read_package(package, "team/offline"))
    export_models(source, [], tmp_path / "models.tar")
    import_archive(tmp_path / "models.tar", store)
    names = {f"team/offline:{kind.lower()}" for kind in TYPES} | {"team/offline:latest"}
    # older than what the server's pruning spares
    for path in store.root.rglob("*"):
        os.utime(path, (1, 1))
    with serving(ollama_program, tmp_path / "server", store.root) as server:
        assert set(server.names()) == names
        listed = httpx.get(f"{server.host}/api/tags").json()["models"]
        digests = {model["name"]: model["digest"] for model in listed}
        assert digests["team/offline:latest"] == digests["team/offline:q8_0"] == stored.digest
        shown = server.show("team/offline")
        assert shown.details["quantization_level"] == "Q8_0"
        assert shown.template == read_package(package)[0].request["template"]
        answer = server.chat("team/offline", HELLO, {"temperature": 0, "seed": 1, "num_predict": 4})
        assert 1 <= answer.generated_tokens <= 4
        server.unload("team/offline")
        # what is added while it runs is listed, too
        add_packages(store, read_package(package, "late")[:1])
        names |= {"late:q8_0", "late:latest"}
        assert set(server.names()) == names
    checked = check_store(store)
    assert set(checked.models) == names
    assert not checked.orphans


# --- without a server ---------------------------------------------------------


def test_build_into_a_store(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    options: dict[str, Any] = {
        "name": "small",
        "quantization": "Q8_0",
        "output": tmp_path / "packages",
        "register": False,
        "verify": "none",
        "store": store,
    }
    result = build(tiny_model("llama-spm"), **options)
    assert result.registered == ()
    assert result.stored == ("small:q8_0", "small:latest")
    assert json.loads(result.record.read_text())["result"]["stored"] == list(result.stored)
    (packaged,) = read_package(result.package.folder)
    before = check_store(StoreFolder(store))
    (again,) = add_packages(StoreFolder(store), [packaged])  # the same from the package's files
    assert again.written == 0
    assert again.digest == before.models["small:latest"]
    # a taken name is refused before any work, and a build that fails leaves nothing
    with pytest.raises(ModelExistsError, match="small:q8_0"):
        build(tiny_model("qwen2"), **{**options, "output": tmp_path / "other"})
    with pytest.raises(VerificationError):
        build(
            tiny_model("qwen3"),
            **{**options, "name": "random", "template": "qwen3", "verify": "smoke"},
        )
    assert check_store(StoreFolder(store)) == before
    with pytest.raises(StoreError, match="failed its verification"):
        read_package(tmp_path / "packages" / "random")


def test_add_on_the_command_line(package: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = CliRunner().invoke(
        main, ["store", "add", str(package), "--store", str(store), "--json", "--quiet"]
    )
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert set(answer["models"]) == {f"twin:{kind.lower()}" for kind in TYPES} | {"twin:latest"}
    assert answer["bytes"] == sum(path.stat().st_size for path in package.glob("*.gguf"))
    again = CliRunner().invoke(main, ["store", "add", str(package), "--store", str(store)])
    assert again.exit_code == 0
    assert again.stdout.splitlines()[-1] == f"Serve it: OLLAMA_MODELS={store} ollama serve"
    two = CliRunner().invoke(main, ["store", "add", str(package), str(package), "--name", "x"])
    assert two.exit_code == 2


def _cut(copy: Path) -> None:
    (gguf, *_) = sorted(copy.glob("*.gguf"))
    gguf.write_bytes(gguf.read_bytes()[:-1])


def _flip(copy: Path) -> None:
    (gguf, *_) = sorted(copy.glob("*.gguf"))
    content = bytearray(gguf.read_bytes())
    content[-100] ^= 1
    gguf.write_bytes(content)


def _leave_out(copy: Path) -> None:
    sorted(copy.glob("*.gguf"))[0].unlink()


def _point_elsewhere(copy: Path) -> None:
    record = copy / "ggufpack.json"
    value = json.loads(record.read_text())
    value["result"]["files"][0]["path"] = "../../../etc/passwd"
    record.write_text(json.dumps(value))


@pytest.mark.parametrize("damage", [_cut, _flip, _leave_out, _point_elsewhere])
def test_a_package_that_is_not_as_it_was_built(
    damage: Callable[[Path], None], package: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(package, copy)
    damage(copy)
    store = StoreFolder(tmp_path / "store")
    with pytest.raises(StoreError, match=r"is not the file that was built|has no file"):
        add_packages(store, read_package(copy))
    assert not [path for path in tmp_path.rglob("store/**/*") if path.is_file()]
