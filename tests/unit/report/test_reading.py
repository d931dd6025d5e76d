"""A record read back: the same results as went in; damage and foreign files are one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ggufpack.errors import UsageError
from ggufpack.report.reading import read_record, typed
from tests.support.records import record, verification


def test_results_come_back_as_they_were() -> None:
    proofs = (verification("Q8_0"), verification("Q2_K", wrong=True))
    read = typed(record(("Q8_0", "Q2_K"), wrong=("Q2_K",)))
    assert read.result.verifications == proofs
    assert [proof.passed for proof in read.result.verifications] == [True, False]
    assert read.result.files[1].size == 88_201_984


def test_an_older_record_lacks_what_was_not_there_yet() -> None:
    old = record(("Q8_0",))
    proof = old["result"]["verifications"][0]
    for key in ("tokenizer", "stops", "parsed", "fidelity", "logprobs", "quantization"):
        del proof[key]
    del old["imatrix"], old["chat_template"]
    read = typed(old)
    assert read.result.verifications[0].fidelity is None
    assert read.result.verifications[0].stops == ()
    assert read.imatrix is None


def test_keys_of_a_newer_one_are_left() -> None:
    newer = record(("Q8_0",))
    newer["later"] = newer["result"]["verifications"][0]["fidelity"]["later"] = 1
    assert typed(newer) == typed(record(("Q8_0",)))


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("result",), [], "result: must be an object, and is an array"),
        (("result", "status"), "fine", "result.status: must be one of verified, unverified, failed"),
        (
            ("result", "files", 0, "size"),
            "12",
            r"result.files\[0\].size: must be an integer, and is a string",
        ),
        (("result", "files", 0, "size"), True, "must be an integer, and is a boolean"),
        (("result", "files", 0, "size"), 10**400, "is larger than any count or size"),
        (("result", "files", 0, "tensor_types"), {"F32": None}, r"tensor_types.F32: must be an integer"),
        (
            ("result", "verifications", 0, "fidelity", "kl", "low"),
            None,
            r"result.verifications\[0\].fidelity.kl.low: must be a number, and is null",
        ),
        (("result", "verifications", 0, "fidelity", "kl", "low"), 10**400, "is a number that no float holds"),
        (
            ("result", "verifications", 0, "fidelity", "kl_histogram"),
            [[1.0]],
            r"kl_histogram\[0\]: must have 2 elements",
        ),
        (("result", "verifications", 0, "prompts"), {}, "prompts: must be an array, and is an object"),
        (("result", "verifications", 0, "stops", 0, "kind"), 3, "kind: must be one of string, token"),
    ],
)
def test_damage_names_the_key(path: tuple[Any, ...], value: object, problem: str) -> None:
    damaged = record(("Q8_0",))
    place: Any = damaged
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(UsageError, match=problem) as caught:
        typed(damaged, Path("p/ggufpack.json"))
    assert str(caught.value).startswith("p/ggufpack.json is no record of ggufpack")
    assert caught.value.key is not None


def test_a_missing_key_is_named() -> None:
    damaged = record(("Q8_0",))
    del damaged["result"]["verifications"][0]["fidelity"]["error"]
    with pytest.raises(UsageError, match=r"result.verifications\[0\].fidelity.error: is missing") as caught:
        typed(damaged)
    assert caught.value.key == "result.verifications[0].fidelity.error"


@pytest.mark.parametrize("schema", [None, 2, "1", True, {}])
def test_another_schema(schema: object) -> None:
    with pytest.raises(UsageError, match="reads schema 1") as caught:
        typed({**record(("Q8_0",)), "schema": schema})
    assert caught.value.key == "schema"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "is not valid JSON: line 1, column 2"),
        (b"[]", "must hold a JSON object"),
        (b"\xff", "is not JSON"),
        (b"[" * 200_000, "is not JSON"),
        (b"1" * 5000, "is not JSON"),
    ],
)
def test_a_damaged_file(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "ggufpack.json").write_bytes(content)
    with pytest.raises(UsageError, match=problem) as caught:
        read_record(tmp_path)
    assert caught.value.path == tmp_path / "ggufpack.json"


def test_no_folder_and_no_record(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no ggufpack"):
        read_record(tmp_path)
    with pytest.raises(UsageError, match="is not a folder"):
        read_record(tmp_path / "none")
    (tmp_path / "ggufpack.json").write_text(json.dumps(record(("Q8_0",))))
    assert typed(read_record(tmp_path)).result.name == "smollm2-demo"
