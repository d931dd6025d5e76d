"""One function a client: the text that it reads. Pure.

Every key is one of the client's documentation; where a client has no key for something, a note says so.
Ollama asks for no API key; clients that insist on one get the word ``ollama``, as in Ollama's documentation.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from ggufpack.clients.served import ServedModel

_KEY = "ollama"


@dataclass(frozen=True)
class ClientConfig:
    """What to paste where.

    Attributes:
        client: name for people.
        where: file, shell or link that takes the text.
        language: of the text: ``yaml``, ``sh``, ``python`` or ``text``.
        text: ready to use.
        notes: sentences about what the client decides itself.
        source: name of the documentation that the format is from.
    """

    client: str
    where: str
    language: str
    text: str
    notes: tuple[str, ...]
    source: str


def openai_sdk(model: ServedModel) -> ClientConfig:
    """A program with the official Python client.

    Source: Ollama, "OpenAI compatibility" (``base_url``, ``api_key``; ``reasoning_effort``).
    """
    head = f'''\
from openai import OpenAI

client = OpenAI(base_url={json.dumps(model.openai_url)}, api_key="{_KEY}")  # Ollama ignores the key
'''
    if model.embedding:
        text = f"""{head}
answer = client.embeddings.create(model={json.dumps(model.name)}, input="Hello")
print(len(answer.data[0].embedding))
"""
        return ClientConfig("OpenAI SDK", "a Python program", "python", text, (), _OLLAMA_DOCS)
    thinks = (
        '    # "none" switches thinking off; the thoughts are in answer.choices[0].message.reasoning\n'
        '    reasoning_effort="medium",\n'
    )
    text = f"""{head}
answer = client.chat.completions.create(
    model={json.dumps(model.name)},
    messages=[{{"role": "user", "content": "Hello"}}],
{thinks if model.thinking else ""})
print(answer.choices[0].message.content)
"""
    return ClientConfig("OpenAI SDK", "a Python program", "python", text, _context_note(model), _OLLAMA_DOCS)


def continue_dev(model: ServedModel) -> ClientConfig:
    """Continue's ``config.yaml``.

    Source: Continue, "config.yaml Reference" (models; capabilities are ``tool_use`` and ``image_input``) and
    its schema (packages/config-yaml/src/schemas/models.ts); "Ollama" (provider, ``apiBase`` without ``/v1``).
    ``reasoning`` becomes Ollama's ``think`` (core/llm/llms/Ollama.ts).
    """
    entry: dict[str, Any] = {
        "name": model.name,
        "provider": "ollama",
        "model": model.name,
        "apiBase": model.host,
        "roles": ["embed"] if model.embedding else ["chat", "edit", "apply"],
    }
    if not model.embedding:
        can = (("tool_use", model.tools), ("image_input", model.vision))
        entry["capabilities"] = [name for name, has in can if has]
        entry["defaultCompletionOptions"] = {
            "contextLength": model.context,
            **({"reasoning": True} if model.thinking else {}),
        }
    config = {"name": "Local models", "version": "0.0.1", "schema": "v1", "models": [entry]}
    notes = () if model.tools or model.embedding else ("Agent mode needs tools, which this model has not.",)
    return ClientConfig(
        "Continue", "~/.continue/config.yaml", "yaml", _yaml(config), notes, "Continue, config.yaml Reference"
    )


def litellm(model: ServedModel) -> ClientConfig:
    """LiteLLM's proxy ``config.yaml``.

    Source: LiteLLM, "Proxy: Config.yaml" (``model_list``, ``litellm_params``, ``model_info``), "Ollama"
    (``ollama_chat/`` for ``/api/chat``, ``ollama/`` for embeddings; ``api_base`` without ``/v1``), and "Model
    info" (``supports_function_calling``, ``supports_reasoning``, ``supports_vision``, ``max_input_tokens``).
    """
    provider = "ollama" if model.embedding else "ollama_chat"
    mode = "embedding" if model.embedding else "chat"
    info: dict[str, Any] = {"mode": mode, "max_input_tokens": model.context}
    if not model.embedding:
        info |= {
            "supports_function_calling": model.tools,
            "supports_reasoning": model.thinking,
            "supports_vision": model.vision,
        }
    entry = {
        "model_name": model.name,
        "litellm_params": {"model": f"{provider}/{model.name}", "api_base": model.host},
        "model_info": info,
    }
    return ClientConfig(
        "LiteLLM",
        "config.yaml of the proxy: litellm --config config.yaml",
        "yaml",
        _yaml({"model_list": [entry]}),
        (),
        "LiteLLM, Proxy Config.yaml",
    )


def open_webui(model: ServedModel) -> ClientConfig:
    """Environment of Open WebUI's server.

    Source: Open WebUI, "Environment Variable Configuration" (``ENABLE_OLLAMA_API``, ``OLLAMA_BASE_URL``,
    ``DEFAULT_MODELS``). Most are a ``PersistentConfig``: stored at the first start, then read from there.
    """
    lines = ["ENABLE_OLLAMA_API=true", f"OLLAMA_BASE_URL={model.host}"]
    if not model.embedding:
        lines.append(f"DEFAULT_MODELS={model.name}")
    notes = (
        "Open WebUI keeps these from its first start on: change them later in Admin Settings, Connections.",
        "In a container 127.0.0.1 is the container: write host.docker.internal, or the host's address.",
        _can(model, "Tools: set Function Calling to Native in the model's advanced parameters."),
    )
    return ClientConfig(
        "Open WebUI",
        "environment of the server (docker run -e …, or a .env file)",
        "sh",
        "\n".join(lines) + "\n",
        tuple(note for note in notes if note),
        "Open WebUI, Environment Variable Configuration",
    )


def cherry_studio(model: ServedModel) -> ClientConfig:
    """A link that adds a provider to Cherry Studio.

    ``cherrystudio://providers/api-keys?v=1&data=…`` with Base64 of ``id``, ``baseUrl``, ``apiKey``, ``name``
    and ``type``. The app puts ``/v1/chat/completions`` behind the address itself ("Model provider settings"),
    so it is the root. It takes ``(``, ``)`` and ``'`` out of the text, and reads ``_`` and ``-`` as ``+`` and
    ``/``; none of these is written.

    Source: Cherry Studio, src/main/services/protocol/handlers/providersImport.ts.
    """
    provider = {
        "id": "ggufpack-ollama",
        "baseUrl": model.host,
        "apiKey": _KEY,
        "name": "Ollama",
        "type": "openai",
    }
    data = base64.b64encode(json.dumps(provider).encode()).decode()
    notes = (
        f"A link carries no model: add {model.name} under Models, Manage, or by its name.",
        _can(model, f"Then set its capabilities: {_list(model)}; its context is {model.context:,} tokens."),
    )
    return ClientConfig(
        "Cherry Studio",
        "open this link, and confirm",
        "text",
        f"cherrystudio://providers/api-keys?v=1&data={data}\n",
        tuple(note for note in notes if note),
        "Cherry Studio, providersImport.ts; Model provider settings",
    )


CLIENTS: Mapping[str, Callable[[ServedModel], ClientConfig]] = {
    "cherry-studio": cherry_studio,
    "open-webui": open_webui,
    "continue": continue_dev,
    "litellm": litellm,
    "openai": openai_sdk,
}
_OLLAMA_DOCS = "Ollama, OpenAI compatibility"


def _list(model: ServedModel) -> str:
    can = (("tools", model.tools), ("reasoning", model.thinking), ("vision", model.vision))
    return ", ".join(name for name, has in can if has) or "none but chat"


def _can(model: ServedModel, note: str) -> str:
    return "" if model.embedding else note


def _context_note(model: ServedModel) -> tuple[str, ...]:
    """OpenAI's API has no field for the context length (Ollama, same page)."""
    return (f"A request may have {model.context:,} tokens; PARAMETER num_ctx of the Modelfile sets it.",)


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
