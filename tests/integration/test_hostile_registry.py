"""A real Ollama server and a registry that lies: what ``ggufpack pull`` says, and that no name is left.

A blob whose Location is file:///etc/passwd, or no address, ends in the same way, after the minute for which
Ollama tries again: too long for here.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ggufpack
from ggufpack.errors import RegistryError
from tests.support.checkpoints import tiny_checkpoint
from tests.support.ollama_build import OllamaProgram
from tests.support.ollama_server import RunningOllama, running_ollama
from tests.support.registry_server import Fault, Registry, running_registry

EVIL = "\x1b]0;owned\x07"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as Ollama keeps it, made without a server."""
    made = tmp_path_factory.mktemp("made")
    ggufpack.build(
        tiny_checkpoint("llama"),
        name="fox",
        quantization="F16",
        output=made / "out",
        store=made / "store",
        template="chatml",
        register=False,
        verify="none",
    )
    return made / "store"


@pytest.fixture(scope="module")
def server(
    ollama_program: OllamaProgram, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningOllama]:
    with running_ollama(ollama_program, tmp_path_factory.mktemp("puller")) as running:
        yield running


@pytest.fixture
def empty(server: RunningOllama) -> Iterator[RunningOllama]:
    """A server without models and blobs: it asks for no blob that it has."""
    yield server
    server.clear()


@pytest.fixture
def registry(store: Path, tmp_path: Path) -> Iterator[Registry]:
    """Has the model as ``me/m:one``."""
    with running_registry(tmp_path / "registry") as running:
        for blob in (store / "blobs").iterdir():
            (running.folder / blob.name.removeprefix("sha256-")).write_bytes(blob.read_bytes())
        (tag,) = {path for path in (store / "manifests").rglob("*") if path.name == "f16"}
        running.manifests["me/m:one"] = tag.read_bytes()
        yield running


def changed(registry: Registry, **of_the_model: object) -> Fault:
    """The manifest with other values in its first layer."""
    document = json.loads(registry.manifests["me/m:one"])
    document["layers"][0] |= of_the_model
    return Fault(status=200, body=json.dumps(document))


LIES: dict[str, Callable[[Registry], dict[str, Fault]]] = {
    "a size too small": lambda registry: {"GET manifest": changed(registry, size=7)},
    "a size too large": lambda registry: {"GET manifest": changed(registry, size=1 << 40)},
    "another digest": lambda registry: {"GET manifest": changed(registry, digest=f"sha256:{'0' * 64}")},
    "a digest with a path": lambda registry: {"GET manifest": changed(registry, digest="sha256:../../x")},
    "a sign-in elsewhere": lambda _registry: {
        "HEAD blob": Fault(
            status=401,
            headers={"WWW-Authenticate": 'Bearer realm="http://localhost:9/token",service="x",scope="y"'},
        )
    },
    "a sign-in in a file": lambda _registry: {
        "HEAD blob": Fault(
            status=401,
            headers={"WWW-Authenticate": 'Bearer realm="file:///etc/passwd",service="x",scope="y"'},
        )
    },
    "escapes": lambda _registry: {"HEAD blob": Fault(status=400, body=EVIL * 10_000)},
}


@pytest.mark.parametrize("lie", LIES)
def test_no_name_is_left_and_a_rerun_completes(empty: RunningOllama, registry: Registry, lie: str) -> None:
    name = f"{registry.host}/me/m:one"
    registry.faults = LIES[lie](registry)
    started = time.monotonic()
    with pytest.raises(RegistryError) as caught:
        ggufpack.pull(name, host=empty.host, insecure=True)
    assert time.monotonic() - started < 10
    assert caught.value.exit_code == 6
    assert len(str(caught.value)) < 1500
    assert empty.manifests() == set()
    registry.faults = {}
    got = ggufpack.pull(name, host=empty.host, insecure=True)
    assert got.manifest == hashlib.sha256(registry.manifests["me/m:one"]).hexdigest()
    assert len(empty.manifests()) == 1
