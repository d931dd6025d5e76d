"""What doctor says of servers that are not here: an old one, one that lists too little, one that fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ggufpack.doctor import examine
from ggufpack.doctor.raised import finding_of
from ggufpack.errors import ConversionError, GgufpackError, UnsupportedWeightsError
from tests.unit.doctor.files import CHATML, KINDS, TOKENS
from tests.unit.registry.loopback import Fake, fake_ollama, reply

TOOLS = "{% if tools %}{{ tools }}{% endif %}" + CHATML
KEYS = {
    "general.architecture": "llama",
    "llama.context_length": 2048,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "llama-bpe",
    "tokenizer.ggml.tokens": list(TOKENS),
    "tokenizer.ggml.token_type": list(KINDS),
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 6,
    "tokenizer.ggml.add_bos_token": False,
}


@pytest.fixture
def fake() -> Iterator[Fake]:
    with fake_ollama() as running:
        yield running


def serve(fake: Fake, version: str, *, template: str, capabilities: list[str]) -> None:
    shown: dict[str, Any] = {
        "modelfile": "FROM /elsewhere/sha256-" + "0" * 64 + "\nTEMPLATE {{ .Prompt }}\n",
        "template": "{{ .Prompt }}",
        "capabilities": capabilities,
        "details": {"format": "gguf"},
        "model_info": KEYS | {"tokenizer.chat_template": template},
    }
    fake.answers["GET /api/version"] = reply(200, {"version": version})
    fake.answers["POST /api/show"] = reply(200, shown)


def ids(fake: Fake) -> set[str]:
    return {finding.id for finding in examine("m", host=fake.host).findings}


def test_an_old_server_without_a_template_loses_the_roles(fake: Fake) -> None:
    serve(fake, "0.29.0", template=CHATML, capabilities=["completion"])
    assert "GP574" in ids(fake)
    serve(fake, "0.33.0", template=CHATML, capabilities=["completion"])
    assert "GP574" not in ids(fake)


def test_a_capability_that_is_not_listed(fake: Fake) -> None:
    serve(fake, "0.33.0", template=TOOLS, capabilities=["completion"])
    found = examine("m", host=fake.host)
    [missing] = [finding for finding in found.findings if finding.id == "GP573"]
    assert "has tools" in missing.message
    assert found.exit_code == 0
    serve(fake, "0.33.0", template=TOOLS, capabilities=["completion", "tools"])
    assert "GP573" not in ids(fake)


def test_a_server_that_fails(fake: Fake) -> None:
    fake.answers["GET /api/version"] = reply(200, {"version": "0.33.0"})
    fake.answers["POST /api/show"] = reply(500, {"error": "the disk burns"})
    found = examine("m", host=fake.host)
    [failed] = [finding for finding in found.findings if finding.id == "GP572"]
    assert "the disk burns" in failed.message
    assert found.exit_code == 6


@pytest.mark.parametrize(
    ("error", "finding"), [(UnsupportedWeightsError("x"), "GP152"), (ConversionError("x"), "GP153")]
)
def test_errors_of_stages_as_findings(error: GgufpackError, finding: str) -> None:
    assert finding_of(error).id == finding
