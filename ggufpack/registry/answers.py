"""Answers of a server as JSON, whatever it sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx


class ServerMessageError(Exception):
    """What a server says in a status object or an error answer, as it is."""


def parse_json(text: str | bytes) -> object:
    """The value.

    Raises:
        json.JSONDecodeError: it is none: not UTF-8, nested too deeply, an integer of thousands of digits.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise json.JSONDecodeError(f"no JSON that can be meant ({error})", "", 0) from error


def json_lines(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """The objects of a stream, one a line.

    Raises:
        json.JSONDecodeError: a line is no JSON object.
        httpx.HTTPError: the stream broke off.
    """
    for line in answer.iter_lines():
        part = parse_json(line)
        if not isinstance(part, dict):
            raise json.JSONDecodeError("a line is no object", "", 0)
        yield part


def error_message(answer: httpx.Response) -> str:
    """``error`` of an answer that is an object, or else its text."""
    try:
        content = parse_json(answer.content)
    except json.JSONDecodeError:
        content = None
    return str(content["error"]) if isinstance(content, dict) and "error" in content else answer.text


def count(value: object) -> int:
    """A number of bytes in a status object; 0 for anything else."""
    return value if type(value) is int and value > 0 else 0
