"""The embedded engine with a real chat model: SmolLM2-135M-Instruct, the Q4_1 GGUF of the demo's wheel."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ggufpack.engine import embedded
from ggufpack.engine.embedded import EmbeddedEngine
from ggufpack.engine.protocol import Message
from ggufpack.errors import VerificationError
from ggufpack.verification import verify
from ggufpack.verification.findings import findings_of
from ggufpack.verification.tokens import special_texts, token_counter
from tests.support.demo_gguf import demo_gguf

pytestmark = [pytest.mark.engine, pytest.mark.network]

HELLO: list[Message] = [{"role": "user", "content": "Say hello."}]
# spells out the roles, refuses a word, and is not the model's own. (A refusal of the system role would not
# do: llama.cpp tries that out, and then moves the system text into the user's message.)
OTHER_TEMPLATE = (
    "{% for m in messages %}{% if m.content == 'no' %}{{ raise_exception('not this word') }}{% endif %}"
    "### {{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}### assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_gguf(tmp_path_factory.mktemp("gguf"))


@pytest.fixture(scope="module")
def engine(gguf: Path) -> Iterator[EmbeddedEngine]:
    with EmbeddedEngine(gguf, n_ctx=2048) as running:
        yield running


def test_the_real_model_passes(engine: EmbeddedEngine, gguf: Path, smollm2: Path) -> None:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((smollm2 / "chat_template.jinja").read_text())

    def expected(messages: Sequence[Message]) -> str:
        return template.render(messages=list(messages), add_generation_prompt=True)

    tokenizer = smollm2 / "tokenizer.json"
    done = verify(
        engine,
        "smoke",
        model=gguf.name,
        expected=expected,
        count_tokens=token_counter(tokenizer),
        bos_text="<|im_start|>",
        special_texts=special_texts(tokenizer),
        end_tokens=[(2, "<|im_end|>")],
    )
    assert [(case.name, case.detail) for case in done.prompts if not case.equal] == []
    assert sum(case.actual_tokens is not None for case in done.prompts) >= 5
    assert done.smoke is not None
    assert done.smoke.ok, done.smoke
    assert done.passed
    assert findings_of(done) == ()
    assert done.engine.startswith("xllamacpp 20")


def test_generation_is_deterministic_and_ends_where_it_is_told(gguf: Path, engine: EmbeddedEngine) -> None:
    first = engine.generate(HELLO, max_tokens=12)
    assert engine.generate(HELLO, max_tokens=12, seed=7) == first
    cut = engine.generate(HELLO, max_tokens=2)
    assert (cut.done_reason, cut.generated_tokens) == ("length", 2)
    assert first.prompt_tokens == cut.prompt_tokens > 20, "cached tokens are counted too"
    with EmbeddedEngine(gguf, stops=(first.text[1:4],), n_ctx=512) as stopping:
        stopped = stopping.generate(HELLO, max_tokens=12)
    assert (stopped.text, stopped.done_reason) == (first.text[:1], "stop")


def test_another_template_can_be_given_and_may_refuse(gguf: Path) -> None:
    with EmbeddedEngine(gguf, OTHER_TEMPLATE, n_ctx=512) as running:
        assert running.render(HELLO) == "### user: Say hello.\n### assistant:"
        with pytest.raises(VerificationError, match="not this word"):
            running.render([{"role": "user", "content": "no"}])
        with pytest.raises(VerificationError, match=r"failed to answer \(.*context"):
            running.generate([{"role": "user", "content": "word " * 800}], max_tokens=1)
        assert running.render(HELLO), "an error does not break it"


def test_it_opens_no_port_and_leaves_no_socket(gguf: Path) -> None:
    before = listening_tcp_sockets()
    with EmbeddedEngine(gguf, n_ctx=512) as running:
        path = running._socket
        assert path.is_socket()
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert listening_tcp_sockets() == before
        connection = embedded._UnixConnection(path)
        connection.request("GET", "/health", headers={"Origin": "http://evil.example"})
        assert connection.getresponse().status == http.client.OK
        connection.close()
    assert not path.parent.exists()
    with pytest.raises(VerificationError, match="not running"):
        running.render(HELLO)
    with pytest.raises(VerificationError, match="not running"):
        running.generate(HELLO, max_tokens=1)
    running.close()


def listening_tcp_sockets() -> set[str]:
    """Local addresses in state LISTEN (0A), by inode, that this process holds."""
    mine = {
        link.readlink().name
        for link in Path("/proc/self/fd").iterdir()
        if link.is_symlink() and link.exists()
    }
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return {row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in mine}


def test_the_port_check_sees_a_port() -> None:
    before = listening_tcp_sockets()
    with socket.create_server(("127.0.0.1", 0)):
        assert len(listening_tcp_sockets() - before) == 1


@pytest.mark.parametrize("content", [b"GGUF but no more", b""])
def test_a_file_that_is_no_gguf_is_an_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(VerificationError, match="cannot load") as caught, EmbeddedEngine(path):
        pass
    assert caught.value.path == path


@pytest.mark.timeout(60, method="thread")
def test_a_model_that_cannot_answer_is_freed(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a request that fails at once: freeing the server in this moment hangs without the pause
    monkeypatch.setattr(embedded, "_WARM_UP", {"n_predict": 1})
    for _ in range(3):
        with EmbeddedEngine(gguf, n_ctx=512):
            pass


def test_a_missing_file_and_a_missing_package_say_so(
    tmp_path: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(VerificationError, match="no GGUF"), EmbeddedEngine(tmp_path / "absent.gguf"):
        pass

    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(embedded, "import_module", absent)
    with pytest.raises(VerificationError) as caught, EmbeddedEngine(gguf):
        pass
    assert "ggufpack[engine]" in (caught.value.action or "")


def test_a_long_temporary_folder_does_not_matter(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with EmbeddedEngine(gguf, n_ctx=512) as running:
        assert running.render(HELLO)
    assert not list(deep.iterdir())
