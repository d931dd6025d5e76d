"""What vLLM answers, written by hand after its documentation and protocol; it was not run.

Sources: vLLM, "OpenAI-Compatible Server", "Tool Calling", "Reasoning Outputs"; entrypoints/openai,
chat_completion/protocol.py (ChatCompletionResponse, ChatCompletionStreamResponse), serve/engine/protocol.py
(ErrorResponse, ModelCard).
"""

from __future__ import annotations

from typing import Any

MODEL = "org/source-checkpoint"
MODELS: dict[str, Any] = {
    "object": "list",
    "data": [
        {
            "id": MODEL,
            "object": "model",
            "created": 1760000000,
            "owned_by": "vllm",
            "root": MODEL,
            "parent": None,
            "max_model_len": 8192,
        }
    ],
}
_HEAD = {"id": "chatcmpl-1", "created": 1760000001, "model": MODEL}
_USAGE = {"prompt_tokens": 4, "total_tokens": 6, "completion_tokens": 2, "prompt_tokens_details": None}


def logprob(token: str, value: float, *others: tuple[str, float]) -> dict[str, Any]:
    """``bytes`` is the text encoded again; the sampled token may stand beside the asked number of others."""
    row = {"token": token, "logprob": value, "bytes": list(token.encode())}
    top = [{"token": text, "logprob": one, "bytes": list(text.encode())} for text, one in others]
    return {**row, "top_logprobs": top}


ANSWER: dict[str, Any] = {
    **_HEAD,
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Hi!",
                "refusal": None,
                "annotations": None,
                "audio": None,
                "function_call": None,
                "reasoning": "A greeting.",
            },
            "logprobs": {
                "content": [
                    logprob("Hi", -0.1, ("Hi", -0.1), ("Hello", -2.5)),
                    logprob("!", -0.2, ("!", -0.2), (".", -9999.0)),
                ]
            },
            "finish_reason": "stop",
            "stop_reason": None,
            "token_ids": [17, 18],
        }
    ],
    "service_tier": None,
    "system_fingerprint": None,
    "usage": _USAGE,
    "prompt_logprobs": None,
    "prompt_token_ids": [1, 5, 6, 7],
    "kv_transfer_params": None,
}
CALL: dict[str, Any] = {
    **_HEAD,
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "chatcmpl-tool-1",
                        "type": "function",
                        "function": {"name": "get_weather", "arguments": '{"city": "Bern"}'},
                    }
                ],
                "reasoning": None,
            },
            "logprobs": None,
            "finish_reason": "tool_calls",
            "stop_reason": None,
        }
    ],
    "usage": _USAGE,
    "prompt_logprobs": None,
}


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    """One ``chat.completion.chunk``."""
    choice = {
        "index": 0,
        "delta": delta,
        "logprobs": None,
        "finish_reason": finish,
        "token_ids": None,
        **more,
    }
    return {**_HEAD, "object": "chat.completion.chunk", "choices": [choice]}


# the role first with empty content, the usage last without a choice
STREAM: list[dict[str, Any]] = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"reasoning": "A gree"}),
    chunk({"reasoning": "ting."}),
    chunk({"content": "Hi"}, logprobs={"content": [logprob("Hi", -0.1)]}),
    chunk({"content": "!"}, "stop", logprobs={"content": [logprob("!", -0.2)]}, stop_reason=None),
    {**_HEAD, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE},
]
# the arguments of a call come in pieces
CALL_STREAM: list[dict[str, Any]] = [
    chunk({"role": "assistant", "content": ""}),
    chunk(
        {
            "tool_calls": [
                {
                    "id": "t1",
                    "type": "function",
                    "index": 0,
                    "function": {"name": "get_weather", "arguments": ""},
                }
            ]
        }
    ),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city": '}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"Bern"}'}}]}),
    chunk({"content": ""}, "tool_calls"),
    {**_HEAD, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE},
]
NO_TOOLS: dict[str, Any] = {
    "error": {
        "message": '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
        "type": "BadRequestError",
        "param": None,
        "code": 400,
    }
}
# before 0.10: on top
OLD_ERROR: dict[str, Any] = {
    "object": "error",
    "message": "The model `x` does not exist.",
    "type": "NotFoundError",
    "param": None,
    "code": 404,
}
