"""Any server with OpenAI's chat API: vLLM, Ollama's /v1, llama.cpp's server, and others."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import httpx

from ggufpack.engine.openai_answers import OpenAIAnswer, error_text, parse_answer, parse_stream
from ggufpack.engine.openai_requests import (
    ServerKind,
    chat_request,
    kind_of,
    kind_of_fingerprint,
    prompt_request,
    server_name,
    stream_request,
)
from ggufpack.errors import (
    EndpointRefusedError,
    ExchangeBrokenError,
    ServerResponseError,
    ServerUnreachableError,
    UsageError,
)
from ggufpack.registry.answers import parse_json
from ggufpack.registry.errors import CLASSES, MAX_SAID, UNAVAILABLE
from ggufpack.registry.limits import MIB, Limits, limit

_CONNECT_SECONDS = 10.0
# a large model is loaded for the first answer
LIMITS = Limits(silent=600, size=16 * MIB, whole=3600)
_ERRORS = tuple(kind for kind in CLASSES if kind.__module__.startswith("httpx"))
_NOT_UNDERSTOOD = (400, 404, 405, 415, 422, 501)
KEY_VARIABLE = "OPENAI_API_KEY"


class OpenAIEndpoint:
    """One model of one server. Making the object does not connect.

    The key goes into the ``Authorization`` header and nowhere else; where a server's error repeats it, it is
    taken out.

    Args:
        url: as OpenAI clients take it (``base_url``); ``/v1`` is added to an address without a path.
        model: as the server names it.
        key_variable: environment variable with the API key; unset sends none.

    Raises:
        UsageError: the address cannot be one, or holds a password.
    """

    def __init__(self, url: str, model: str, *, key_variable: str = KEY_VARIABLE) -> None:
        self.url = base_url(url)
        self.model = model
        self._key = os.environ.get(key_variable, "")
        self._key_variable = key_variable
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
        )
        limit(self._http, lambda _path: LIMITS)

    def __repr__(self) -> str:
        return f"OpenAIEndpoint({self.url!r}, {self.model!r})"

    def __enter__(self) -> OpenAIEndpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    @property
    def name(self) -> str:
        """Program and address."""
        return f"{server_name(self.kind)} at {self.url}"

    @cached_property
    def kind(self) -> ServerKind:
        """Which program answers.

        Raises:
            ServerUnreachableError: none does.
            ServerResponseError: it does not serve the model.
        """
        found = kind_of(self._models())
        if found is not None:
            return found
        question = [{"role": "user", "content": "Hi"}]
        answer = self._post(chat_request("other", self.model, question, max_tokens=1), "answer")
        return kind_of_fingerprint(self._parsed(answer).fingerprint)

    def chat(
        self, messages: Sequence[Mapping[str, Any]], *, extra: Mapping[str, Any] | None = None, **options: Any
    ) -> OpenAIAnswer:
        """One greedy answer.

        Args:
            messages: the conversation.
            extra: fields beside those of ``chat_request``.
            options: of ``chat_request``: ``max_tokens``, ``think``, ``tools``, ``top_logprobs``.

        Raises:
            EndpointRefusedError: the server does not do what a field asks for.
            RegistryError: it failed.
        """
        request = chat_request(self.kind, self.model, messages, **options) | dict(extra or {})
        return self._parsed(self._post(request, "answer"))

    def stream(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> OpenAIAnswer:
        """The same, streamed and put together.

        Raises:
            RegistryError: the server failed, or the stream broke off.
        """
        request = chat_request(self.kind, self.model, messages, **options) | stream_request()
        try:
            return parse_stream(self._chunks(request))
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise self._strange(error) from error

    def show_prompt(
        self, messages: Sequence[Mapping[str, Any]], *, think: bool | None = None
    ) -> OpenAIAnswer | None:
        """An answer with ``prompt_text`` or ``prompt_ids``; ``None`` where the server shows neither.

        Raises:
            RegistryError: the server failed, or its template does on this conversation.
        """
        extra = prompt_request(self.kind)
        if not extra:
            return None
        answer = self.chat(messages, max_tokens=1, think=think, extra=extra)
        return None if answer.prompt_text is None and answer.prompt_ids is None else answer

    # --- HTTP -------------------------------------------------------------------

    def _models(self) -> list[Any]:
        """What ``/v1/models`` lists; nothing where the server has no list."""
        with self._exchange("list the models"):
            response = self._http.get(f"{self.url}/models")
            if response.status_code in _NOT_UNDERSTOOD:
                return []
            self._must(response, "list the models")
            listed = parse_json(response.content)
        models = listed.get("data") if isinstance(listed, dict) else None
        return [one for one in models or () if isinstance(one, dict)]

    def _post(self, request: Mapping[str, Any], doing: str) -> object:
        with self._exchange(doing):
            response = self._http.post(f"{self.url}/chat/completions", json=request)
            self._must(response, doing)
            return parse_json(response.content)

    def _chunks(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The objects of a stream of server-sent events, up to ``[DONE]``."""
        doing = "stream an answer"
        with (
            self._exchange(doing),
            self._http.stream("POST", f"{self.url}/chat/completions", json=request) as response,
        ):
            if response.is_error:
                response.read()
            self._must(response, doing)
            for line in response.iter_lines():
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                chunk = parse_json(data)
                if not isinstance(chunk, dict):
                    raise json.JSONDecodeError("a chunk is no object", "", 0)
                if "error" in chunk:
                    raise self._refusal(error_text(chunk) or data, doing, response.status_code)
                yield chunk
        raise ExchangeBrokenError(f"{self.url} broke off: {doing}: the stream ended without [DONE]")

    def _must(self, response: httpx.Response, doing: str) -> None:
        if response.is_success:
            return
        try:
            message = error_text(parse_json(response.content))
        except ValueError:
            message = None
        status = response.status_code
        raise self._refusal(message or f"HTTP status {status}", doing, status)

    def _refusal(self, message: str, doing: str, status: int) -> ServerResponseError:
        text = f"{self._without_key(message):.{MAX_SAID}}"
        if status in (401, 403):
            return ServerResponseError(
                f"{self.url} refused the API key: {text}",
                action=f"Put it into the environment variable {self._key_variable}, or name another one with"
                " --api-key-env.",
            )
        kind = ServerResponseError
        if status in _NOT_UNDERSTOOD:
            kind = EndpointRefusedError
        elif status in UNAVAILABLE:
            kind = ExchangeBrokenError
        return kind(f"{self.url}, model {self.model}, refused: {doing}: {text}")

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _parsed(self, answer: object) -> OpenAIAnswer:
        try:
            return parse_answer(answer)  # type: ignore[arg-type]
        except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise self._strange(error) from error

    def _strange(self, error: Exception) -> ServerResponseError:
        return ServerResponseError(
            f"{self.url} answered with something else than a chat completion ({error!r:.200})",
            action="Give the address that OpenAI clients take as base_url.",
        )

    @contextmanager
    def _exchange(self, doing: str) -> Iterator[None]:
        try:
            yield
        except _ERRORS as error:
            target = next(CLASSES[kind] for kind in type(error).__mro__ if kind in CLASSES)
            reason = self._without_key(str(error) or type(error).__name__)
            if target is ServerUnreachableError:
                raise ServerUnreachableError(
                    f"No server answers at {self.url} ({doing}: {reason})", action="Check --endpoint."
                ) from error
            raise target(f"The exchange with {self.url} failed: {doing}: {reason}") from error
        except json.JSONDecodeError as error:
            raise self._strange(error) from error


def base_url(text: str) -> str:
    """An address without a slash at its end.

    Raises:
        UsageError: it is no http address, or has a user, a query or a fragment.
    """
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, TypeError) as error:
        raise UsageError(f"--endpoint: this is not an address ({error}).", key="endpoint") from error
    if url.userinfo:
        # not quoted: it holds a password
        raise UsageError(
            "--endpoint holds a user or a password.",
            action=f"Put the API key into the environment variable {KEY_VARIABLE}.",
            key="endpoint",
        )
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise UsageError(
            f"--endpoint {str(url.copy_with(query=None, fragment=None))!r} is not the address of a server.",
            action="Give it like http://127.0.0.1:8000/v1.",
            key="endpoint",
        )
    path = url.path.rstrip("/") or "/v1"
    return str(url.copy_with(path=path))
