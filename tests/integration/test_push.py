"""Push and pull with two real Ollama servers and a loopback registry between them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ggufpack
from ggufpack.errors import (
    GgufpackError,
    ModelExistsError,
    ModelNotFoundError,
    RemoteRegistryError,
    SignInError,
    TransferBrokenError,
    VerificationError,
)
from ggufpack.registry import OllamaServer
from ggufpack.registry.findings import REGISTRY_NOT_READ
from ggufpack.spec import BuildResult, Event, Note, Progress
from tests.support.ollama_build import OllamaProgram
from tests.support.ollama_server import RunningOllama, free_port, running_ollama
from tests.support.registry_server import Fault, Registry, running_registry

CLI = str(Path(sys.executable).parent / "ggufpack")
NAME = "pushed"
HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def package(
    tiny_model: Callable[[str], Path],
    ollama_server: RunningOllama,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[BuildResult]:
    """A package of two types, registered on the first server as ``pushed``."""
    yield ggufpack.build(
        tiny_model("llama-spm"),
        name=NAME,
        quantization="Q8_0,F16",
        output=tmp_path_factory.mktemp("package"),
        host=ollama_server.host,
        verify="none",
    )
    with_server = OllamaServer(ollama_server.host)
    for name in with_server.names():
        with_server.delete(name)
    with_server.close()


@pytest.fixture
def pusher(package: BuildResult, ollama_server: RunningOllama) -> Iterator[RunningOllama]:
    """The server that has the model; a test must leave its names as they were."""
    before = ollama_server.manifests()
    yield ollama_server
    assert ollama_server.manifests() == before


@pytest.fixture(scope="module")
def second_server(
    ollama_program: OllamaProgram, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningOllama]:
    with running_ollama(ollama_program, tmp_path_factory.mktemp("puller")) as server:
        yield server


@pytest.fixture
def puller(second_server: RunningOllama) -> Iterator[RunningOllama]:
    """A server without models, and without the blobs of the test before."""
    yield second_server
    second_server.clear()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with running_registry(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def pushed(pusher: RunningOllama, registry: Registry) -> ggufpack.TransferResult:
    return ggufpack.push(NAME, to=f"{registry.host}/me/m:one", host=pusher.host, insecure=True)


def manifest_of(gguf: str) -> str:
    layer = {"digest": f"sha256:{gguf}", "size": 7, "mediaType": "application/vnd.ollama.image.model"}
    return json.dumps({"config": {"digest": f"sha256:{'1' * 64}", "size": 3}, "layers": [layer]})


def public_key(server: RunningOllama) -> str:
    return (server.log.parent / "home" / ".ollama" / "id_ed25519.pub").read_text().split()[1]


# --- all is well --------------------------------------------------------------------


def test_round_trip(
    package: BuildResult, pusher: RunningOllama, puller: RunningOllama, registry: Registry
) -> None:
    name = f"{registry.host}/me/m:q8_0"
    events: list[Event] = []
    sent = ggufpack.push(NAME, to=name, host=pusher.host, insecure=True, on_event=events.append)
    q8_0 = next(file for file in package.package.files if file.quantization == "Q8_0")
    assert sent.gguf == q8_0.sha256
    assert sent.findings == ()
    assert {digest.removeprefix("sha256:") for digest in sent.layers} == registry.blobs()
    largest = [event for event in events if isinstance(event, Progress) and event.total == q8_0.size]
    assert largest[-1].done == q8_0.size

    got = ggufpack.pull(
        name, expect=package.package.folder, host=puller.host, insecure=True, on_event=events.append
    )
    assert (got.gguf, got.manifest, dict(got.layers)) == (sent.gguf, sent.manifest, dict(sent.layers))
    assert got.findings == ()
    assert puller.manifests() == {name.replace(":q8_0", "/q8_0")}
    here, there = OllamaServer(pusher.host), OllamaServer(puller.host)
    assert there.manifest_digest(name) == sent.manifest
    assert there.render_chat(name, HELLO) == here.render_chat(NAME, HELLO)
    options = {"temperature": 0, "seed": 1, "num_predict": 8, "repeat_penalty": 1.0}
    assert there.chat(name, HELLO, options).text == here.chat(NAME, HELLO, options).text
    shown, original = there.show(name), here.show(NAME)
    assert (shown.template, shown.parameters) == (original.template, original.parameters)
    for client, loaded in ((here, NAME), (there, name)):
        client.unload(loaded)
        client.close()


def test_what_the_registry_has_is_not_sent_again(
    pushed: ggufpack.TransferResult, pusher: RunningOllama, registry: Registry
) -> None:
    before = registry.bytes_in
    again = ggufpack.push(NAME, to=f"{registry.host}/me/m:two", host=pusher.host, insecure=True)
    assert before > 1_000_000
    assert registry.bytes_in == before
    assert again.manifest == pushed.manifest
    assert set(registry.manifests) == {"me/m:one", "me/m:two"}


def test_a_name_that_was_there_stays(pusher: RunningOllama, registry: Registry) -> None:
    client = OllamaServer(pusher.host)
    name = f"{registry.host}/me/m:latest"
    client.copy(NAME, name)
    ggufpack.push(NAME, to=name, host=pusher.host, insecure=True)
    assert client.exists(name)
    ggufpack.push(name, host=pusher.host, insecure=True)  # under its own name
    assert client.exists(name)
    with pytest.raises(ModelExistsError, match="another model"):
        ggufpack.push(f"{NAME}:f16", to=name, host=pusher.host, insecure=True)
    assert client.exists(name)
    client.delete(name)
    client.close()


def test_a_key_that_the_registry_knows(
    pusher: RunningOllama, puller: RunningOllama, registry: Registry
) -> None:
    registry.locked, registry.keys = True, {public_key(pusher), public_key(puller)}
    name = f"{registry.host}/me/m:one"
    sent = ggufpack.push(NAME, to=name, host=pusher.host, insecure=True)
    # only the server has the key: what it says could not be compared, and that is said
    assert [finding.id for finding in sent.findings] == [REGISTRY_NOT_READ]
    assert sent.manifest is None
    got = ggufpack.pull(name, expect=f"sha256:{sent.gguf}", host=puller.host, insecure=True)
    assert got.gguf == sent.gguf
    assert [finding.id for finding in got.findings] == [REGISTRY_NOT_READ]


# --- packages ------------------------------------------------------------------------


@pytest.mark.parametrize(("tag", "kind"), [("anything", "Q8_0"), ("f16", "F16")])
def test_a_package_folder(
    package: BuildResult, pusher: RunningOllama, registry: Registry, tag: str, kind: str
) -> None:
    to = f"{registry.host}/me/m:{tag}"
    sent = ggufpack.push(package.package.folder, to=to, host=pusher.host, insecure=True)
    assert sent.gguf == next(file.sha256 for file in package.package.files if file.quantization == kind)
    assert [(finding.id, finding.severity.value) for finding in sent.findings] == [("GP164", "warning")]


def test_a_package_that_failed_is_not_pushed(
    package: BuildResult, pusher: RunningOllama, registry: Registry, tmp_path: Path
) -> None:
    folder = shutil.copytree(package.package.folder, tmp_path / "failed")
    record = json.loads((folder / "ggufpack.json").read_text())
    record["result"]["status"] = "failed"
    (folder / "ggufpack.json").write_text(json.dumps(record))
    with pytest.raises(VerificationError, match="says failed"):
        ggufpack.push(folder, to=f"{registry.host}/me/m", host=pusher.host, insecure=True)
    assert registry.requests == []


def test_another_model_under_the_packages_name(
    package: BuildResult, ollama_server: RunningOllama, registry: Registry, tmp_path: Path
) -> None:
    folder = shutil.copytree(package.package.folder, tmp_path / "other")
    record = json.loads((folder / "ggufpack.json").read_text())
    for file in record["result"]["files"]:
        file["sha256"] = "0" * 64
    (folder / "ggufpack.json").write_text(json.dumps(record))
    with pytest.raises(VerificationError, match="not the model of"):
        ggufpack.push(folder, to=f"{registry.host}/me/m", host=ollama_server.host, insecure=True)
    assert registry.requests == []


# --- a push fails --------------------------------------------------------------------

FULL = Fault(status=500, body='{"errors":[{"message":"write /blobs/x: no space left on device"}]}')
BASIC = Fault(status=401, headers={"WWW-Authenticate": 'Basic realm="registry"'})


@pytest.mark.parametrize(
    ("faults", "error", "words"),
    [
        ({"HEAD blob": BASIC}, SignInError, "a kind of sign-in that Ollama does not have"),
        ({"POST uploads": Fault(status=403, body="denied")}, SignInError, 'namespace "me"'),
        ({"POST uploads": Fault(status=404)}, RemoteRegistryError, "takes no push"),
        ({"POST uploads": FULL}, RemoteRegistryError, "disk of the registry"),
        ({"POST uploads": Fault(status=500, body="boom")}, TransferBrokenError, "500: boom"),
        ({"PUT manifest": Fault(status=503, body="later")}, TransferBrokenError, "503: later"),
    ],
)
def test_a_push_that_fails(
    pusher: RunningOllama,
    registry: Registry,
    faults: dict[str, Fault],
    error: type[GgufpackError],
    words: str,
) -> None:
    registry.faults = faults
    with pytest.raises(error, match=words) as caught:
        ggufpack.push(NAME, to=f"{registry.host}/me/m", host=pusher.host, insecure=True)
    assert type(caught.value) is error
    assert registry.host in caught.value.problem
    assert caught.value.action
    assert registry.manifests == {}


@pytest.mark.parametrize(
    ("known", "words"),
    [(False, "does not know the key"), (True, 'may not push to the namespace "me"')],
)
def test_a_key_that_is_unknown_or_of_no_use(
    pusher: RunningOllama, registry: Registry, known: bool, words: str
) -> None:
    registry.locked, registry.readers = True, False
    registry.keys = {public_key(pusher)} if known else set()
    with pytest.raises(SignInError, match=words) as caught:
        ggufpack.push(NAME, to=f"{registry.host}/me/m", host=pusher.host, insecure=True)
    assert "id_ed25519.pub" in (caught.value.action or "")
    assert registry.blobs() == set()


def test_a_registry_without_https(pusher: RunningOllama, registry: Registry) -> None:
    with pytest.raises(RemoteRegistryError, match="speaks http, and https was tried") as caught:
        ggufpack.push(NAME, to=f"{registry.host}/me/m", host=pusher.host)
    assert "--insecure" in (caught.value.action or "")


@pytest.mark.parametrize("host", ["127.0.0.1:PORT", "no-such-host.invalid"])
def test_a_registry_that_is_not_there(pusher: RunningOllama, host: str) -> None:
    host = host.replace("PORT", str(free_port()))
    with pytest.raises(RemoteRegistryError, match="cannot reach the registry"):
        ggufpack.push(NAME, to=f"{host}/me/m", host=pusher.host, insecure=True)


def test_a_model_that_the_server_does_not_have(pusher: RunningOllama, registry: Registry) -> None:
    with pytest.raises(ModelNotFoundError, match="has no model nothing:latest"):
        ggufpack.push("nothing", to=f"{registry.host}/me/m", host=pusher.host)
    assert registry.requests == []


def test_a_fault_that_passes_is_tried_again(pusher: RunningOllama, registry: Registry) -> None:
    registry.faults = {
        "POST uploads": Fault(times=1, status=502, body="restarting"),  # ours: Ollama gives up on it
        "PATCH upload": Fault(times=1, cut=1_000_000),  # Ollama's own
    }
    events: list[Event] = []
    to = f"{registry.host}/me/m"
    sent = ggufpack.push(NAME, to=to, host=pusher.host, insecure=True, on_event=events.append)
    assert sent.manifest is not None
    notes = [event.message for event in events if isinstance(event, Note)]
    assert len(notes) == 1
    assert "502: restarting" in notes[0]
    assert registry.requests.count("PATCH upload") == len(sent.layers) + 1


def test_running_again_goes_on(pusher: RunningOllama, registry: Registry) -> None:
    registry.faults = {"PUT manifest": Fault(status=500)}
    with pytest.raises(TransferBrokenError, match="broke off") as caught:
        ggufpack.push(NAME, to=f"{registry.host}/me/m", host=pusher.host, insecure=True)
    assert "goes on" in (caught.value.action or "")
    registry.faults, before = {}, registry.bytes_in
    ggufpack.push(NAME, to=f"{registry.host}/me/m", host=pusher.host, insecure=True)
    assert before > 1_000_000
    assert registry.bytes_in == before


def test_a_registry_that_serves_something_else(pusher: RunningOllama, registry: Registry) -> None:
    registry.faults = {"GET manifest": Fault(status=200, body=manifest_of("0" * 64))}
    with pytest.raises(RemoteRegistryError, match="serves other blobs"):
        ggufpack.push(NAME, to=f"{registry.host}/me/m", host=pusher.host, insecure=True)


# --- a pull fails --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "error", "words"),
    [
        ({"GET data": Fault(damage=True)}, RemoteRegistryError, "sent other bytes"),
        ({"GET blob": Fault(status=200)}, RemoteRegistryError, "Location header"),
        ({"HEAD blob": Fault(status=404)}, RemoteRegistryError, "lacks a blob"),
        ({"GET manifest": Fault(status=404)}, ModelNotFoundError, "has no model"),
        ({"GET manifest": Fault(status=500, body="boom")}, TransferBrokenError, "500: boom"),
        ({"GET manifest": BASIC}, SignInError, "a kind of sign-in"),
    ],
)
def test_a_pull_that_fails(
    pushed: ggufpack.TransferResult,
    puller: RunningOllama,
    registry: Registry,
    faults: dict[str, Fault],
    error: type[GgufpackError],
    words: str,
) -> None:
    registry.faults = faults
    with pytest.raises(error, match=words) as caught:
        ggufpack.pull(pushed.remote, host=puller.host, insecure=True)
    assert type(caught.value) is error
    assert caught.value.action
    assert puller.manifests() == set()


def test_a_download_that_is_cut_goes_on(
    pushed: ggufpack.TransferResult, puller: RunningOllama, registry: Registry
) -> None:
    registry.faults = {"GET data": Fault(times=1, cut=1_000_000)}
    got = ggufpack.pull(pushed.remote, host=puller.host, insecure=True)
    assert got.manifest == pushed.manifest
    assert registry.bytes_out < sum(pushed.layers.values()) + 1_000_000  # not from its beginning


def test_a_tag_that_changes_while_it_is_pulled(
    pushed: ggufpack.TransferResult, puller: RunningOllama, registry: Registry
) -> None:
    """What was read here (the first answer) is not what the server got."""
    registry.faults = {"GET manifest": Fault(times=1, status=200, body=manifest_of("0" * 64))}
    with pytest.raises(RemoteRegistryError, match="another GGUF"):
        ggufpack.pull(pushed.remote, host=puller.host, insecure=True)
    assert puller.manifests() == set()
    registry.faults = {"GET manifest": Fault(times=1, status=200, body=manifest_of(str(pushed.gguf)))}
    got = ggufpack.pull(pushed.remote, host=puller.host, insecure=True)
    assert [finding.id for finding in got.findings] == [REGISTRY_NOT_READ]


def test_another_model_than_expected_moves_nothing(
    pushed: ggufpack.TransferResult, puller: RunningOllama, registry: Registry
) -> None:
    with pytest.raises(VerificationError, match="another model than expected"):
        ggufpack.pull(pushed.remote, expect="sha256:" + "0" * 64, host=puller.host, insecure=True)
    assert registry.bytes_out == 0
    assert puller.manifests() == set()


def test_another_model_than_expected_is_taken_off_again(
    pushed: ggufpack.TransferResult, pusher: RunningOllama, puller: RunningOllama, registry: Registry
) -> None:
    """The registry answers the server only, so that the model is known when it is there."""
    client = OllamaServer(puller.host)
    ggufpack.pull(pushed.remote, host=puller.host, insecure=True)
    ggufpack.push(f"{NAME}:f16", to=pushed.remote, host=pusher.host, insecure=True)
    registry.locked, registry.keys = True, {public_key(puller)}
    with pytest.raises(VerificationError, match="another model than expected"):
        ggufpack.pull(pushed.remote, expect=str(pushed.gguf), host=puller.host, insecure=True)
    assert registry.bytes_out > sum(pushed.layers.values())  # it was there
    assert client.manifest_digest(pushed.remote) == pushed.manifest
    assert len(puller.manifests()) == 1
    got = ggufpack.pull(pushed.remote, host=puller.host, insecure=True)
    assert got.gguf != pushed.gguf
    assert client.show(pushed.remote).sha256 == got.gguf
    assert f"sha256-{pushed.gguf}" not in puller.blobs()  # the replaced one takes no room
    client.close()


def test_pull_under_another_name(
    pushed: ggufpack.TransferResult, puller: RunningOllama, registry: Registry
) -> None:
    got = ggufpack.pull(pushed.remote, save_as="mine", host=puller.host, insecure=True)
    assert got.local == "mine:latest"
    assert puller.manifests() == {"registry.ollama.ai/library/mine/latest"}
    before = registry.requests.copy()
    with pytest.raises(ModelExistsError, match="mine:latest"):
        ggufpack.pull(pushed.remote, save_as="mine", host=puller.host, insecure=True)
    assert registry.requests == before


# --- the commands --------------------------------------------------------------------


def cli(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CLI, *words], cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def test_the_commands(
    pusher: RunningOllama, puller: RunningOllama, registry: Registry, tmp_path: Path
) -> None:
    name = f"{registry.host}/me/m:one"
    push = ("push", NAME, "--to", name, "--host", pusher.host, "--insecure")
    done = cli(*push, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"pushed {name}: ")
    assert f"ggufpack pull {name} --expect sha256:" in done.stdout
    assert f"Pushing {name}: " in done.stderr
    sent = json.loads(cli(*push, "--json", cwd=tmp_path).stdout)
    assert sent["remote"] == name
    pull = ("pull", name, "--host", puller.host, "--insecure", "--as", "mine")
    got = json.loads(cli(*pull, "--expect", sent["manifest"], "--json", cwd=tmp_path).stdout)
    assert (got["gguf"], got["layers"]) == (sent["gguf"], sent["layers"])
    refused = cli(*pull, "--json", cwd=tmp_path)
    assert refused.returncode == 6
    assert json.loads(refused.stdout)["error"]["type"] == "ModelExistsError"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_push_leaves_no_name(
    pusher: RunningOllama, registry: Registry, tmp_path: Path, number: signal.Signals
) -> None:
    registry.faults = {"PATCH upload": Fault(delay=0.2)}
    words = [CLI, "push", NAME, "--to", f"{registry.host}/me/m", "--host", pusher.host, "--insecure"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for(lambda: registry.bytes_in > 0)
        assert any(registry.host in name for name in pusher.manifests())
        process.send_signal(number)
        assert process.wait(20) == (130 if number == signal.SIGINT else 143)
    assert registry.manifests == {}


def test_an_interrupted_pull_leaves_no_name(
    pushed: ggufpack.TransferResult, puller: RunningOllama, registry: Registry, tmp_path: Path
) -> None:
    registry.faults = {"GET data": Fault(delay=0.2)}
    words = [CLI, "pull", pushed.remote, "--host", puller.host, "--insecure"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for(lambda: registry.bytes_out > 0)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(20) == 130
    assert puller.manifests() == set()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
