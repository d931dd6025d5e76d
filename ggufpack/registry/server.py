"""An Ollama server, through the ollama client and, where the client lacks a call, its HTTP session."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import httpx
import ollama

from ggufpack.errors import ServerResponseError, ServerUnreachableError, ServerVersionError
from ggufpack.registry.answers import ServerMessageError, error_message, json_lines, parse_json
from ggufpack.registry.chat import ChatAnswer, chat_answer, chat_payload
from ggufpack.registry.errors import refusal, translated
from ggufpack.registry.limits import MIB, Limits, limit
from ggufpack.registry.names import parse as parse_name
from ggufpack.registry.shown import ShownModel, parse_shown

Json = Mapping[str, Any]

_CONNECT_SECONDS = 10.0
_CHECK_SECONDS = 10.0
_UPLOAD_CHUNK = 1 << 20
_NOT_FOUND = 404
_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")
# how a build without -ldflags names itself (version/version.go)
_UNSET_VERSION = (0, 0, 0)
# a large model is silent for minutes while it is loaded, and for more while the server copies it
_LIMITS = {
    "version": Limits(silent=_CHECK_SECONDS, size=MIB, whole=_CHECK_SECONDS),
    "show": Limits(silent=120, size=64 * MIB, whole=120),
    "blobs": Limits(silent=1800, size=MIB, whole=1800),
    "create": Limits(silent=7200, size=256 * MIB, whole=None),
    **dict.fromkeys(("push", "pull"), Limits(silent=3600, size=None, whole=None)),
    **dict.fromkeys(("chat", "generate", "embed"), Limits(silent=3600, size=16 * MIB, whole=3600)),
}
_OTHER_LIMITS = Limits(silent=120, size=16 * MIB, whole=120)
_MOST_UPDATES = 10_000  # that wait to be shown
# the keys of a create request that describe the model (api/types.go: CreateRequest)
_CREATE_KEYS = frozenset(
    {"template", "system", "parameters", "license", "messages", "info", "renderer", "parser", "requires"}
)


class OllamaServer:
    """One server. Making the object does not connect; every method may raise ``RegistryError``.

    Args:
        host: address; ``None`` follows ``OLLAMA_HOST`` as the client does.

    Raises:
        ServerUnreachableError: the address cannot be one.
    """

    def __init__(self, host: str | None = None) -> None:
        given = host or os.environ.get("OLLAMA_HOST") or ""
        try:
            self._client = ollama.Client(host, timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS))
        except (ValueError, httpx.InvalidURL) as error:
            raise ServerUnreachableError(
                f'"{given}" is not the address of a server ({error})',
                action="Give --host or OLLAMA_HOST like http://127.0.0.1:11434.",
            ) from error
        # HEAD, uploads with progress, create with all keys, and _debug_render_only are not in the client
        self._http: httpx.Client = self._client._client
        limit(self._http, _limits)

    def __repr__(self) -> str:
        return f"OllamaServer({self.host!r})"

    @property
    def host(self) -> str:
        """The address in use, as a URL without a slash at its end."""
        return str(self._http.base_url).rstrip("/")

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    # --- what is there ----------------------------------------------------------

    def check(self) -> None:
        """Ask for the version, within ten seconds.

        Raises:
            ServerUnreachableError: nobody answers.
            ServerResponseError: what answers is not Ollama.
        """
        _ = self.version_text

    @cached_property
    def version_text(self) -> str:
        """The version as the server gives it (``"0.33.0-rc2"``)."""
        with translated(self.host, "ask for its version"):
            answer = self._http.get("/api/version")
        version = self._object(answer, "ask for its version").get("version")
        if not isinstance(version, str):
            raise refusal(
                "the answer has no version; is this Ollama?", host=self.host, doing="ask for its version"
            )
        return version

    @property
    def version(self) -> tuple[int, int, int] | None:
        """The version as numbers; ``None`` when the server does not know it: then probe, don't guess."""
        match = _VERSION.match(self.version_text)
        if match is None:
            return None
        numbers = (int(match[1]), int(match[2]), int(match[3]))
        return None if numbers == _UNSET_VERSION else numbers

    def names(self) -> tuple[str, ...]:
        """The models that are registered, as the server lists them."""
        return tuple(self._listed())

    def manifest_digest(self, name: str) -> str | None:
        """The digest of a model's manifest in hex, as the server lists it; ``None`` when it is not there."""
        wanted = str(parse_name(name)).lower()
        return next((digest for found, digest in self._listed().items() if found.lower() == wanted), None)

    def _listed(self) -> dict[str, str | None]:
        """Name → digest of the manifest."""
        doing = "list the models"
        with translated(self.host, doing):
            answer = self._http.get("/api/tags")
        listed = self._object(answer, doing)
        with self.as_expected(doing):
            found = {str(model["model"]): model.get("digest") for model in listed.get("models") or ()}
        return {name: digest if isinstance(digest, str) else None for name, digest in found.items() if name}

    def exists(self, name: str) -> bool:
        """Whether a model of this name is registered."""
        return self._try_show(name) is not None

    def show(self, name: str) -> ShownModel:
        """What the server stored under this name.

        Raises:
            ServerResponseError: there is no such model, or its files are damaged.
        """
        shown = self._try_show(name)
        if shown is None:
            raise refusal("there is no such model", host=self.host, doing=f"show {name}")
        return shown

    def model_info(self, name: str) -> Json:
        """The keys of the stored GGUF, arrays included.

        Raises:
            ServerResponseError: there is no such model, or the server does not tell.
        """
        return self.description(name)[0]

    def description(self, name: str) -> tuple[Json, dict[str, tuple[int, ...]]]:
        """The keys of the stored GGUF, and its tensors' shapes: the row length first, none where the
        server does not tell them.

        Raises:
            ServerResponseError: as ``model_info``.
        """
        answer = self._post("/api/show", {"model": name, "verbose": True}, f"show {name}")
        info = answer.get("model_info")
        if not isinstance(info, dict):
            raise refusal("it gives no model_info", host=self.host, doing=f"show {name}")
        with self.as_expected(f"show {name}"):
            tensors = answer.get("tensors") or ()
            return info, {str(tensor["name"]): tuple(map(int, tensor["shape"])) for tensor in tensors}

    def _try_show(self, name: str) -> ShownModel | None:
        doing = f"show {name}"
        with translated(self.host, doing):
            answer = self._http.post("/api/show", json={"model": name})
        if answer.status_code == _NOT_FOUND:
            return None
        with self.as_expected(doing):
            return parse_shown(self._object(answer, doing))

    # --- blobs ------------------------------------------------------------------

    def has_blob(self, digest: str) -> bool:
        """Whether the server has a blob; ``digest`` is ``sha256:HEX`` or the hex alone."""
        doing = "look for a blob"
        with translated(self.host, doing):
            answer = self._http.head(f"/api/blobs/{_digest(digest)}")
        if answer.status_code == _NOT_FOUND:
            return False
        self._must(answer, doing)
        return True

    def upload_blob(self, path: Path, sha256: str, on_progress: Callable[[int], None] | None = None) -> bool:
        """Send a file, unless the server has it. An upload that breaks off leaves nothing there.

        Args:
            path: the file.
            sha256: its digest, in hex; the server computes it again.
            on_progress: told the number of bytes sent so far.

        Returns:
            Whether anything was sent.

        Raises:
            ServerDiskFullError: the server has no room.
            ServerResponseError: it refused, or the file changed meanwhile.
        """
        if self.has_blob(sha256):
            return False
        doing = f"upload {path.name}"
        size = path.stat().st_size

        def chunks() -> Iterator[bytes]:
            done = 0
            with path.open("rb") as file:
                while done < size:
                    chunk = file.read(min(_UPLOAD_CHUNK, size - done))
                    if not chunk:
                        raise ServerResponseError(f"{path} became shorter while it was uploaded", path=path)
                    yield chunk
                    done += len(chunk)
                    if on_progress is not None:
                        on_progress(done)

        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        with translated(self.host, doing):
            answer = self._http.post(f"/api/blobs/{_digest(sha256)}", content=chunks(), headers=headers)
        self._must(answer, doing)
        return True

    # --- models -----------------------------------------------------------------

    def create(
        self,
        name: str,
        files: Mapping[str, str],
        request: Json,
        on_status: Callable[[Json], None] | None = None,
        *,
        base: str | None = None,
    ) -> None:
        """Register a model from uploaded blobs, with nothing left to the server's detection.

        ``stop`` is always sent: without it the server adds the stops of the template that it thinks
        it recognises (create.go: setParameters).

        When the caller is interrupted, or ``on_status`` raises, the server is still waited for: it
        hangs for good, holding a half-written copy of the model, when its client goes away while it
        works (0.33.0, create.go: the handler sends into a channel that nobody reads). A second
        interrupt leaves at once.

        Args:
            name: the model's name.
            files: file name to digest.
            request: the model's other keys: template, system, parameters, license, messages, info,
                renderer, parser, requires (api/types.go: CreateRequest).
            on_status: gets every status object of the stream.
            base: a registered model that the files are an adapter of; it must be there, or the server
                pulls it.

        Raises:
            ValueError: ``request`` has another key.
            ServerDiskFullError: the server has no room.
            ServerResponseError: it refused the file or the template.
        """
        if unknown := set(request) - _CREATE_KEYS:
            raise ValueError(f"not keys of a create request: {sorted(unknown)}")
        parameters = {"stop": [], **(request.get("parameters") or {})}
        digests = {file: _digest(digest) for file, digest in files.items()}
        source: Json = {"files": digests} if base is None else {"from": base, "adapters": digests}
        payload = {**request, **source, "model": name, "parameters": parameters, "stream": True}
        updates: Queue[Json | Exception | None] = Queue(_MOST_UPDATES)

        def work() -> None:
            try:
                for update in self._stream("/api/create", payload, f"create {name}"):
                    updates.put(update)
            except Exception as error:  # noqa: BLE001 - raised again by the caller's thread
                updates.put(error)
            updates.put(None)

        worker = Thread(target=work, name="ggufpack-create", daemon=True)
        worker.start()
        last: Json = {}
        update: Json | Exception | None = None
        try:
            while (update := updates.get()) is not None:
                if isinstance(update, Exception):
                    raise update
                last = update
                if on_status is not None:
                    on_status(update)
        except BaseException:
            if not isinstance(update, Exception):
                while isinstance(updates.get(), dict):  # the server is at work
                    pass
            worker.join()
            raise
        if last.get("status") != "success":
            raise refusal("the stream ended without success", host=self.host, doing=f"create {name}")

    def copy(self, source: str, destination: str) -> None:
        """Register a model under a second name; an existing one of that name is replaced."""
        doing = f"copy {source} to {destination}"
        with translated(self.host, doing):
            answer = self._http.post("/api/copy", json={"source": source, "destination": destination})
        self._must(answer, doing)

    def delete(self, name: str) -> None:
        """Remove a name, and the blobs that no other name needs."""
        with translated(self.host, f"delete {name}"):
            answer = self._http.request("DELETE", "/api/delete", json={"model": name})
        self._must(answer, f"delete {name}")

    def push(self, name: str, *, insecure: bool = False) -> Iterator[Json]:
        """Let the server push a model to the registry in its name; yields the server's status objects.

        What the server says is a ``ServerMessageError``, and httpx's errors are its own;
        ``registry.transfer`` makes sentences of them.
        """
        return self._transferred("/api/push", name, insecure)

    def pull(self, name: str, *, insecure: bool = False) -> Iterator[Json]:
        """Let the server pull a model from the registry in its name; as ``push``."""
        return self._transferred("/api/pull", name, insecure)

    def _transferred(self, path: str, name: str, insecure: bool) -> Iterator[Json]:
        request = {"model": name, "insecure": insecure, "stream": True}
        with self._http.stream("POST", path, json=request) as answer:
            if answer.is_error:
                answer.read()
                raise ServerMessageError(error_message(answer) or f"HTTP status {answer.status_code}")
            for part in json_lines(answer):
                if error := part.get("error"):
                    raise ServerMessageError(str(error))
                yield part

    def unload(self, name: str) -> None:
        """Free the memory that a loaded model takes."""
        self._post("/api/generate", {"model": name, "keep_alive": 0, "stream": False}, f"unload {name}")

    # --- running ----------------------------------------------------------------

    def render_chat(
        self,
        name: str,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Json] | None = None,
        think: bool | None = None,
        keep_alive: float | str | None = None,
    ) -> str:
        """The exact prompt that the server makes of a conversation. The model is loaded for it.

        Long conversations are cut to the model's num_ctx, as they would be in use.

        Raises:
            ServerVersionError: the server is too old to say.
            ServerResponseError: the template fails on this conversation.
        """
        # a server that does not know the flag would answer in full; let it be one token
        options = {"num_predict": 1}
        payload = chat_payload(name, messages, options, tools, think, keep_alive)
        payload["_debug_render_only"] = True
        answer = self._post("/api/chat", payload, f"render a prompt of {name}")
        with self.as_expected(f"render a prompt of {name}"):
            rendered = (answer.get("_debug_info") or {}).get("rendered_template")
        if not isinstance(rendered, str):
            raise ServerVersionError(
                f"The Ollama server at {self.host} ({self.version_text}) does not show the prompts it makes",
                action="Update Ollama.",
            )
        return rendered

    def chat(
        self,
        name: str,
        messages: Sequence[Mapping[str, Any]],
        options: Json,
        *,
        tools: Sequence[Json] | None = None,
        think: bool | None = None,
        keep_alive: float | str | None = None,
        top_logprobs: int | None = None,
    ) -> ChatAnswer:
        """One answer.

        Args:
            name: the model.
            messages: the conversation.
            options: sampling options; for a repeatable answer temperature 0, seed, num_predict and
                repeat_penalty 1.
            tools: tool definitions.
            think: ``None`` leaves it to the server (true for a model that can).
            keep_alive: seconds, or a duration such as ``"5m"``; ``None`` is the server's default.
            top_logprobs: 0 to 20; the values are in ``raw["logprobs"]``.
        """
        payload = chat_payload(name, messages, options, tools, think, keep_alive)
        if top_logprobs is not None:
            payload |= {"logprobs": True, "top_logprobs": top_logprobs}
        doing = f"chat with {name}"
        answer = self._post("/api/chat", payload, doing)
        with self.as_expected(doing):
            return chat_answer(answer, answer.get("message") or {}, "content")

    def complete(
        self,
        name: str,
        prompt: str,
        options: Json,
        *,
        format: Json | None = None,  # noqa: A002 - the API's name
    ) -> ChatAnswer:
        """What the model writes behind a text that is its whole prompt (``raw``: no template).

        Args:
            name: the model.
            prompt: the text; special tokens in it are parsed.
            options: sampling options; the model's own stops hold unless ``stop`` is among them.
            format: a JSON schema that the answer must follow.
        """
        payload: dict[str, Any] = {"model": name, "prompt": prompt, "raw": True, "stream": False}
        payload |= {"options": dict(options)}
        # a server splits off the thinking of a model that can, unless told not to
        payload |= {"think": False} if format is None else {"think": False, "format": dict(format)}
        doing = f"complete a text with {name}"
        answer = self._post("/api/generate", payload, doing)
        with self.as_expected(doing):
            return chat_answer(answer, answer, "response")

    def embed(self, name: str, text: str) -> list[float]:
        """The embedding of one text, of unit length; its size is the model's.

        Raises:
            ServerResponseError: the model makes no embeddings.
        """
        doing = f"embed with {name}"
        answer = self._post("/api/embed", {"model": name, "input": text}, doing)
        match answer.get("embeddings"):
            case [list(vector)]:
                with self.as_expected(doing):
                    return [float(value) for value in vector]
        raise refusal("the answer has no embedding", host=self.host, doing=doing)

    # --- HTTP -------------------------------------------------------------------

    def _post(self, path: str, payload: Json, doing: str) -> Json:
        with translated(self.host, doing):
            answer = self._http.post(path, json=payload)
        return self._object(answer, doing)

    def _stream(self, path: str, payload: Json, doing: str) -> Iterator[Json]:
        with translated(self.host, doing), self._http.stream("POST", path, json=payload) as answer:
            if answer.is_error:
                answer.read()
                self._must(answer, doing)
            for part in json_lines(answer):
                if error := part.get("error"):
                    raise refusal(str(error), host=self.host, doing=doing)
                yield part

    def _must(self, answer: httpx.Response, doing: str) -> None:
        """Raise what the server says in an error status."""
        if not answer.is_success:
            message = error_message(answer) or f"HTTP status {answer.status_code}"
            raise refusal(message, host=self.host, doing=doing)

    def _object(self, answer: httpx.Response, doing: str) -> Json:
        self._must(answer, doing)
        with translated(self.host, doing):
            content = parse_json(answer.content)
        if not isinstance(content, dict):
            raise refusal("the answer is not a JSON object; is this Ollama?", host=self.host, doing=doing)
        return content

    @contextmanager
    def as_expected(self, doing: str) -> Iterator[None]:
        """Inside, the fields of an answer are read; what is missing or of another type is a refusal."""
        try:
            yield
        except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise refusal(
                f"the answer is not what Ollama gives ({error!r:.200})", host=self.host, doing=doing
            ) from error


def _limits(path: str) -> Limits:
    return _LIMITS.get(path.rpartition("/api/")[2].partition("/")[0], _OTHER_LIMITS)


def _digest(text: str) -> str:
    return text if text.startswith("sha256:") else f"sha256:{text}"
