"""The objects that people script against."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ggufpack.proofs import PromptCase, SmokeResult
from tests.unit.builders import BAD, DIFFERENT, EQUAL, GOOD, plan, result, verification

FINDING = {
    "id": "GP207",
    "severity": "warning",
    "message": "A head.",
    "path": "c/model.safetensors",
    "key": "lm_head",
    "action": "Look.",
}


def test_build_json() -> None:
    folder = Path("out/m")
    assert json.loads(json.dumps(result(folder).to_json())) == {
        "status": "verified",
        "name": "m",
        "folder": "out/m",
        "files": [
            {
                "quantization": "Q8_0",
                "path": "out/m/m-Q8_0.gguf",
                "size": 12_300_000,
                "sha256": "ab" * 32,
                "tensor_types": {"Q8_0": 3, "F32": 1},
            }
        ],
        "projector": None,
        "modelfiles": {"Q8_0": "out/m/Modelfile"},
        "registered": ["m:q8_0", "m:latest"],
        "stored": [],
        "engine": "Ollama 0.33.0",
        "template": "go",
        "verifications": [
            {
                "model": "m:q8_0",
                "engine": "Ollama 0.33.0",
                "level": "smoke",
                "passed": True,
                "prompts": [
                    {
                        "name": "one",
                        "equal": True,
                        "expected": "<a>",
                        "actual": "<a>",
                        "expected_tokens": 3,
                        "actual_tokens": 3,
                        "detail": None,
                    }
                ],
                "smoke": {
                    "ok": True,
                    "text": "Hello.\n",
                    "done_reason": "stop",
                    "generated_tokens": 3,
                    "leaked": [],
                    "detail": None,
                },
                "tokenizer": None,
                "stops": [],
                "parsed": [],
                "fidelity": None,
                "logprobs": None,
                "quantization": None,
                "embedding": None,
                "confinement": {},
            }
        ],
        "findings": [FINDING],
        "seconds": {"conversion": 1.235},
        "peak_worker_rss": 900_000_000,
        "reused": None,
        "confinement": None,
        "record": "out/m/ggufpack.json",
    }


def test_plan_json() -> None:
    assert json.loads(json.dumps(plan(Path("out/m")).to_json())) == {
        "folder": "out/m",
        "checkpoint": "checkpoint",
        "architecture": "LlamaForCausalLM",
        "parameters": 134_515_008,
        "projector": None,
        "files": [
            {
                "quantization": "Q8_0",
                "name": "m-Q8_0.gguf",
                "size": 12_300_000,
                "tensor_types": {"Q8_0": 3, "F32": 1},
            }
        ],
        "names": ["m:q8_0", "m:latest"],
        "host": "http://127.0.0.1:11434 (Ollama 0.33.0)",
        "template": "go",
        "modelfile": "FROM ./m-Q8_0.gguf\n",
        "disk_needed": 12_300_000,
        "disk_free": 50_000_000_000,
        "memory_needed": 1_000_000_000,
        "findings": [FINDING],
    }


@pytest.mark.parametrize(
    ("prompts", "smoke", "checked", "passed"),
    [
        ((), None, False, False),
        ((EQUAL,), None, True, True),
        ((EQUAL, DIFFERENT), None, True, False),
        ((), GOOD, True, True),
        ((), BAD, True, False),
        ((EQUAL,), GOOD, True, True),
        ((EQUAL,), BAD, True, False),
        ((DIFFERENT,), GOOD, True, False),
    ],
)
def test_nothing_checked_is_not_passed(
    prompts: tuple[PromptCase, ...], smoke: SmokeResult | None, checked: bool, passed: bool
) -> None:
    found = verification(*prompts, smoke=smoke)
    assert (found.checked, found.passed) == (checked, passed)
