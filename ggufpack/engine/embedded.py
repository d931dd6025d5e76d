"""The embedded engine: llama.cpp's server inside its user's process (package xllamacpp), no Ollama needed.

It renders with the GGUF's own Jinja template, or with one that is given; a Go TEMPLATE is Ollama's.

The server listens on a Unix socket in a folder that only this user can enter. By default it would open a
TCP port on localhost that answers any web page (CORS ``*``); the socket is needed at all because the
in-process API has no call for ``/apply-template``.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from importlib import import_module, metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from ggufpack.engine.protocol import Generation, Message
from ggufpack.errors import VerificationError
from ggufpack.held import held_folder

SOCKET_NAME = "engine.sock"  # llama.cpp takes a host that ends in .sock for a Unix socket
_FOLDER_PREFIX = "ggufpack-engine-"
_TIMEOUT = 120.0  # seconds for a render, which computes nothing
_LONGEST_ANSWER = 64 << 20  # bytes
_WARM_UP = {"prompt": "a", "n_predict": 1, "cache_prompt": False}
_LOOP_BEGINS = 0.5  # seconds; 0.01 was enough
_FORCE = 1000.0  # logits are far below
_MAX_SOCKET_PATH = 100  # sun_path holds 104 bytes on macOS, 108 on Linux


class EmbeddedEngine:
    """A GGUF, loaded by llama.cpp on the CPU. A context manager: it is loaded on entry.

    Args:
        model: the GGUF file.
        chat_template: Jinja text that replaces the file's own; ``None`` keeps it.
        stops: the package's stop strings.
        n_ctx: context length in tokens.
        n_gpu_layers: layers to put on a GPU. 0 by default: a training process may hold it, and results
            on the CPU do not depend on the card.
        socket_folder: an empty one, of somebody who removes it; ``None`` makes one.

    Raises:
        VerificationError: xllamacpp is missing, or cannot load the file.
    """

    def __init__(
        self,
        model: Path,
        chat_template: str | None = None,
        *,
        stops: Sequence[str] = (),
        n_ctx: int = 4096,
        n_gpu_layers: int = 0,
        socket_folder: Path | None = None,
    ) -> None:
        self._model = model
        self._chat_template = chat_template
        self._stops = tuple(stops)
        self._n_ctx = n_ctx
        self._n_gpu_layers = n_gpu_layers
        self._given = socket_folder
        self._made = contextlib.ExitStack()
        self._folder: Path | None = None
        self._server: Any = None

    @property
    def name(self) -> str:
        """Program and version."""
        return f"xllamacpp {metadata.version('xllamacpp')}"

    def __enter__(self) -> EmbeddedEngine:
        xllamacpp = _import_xllamacpp()
        if not self._model.is_file():
            raise VerificationError(f"There is no GGUF file {self._model}", path=self._model)
        self._folder = self._given or self._made.enter_context(private_folder())
        try:
            self._server = xllamacpp.Server(self._parameters(xllamacpp))
            self._warm_up()
        except (RuntimeError, ValueError) as error:
            self.close()
            raise VerificationError(
                f"llama.cpp cannot load {self._model} ({error})",
                action="Build the package again; if it fails again, this llama.cpp does not know the model.",
                path=self._model,
            ) from error
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the model and remove the socket. May be called twice."""
        self._server = None
        self._made.close()
        self._folder = None

    def render(self, messages: Sequence[Message], *, think: bool | None = None) -> str:
        """The prompt text that llama.cpp makes of these messages (``/apply-template``).

        Raises:
            VerificationError: the template refuses the conversation, or the engine is not running.
        """
        return render_at(self._socket, messages, think)

    def generate(
        self, messages: Sequence[Message], *, max_tokens: int, seed: int = 0, think: bool | None = None
    ) -> Generation:
        """A deterministic generation; every sampling parameter is given.

        Raises:
            VerificationError: the prompt is longer than the context, or the engine failed.
        """
        request = {"messages": list(messages), **_switches(think), "max_tokens": max_tokens, "seed": seed}
        return self._answer("handle_chat_completions", request)

    def force_text(self, text: str, *, max_tokens: int) -> Generation:
        """``text`` by a grammar that knows no other.

        Raises:
            VerificationError: the engine failed.
        """
        request = {"prompt": "Answer:", "max_tokens": max_tokens, "grammar": f"root ::= {_literal(text)}"}
        return self._answer("handle_completions", request)

    def force_token(self, token: int, text: str, *, max_tokens: int) -> Generation:  # noqa: ARG002
        """The token by a logit bias.

        Raises:
            VerificationError: the engine failed.
        """
        request = {"prompt": "Answer:", "max_tokens": max_tokens, "logit_bias": [[token, _FORCE]]}
        return self._answer("handle_completions", request)

    def _answer(self, call: str, request: dict[str, object]) -> Generation:
        """The answer to a request in OpenAI's form, with every sampling parameter given."""
        if self._server is None:
            raise VerificationError("The embedded engine is not running")
        request = {
            "seed": 0,
            **request,
            "temperature": 0.0,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            "repeat_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop": list(self._stops),
            "stream": False,
            "cache_prompt": False,  # a cached prefix is computed in other batches: not the same bits
        }
        try:
            answer = getattr(self._server, call)(request)
        except (RuntimeError, ValueError) as error:
            raise VerificationError(f"The embedded engine failed to answer ({error})") from error
        if isinstance(answer, dict) and "error" in answer:
            raise VerificationError(f"The embedded engine failed to answer ({_message_of(answer)})")
        try:
            choice, usage = answer["choices"][0], answer["usage"]
            return Generation(
                (choice["message"]["content"] if "message" in choice else choice["text"]) or "",
                choice["finish_reason"],
                usage["prompt_tokens"],
                usage["completion_tokens"],
            )
        except (KeyError, IndexError, TypeError) as error:
            raise VerificationError(f"The embedded engine answered with something else: {answer}") from error

    def _warm_up(self) -> None:
        """Let the server run once. Freeing one whose loop has not begun hangs (seen with 2026.10).

        A model that cannot generate is no error here: it may be asked for prompts only.
        """
        answered = False
        try:
            answered = "error" not in self._server.handle_completions(_WARM_UP)
        finally:
            if not answered:
                time.sleep(_LOOP_BEGINS)  # this request did not come to the loop, so it tells nothing

    def _parameters(self, xllamacpp: Any) -> Any:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(self._model)
        parameters.hostnames = [str(self._socket)]
        parameters.cors_origins = ""
        parameters.cors_credentials = False
        parameters.ui = False
        parameters.endpoint_slots = False
        parameters.offline = True
        parameters.n_ctx = self._n_ctx
        parameters.n_parallel = 1
        parameters.n_gpu_layers = self._n_gpu_layers
        parameters.fit_params = False  # it would change n_ctx to what fits
        parameters.warmup = False
        parameters.cache_prompt = False
        parameters.cache_ram_mib = 0
        parameters.verbosity = 0
        parameters.use_jinja = True
        parameters.prefill_assistant = (
            False  # a conversation that ends with the assistant is rendered as it is
        )
        parameters.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
        if self._chat_template is not None:
            parameters.chat_template = self._chat_template
        return parameters

    @property
    def _socket(self) -> Path:
        if self._folder is None:
            raise VerificationError("The embedded engine is not running")
        return self._folder / SOCKET_NAME


def render_at(engine: Path, messages: Sequence[Message], think: bool | None) -> str:
    """The prompt text that the llama.cpp behind this socket makes of these messages (``/apply-template``).

    Raises:
        VerificationError: the template refuses the conversation, or the engine does not answer.
    """
    answer = _post(engine, "/apply-template", {"messages": list(messages), **_switches(think)})
    prompt = answer.get("prompt")
    if not isinstance(prompt, str):
        raise VerificationError(f"The embedded engine answered without a prompt: {answer!s:.300}")
    return prompt


def _post(engine: Path, path: str, body: dict[str, object]) -> dict[str, Any]:
    connection = _UnixConnection(engine)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        # the connection has a limit for each wait, and none for the whole
        watch = threading.Timer(_TIMEOUT, _hang_up, [connection])
        watch.daemon = True
        watch.start()
        try:
            response = connection.getresponse()
            data = response.read(_LONGEST_ANSWER + 1)
        finally:
            watch.cancel()
        if len(data) > _LONGEST_ANSWER:
            raise VerificationError(f"The embedded engine's answer has no end ({path}).")
        answer = json.loads(data)
    except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
        raise VerificationError(f"The embedded engine does not answer ({error})") from error
    finally:
        connection.close()
    if not isinstance(answer, dict):
        raise VerificationError(f"The embedded engine answered with something else: {answer!s:.300}")
    if response.status != http.client.OK:
        raise VerificationError(f"The embedded engine refused {path}: {_message_of(answer)}")
    return answer


def _hang_up(connection: _UnixConnection) -> None:
    with contextlib.suppress(OSError):
        connection.sock.shutdown(socket.SHUT_RDWR)


def _switches(think: bool | None) -> dict[str, object]:
    """As Ollama asks llama-server: by this one name (llm/llama_server.go)."""
    return {} if think is None else {"chat_template_kwargs": {"enable_thinking": think}}


def _literal(text: str) -> str:
    """A GBNF string."""
    plain = (c if c.isascii() and (c.isalnum() or c == " ") else f"\\U{ord(c):08X}" for c in text)
    return f'"{"".join(plain)}"'


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _import_xllamacpp() -> Any:
    try:
        return import_module("xllamacpp")
    except ImportError as error:
        raise VerificationError(
            f"The embedded engine needs the package xllamacpp ({error})",
            action="Run: pip install 'ggufpack[engine]', or start an Ollama server.",
        ) from error


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A new folder with mode 0700, with a path short enough for the engine's socket in it."""
    usual = Path(tempfile.gettempdir())
    longest = usual / f"{_FOLDER_PREFIX}12345678" / SOCKET_NAME
    fits = len(str(longest).encode()) <= _MAX_SOCKET_PATH
    with held_folder(_FOLDER_PREFIX, usual if fits else Path("/tmp")) as folder:  # noqa: S108
        yield folder


def _message_of(answer: dict[str, Any]) -> str:
    error = answer.get("error")
    return str(error.get("message", error)) if isinstance(error, dict) else str(answer)
