"""Results and plans for the tests of what prints and writes them."""

from __future__ import annotations

from pathlib import Path

from ggufpack.proofs import PromptCase, SmokeResult, Verification
from ggufpack.spec import BuildPlan, BuildResult, Finding, GgufFile, Package, PlannedFile, Severity, Stage

EQUAL = PromptCase("one", True, "<a>", "<a>", 3, 3)
DIFFERENT = PromptCase("two", False, "<a>", "<b>", detail="at character 1")
GOOD = SmokeResult(True, "Hello.\n", "stop", 3)
BAD = SmokeResult(False, "Hello", "length", 128, detail="it did not end by itself")
FINDING = Finding("GP207", Severity.WARNING, "A head.", Path("c/model.safetensors"), "lm_head", "Look.")


def verification(*prompts: PromptCase, smoke: SmokeResult | None = None) -> Verification:
    return Verification("m:q8_0", "Ollama 0.33.0", "smoke", prompts, smoke)


def result(folder: Path, *verifications: Verification) -> BuildResult:
    file = GgufFile("Q8_0", folder / "m-Q8_0.gguf", 12_300_000, "ab" * 32, {"Q8_0": 3, "F32": 1})
    done = verifications or (verification(EQUAL, smoke=GOOD),)
    return BuildResult(
        package=Package("m", folder, (file,), {"Q8_0": folder / "Modelfile"}),
        status="verified" if all(item.passed for item in done) else "failed",
        registered=("m:q8_0", "m:latest") if all(item.passed for item in done) else (),
        engine="Ollama 0.33.0",
        template_strategy="go",
        verifications=done,
        findings=(FINDING,),
        seconds={Stage.CONVERSION: 1.23456},
        peak_worker_rss=900_000_000,
        record=folder / "ggufpack.json",
    )


def plan(folder: Path, host: str | None = "http://127.0.0.1:11434 (Ollama 0.33.0)") -> BuildPlan:
    return BuildPlan(
        folder=folder,
        checkpoint=Path("checkpoint"),
        architecture="LlamaForCausalLM",
        parameters=134_515_008,
        files=(PlannedFile("Q8_0", "m-Q8_0.gguf", 12_300_000, {"Q8_0": 3, "F32": 1}),),
        names=() if host is None else ("m:q8_0", "m:latest"),
        host=host,
        template_strategy="go",
        modelfile="FROM ./m-Q8_0.gguf\n",
        disk_needed=12_300_000,
        disk_free=50_000_000_000,
        memory_needed=1_000_000_000,
        findings=(FINDING,),
    )
