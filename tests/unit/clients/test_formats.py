"""Each client's text against its documented format. The schemas are written from the documentation."""

from __future__ import annotations

import ast
import base64
import json
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml

from ggufpack.cli import clients as command
from ggufpack.clients.formats import CLIENTS
from ggufpack.clients.served import DEFAULT_CONTEXT, ServedModel, served_model
from ggufpack.registry.shown import parse_shown

PLAIN = ServedModel("fox:q4_k_m", "http://10.0.0.7:11434", 8192, 32768)
ABLE = replace(PLAIN, tools=True, thinking=True, vision=True)
EMBEDDER = replace(PLAIN, name="embed:latest", embedding=True)
MODELS = {"plain": PLAIN, "able": ABLE, "embedder": EMBEDDER}

# Continue, "config.yaml Reference", and packages/config-yaml/src/schemas/models.ts
CONTINUE = {
    "type": "object",
    "required": ["name", "version", "schema"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "version": {"type": "string"},
        "schema": {"const": "v1"},
        "models": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "provider", "model"],
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string"},
                    "provider": {"type": "string"},
                    "model": {"type": "string"},
                    "apiBase": {"type": "string"},
                    "roles": {
                        "items": {
                            "enum": ["chat", "autocomplete", "embed", "rerank", "edit", "apply", "summarize"]
                        }
                    },
                    "capabilities": {"items": {"enum": ["tool_use", "image_input"]}},
                    "defaultCompletionOptions": {
                        "additionalProperties": False,
                        "properties": {
                            "contextLength": {"type": "integer"},
                            "maxTokens": {"type": "integer"},
                            "reasoning": {"type": "boolean"},
                        },
                    },
                },
            },
        },
    },
}
# LiteLLM, "Proxy Config.yaml" and the entries of model_prices_and_context_window.json
LITELLM = {
    "type": "object",
    "additionalProperties": False,
    "required": ["model_list"],
    "properties": {
        "model_list": {
            "items": {
                "required": ["model_name", "litellm_params"],
                "additionalProperties": False,
                "properties": {
                    "model_name": {"type": "string"},
                    "litellm_params": {
                        "required": ["model", "api_base"],
                        "additionalProperties": False,
                        "properties": {
                            "model": {"pattern": "^(ollama|ollama_chat)/."},
                            "api_base": {"pattern": "^https?://[^/]+$"},
                        },
                    },
                    "model_info": {
                        "additionalProperties": False,
                        "properties": {
                            "mode": {"enum": ["chat", "embedding"]},
                            "max_input_tokens": {"type": "integer"},
                            "supports_function_calling": {"type": "boolean"},
                            "supports_reasoning": {"type": "boolean"},
                            "supports_vision": {"type": "boolean"},
                        },
                    },
                },
            }
        }
    },
}
# Open WebUI, "Environment Variable Configuration"
OPEN_WEBUI = {"ENABLE_OLLAMA_API", "OLLAMA_BASE_URL", "DEFAULT_MODELS"}


def text_of(client: str, model: ServedModel) -> str:
    return CLIENTS[client](model).text


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_continue(model: ServedModel) -> None:
    found = yaml.safe_load(text_of("continue", model))
    jsonschema.validate(found, CONTINUE)
    (entry,) = found["models"]
    assert (entry["model"], entry["apiBase"]) == (model.name, "http://10.0.0.7:11434")
    if model is ABLE:
        assert entry["capabilities"] == ["tool_use", "image_input"]
        assert entry["defaultCompletionOptions"] == {"contextLength": 8192, "reasoning": True}
    elif model is PLAIN:
        assert entry["capabilities"] == []
        assert entry["defaultCompletionOptions"] == {"contextLength": 8192}
    else:
        assert entry["roles"] == ["embed"]


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_litellm(model: ServedModel) -> None:
    found = yaml.safe_load(text_of("litellm", model))
    jsonschema.validate(found, LITELLM)
    (entry,) = found["model_list"]
    provider = "ollama" if model is EMBEDDER else "ollama_chat"
    assert entry["litellm_params"]["model"] == f"{provider}/{model.name}"
    assert entry["model_info"].get("supports_function_calling", False) is (model is ABLE)
    assert entry["model_info"]["max_input_tokens"] == 8192


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_open_webui(model: ServedModel) -> None:
    found = dict(line.split("=", 1) for line in text_of("open-webui", model).splitlines())
    assert set(found) <= OPEN_WEBUI
    assert found["OLLAMA_BASE_URL"] == model.host
    assert found.get("DEFAULT_MODELS") == (None if model is EMBEDDER else model.name)


def cherry_studio_reads(link: str) -> dict[str, Any]:
    """What providersImport.ts makes of a link."""
    url = urlsplit(link)
    assert (url.scheme, url.netloc, url.path) == ("cherrystudio", "providers", "/api-keys")
    query = dict(part.split("=", 1) for part in url.query.replace("+", "_").replace("/", "-").split("&"))
    assert query["v"] == "1"
    text = base64.b64decode(query["data"].replace("_", "+").replace("-", "/")).decode()
    found: dict[str, Any] = json.loads(text.replace("'", '"').replace("(", "").replace(")", ""))
    return found


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_cherry_studio(model: ServedModel) -> None:
    config = CLIENTS["cherry-studio"](model)
    found = cherry_studio_reads(config.text.strip())
    assert set(found) == {"id", "baseUrl", "apiKey", "name", "type"}
    # the app puts /v1/chat/completions behind it
    assert (found["baseUrl"], found["type"]) == ("http://10.0.0.7:11434", "openai")
    assert any(model.name in note for note in config.notes)
    assert any("tools, reasoning, vision" in note for note in config.notes) is (model is ABLE)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_openai_is_python(model: ServedModel) -> None:
    text = text_of("openai", model)
    ast.parse(text)
    assert '"http://10.0.0.7:11434/v1"' in text
    assert f'"{model.name}"' in text
    assert ("reasoning_effort" in text) is (model is ABLE)


def test_a_name_cannot_break_out_of_the_text() -> None:
    model = replace(PLAIN, host='http://x"; import os #:1')
    names = {node.id for node in ast.walk(ast.parse(text_of("openai", model))) if isinstance(node, ast.Name)}
    assert names == {"OpenAI", "answer", "client", "print"}
    assert yaml.safe_load(text_of("continue", model))["models"][0]["apiBase"] == model.host


def test_what_the_server_says() -> None:
    shown = parse_shown(
        {
            "parameters": 'num_ctx                        2048\nstop "a"',
            "capabilities": ["completion", "tools"],
        }
    )
    info = {"general.architecture": "llama", "llama.context_length": 8192}
    found = served_model("fox", "http://h:1", shown, info)
    assert found == ServedModel("fox:latest", "http://h:1", 2048, 8192, tools=True)
    assert served_model("a/b:c", "http://h:1", parse_shown({}), info).context == DEFAULT_CONTEXT
    short = {"general.architecture": "llama", "llama.context_length": 512}
    assert served_model("a/b:c", "http://h:1", parse_shown({}), short).context == 512
    embedder = parse_shown({"capabilities": ["embedding"]})
    assert served_model("e", "http://h:1", embedder, info).embedding


def test_the_command_knows_all_clients() -> None:
    assert set(command._NAMES) == set(CLIENTS)
