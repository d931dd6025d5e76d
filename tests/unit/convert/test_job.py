from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ggufpack.chat_template.prompt import Prompt, prepare_prompt
from ggufpack.checkpoint import Checkpoint, open_checkpoint
from ggufpack.checkpoint.space_prefix import SpacePrefix
from ggufpack.child import usable_cpus
from ggufpack.convert.job import conversion_job, intermediate_precision, memory_needed
from ggufpack.convert.protocol import Job
from tests.unit.checkpoint.builders import make_checkpoint

TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
BOS_KEY, EOS_KEY = "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"
TEMPLATE_KEY, SPACE_KEY = "tokenizer.chat_template", "tokenizer.ggml.add_space_prefix"


@pytest.mark.parametrize(
    ("dtypes", "precision"),
    [
        ({"BF16": 9}, "bf16"),
        ({"F16": 9}, "f16"),
        ({"F32": 9}, "f32"),
        ({"F64": 9}, "f32"),
        ({"BF16": 9, "F32": 1}, "f32"),
        ({"BF16": 9, "F16": 1}, "f32"),
        ({"BF16": 9, "I64": 1}, "bf16"),
        ({"F16": 9, "BOOL": 1}, "f16"),
        ({"BF16": 9, "F8_E4M3": 9}, "f32"),
        ({"F16": 9, "U8": 9}, "f32"),
        ({"BF16": 9, "I8": 9}, "f32"),
    ],
)
def test_the_intermediate_precision_loses_nothing(dtypes: dict[str, int], precision: str) -> None:
    assert intermediate_precision(dtypes) == precision


def opened(folder: Path, **tokenizer_config: object) -> tuple[Checkpoint, Prompt]:
    settings = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE, **tokenizer_config}
    checkpoint = open_checkpoint(make_checkpoint(folder, tokenizer_config=settings))
    return checkpoint, prepare_prompt(checkpoint, "native", None)


def job_for(
    checkpoint: Checkpoint, prompt: Prompt, threads: int | None = 3, imatrix: Path | None = None
) -> Job:
    outputs = {"Q8_0": Path("a.gguf"), "F16": Path("b.gguf")}
    allowed = {"GP252", "GP250"}
    return conversion_job(
        checkpoint,
        prompt,
        outputs,
        trust_remote_code=True,
        allowed=allowed,
        threads=threads,
        imatrix=imatrix,
    )


def test_the_job_carries_what_was_asked(tmp_path: Path) -> None:
    checkpoint, prompt = opened(tmp_path / "model")
    job = job_for(checkpoint, prompt)
    assert job.checkpoint == (tmp_path / "model").resolve()
    assert job.outputs == (("Q8_0", Path("a.gguf")), ("F16", Path("b.gguf")))
    assert (job.allowed, job.trust_remote_code, job.threads) == (("GP250", "GP252"), True, 3)
    assert (job.intermediate, job.plan_only) == ("bf16", False)
    assert job_for(checkpoint, prompt, threads=None).threads == usable_cpus()


def test_the_worker_finds_the_imatrix_from_its_own_folder(tmp_path: Path) -> None:
    checkpoint, prompt = opened(tmp_path / "model")
    assert job_for(checkpoint, prompt).imatrix is None
    (tmp_path / "link.gguf").symlink_to("imatrix.gguf")
    for given in (tmp_path / "link.gguf", Path("link.gguf")):
        found = job_for(checkpoint, prompt, imatrix=given).imatrix
        assert found is not None
        assert (found.is_absolute(), found.name) == (True, "link.gguf"), "its name goes into the file"


@pytest.mark.parametrize("emits", [True, False, None])
def test_bos_follows_the_plan(tmp_path: Path, emits: bool | None) -> None:
    checkpoint, prompt = opened(tmp_path / "model")
    plan = replace(prompt.plan, emits_bos=emits, gguf_chat_template=None)
    overrides = job_for(checkpoint, replace(prompt, plan=plan)).overrides
    assert overrides.get(BOS_KEY) is emits


def test_no_bos_setting_without_a_bos(tmp_path: Path) -> None:
    checkpoint, prompt = opened(tmp_path / "model", bos_token=None)
    assert checkpoint.tokenizer.bos is None
    plan = replace(prompt.plan, emits_bos=True)
    assert BOS_KEY not in job_for(checkpoint, replace(prompt, plan=plan)).overrides


@pytest.mark.parametrize("adds", [True, False])
def test_eos_is_the_templates_own(tmp_path: Path, adds: bool) -> None:
    checkpoint, prompt = opened(tmp_path / "model", add_eos_token=adds)
    with_template = job_for(checkpoint, prompt).overrides
    assert str(with_template[TEMPLATE_KEY]).endswith(TEMPLATE), "native: behind the guard's comment"
    assert with_template.get(EOS_KEY) == (False if adds else None)
    bare = replace(prompt.plan, gguf_chat_template=None)
    assert EOS_KEY not in job_for(checkpoint, replace(prompt, plan=bare)).overrides


@pytest.mark.parametrize(
    ("template", "prefix", "expected"),
    [
        ("{{ bos_token }}" + TEMPLATE, "first", False),
        ("{{ bos_token }}" + TEMPLATE, "always", None),
        ("{{ bos_token }}" + TEMPLATE, None, None),
        # the text at the beginning has the space, and so it has in llama.cpp
        (TEMPLATE, "first", None),
    ],
)
def test_a_space_after_special_tokens_is_not_added(
    template: str, prefix: SpacePrefix | None, expected: bool | None, tmp_path: Path
) -> None:
    checkpoint, prompt = opened(tmp_path / "model", chat_template=template)
    checkpoint = replace(checkpoint, tokenizer=replace(checkpoint.tokenizer, space_prefix=prefix))
    assert job_for(checkpoint, prompt).overrides.get(SPACE_KEY) is expected


def test_memory_grows_with_threads_and_the_vocabulary(tmp_path: Path) -> None:
    checkpoint, _ = opened(tmp_path / "model")
    needed = [memory_needed(checkpoint, threads) for threads in (1, 2, 4)]
    assert needed[0] > 600_000_000
    assert needed[2] - needed[1] == 2 * (needed[1] - needed[0]) > 0
    assert memory_needed(checkpoint, None) == memory_needed(checkpoint, usable_cpus())
    tokenizer = checkpoint.folder / "tokenizer.json"
    tokenizer.write_bytes(tokenizer.read_bytes() + b" " * 1_000_000)
    assert memory_needed(checkpoint, 1) - needed[0] == 45_000_000


def test_memory_grows_with_the_number_of_tensors(tmp_path: Path) -> None:
    checkpoint, _ = opened(tmp_path / "model")
    few = memory_needed(checkpoint, 1)
    info = next(iter(checkpoint.tensors.values()))
    more = {f"expert.{number}": info for number in range(1000)}
    table = replace(checkpoint.tensors, by_name={**checkpoint.tensors.by_name, **more})
    assert memory_needed(replace(checkpoint, tensors=table), 1) - few == 3_000_000
