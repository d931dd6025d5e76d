from __future__ import annotations

from typing import Any

import pytest

from ggufpack.errors import UsageError
from ggufpack.modelfile.findings import FINDINGS
from ggufpack.modelfile.model import Modelfile
from ggufpack.modelfile.parameters import derive_parameters


def derived(**arguments: Any) -> dict[str, list[str]]:
    result: dict[str, list[str]] = {}
    for key, value in derive_parameters(**arguments).parameters:
        result.setdefault(key, []).append(value)
    return result


def test_nothing_is_written_that_was_not_given() -> None:
    made = derive_parameters(generation_config={"temperature": None, "max_new_tokens": 5, "do_sample": True})
    assert (made.parameters, made.findings) == ((), ())


@pytest.mark.parametrize(
    ("length", "num_ctx", "findings"), [(2048, "2048", []), (8192, "8192", []), (8193, "8192", ["GP505"])]
)
def test_num_ctx_is_the_models_up_to_a_cap(length: int, num_ctx: str, findings: list[str]) -> None:
    made = derive_parameters(context_length=length)
    assert made.parameters == (("num_ctx", num_ctx),)
    assert [finding.id for finding in made.findings] == findings


def test_the_cap_is_not_mentioned_when_the_user_chose() -> None:
    made = derive_parameters(context_length=131072, overrides={"num_ctx": ["32768"]})
    assert (made.parameters, made.findings) == ((("num_ctx", "32768"),), ())


def test_sampling_comes_from_the_generation_config() -> None:
    config = {"temperature": 0.7, "top_k": 20, "top_p": 1.0, "min_p": 0.05, "repetition_penalty": 1.05}
    assert derived(generation_config=config, stops=["a", "b", "a"]) == {
        "temperature": ["0.7"],
        "top_k": ["20"],
        "top_p": ["1"],
        "min_p": ["0.05"],
        "repeat_penalty": ["1.05"],
        "stop": ["a", "b"],
    }


def test_greedy_decoding_is_temperature_zero() -> None:
    config = {"do_sample": False, "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.1}
    assert derived(generation_config=config) == {"temperature": ["0"], "repeat_penalty": ["1.1"]}
    assert [finding.id for finding in derive_parameters(generation_config=config).findings] == ["GP506"]


@pytest.mark.parametrize("value", ["0.7", True, float("nan"), float("inf"), [1], 1e60])
def test_an_unusable_value_is_left_out_and_named(value: object) -> None:
    made = derive_parameters(generation_config={"temperature": value})
    assert made.parameters == ()
    assert [(finding.id, finding.key) for finding in made.findings] == [("GP507", "temperature")]


def test_the_users_values_replace_derived_ones() -> None:
    made = derived(
        stops=["a"],
        generation_config={"temperature": 0.7},
        overrides={"stop": ["x", "y"], "temperature": ["0"], "seed": ["1"]},
    )
    assert made == {"temperature": ["0"], "stop": ["x", "y"], "seed": ["1"]}


@pytest.mark.parametrize(
    ("key", "values", "problem"),
    [
        ("temprature", ["1"], "temprature.*no parameter of this name"),
        ("num_ctx", ["4k"], "num_ctx.*'4k' is not a whole number"),
        ("num_ctx", ["1.0"], "whole number"),
        ("num_ctx", ["1_000"], "whole number"),
        ("num_ctx", ["٣"], "whole number"),
        ("num_ctx", ["9223372036854775808"], "whole number"),
        ("temperature", ["nan"], "temperature.*not a number"),
        ("temperature", ["1e39"], "not a number"),
        ("use_mmap", ["yes"], "use_mmap.*true or false"),
        ("temperature", ["1", "2"], "temperature: 2 values"),
        ("temperature", [], "temperature: 0 values"),
        ("mirostat", ["1"], "mirostat.*drops it"),
    ],
)
def test_a_wrong_override_names_its_key(key: str, values: list[str], problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        derive_parameters(overrides={key: values})
    assert (caught.value.key, caught.value.finding, caught.value.exit_code) == (key, "GP504", 2)


def test_create_request_has_typed_values() -> None:
    modelfile = Modelfile(
        "m",
        parameters=(
            ("num_ctx", "8192"),
            ("temperature", "0"),
            ("stop", "a"),
            ("use_mmap", "False"),
            ("stop", "b"),
        ),
        license=("MIT",),
    )
    request = modelfile.to_create_request()
    assert request == {
        "parameters": {"num_ctx": 8192, "temperature": 0.0, "stop": ["a", "b"], "use_mmap": False},
        "license": ["MIT"],
    }
    assert [type(value) for value in request["parameters"].values()] == [int, float, list, bool]


def test_finding_ids_are_in_their_range() -> None:
    assert all("GP501" <= id_ <= "GP519" for id_ in FINDINGS)
