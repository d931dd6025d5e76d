"""The embedded engine in its confined process: the same answers, and no way out of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ggufpack.confinement import Confined
from ggufpack.confinement.landlock import abi
from ggufpack.confinement.seccomp import available
from ggufpack.engine.confined import ConfinedEngine, generation_of
from ggufpack.engine.embedded import EmbeddedEngine
from ggufpack.engine.protocol import Engine, Generation, Message
from ggufpack.errors import VerificationError
from tests.support.demo_gguf import demo_gguf

pytestmark = [pytest.mark.engine, pytest.mark.network]

HELLO: list[Message] = [{"role": "user", "content": "Say hello. \N{WAVING HAND SIGN}"}]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_gguf(tmp_path_factory.mktemp("gguf"))


def said(engine: Engine) -> tuple[str, str, Generation, Generation, Generation]:
    return (
        engine.render(HELLO),
        engine.render(HELLO, think=False),
        engine.generate(HELLO, max_tokens=4, seed=3),
        engine.force_text("\N{WAVING HAND SIGN}", max_tokens=4),
        engine.force_token(17, "", max_tokens=2),
    )


def test_it_says_the_same_and_is_held(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100)  # too long for a socket
    deep.mkdir()
    stops = ("!",)
    with EmbeddedEngine(gguf, stops=stops) as plain:
        expected = (plain.name, *said(plain))
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with ConfinedEngine(gguf, stops=stops) as engine:
        assert (engine.name, *said(engine)) == expected
        folder = engine._socket.parent
        assert folder.stat().st_mode & 0o777 == 0o700
        if abi() >= 6 and available():
            assert engine.confined == Confined(abi(), True, ())
            status = Path(f"/proc/{_copy(engine)}/status").read_text(encoding="utf-8")
            assert "Seccomp:\t2" in status
    assert not folder.exists()
    assert list(deep.iterdir()) == []


def test_its_end_is_an_error(gguf: Path) -> None:
    with ConfinedEngine(gguf) as engine:
        os.kill(_copy(engine), signal.SIGABRT)
        with pytest.raises(VerificationError, match="embedded engine stopped with status -6"):
            engine.generate(HELLO, max_tokens=1)
        with pytest.raises(VerificationError, match="does not answer"):
            engine.render(HELLO)


@pytest.mark.parametrize("content", [b"GGUF but no more", None])
def test_a_file_that_is_no_gguf(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VerificationError, match=r"cannot load|no GGUF") as caught, ConfinedEngine(path):
        pass
    assert caught.value.path == path


def test_what_no_engine_says() -> None:
    with pytest.raises(VerificationError, match="something else"):
        generation_of({"text": ["a"], "done_reason": "stop", "prompt_tokens": 1, "generated_tokens": True})


def _copy(engine: ConfinedEngine) -> int:
    """The confined process: the only child of the one that loads it."""
    pid = engine._child.pid
    (copy,) = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return int(copy)
