from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType

import httpx
import ollama
import pytest

from ggufpack.errors import (
    ExchangeBrokenError,
    RegistryError,
    ServerDiskFullError,
    ServerResponseError,
    ServerUnreachableError,
)
from ggufpack.registry.errors import CLASSES, translate, translated

UNREACHABLE = {"ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol", "InvalidURL"}

ANSWERED = {httpx.HTTPStatusError, httpx.TooManyRedirects, httpx.DecodingError, httpx.CookieConflict}
ANSWERED |= {ollama.ResponseError, ollama.RequestError}


def exception_classes(module: ModuleType) -> Iterator[type[Exception]]:
    for name in sorted(vars(module)):
        found = getattr(module, name)
        if inspect.isclass(found) and issubclass(found, Exception):
            yield found


@pytest.mark.parametrize("kind", [*exception_classes(httpx), *exception_classes(ollama)])
def test_the_map_is_complete(kind: type[Exception]) -> None:
    assert kind in CLASSES, f"{kind.__name__} would leave ggufpack as it is"
    unreachable, answered = kind.__name__ in UNREACHABLE, kind in ANSWERED
    without_answer = ServerUnreachableError if unreachable else ExchangeBrokenError
    assert CLASSES[kind] is (ServerResponseError if answered else without_answer)


def test_no_class_was_overlooked_by_the_test() -> None:
    assert len([*exception_classes(httpx)]) >= 28
    assert {kind.__name__ for kind in exception_classes(ollama)} == {"RequestError", "ResponseError"}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (httpx.ConnectError("refused"), ServerUnreachableError),
        (ConnectionError("Failed to connect to Ollama."), ServerUnreachableError),
        (ConnectionRefusedError(111, "refused"), ServerUnreachableError),
        (httpx.ReadError("reset"), ExchangeBrokenError),
        (httpx.ReadTimeout("slow"), ExchangeBrokenError),
        (ollama.ResponseError("server busy, please try again", 503), ExchangeBrokenError),
        (ollama.ResponseError('{"error": "model is broken"}', 500), ServerResponseError),
        (ollama.ResponseError("write /m/blobs/sha256-1: no space left on device"), ServerDiskFullError),
        (ollama.RequestError("must provide a model"), ServerResponseError),
    ],
)
def test_each_family(error: Exception, expected: type[RegistryError]) -> None:
    made = translate(error, host="http://h:1", doing="upload m.gguf")
    assert type(made) is expected
    assert "http://h:1" in made.problem
    assert "upload m.gguf" in made.problem
    assert made.exit_code == 6


def test_an_unreachable_server_comes_with_the_way_to_start_one() -> None:
    made = translate(httpx.ConnectError("refused"), host="http://h:1", doing="x")
    assert "ollama serve" in (made.action or "")


def test_a_failed_check_points_to_the_disk() -> None:
    message = "failed to validate GGUF with llama-quantize: llama-quantize failed: exit status 1"
    assert "room for two" in (translate(ollama.ResponseError(message), host="h", doing="x").action or "")
    assert translate(ollama.ResponseError("bad template"), host="h", doing="x").action is None


def test_other_errors_pass_through() -> None:
    with pytest.raises(KeyError):
        translate(ZeroDivisionError(), host="h", doing="x")
    with pytest.raises(ZeroDivisionError), translated("h", "x"):
        raise ZeroDivisionError
    with pytest.raises(ServerResponseError) as caught, translated("h", "x"):
        raise httpx.ReadError("reset")
    assert isinstance(caught.value.__cause__, httpx.ReadError)
