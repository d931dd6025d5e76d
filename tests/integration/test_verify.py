"""``--verify fidelity`` and ``ggufpack verify``, for SmolLM2: sound, broken and mistaken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ggufpack
from ggufpack.registry import OllamaServer
from ggufpack.spec import Event, Progress
from tests.support.ollama_server import RunningOllama
from tests.support.sabotage import SABOTAGES

pytestmark = pytest.mark.engine

CLI = str(Path(sys.executable).with_name("ggufpack"))
BUILD = ("build", "{model}", "--no-register")
CHATS = [
    {"messages": [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Blue."}]},
    {"text": "The river was low that summer, and the boats lay on the stones."},
]


def cli(*words: str, cwd: Path, host: str = "") -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON object, standard error."""
    env = {key: value for key, value in os.environ.items() if key != "OLLAMA_HOST"}
    done = subprocess.run(
        [CLI, *words, "--json"],
        cwd=cwd,
        env={**env, **({"OLLAMA_HOST": host} if host else {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("verify")


@pytest.fixture(scope="module")
def built(
    smollm2: Path, ollama_server: RunningOllama, folder: Path
) -> Iterator[tuple[ggufpack.BuildResult, list[str]]]:
    """SmolLM2 in two types, registered, and what was computed meanwhile."""
    items: list[str] = []

    def watch(event: Event) -> None:
        if isinstance(event, Progress) and event.item not in items[-1:]:
            items.append(event.item)

    result = ggufpack.build(
        smollm2,
        name="fidelity",
        quantization="Q4_K_M,Q8_0",
        output=folder,
        host=ollama_server.host,
        verify="fidelity",
        on_event=watch,
    )
    yield result, items
    server = OllamaServer(ollama_server.host)
    for name in ("fidelity:q4_k_m", "fidelity:q8_0", "fidelity:latest"):
        server.delete(name)
    server.close()


@pytest.fixture(scope="module")
def texts(folder: Path) -> Path:
    """A few tokens, so that the tests of words and codes take seconds."""
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps(chat) + "\n" for chat in CHATS), encoding="utf-8")
    return path


def test_what_each_type_costs_is_measured(built: tuple[ggufpack.BuildResult, list[str]]) -> None:
    result, _ = built
    assert result.status == "verified"
    q4, q8 = (item.fidelity for item in result.verifications)
    assert q4 is not None
    assert q8 is not None
    for one in (q4, q8):
        assert one.verdict == "sound"
        assert one.tokens > 2000
        assert one.texts == "built-in 1"
        assert one.kl.low < one.kl.value < one.kl.high
        assert one.top1.low < one.top1.value < one.top1.high <= 1
        assert one.delta_perplexity.value == pytest.approx(one.perplexity - one.source_perplexity)
        assert one.error < one.error_limit
        assert sum(count for _, count in one.kl_histogram) == one.tokens
        assert one.kl.value == pytest.approx(one.expected_kl, rel=3)
        assert [worst.kl for worst in one.worst] == sorted((worst.kl for worst in one.worst), reverse=True)
        assert one.worst[0].kl == pytest.approx(one.kl_quantiles["100"])
        assert sum(choice.source for choice in one.worst[0].choices) <= 1.001
    assert q4.kl.low > 5 * q8.kl.high, "4 bits cost more than 8"
    assert q8.top1.value > q4.top1.value
    assert q4.own_kl is not None
    assert 0 < q4.own_kl.value < q8.kl.value, "bfloat16 arithmetic is no worse than 8 bits"
    assert q4.source_perplexity == q8.source_perplexity


def test_tokenizer_stops_and_the_server_are_compared(built: tuple[ggufpack.BuildResult, list[str]]) -> None:
    result, _ = built
    for item in result.verifications:
        assert item.level == "fidelity"
        assert item.tokenizer is not None
        assert item.tokenizer.texts > 150
        assert item.tokenizer.misses == ()
        assert item.stops
        assert all(check.ended for check in item.stops)
        assert item.logprobs is not None
        assert item.logprobs.cases >= 6
        assert item.logprobs.equal
    assert not [one for one in result.findings if one.id.startswith("GP6")]


def test_the_record_and_the_page_hold_it(built: tuple[ggufpack.BuildResult, list[str]]) -> None:
    result, _ = built
    record = json.loads(result.record.read_text())
    kept = record["result"]["verifications"][0]["fidelity"]
    assert kept["kl"]["value"] == result.verifications[0].fidelity.kl.value  # type: ignore[union-attr]
    page = (result.package.folder / "report.html").read_text(encoding="utf-8")
    assert "Verified" in page
    assert page.count("<svg") >= 3
    again = subprocess.run([CLI, "report", str(result.package.folder)], capture_output=True, check=True)
    assert again.stdout.decode().strip().endswith("report.html")
    assert (result.package.folder / "report.html").read_text(encoding="utf-8") == page


def test_a_rerun_does_not_compute_the_trained_model_again(
    built: tuple[ggufpack.BuildResult, list[str]], smollm2: Path, folder: Path
) -> None:
    result, _ = built
    items: set[str] = set()
    again = ggufpack.verify(
        result.package.files[0].path,
        smollm2,
        on_event=lambda event: items.add(event.item) if isinstance(event, Progress) else None,
    )
    assert again.passed
    assert "the package" in items
    assert not {item for item in items if "trained model" in item or "weights rounded" in item}
    first = result.verifications[0].fidelity
    assert first is not None
    assert again.verifications[0].fidelity is not None
    assert again.verifications[0].fidelity.kl == first.kl


def test_a_registered_model(
    built: tuple[ggufpack.BuildResult, list[str]],
    ollama_server: RunningOllama,
    smollm2: Path,
    folder: Path,
    texts: Path,
) -> None:
    words = ("verify", "fidelity:q8_0", str(smollm2), "--calibration", str(texts))
    code, found, _ = cli(*words, cwd=folder, host=ollama_server.host)
    assert code == 0
    (done,) = found["verifications"]
    assert done["passed"]
    assert done["fidelity"]["tokens"] < 200
    assert done["logprobs"]["cases"] >= 6
    # the name runs another file than the one that is compared
    other = str(built[0].package.files[0].path)
    code, found, _ = cli(*words, "--gguf", other, cwd=folder, host=ollama_server.host)
    assert code == 7
    assert found["verifications"][0]["logprobs"]["largest"] > found["verifications"][0]["logprobs"]["limit"]
    assert "GP619" in {finding["id"] for finding in found["findings"]}


@pytest.mark.parametrize(
    ("name", "finding"),
    [("rope base tenth", "GP620"), ("norms swapped", "GP620"), ("tokens swapped", "GP614")],
)
def test_a_broken_file_is_accused(
    name: str,
    finding: str,
    built: tuple[ggufpack.BuildResult, list[str]],
    smollm2: Path,
    folder: Path,
    texts: Path,
) -> None:
    broken = folder / "broken.gguf"
    SABOTAGES[name](built[0].package.files[0].path, broken)
    code, found, errors = cli("verify", str(broken), str(smollm2), "--calibration", str(texts), cwd=folder)
    assert code == 7
    assert not found["passed"]
    assert found["error"]["exit_code"] == 7
    assert "broken.gguf" in found["error"]["problem"]
    assert finding in {one["id"] for one in found["findings"] if one["severity"] == "error"}
    assert finding in errors


def test_a_package_folder(
    built: tuple[ggufpack.BuildResult, list[str]], smollm2: Path, folder: Path, texts: Path
) -> None:
    result = ggufpack.verify(built[0].package.folder, smollm2, calibration=texts)
    assert result.passed
    assert [item.model for item in result.verifications] == ["fidelity-Q4_K_M.gguf", "fidelity-Q8_0.gguf"]


def test_a_model_that_transformers_cannot_load_fails_and_is_kept(smollm2: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(smollm2, checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    config["num_attention_heads"], config["head_dim"] = 9, 65  # its own shapes contradict it
    (checkpoint / "config.json").write_text(json.dumps(config))
    gguf = tmp_path / "sound.gguf"
    made = ggufpack.build(smollm2, name="x", output=tmp_path, register=False, verify="none")
    made.package.files[0].path.rename(gguf)
    result = ggufpack.verify(gguf, checkpoint)
    assert not result.passed
    (finding,) = [one for one in result.findings if one.id == "GP610"]
    assert finding.severity is ggufpack.Severity.ERROR
    assert "transformers cannot load" in finding.message
    error = result.error()
    assert error is not None
    assert error.exit_code == 7


def test_an_encoder_has_no_logits(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    result = ggufpack.build(
        tiny_model("bert"), name="x", output=tmp_path, quantization="F16", register=False, verify="fidelity"
    )
    assert "GP610" in {one.id for one in result.findings if one.severity is ggufpack.Severity.UNCHECKED}


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (("verify", "missing.gguf", "{model}"), 2, "missing.gguf does not exist"),
        (("verify", "{folder}", "{model}"), 2, "is not a package of ggufpack"),
        (("verify", "x", "{model}", "--gguf", "nowhere.gguf"), 2, "nowhere.gguf is not a file"),
        (("verify", "x", "{model}", "--host", "http://127.0.0.1:9"), 6, "127.0.0.1:9"),
        (("build", "{model}", "--no-register", "--calibration", "t.txt"), 2, "--verify smoke"),
        (
            ("build", "{model}", "--no-register", "--verify", "fidelity", "--calibration", "t"),
            2,
            "t does not",
        ),
        (
            ("build", "{model}", "--no-register", "--verify", "fidelity", "--calibration", "{bad}"),
            2,
            "line 2",
        ),
    ],
)
def test_mistakes_are_told_before_any_work(
    words: tuple[str, ...], code: int, problem: str, smollm2: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\n{"txt": "?"}\n', encoding="utf-8")
    (tmp_path / "folder").mkdir()
    given = {"model": str(smollm2), "folder": str(tmp_path / "folder"), "bad": str(bad)}
    got, found, _ = cli(*(word.format(**given) for word in words), cwd=tmp_path)
    assert got == code
    assert problem in found["error"]["problem"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "folder"]
