"""Whether an adapter's GGUF fits a registered model, by names, shapes and tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ggufpack.checkpoint import AddedToken, Tokenizer
from ggufpack.errors import AdapterError
from ggufpack.gguf_header import GgufHeader, GgufTensor
from ggufpack.registry.base import RegisteredBase, check_vocabulary, check_weights
from ggufpack.registry.register import _compare_layered
from ggufpack.registry.shown import parse_shown

MODEL, ADAPTER = "a" * 64, "b" * 64
TOKENS = ["<s>", "</s>", "a", "<|end|>"]
FACTORS = {"blk.0.attn_q.weight.lora_a": (64, 4), "blk.0.attn_q.weight.lora_b": (4, 32)}
EXPERTS = {"blk.0.ffn_up_exps.weight.lora_a": (64, 4, 8), "blk.0.ffn_up_exps.weight.lora_b": (4, 96, 8)}


def base(architecture: str = "llama", **shapes: tuple[int, ...]) -> RegisteredBase:
    info = {"general.architecture": architecture, "tokenizer.ggml.tokens": TOKENS}
    named = {name.replace("__", "."): shape for name, shape in shapes.items()}
    return RegisteredBase("base:latest", "http://host", parse_shown(answer()), info, named)


def header(tensors: Mapping[str, tuple[int, ...]], architecture: str = "llama") -> GgufHeader:
    made = tuple(GgufTensor(name, shape, 0, "F32", 0, 0) for name, shape in tensors.items())
    return GgufHeader(Path("a.gguf"), 0, 3, {"general.architecture": architecture}, made)


def answer(*adapters: str, **changes: Any) -> dict[str, Any]:
    lines = [
        f"FROM /models/blobs/sha256-{MODEL}",
        *(f"ADAPTER /models/blobs/sha256-{one}" for one in adapters),
    ]
    return {
        "modelfile": "\n".join([*lines, ""]),
        "template": "{{ .Prompt }}",
        "system": "Be brief.",
        "parameters": 'num_ctx                        4096\nstop                           "x"',
        **changes,
    }


def test_an_adapter_that_fits() -> None:
    shapes: dict[str, Any] = {"blk__0__attn_q__weight": (64, 32), "blk__0__ffn_up_exps__weight": (64, 96, 8)}
    check_weights(base("llama", **shapes), header({**FACTORS, **EXPERTS}), "Merge it.")


@pytest.mark.parametrize(
    ("model", "tensors", "problem"),
    [
        (
            base("qwen2", blk__0__attn_q__weight=(64, 32)),
            FACTORS,
            "is a qwen2 model, and the adapter is one of llama",
        ),
        (base(blk__0__attn_k__weight=(64, 32)), FACTORS, "has no tensor blk.0.attn_q.weight"),
        (base(blk__0__attn_q__weight=(64, 64)), FACTORS, "has blk.0.attn_q.weight of [64, 64] weights"),
        (base(blk__0__ffn_up_exps__weight=(64, 96, 4)), EXPERTS, "and the adapter of [64, 96, 8]"),
    ],
)
def test_an_adapter_that_does_not(
    model: RegisteredBase, tensors: Mapping[str, tuple[int, ...]], problem: str
) -> None:
    with pytest.raises(AdapterError) as caught:
        check_weights(model, header(tensors), "Merge it.")
    assert problem in caught.value.problem
    assert caught.value.action == "Give --from the base model that the adapter was trained on."


def test_architectures_that_leave_adapters_out() -> None:
    model = base("deepseek2", blk__0__attn_q__weight=(64, 32))
    with pytest.raises(AdapterError, match="does not apply adapters to every weight") as caught:
        check_weights(model, header(FACTORS, "deepseek2"), "Merge it.")
    assert caught.value.action == "Merge it."


def tokenizer(*added: AddedToken, eos: str | None = None) -> Tokenizer:
    texts = dict(enumerate(TOKENS)) | {token.id: token.text for token in added}
    none: dict[str, Any] = dict.fromkeys(["bos", "pad", "unk", "add_bos", "add_eos", "space_prefix"])
    return Tokenizer(
        files={},
        eos=eos,
        special={} if eos is None else {"eos_token": eos},
        extra_special=(),
        added_tokens=added,
        texts=texts,
        **none,
    )


def test_tokens_that_are_the_same() -> None:
    check_vocabulary(base(), tokenizer(AddedToken(3, "<|end|>", True), eos="</s>"), "Merge it.")


@pytest.mark.parametrize(
    ("token", "there"),
    [(AddedToken(2, "<|im_start|>", True), "'a'"), (AddedToken(4, "<tool>", False), "nothing")],
)
def test_tokens_that_training_added(token: AddedToken, there: str) -> None:
    with pytest.raises(AdapterError) as caught:
        check_vocabulary(base(), tokenizer(token), "Merge it.")
    assert f"token {token.id} is {there}, and {token.text!r}" in caught.value.problem
    assert caught.value.action == "Merge it."


# --- what the server stored ---------------------------------------------------------


def test_adapters_of_a_shown_model() -> None:
    plain, layered = parse_shown(answer()), parse_shown(answer(ADAPTER))
    assert (plain.adapters, plain.own_sha256) == ((), MODEL)
    assert (layered.sha256, layered.adapters, layered.own_sha256) == (MODEL, (ADAPTER,), ADAPTER)


@pytest.mark.parametrize(
    ("stored", "request_", "ids"),
    [
        (answer(ADAPTER, parameters="num_ctx                        4096"), {}, []),
        (answer(ADAPTER), {"parameters": {"stop": ["x"]}}, []),
        (answer(ADAPTER), {"parameters": {"stop": ["y"]}}, ["GP522"]),
        (answer(ADAPTER, parameters=""), {}, ["GP522"]),
        (answer(ADAPTER), {"parameters": {"stop": ["x"]}, "system": "Else."}, ["GP523"]),
        (answer(ADAPTER), {"parameters": {"stop": ["x"]}, "template": "other"}, ["GP520"]),
        (answer(), {"parameters": {"stop": ["x"]}}, ["GP529"]),
        (answer("c" * 64), {"parameters": {"stop": ["x"]}}, ["GP529"]),
        (answer(ADAPTER, MODEL), {"parameters": {"stop": ["x"]}}, ["GP529"]),
    ],
)
def test_differences_to_what_was_sent(
    stored: dict[str, Any], request_: dict[str, Any], ids: list[str]
) -> None:
    found = _compare_layered(parse_shown(stored), request_, ADAPTER, base())
    assert [finding.id for finding in found] == ids


def test_a_base_whose_file_the_server_does_not_show() -> None:
    modelfile = f"FROM base:latest\nADAPTER /models/blobs/sha256-{ADAPTER}\n"
    there = RegisteredBase("base:latest", "http://host", parse_shown(answer(modelfile="")), {}, {})
    shown = parse_shown(answer(modelfile=modelfile))
    found = _compare_layered(shown, {"parameters": {"stop": ["x"]}}, ADAPTER, there)
    assert [finding.id for finding in found] == ["GP531"]
