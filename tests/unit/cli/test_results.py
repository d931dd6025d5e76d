"""What ``build`` and ``plan`` print; the pipeline itself is in tests/integration/test_build.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ggufpack import pipeline
from ggufpack.cli.main import main
from ggufpack.errors import VerificationError
from ggufpack.proofs import StopCheck, Verification
from ggufpack.spec import BuildPlan, BuildResult, BuildSpec, Event, EventHandler, FindingRaised, Note
from tests.unit.builders import BAD, DIFFERENT, EQUAL, FINDING, plan, result, verification

OUT = Path("out/m")


def run(monkeypatch: pytest.MonkeyPatch, answer: BuildResult | BuildPlan | Exception, *words: str) -> Result:
    """The command with a pipeline that tells a finding and a note, then answers."""

    def stands_in(spec: BuildSpec, on_event: EventHandler) -> BuildResult | BuildPlan:
        events: tuple[Event, ...] = (FindingRaised(FINDING), Note("just so you know"))
        for event in events:
            on_event(event)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(pipeline, "run", stands_in)
    monkeypatch.setattr(pipeline, "plan", stands_in)
    return CliRunner().invoke(main, [*words, "checkpoint"])


def failure(*done: Verification) -> VerificationError:
    error = VerificationError("m:q8_0: it is not as trained.", action="Nothing was registered.")
    error.result = result(OUT, *done)
    return error


def test_a_built_package(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(monkeypatch, result(OUT), "build")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "verified: out/m",
        "  m-Q8_0.gguf  12.3 MB  sha256 abababababab…",
        "  m:q8_0 on Ollama 0.33.0: 1 of 1 prompts equal (1 with their token counts);"
        " answer 'Hello.', ended by a stop",
        "  registered m:q8_0",
        "  registered m:latest",
        "Run it: ollama run m",
    ]
    assert "GP207 warning: A head." in done.stderr
    assert "just so you know" in done.stderr


def test_stops_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = (StopCheck("a", "string", True), StopCheck("a", "token", True), StopCheck("b", "string", None))
    done = run(monkeypatch, result(OUT, replace(verification(EQUAL), stops=tried)), "build")
    assert "1 of 1 prompts equal (1 with their token counts); 2 of 3 stops end it\n" in done.stdout


def test_quiet_leaves_the_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(monkeypatch, result(OUT), "build", "--quiet")
    assert done.stderr == "  GP207 warning: A head.\n      Look.\n"
    assert done.stdout.startswith("verified: out/m\n")


def test_a_failed_one_says_why_and_is_7(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(monkeypatch, failure(verification(EQUAL, DIFFERENT, smoke=BAD)), "build")
    assert done.exit_code == 7
    assert "Error: m:q8_0: it is not as trained.\n  Nothing was registered.\n" in done.stderr
    assert done.stdout.splitlines()[0] == "failed: out/m"
    assert "1 of 2 prompts equal" in done.stdout
    assert "answer 'Hello', it did not end by itself" in done.stdout
    assert "Run it" not in done.stdout


def test_nothing_verified_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "m:q8_0: nothing was verified" in run(monkeypatch, result(OUT, verification()), "build").stdout


def test_json_is_the_result_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(monkeypatch, result(OUT), "build", "--json")
    assert json.loads(done.stdout) == json.loads(json.dumps(result(OUT).to_json()))


def test_json_of_a_failure_has_the_result_too(monkeypatch: pytest.MonkeyPatch) -> None:
    error = failure(verification(DIFFERENT))
    done = run(monkeypatch, error, "build", "--json")
    assert done.exit_code == 7
    found = json.loads(done.stdout)
    assert found.pop("error") == error.to_json()
    assert error.result is not None
    assert found == json.loads(json.dumps(error.result.to_json()))


def test_a_verification_error_without_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """xllamacpp is missing: nothing was made."""
    error = VerificationError("There is no engine.")
    done = run(monkeypatch, error, "build", "--json")
    assert done.exit_code == 7
    assert json.loads(done.stdout) == {"error": error.to_json()}


def test_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(monkeypatch, plan(OUT), "plan")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "checkpoint: LlamaForCausalLM, 134.5 M parameters",
        "out/m would hold",
        "  m-Q8_0.gguf  12.3 MB  (3 Q8_0, 1 F32)",
        "  Modelfile (go), ggufpack.json",
        "Ollama: http://127.0.0.1:11434 (Ollama 0.33.0): m:q8_0, m:latest",
        "disk: 12.3 MB of 50.0 GB free",
        "memory: about 1.0 GB",
    ]
    without = run(monkeypatch, plan(OUT, host=None), "plan").stdout
    assert "Ollama: no server, nothing to register\n" in without
    as_json = run(monkeypatch, plan(OUT), "plan", "--json").stdout
    assert json.loads(as_json) == json.loads(json.dumps(plan(OUT).to_json()))
