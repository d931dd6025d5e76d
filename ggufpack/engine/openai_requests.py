"""Requests to ``/v1/chat/completions``: greedy, and with what each server needs to be. No IO.

Only servers that are known get fields beside OpenAI's: OpenAI itself refuses fields that it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Json = Mapping[str, Any]
ServerKind = Literal["ollama", "vllm", "llama.cpp", "other"]

MOST_LOGPROBS = 20  # OpenAI's limit; vLLM's --max-logprobs and Ollama have the same
_NAMES: Mapping[ServerKind, str] = {
    "ollama": "Ollama",
    "vllm": "vLLM",
    "llama.cpp": "llama.cpp",
    "other": "an OpenAI-compatible server",
}
# what a request overrules beside temperature: a served model's generation_config.json sets defaults in vLLM
# (--generation-config auto), command lines in llama.cpp. Ollama's API has no field for it.
_GREEDY: Mapping[ServerKind, Json] = {
    "ollama": {},
    "vllm": {"repetition_penalty": 1.0, "top_k": -1, "min_p": 0.0},
    # a cached prefix is computed in other batches: not the same bits
    "llama.cpp": {"repeat_penalty": 1.0, "top_k": 0, "min_p": 0.0, "cache_prompt": False},
    "other": {},
}


def server_name(kind: ServerKind) -> str:
    """The program, for people."""
    return _NAMES[kind]


def kind_of(models: Sequence[Json]) -> ServerKind | None:
    """Which program gives this list of ``/v1/models``, by ``owned_by``; ``None`` when it does not show.

    Source: vLLM entrypoints/openai (ModelCard), llama.cpp tools/server (``llamacpp``). Ollama's is the
    model's namespace, so it says nothing: see ``kind_of_fingerprint``.
    """
    owners = {str(model.get("owned_by")) for model in models}
    if "vllm" in owners:
        return "vllm"
    return "llama.cpp" if "llamacpp" in owners else None


def kind_of_fingerprint(fingerprint: str) -> ServerKind:
    """By ``system_fingerprint`` of an answer (Ollama openai/openai.go: ``fp_ollama``)."""
    return "ollama" if fingerprint == "fp_ollama" else "other"


def chat_request(
    kind: ServerKind,
    model: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    max_tokens: int,
    think: bool | None = None,
    tools: Sequence[Json] = (),
    top_logprobs: int = 0,
) -> dict[str, Any]:
    """A greedy request; add ``stream_request`` to stream it.

    ``max_tokens`` is the older name of ``max_completion_tokens``; Ollama knows no other. ``tool_choice``
    stays away: with tools its default is ``auto``, and Ollama does not know it.
    """
    request: dict[str, Any] = {
        "model": model,
        "messages": [dict(message) for message in messages],
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "top_p": 1.0,
        "seed": 0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        **_GREEDY[kind],
        **_switches(kind, think),
    }
    if tools:
        request["tools"] = [dict(tool) for tool in tools]
    if top_logprobs:
        request |= {"logprobs": True, "top_logprobs": top_logprobs}
    return request


def stream_request() -> dict[str, Any]:
    """What turns a request into one for a stream with usage."""
    return {"stream": True, "stream_options": {"include_usage": True}}


def prompt_request(kind: ServerKind) -> dict[str, Any]:
    """What makes a server show the prompt beside (vLLM) or instead of the answer; empty where none does.

    Sources: Ollama 0.33.0 openai/openai.go (ChatCompletionRequest); vLLM chat_completion/protocol.py
    (``return_token_ids``). A version that does not know the field leaves the answer without.
    """
    if kind == "ollama":
        return {"_debug_render_only": True}
    return {"return_token_ids": True} if kind == "vllm" else {}


def forced_text(text: str) -> dict[str, Any]:
    """What lets an answer be ``text`` only, as a JSON string ("Structured outputs" of OpenAI's reference)."""
    schema = {"name": "text", "schema": {"const": text}}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def forced_token(token: int) -> dict[str, Any]:
    """What lets an answer be one token again and again: 100 is the most that OpenAI and vLLM allow."""
    return {"logit_bias": {str(token): 100}}


def _switches(kind: ServerKind, think: bool | None) -> dict[str, Any]:
    """Thinking on or off. Ollama thinks when a model can, unless told not to (``reasoning_effort``)."""
    if think is None or kind == "other":
        return {}
    if kind == "ollama":
        return {} if think else {"reasoning_effort": "none"}
    return {"chat_template_kwargs": {"enable_thinking": think}}
