"""``verify --endpoint`` on a stand-in of vLLM that keeps its recorded contract. No live vLLM was run.

The stand-in renders with the checkpoint's own Jinja and tokenizer, as vLLM does, and answers one text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from ggufpack.cli.main import main
from ggufpack.verification.conversations import CONVERSATIONS
from tests.unit.engine import vllm_contract as vllm

pytestmark = pytest.mark.network

WORDS = ("Hello", "!")


@contextmanager
def vllm_stand_in(
    checkpoint: Path, template: str, *, ends: bool = True, streams: str = "Hello!"
) -> Iterator[str]:
    """Its ``base_url``. ``ends``: whether the end token ends an answer; ``streams``: what a stream says."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    jinja = environment.from_string(template)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))

    def answer(request: dict[str, Any]) -> tuple[int, Any]:
        text = jinja.render(messages=request["messages"], add_generation_prompt=True)
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        usage = {"prompt_tokens": len(ids), "completion_tokens": 3, "total_tokens": len(ids) + 3}
        if request.get("tools"):
            return 400, vllm.NO_TOOLS
        bias = request.get("logit_bias", {})
        content, finish = ("" if bias else "Hello!"), "length" if bias and not ends else "stop"
        if request.get("stream"):
            first = vllm.chunk({"role": "assistant", "content": ""})
            last = {**first, "choices": [], "usage": usage}
            return 200, [first, vllm.chunk({"content": streams}, finish), last]
        rows = [vllm.logprob(word, -0.1, (word, -0.1), ("x", -3.0)) for word in WORDS]
        choice = {**vllm.ANSWER["choices"][0], "finish_reason": finish}
        choice["message"] = {**choice["message"], "content": content, "reasoning": None}
        choice["logprobs"] = {"content": rows} if request.get("logprobs") else None
        shown = ids if request.get("return_token_ids") else None
        return 200, {**vllm.ANSWER, "choices": [choice], "usage": usage, "prompt_token_ids": shown}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(200, json.dumps(vllm.MODELS), "application/json")

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, found = answer(request)
            if isinstance(found, list):
                lines = "".join(f"data: {json.dumps(one)}\n\n" for one in found)
                self.reply(status, f"{lines}data: [DONE]\n\n", "text/event-stream")
            else:
                self.reply(status, json.dumps(found), "application/json")

        def reply(self, status: int, text: str, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def jinja(smollm2: Path) -> str:
    return (smollm2 / "chat_template.jinja").read_text(encoding="utf-8")


def verify(checkpoint: Path, url: str, level: str = "smoke") -> tuple[int, dict[str, Any]]:
    words = ["verify", str(checkpoint), "--endpoint", url, "--model", vllm.MODEL, "--level", level]
    done = CliRunner().invoke(main, [*words, "--json", "--quiet"], catch_exceptions=False)
    return done.exit_code, json.loads(done.stdout)


def errors(found: dict[str, Any]) -> set[str]:
    return {one["id"] for one in found["findings"] if one["severity"] == "error"}


def test_prompts_are_compared_by_token_ids(smollm2: Path, jinja: str) -> None:
    with vllm_stand_in(smollm2, jinja) as url:
        code, found = verify(smollm2, url)
    assert code == 0, found["findings"]
    (done,) = found["verifications"]
    assert done["engine"].startswith("vLLM at ")
    assert (done["prompts_by"], len(done["prompts"])) == ("ids", len(CONVERSATIONS))
    assert done["stops"] == [{"stop": "<|im_end|>", "kind": "token", "ended": True, "detail": None}]
    assert [check["equal"] for check in done["streams"]] == [True]


def test_people_get_one_line(smollm2: Path, jinja: str) -> None:
    with vllm_stand_in(smollm2, jinja) as url:
        words = ["verify", str(smollm2), "--endpoint", url, "--model", vllm.MODEL, "--level", "smoke"]
        done = CliRunner().invoke(main, [*words, "--quiet"], catch_exceptions=False)
    assert done.exit_code == 0
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"passed: {vllm.MODEL} on vLLM at {url}: 31 of 31 prompts equal")
    assert line.endswith("1 of 1 stops end it; 1 of 1 answers stream as they are")


def test_one_wrong_word_of_the_same_length_is_found(smollm2: Path, jinja: str) -> None:
    with vllm_stand_in(smollm2, jinja.replace("helpful AI", "useless AI")) as url:
        code, found = verify(smollm2, url, "prompts")
    assert code == 7
    assert "'one question'" in found["error"]["problem"]
    wrong = {case["name"]: case for case in found["verifications"][0]["prompts"] if not case["equal"]}
    assert wrong["one question"]["expected_tokens"] == wrong["one question"]["actual_tokens"]
    assert "system and question" not in wrong


def test_an_end_token_that_does_not_end_is_found(smollm2: Path, jinja: str) -> None:
    with vllm_stand_in(smollm2, jinja, ends=False) as url:
        code, found = verify(smollm2, url)
    assert code == 7
    assert errors(found) == {"GP615"}


def test_a_stream_that_loses_text_is_found(smollm2: Path, jinja: str) -> None:
    with vllm_stand_in(smollm2, jinja, streams="Hello") as url:
        code, found = verify(smollm2, url)
    assert code == 7
    assert errors(found) == {"GP640"}
    assert "'Hello'" in found["error"]["problem"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("{model}",), "MODEL and CHECKPOINT"),
        (("{model}", "--endpoint", "http://h/v1"), "needs --model"),
        (("x", "{model}", "--model", "m"), "--model needs --endpoint"),
        (("x", "{model}", "--system", "m"), "--system needs --endpoint"),
        (("{model}", "--endpoint", "http://h/v1", "--model", "m", "--gguf", "f"), "--gguf is of no use"),
        (("{model}", "--endpoint", "http://me:secret@h/v1", "--model", "m"), "a user or a password"),
    ],
)
def test_words_that_cannot_be_meant(words: tuple[str, ...], problem: str, smollm2: Path) -> None:
    given = [word.format(model=smollm2) for word in words]
    done = CliRunner().invoke(main, ["verify", *given, "--json", "--quiet"])
    assert done.exit_code == 2
    assert problem in json.loads(done.stdout)["error"]["problem"]
    assert "secret" not in done.output.replace(str(given), "")
