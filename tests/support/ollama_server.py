"""A real Ollama server of the tests' own: free loopback port, own store, own HOME."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ggufpack.registry import OllamaServer
from tests.support.llama_cpp import BuildError
from tests.support.ollama_build import OllamaProgram

_START_SECONDS = 60.0
# what a user's shell may have set and would change the results
_CLEARED = "OLLAMA_"


@dataclass(frozen=True)
class RunningOllama:
    """A server that answers. ``store`` is its OLLAMA_MODELS, ``log`` its output so far."""

    host: str
    version: str
    program: OllamaProgram
    store: Path
    log: Path

    def manifests(self) -> set[str]:
        """Every registered name as ``HOST/NAMESPACE/MODEL/TAG``, read from the store itself."""
        root = self.store / "manifests"
        return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}

    def blobs(self) -> set[str]:
        """Every file among the blobs, unfinished ones too."""
        return {path.name for path in (self.store / "blobs").glob("*")}

    def clear(self) -> None:
        """Remove all models, and all blobs, unfinished ones too."""
        with closing(OllamaServer(self.host)) as client:
            for name in client.names():
                client.delete(name)
        for blob in (self.store / "blobs").glob("*"):
            blob.unlink()


@contextmanager
def running_ollama(
    program: OllamaProgram, folder: Path, store: Path | None = None
) -> Iterator[RunningOllama]:
    """Start ``ollama serve`` and stop it, with the engine processes it started, at the end.

    Args:
        program: the binary.
        folder: gets the store, a HOME and the log.
        store: OLLAMA_MODELS, where it shall not be in ``folder``.

    Raises:
        BuildError: it does not answer within a minute; its last output is quoted.
    """
    store = store or folder / "models"
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    log = folder / "ollama.log"
    host = f"http://127.0.0.1:{free_port()}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_CLEARED)}
    env = {**kept, "OLLAMA_HOST": host, "OLLAMA_MODELS": str(store), "HOME": str(home)}
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [str(program.path), "serve"], env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        ) as process,
    ):
        try:
            version = wait_for_ollama(process, host, log)
            yield RunningOllama(host, version, program, store, log)
        finally:
            process.terminate()  # the server ends its llama-server processes on SIGTERM
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()


def free_port() -> int:
    """A loopback TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_ollama(process: subprocess.Popen[bytes], host: str, log: Path) -> str:
    """The server's version, as soon as it answers.

    Raises:
        BuildError: it does not within a minute.
    """
    import json

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with opener.open(f"{host}/api/version", timeout=2) as answer:
                return str(json.load(answer)["version"])
        except OSError:
            time.sleep(0.1)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise BuildError(f"{process.args!r} does not answer at {host}\n{tail}")
