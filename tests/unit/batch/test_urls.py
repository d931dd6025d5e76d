"""Paths that stand for URLs, and what a URL must not have in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufpack.batch.urls import absolute, check_url, shown, url_of, without_secrets
from ggufpack.errors import UsageError


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("s3://bucket/run/checkpoint-5", "s3://bucket/run/checkpoint-5"),
        ("file:///data/run", "file:///data/run"),
        ("hf://team/model", "hf://team/model"),
        ("/data/run", None),
        ("run/a:b", None),
        ("C:/models", None),
    ],
)
def test_paths_that_are_urls(path: str, url: str | None) -> None:
    assert url_of(Path(path)) == url
    assert shown(Path(path)) == path
    assert (absolute(Path(path)) == Path(path)) == (url is not None or path.startswith("/"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://key:hunter2@bucket/run", "s3://…@bucket/run has credentials in it"),
        ("https://host/run?X-Amz-Signature=hunter2", "https://host/run?… has credentials in it"),
        ("https://host/run?sig=a&token=hunter2", "https://host/run?… has credentials in it"),
        ("s3://bucket/../other", "has .. in it"),
    ],
)
def test_what_a_url_must_not_have(url: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_url(Path(url))
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["abfs://container@account.dfs.core.windows.net/run", "s3://bucket/run-?/checkpoint-*", "run?a=b"]
)
def test_what_it_may_have(url: str) -> None:
    assert check_url(Path(url)) == Path(url)


def test_drivers_messages_lose_their_secrets() -> None:
    text = "cannot GET https://u:hunter2@host/x?sig=hunter2&a=b, see https://host/doc"
    assert without_secrets(text) == "cannot GET https://…@host/x?… see https://host/doc"
