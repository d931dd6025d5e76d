"""Registering on a real Ollama: what arrives, what is refused, and that nothing is left behind."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ggufpack.errors import (
    InvalidModelNameError,
    ModelExistsError,
    ServerDiskFullError,
    ServerResponseError,
    ServerUnreachableError,
)
from ggufpack.packages import sha256_of
from ggufpack.registry import OllamaServer, leftovers, register, stage_model
from ggufpack.registry.findings import TEMPLATE_IGNORED, TEMPLATE_NOT_STORED
from ggufpack.registry.names import parse
from ggufpack.spec import Event, Progress
from tests.support import oracle
from tests.support.checkpoints import link_checkpoint
from tests.support.ollama_build import OllamaProgram
from tests.support.ollama_server import RunningOllama, running_ollama

TEMPLATE = "{{ range .Messages }}<{{ .Role }}>{{ .Content }}\n{{ end }}<assistant>"
# what a template that stays clear of Ollama's detection and can call tools looks like to the server
FAR_JINJA = (
    "{# " + "not one of the templates that Ollama knows " * 4 + "#}"
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}[assistant]"
)
REQUEST = {
    "template": TEMPLATE,
    "system": 'Be "brief".\nAlways.',
    "parameters": {"stop": ["<user>", 'a"b'], "num_ctx": 256, "temperature": 0.7, "seed": -1},
    "license": ["Apache-2.0", "and more"],
}
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def gguf(tiny_model: Callable[[str], Path], oracle_gguf: Callable[[Path, str], Path]) -> Path:
    return oracle_gguf(tiny_model("llama-spm"), "Q8_0")


@pytest.fixture(scope="module")
def sha256(gguf: Path) -> str:
    return sha256_of(gguf)


@pytest.fixture(scope="module")
def far_gguf(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights with FAR_JINJA as their chat template."""
    folder = link_checkpoint(tiny_model("llama-spm"), tmp_path_factory.mktemp("far") / "checkpoint")
    config = folder / "tokenizer_config.json"
    changed = {**json.loads(config.read_text()), "chat_template": FAR_JINJA}
    config.unlink()
    config.write_text(json.dumps(changed))
    return oracle.two_steps(folder, "Q8_0", folder.parent / "far.gguf")


@pytest.fixture
def server(ollama_server: RunningOllama) -> Iterator[OllamaServer]:
    """The session's server; every test must leave it without models."""
    server = OllamaServer(ollama_server.host)
    yield server
    left = server.names()
    for name in left:
        server.delete(name)
    server.close()
    assert not [name for name in left if not name.startswith("kept")], "a test left models"


def test_upload_with_progress_and_only_once(server: OllamaServer, gguf: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh.gguf"
    fresh.write_bytes(gguf.read_bytes() + b"\0")  # a blob that no other test has uploaded
    digest = sha256_of(fresh)
    seen: list[int] = []
    assert not server.has_blob(digest)
    assert server.upload_blob(fresh, digest, seen.append)
    assert server.has_blob(f"sha256:{digest}")
    assert seen == sorted(seen)
    assert len(seen) > 2
    assert seen[-1] == fresh.stat().st_size
    assert not server.upload_blob(fresh, digest, seen.append)


def test_a_wrong_digest_is_refused(server: OllamaServer, gguf: Path) -> None:
    with pytest.raises(ServerResponseError, match="digest mismatch"):
        server.upload_blob(gguf, "1" * 64)
    assert not server.has_blob("1" * 64)


def test_register(server: OllamaServer, gguf: Path, sha256: str, ollama_server: RunningOllama) -> None:
    events: list[Event] = []
    names = register(
        server, ["kept:q8_0", "kept:latest", "KEPT:Q8_0"], gguf, sha256, REQUEST, on_event=events.append
    )
    assert names == ("kept:q8_0", "kept:latest")
    assert set(server.names()) == {"kept:q8_0", "kept:latest"}
    shown = server.show("kept")
    assert shown.template == TEMPLATE
    assert shown.system == REQUEST["system"]
    assert shown.parameters == {
        "stop": ("<user>", 'a"b'),
        "num_ctx": (256,),
        "temperature": (0.7,),
        "seed": (-1,),
    }
    # llama-quantize's own file passes the server's COPY unchanged, so the model is stored once
    assert shown.sha256 == sha256
    assert "writing manifest" in {event.item for event in events if isinstance(event, Progress)}
    assert "library/kept/q8_0" in {"/".join(name.split("/")[1:]) for name in ollama_server.manifests()}


def test_the_registered_model_answers(server: OllamaServer, gguf: Path, sha256: str) -> None:
    with stage_model(server, gguf, sha256, REQUEST) as staged:
        assert staged.findings == ()
        prompt = server.render_chat(staged.name, HELLO)
        assert prompt == f"<system>{REQUEST['system']}\n<user>hello\n<assistant>"
        options = {"temperature": 0, "seed": 1, "num_predict": 4, "repeat_penalty": 1.0}
        answer = server.chat(staged.name, HELLO, options, top_logprobs=2)
        assert answer.generated_tokens == len(answer.raw["logprobs"]) <= 4
        assert answer.prompt_tokens > 10
        assert answer.done_reason == "length"
        server.unload(staged.name)
    assert server.names() == ()


def test_an_embedding_model(
    server: OllamaServer, tiny_model: Callable[[str], Path], oracle_gguf: Callable[[Path, str], Path]
) -> None:
    bert = oracle_gguf(tiny_model("bert"), "Q8_0")
    with stage_model(server, bert, sha256_of(bert), {}) as staged:
        assert staged.findings == ()
        vector = server.embed(staged.name, "hello")
        assert len(vector) == 256
        assert sum(value * value for value in vector) == pytest.approx(1, abs=1e-3)
        with pytest.raises(ServerResponseError):
            server.chat(staged.name, HELLO, {"num_predict": 1})
        server.unload(staged.name)


def test_a_taken_name_is_refused_before_the_upload(server: OllamaServer, gguf: Path, sha256: str) -> None:
    register(server, ["kept:q8_0"], gguf, sha256, REQUEST)
    events: list[Event] = []
    with pytest.raises(ModelExistsError, match="Kept:Q8_0"):
        register(server, ["kept:new", "Kept:Q8_0"], gguf, sha256, REQUEST, on_event=events.append)
    assert events == []
    assert server.names() == ("kept:q8_0",)


def test_overwrite_replaces_and_removes_the_old_blobs(
    server: OllamaServer, gguf: Path, sha256: str, ollama_server: RunningOllama
) -> None:
    register(server, ["kept:latest"], gguf, sha256, REQUEST)
    register(server, ["kept:latest"], gguf, sha256, {**REQUEST, "system": "first version"}, overwrite=True)
    old = ollama_server.blobs()
    register(server, ["kept:latest"], gguf, sha256, {**REQUEST, "system": "second version"}, overwrite=True)
    assert server.names() == ("kept:latest",)
    assert server.show("kept").system == "second version"
    assert len(ollama_server.blobs()) == len(old), "the first version's system text must be gone"


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"not a GGUF at all" * 100, "GGUF|unknown type|unsupported"), (b"GGUF\3\0\0\0" + b"\xff" * 4096, ".")],
)
def test_garbage_is_refused_and_leaves_no_name(
    server: OllamaServer, tmp_path: Path, content: bytes, says: str, ollama_server: RunningOllama
) -> None:
    before = ollama_server.manifests()
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(content)
    with pytest.raises(ServerResponseError, match=f"create .*{says}"):
        register(server, ["garbage:q8_0"], garbage, sha256_of(garbage), REQUEST)
    assert ollama_server.manifests() == before


def test_a_failed_overwrite_keeps_the_old_model(server: OllamaServer, gguf: Path, sha256: str) -> None:
    register(server, ["kept:latest"], gguf, sha256, REQUEST)
    before = server.show("kept")
    with pytest.raises(ServerResponseError, match="template"):
        register(server, ["kept:latest"], gguf, sha256, {"template": "{{ .Broken"}, overwrite=True)
    assert server.show("kept") == before
    assert server.names() == ("kept:latest",)


def test_publish_is_all_or_nothing(
    server: OllamaServer, gguf: Path, sha256: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(server, ["kept:latest"], gguf, sha256, {**REQUEST, "system": "old"})
    copy = server.copy

    def failing(source: str, destination: str) -> None:
        if destination == "third:latest":
            raise ServerResponseError("no more")
        copy(source, destination)

    monkeypatch.setattr(server, "copy", failing)
    with pytest.raises(ServerResponseError, match="no more"):
        register(
            server, ["kept:latest", "second:latest", "third:latest"], gguf, sha256, REQUEST, overwrite=True
        )
    assert server.names() == ("kept:latest",)
    assert server.show("kept").system == "old"


def test_an_interrupted_upload_leaves_nothing(
    server: OllamaServer, gguf: Path, tmp_path: Path, ollama_server: RunningOllama
) -> None:
    fresh = tmp_path / "fresh.gguf"
    fresh.write_bytes(gguf.read_bytes() + b"interrupted")
    before = ollama_server.blobs()

    def interrupt(event: Event) -> None:
        if isinstance(event, Progress) and event.done > 1 << 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        register(server, ["m:q8_0"], fresh, sha256_of(fresh), REQUEST, on_event=interrupt)
    assert not server.has_blob(sha256_of(fresh))
    wait_for(lambda: ollama_server.blobs() == before, "the server keeps the unfinished upload")


def test_an_interrupted_create_leaves_nothing(
    server: OllamaServer, gguf: Path, sha256: str, ollama_server: RunningOllama
) -> None:
    server.upload_blob(gguf, sha256)
    manifests, blobs = ollama_server.manifests(), ollama_server.blobs()

    def interrupt(event: Event) -> None:
        if isinstance(event, Progress) and not event.item.startswith("upload"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        register(server, ["m:q8_0"], gguf, sha256, REQUEST, on_event=interrupt)
    assert ollama_server.manifests() == manifests
    assert ollama_server.blobs() - blobs == set(), "deleting the temporary name must take its layers along"


def test_detection_is_shut_out(server: OllamaServer, gguf: Path, sha256: str) -> None:
    """The GGUF's chat template is ChatML, which the server knows and has a TEMPLATE and stops for."""
    with (
        pytest.raises(ServerResponseError, match="TEMPLATE of its own") as caught,
        stage_model(server, gguf, sha256, {}, native=True),
    ):
        pass
    assert caught.value.finding == TEMPLATE_NOT_STORED
    with stage_model(server, gguf, sha256, {"template": TEMPLATE}) as staged:
        shown = server.show(staged.name)
        assert shown.template == TEMPLATE
        assert shown.parameters == {}, "the stops of the detected template must not be there"


def test_native_and_an_ignored_template(server: OllamaServer, far_gguf: Path) -> None:
    if server.version is None or server.version < (0, 30, 0):
        pytest.skip("this Ollama never runs a GGUF's Jinja")
    digest = sha256_of(far_gguf)
    native = "[user] hello\n[assistant]"
    with stage_model(server, far_gguf, digest, {}, native=True) as staged:
        assert staged.findings == ()
        assert server.render_chat(staged.name, HELLO).removeprefix("<s>") == native
    with stage_model(server, far_gguf, digest, {"template": TEMPLATE}) as staged:
        assert [finding.id for finding in staged.findings] == [TEMPLATE_IGNORED]
        assert server.render_chat(staged.name, HELLO).removeprefix("<s>") == native


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet="aZ0_-.:/ é", max_size=12) | st.text(max_size=6))
@example("x" * 80)
@example("x" * 81)
@example("m:" + "x" * 81)
@example("a/b/c/d")
@example("http://h:1/n/m:t")
@example("n.s/m")
def test_names_are_judged_as_the_server_does(server: OllamaServer, name: str) -> None:
    with pytest.raises(ServerResponseError) as caught:
        server.create(name, {}, {})  # without files nothing is made, whatever the name
    refused = "invalid model name" in caught.value.problem
    try:
        parse(name)
    except InvalidModelNameError as error:
        assert refused or "means another place" in error.problem
    else:
        assert not refused


def test_publish_refuses_a_name_that_was_taken_meanwhile(
    server: OllamaServer, gguf: Path, sha256: str
) -> None:
    with stage_model(server, gguf, sha256, {**REQUEST, "system": "new"}) as staged:
        register(server, ["kept:latest"], gguf, sha256, {**REQUEST, "system": "old"})
        with pytest.raises(ModelExistsError):
            staged.publish(["kept2:latest", "kept"])
        assert staged.publish(["kept"], overwrite=True) == ("kept:latest",)
    assert server.names() == ("kept:latest",)
    assert server.show("kept").system == "new"


def test_an_invalid_name_stops_before_the_upload(server: OllamaServer, gguf: Path, sha256: str) -> None:
    events: list[Event] = []
    with pytest.raises(InvalidModelNameError):
        register(server, ["my model:q8_0"], gguf, sha256, REQUEST, on_event=events.append)
    assert events == []


def test_temporary_names_can_be_found(server: OllamaServer, gguf: Path, sha256: str) -> None:
    with stage_model(server, gguf, sha256, REQUEST) as staged:
        assert leftovers(server) == (staged.name,)
    assert leftovers(server) == ()


def test_a_server_that_goes_away(ollama_program: OllamaProgram, gguf: Path, tmp_path: Path) -> None:
    with running_ollama(ollama_program, tmp_path) as running:
        server = OllamaServer(running.host)
        server.check()
    with pytest.raises(ServerUnreachableError, match="ollama serve"):
        register(server, ["m:q8_0"], gguf, sha256_of(gguf), REQUEST)


@pytest.mark.parametrize("copies", [0.5, 1.5])
def test_a_full_disk(
    ollama_program: OllamaProgram, gguf: Path, sha256: str, tmp_path: Path, copies: float
) -> None:
    """Room for half a copy stops the upload; room for one and a half stops the server's own second copy."""
    store = tmp_path / "small"
    store.mkdir()
    size = int(gguf.stat().st_size * copies)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(store)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a tmpfs is not permitted here; tests/unit plays the recorded message")
    try:
        with running_ollama(ollama_program, tmp_path / "server", store) as running:
            server = OllamaServer(running.host)
            if copies > 1 and (server.version is None or server.version < (0, 30, 0)):
                pytest.skip("this Ollama makes no second copy")
            with pytest.raises((ServerDiskFullError, ServerResponseError)) as caught:
                register(server, ["m:q8_0"], gguf, sha256, REQUEST)
            if copies < 1:
                assert isinstance(caught.value, ServerDiskFullError)
                assert "no space left on device" in caught.value.problem
                wait_for(lambda: running.blobs() == set(), "the server keeps the unfinished upload")
            else:
                assert "room for two" in (caught.value.action or "")
            assert running.manifests() == set()
    finally:
        subprocess.run(["umount", str(store)], check=False)  # noqa: S607 - as root, from PATH


def wait_for(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)
