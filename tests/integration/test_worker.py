"""The conversion worker: real processes, tiny real models, and what goes wrong in them.

A worker is started anew after each failure (some 4 s), so most of the time here is torch's import.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from gguf import GGMLQuantizationType, GGUFReader

from ggufpack import child, vendoring
from ggufpack.checkpoint.adapted import open_model
from ggufpack.confinement import OFF_VARIABLE
from ggufpack.convert.job import memory_needed
from ggufpack.convert.process import Converted, Worker
from ggufpack.convert.protocol import Job
from ggufpack.errors import (
    ConversionError,
    DiskSpaceError,
    GgufpackError,
    TensorValueError,
    TokenizerConversionError,
    UnsupportedArchitectureError,
    UnsupportedWeightsError,
    WorkerError,
)
from tests.support.checkpoints import link_checkpoint
from tests.support.tensor_files import SINGLE, StoredTensor, read_tensors, shard, store_value, write_tensors
from tests.unit.checkpoint.adapters import make_adapter

TinyModel = Callable[[str], Path]
UP = "model.layers.1.mlp.up_proj.weight"
UP_IN_GGUF = "blk.1.ffn_up.weight"
# with ggml's kernels a few seconds for even the smallest model: time to end a worker in the middle
SLOW = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "IQ4_NL", "IQ4_XS", "Q4_K_S", "Q5_K_S", "Q3_K_S", "Q3_K_L")


@pytest.fixture(scope="module", autouse=True)
def compiled_converter() -> Iterator[None]:
    """Where this variable is set each worker compiles the vendored converter again, some 3 s."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(vendoring.require()) as running:
        yield running


@pytest.fixture
def small(tiny_model: TinyModel, tmp_path: Path) -> Path:
    """A sentencepiece Llama to change. The folder's name goes into the GGUF (general.name)."""
    return link_checkpoint(tiny_model("llama-spm"), tmp_path / "model")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def convert(worker: Worker, checkpoint: Path, out: Path, *types: str, **options: Any) -> Converted:
    outputs = tuple((name, out / f"{name}.gguf") for name in types)
    options = {"intermediate": "bf16", "threads": 2, **options}
    on_progress = options.pop("on_progress", lambda *_: None)
    return worker.convert(Job(checkpoint, outputs, **options), on_progress)


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Replaces a symbolic link by a changed copy."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.unlink()
    path.write_text(json.dumps(content), encoding="utf-8")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def values_of(path: Path) -> dict[str, Any]:
    """Every key of a GGUF with its value."""
    return {name: field.contents() for name, field in GGUFReader(path).fields.items()}


def data_of(path: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.data.tobytes() for tensor in GGUFReader(path).tensors}


def workers_running() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [child for child in children if "ggufpack.convert.worker" in child.cmdline()]


# --- what comes out -----------------------------------------------------------


def test_several_files_in_one_read_equal_single_ones(worker: Worker, small: Path, out: Path) -> None:
    types = ("Q8_0", "F16", "Q4_K_M")
    alone = out / "alone"
    alone.mkdir()
    together = convert(worker, small, out, *types)
    assert [file.quantization for file in together.files] == list(types)
    for name, file in zip(types, together.files, strict=True):
        (single,) = convert(worker, small, alone, name).files
        assert filecmp.cmp(file.path, single.path, shallow=False)
        assert (file.size, file.sha256) == (file.path.stat().st_size, single.sha256)
    assert len({file.sha256 for file in together.files}) == len(types)


def test_a_plan_writes_nothing_and_is_what_a_run_does(worker: Worker, small: Path, out: Path) -> None:
    types = ("Q4_K_M", "F32")
    seen: list[tuple[int, int, str]] = []
    planned = convert(worker, small, out, *types, plan_only=True, on_progress=lambda *e: seen.append(e))
    assert (names(out), seen) == ([], [])
    assert [file.sha256 for file in planned.files] == ["", ""], "no weight was read"
    made = convert(worker, small, out, *types)
    assert [(f.path, f.size, f.tensor_types) for f in planned.files] == [
        (f.path, f.size, f.tensor_types) for f in made.files
    ]
    counted = [tensor.tensor_type.name for tensor in GGUFReader(made.files[0].path).tensors]
    assert made.files[0].tensor_types == {kind: counted.count(kind) for kind in sorted(set(counted))}


def test_overrides_replace_keys_and_touch_no_tensor(worker: Worker, small: Path, out: Path) -> None:
    (plain,) = convert(worker, small, out, "Q8_0").files
    before, data = values_of(plain.path), data_of(plain.path)
    overrides: Mapping[str, str | bool] = {
        "tokenizer.chat_template": "{{ 'ours: ä\n' }}",
        "tokenizer.ggml.add_bos_token": False,
        "ggufpack.new": True,
    }
    (changed,) = convert(worker, small, out, "Q8_0", overrides=overrides).files
    assert {key: value for key, value in values_of(changed.path).items() if before.get(key) != value} == {
        **overrides,
        "GGUF.kv_count": before["GGUF.kv_count"] + 1,
    }
    assert before["tokenizer.ggml.add_bos_token"] is True
    assert data_of(changed.path) == data


def test_shards_equal_the_single_file(worker: Worker, small: Path, out: Path, tmp_path: Path) -> None:
    (single,) = convert(worker, small, out, "Q4_K_M").files
    split = link_checkpoint(small, tmp_path / "other" / "model")
    shard(split, 3)
    assert len(list(split.glob("*.safetensors"))) == 3
    (joined,) = convert(worker, split, out, "Q4_K_M").files
    assert joined.sha256 == single.sha256


def test_progress_counts_every_weight_and_memory_is_told(worker: Worker, small: Path, out: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    made = convert(worker, small, out, "F32", on_progress=lambda *event: seen.append(event))
    weights = sum(tensor.items.size for tensor in read_tensors(small / SINGLE).values())
    assert seen[-1][:2] == (weights, weights)
    assert [done for done, _, _ in seen] == sorted({done for done, _, _ in seen})
    assert {total for _, total, _ in seen} == {weights}
    assert {name for _, _, name in seen} <= data_of(made.files[0].path).keys()
    assert 100 << 20 < made.peak_rss < 4 << 30


def test_two_workers_at_once_with_other_hash_seeds_write_the_same(
    tiny_model: TinyModel, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The converter puts the names of chat templates into a set."""
    checkpoint = link_checkpoint(tiny_model("llama-spm"), tmp_path / "model")
    templates = [{"name": name, "template": name} for name in ("default", "tools", "rag", "a", "b", "c")]
    change_json(checkpoint / "tokenizer_config.json", lambda c: c.update(chat_template=templates))
    with Worker(vendoring.require()) as first, Worker(vendoring.require()) as second:
        for seed, worker in (("1", first), ("2", second)):
            monkeypatch.setitem(child._ENVIRONMENT, "PYTHONHASHSEED", seed)
            convert(worker, checkpoint, out, "F16", plan_only=True)
        assert len(workers_running()) >= 2
        folders = [out / "1", out / "2"]
        with ThreadPoolExecutor(2) as pool:
            runs = []
            for worker, folder in zip((first, second), folders, strict=True):
                folder.mkdir()
                runs.append(pool.submit(convert, worker, checkpoint, folder, "Q8_0", "Q4_K_M"))
            digests = [[file.sha256 for file in run.result().files] for run in runs]
    assert digests[0] == digests[1]
    found = values_of(folders[0] / "Q8_0.gguf")["tokenizer.chat_templates"]
    assert found == sorted(found)
    assert len(found) == 5, "the default one has a key of its own"


# --- values that a file cannot hold -------------------------------------------


@pytest.mark.parametrize(
    ("value", "quantization", "finding", "words"),
    [
        (float("nan"), "Q8_0", "GP250", "1 of the 131072 weights"),
        (float("inf"), "F32", "GP250", "1 of the 131072 weights"),
        (float("-inf"), "Q4_K_M", "GP250", "1 of the 131072 weights"),
        (999424.0, "F16", "GP251", "the value 999424 is outside the range of F16"),
        (-999424.0, "F16", "GP251", "the value 999424 is outside the range of F16"),
        (2.0**24, "Q8_0", "GP252", "Q8_0 block scale"),
        # Q6_K's kernel makes a block of zeros of it, which ggml's validation lets pass
        (2.0**66, "Q6_K", "GP252", "Q6_K block scale"),
    ],
)
def test_a_value_that_would_be_lost_is_refused(
    value: float, quantization: str, finding: str, words: str, worker: Worker, small: Path, out: Path
) -> None:
    store_value(small, UP, value)
    with pytest.raises(TensorValueError) as caught:
        convert(worker, small, out, quantization)
    error = caught.value
    assert (error.finding, error.key, error.exit_code) == (finding, UP_IN_GGUF, 4)
    assert UP_IN_GGUF in error.problem
    assert words in error.problem
    assert error.action is not None
    assert f"--allow {finding}" in error.action
    assert names(out) == []


def test_a_value_can_be_allowed(worker: Worker, small: Path, out: Path) -> None:
    """By its own id; what the type holds needs none."""
    tensors = read_tensors(small / SINGLE)
    values = tensors[UP].values()
    values[3, :4] = [float("nan"), float("inf"), 999424.0, 2.0**66]
    tensors[UP] = StoredTensor.of(values, "BF16")
    write_tensors(small / SINGLE, tensors)
    convert(worker, small, out, "F32", "BF16", allowed=("GP250",))
    found = next(t for t in GGUFReader(out / "F32.gguf").tensors if t.name == UP_IN_GGUF)
    assert found.tensor_type is GGMLQuantizationType.F32
    assert np.array_equal(found.data, values, equal_nan=True)

    tensors[UP] = StoredTensor.of(np.where(np.isfinite(values), values, 0), "BF16")
    write_tensors(small / SINGLE, tensors)
    files = convert(worker, small, out, "F16", "Q8_0", allowed=("GP251", "GP252")).files
    assert names(out) == ["BF16.gguf", "F16.gguf", "F32.gguf", "Q8_0.gguf"]
    half = next(t for t in GGUFReader(files[0].path).tensors if t.name == UP_IN_GGUF)
    assert half.data[3, 2] == np.inf


# --- checkpoints that the converter refuses -----------------------------------


def lose(folder: Path, name: str) -> None:
    (folder / name).unlink()


def unknown_pre_tokenizer(folder: Path) -> None:
    # for GPT2Tokenizer transformers 5 takes its own pre-tokenizer and not the file's
    changed = {"tokenizer_class": "PreTrainedTokenizerFast"}
    change_json(folder / "tokenizer_config.json", lambda content: content.update(changed))

    def change(content: dict[str, Any]) -> None:
        content["pre_tokenizer"] = {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "x|y"}, "behavior": "Isolated", "invert": False},
                content["pre_tokenizer"],
            ],
        }

    change_json(folder / "tokenizer.json", change)


def in_config(**values: object) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / "config.json", lambda content: content.update(values))


def without_key(name: str) -> Callable[[Path], None]:
    # of a model_type that transformers does not know: it would fill the key in
    def change(content: dict[str, Any]) -> None:
        content["model_type"] = "nobody_knows"
        del content[name]

    return lambda folder: change_json(folder / "config.json", change)


def no_vocabulary_of_arctic(folder: Path) -> None:
    lose(folder, "tokenizer.model")
    in_config(architectures=["ArcticForCausalLM"])(folder)


def extra_tensor(folder: Path) -> None:
    tensors = read_tensors(folder / SINGLE)
    head = StoredTensor.of(np.ones((1, 256), dtype=np.float32), "BF16")
    write_tensors(folder / SINGLE, {**tensors, "model.value_head.weight": head})


REFUSED: Mapping[str, tuple[str, Callable[[Path], None], type[GgufpackError], str | None, str]] = {
    "unknown pre-tokenizer": (
        *("llama", unknown_pre_tokenizer, TokenizerConversionError, "pre_tokenizer"),
        "tokenizer.json: llama.cpp does not know this pre-tokenizer",
    ),
    "vocabulary larger than the config": (
        *("llama", in_config(vocab_size=40000), TokenizerConversionError, "vocab_size"),
        "config.json: vocab_size does not cover the tokenizer's highest token id.",
    ),
    "unknown architecture": (
        *("llama-spm", in_config(architectures=["MineForCausalLM"]), UnsupportedArchitectureError),
        *("architectures", "config.json: llama.cpp has no converter for the architecture MineForCausalLM."),
    ),
    "bitsandbytes": (
        *("llama-spm", in_config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})),
        *(UnsupportedWeightsError, "quantization_config", "the weights are quantised with bitsandbytes,"),
    ),
    "no tokenizer.model": (
        *("gemma2", lambda folder: lose(folder, "tokenizer.model"), TokenizerConversionError, None),
        "the converter needs the tokenizer file tokenizer.model, which is not there.",
    ),
    "no tokenizer.model, as Phi says it": (
        *("phi3", lambda folder: lose(folder, "tokenizer.model"), TokenizerConversionError, None),
        "the converter needs the tokenizer file tokenizer.model, which is not there.",
    ),
    "no tokenizer.model, where the converter exits": (
        *("llama-spm", no_vocabulary_of_arctic, TokenizerConversionError, None),
        "llama.cpp's converter gave up on the tokenizer files.",
    ),
    "a tensor that nobody knows": (
        *("llama-spm", extra_tensor, UnsupportedArchitectureError, "model.value_head.weight"),
        "The converter does not know the tensor model.value_head.weight in this architecture.",
    ),
    "a key is missing": (
        *("llama-spm", without_key("vocab_size"), ConversionError, "vocab_size"),
        "config.json: the converter needs the key vocab_size.",
    ),
    "one of several keys is missing": (
        *("llama-spm", without_key("num_attention_heads"), ConversionError, "n_heads, num_attention_heads"),
        "config.json: the converter needs one of the keys n_heads, num_attention_heads.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_names_the_file_and_the_key(
    case: str, worker: Worker, tiny_model: TinyModel, tmp_path: Path, out: Path
) -> None:
    model, damage, expected, key, words = REFUSED[case]
    checkpoint = link_checkpoint(tiny_model(model), tmp_path / "model")
    damage(checkpoint)
    with pytest.raises(GgufpackError) as caught:
        convert(worker, checkpoint, out, "Q8_0")
    error = caught.value
    assert type(error) is expected, str(error)
    assert words in error.problem
    assert (error.key, error.exit_code) == (key, 4)
    assert error.path is not None
    assert error.path.is_relative_to(checkpoint)
    assert error.action is not None
    assert error.log, "what the converter logged"
    assert names(out) == []


def test_a_disk_that_is_too_small(worker: Worker, small: Path, out: Path) -> None:
    """The last tensor of the file is a hole, larger than the disk."""
    raw = (small / SINGLE).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    free = shutil.disk_usage(out).free
    start = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    rows = free // (4 * 256) + 1
    header[UP] = {"dtype": "BF16", "shape": [rows, 256], "data_offsets": [start, start + rows * 512]}
    text = json.dumps(header).encode()
    (small / SINGLE).unlink()
    with (small / SINGLE).open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text + raw[8 + length :])
        file.truncate(8 + len(text) + start + rows * 512)
    (planned,) = convert(worker, small, out, "F32", plan_only=True).files
    with pytest.raises(DiskSpaceError) as caught:
        convert(worker, small, out, "F32")
    assert (caught.value.path, caught.value.exit_code) == (out, 4)
    assert f"{out}: {planned.size:,} bytes are needed and " in caught.value.problem
    assert names(out) == []


# --- the checkpoint's own code ------------------------------------------------


CODE = """
from pathlib import Path
from transformers import {base}
Path({mark!r}).touch()

class Own({base}):
    def to_dict(self):  # the config's: what a converter would read
        return {{**super().to_dict(), "rms_norm_eps": 0.5}}
"""


@pytest.fixture
def own_code(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path, Path]:
    """A checkpoint with a tokenizer class and a config class of its own, and the marks they leave."""
    monkeypatch.setenv(OFF_VARIABLE, "1")  # what it is kept from is in test_confinement.py
    checkpoint = link_checkpoint(tiny_model("llama"), tmp_path / "model")
    marks = tmp_path / "tokenizer-ran", tmp_path / "config-ran"
    bases = {"own_tokenizer": "PreTrainedTokenizerFast", "own_config": "LlamaConfig"}
    for (module, base), mark in zip(bases.items(), marks, strict=True):
        (checkpoint / f"{module}.py").write_text(CODE.format(base=base, mark=str(mark)), encoding="utf-8")
    tokenizer = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own_tokenizer.Own"]}}
    change_json(checkpoint / "tokenizer_config.json", lambda content: content.update(tokenizer))
    config = {"auto_map": {"AutoConfig": "own_config.Own"}}
    change_json(checkpoint / "config.json", lambda content: content.update(config))
    return checkpoint, *marks


def test_own_code_does_not_run_untrusted(own_code: tuple[Path, Path, Path], out: Path) -> None:
    checkpoint, *marks = own_code
    with Worker(vendoring.require()) as worker, pytest.raises(TokenizerConversionError) as caught:
        convert(worker, checkpoint, out, "Q8_0")
    assert caught.value.key == "auto_map"
    assert caught.value.action is not None
    assert "--trust-remote-code" in caught.value.action
    assert not any(mark.exists() for mark in marks)
    assert names(out) == []


def test_own_code_runs_trusted(
    own_code: tuple[Path, Path, Path], tiny_model: TinyModel, out: Path, tmp_path: Path
) -> None:
    """For the tokenizer; the converter reads config.json without code, trusted or not."""
    checkpoint, tokenizer_ran, _ = own_code
    plain = link_checkpoint(tiny_model("llama"), tmp_path / "plain" / "model")
    with Worker(vendoring.require()) as worker:
        (trusted,) = convert(worker, checkpoint, out, "Q8_0", trust_remote_code=True).files
        assert tokenizer_ran.exists()
        (usual,) = convert(worker, plain, out, "Q8_0").files
        assert trusted.sha256 == usual.sha256
        tokenizer_ran.unlink()
        with pytest.raises(
            TokenizerConversionError, match="auto_map"
        ):  # trust is one job's, not the worker's
            convert(worker, checkpoint, out, "Q8_0")
    assert not tokenizer_ran.exists()


def test_modules_in_the_callers_folder_are_not_imported(
    small: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = tmp_path / "here"
    planted.mkdir()
    mark = tmp_path / "ran"
    for module in ("gguf", "torch", "conversion", "ggufpack", "json"):
        (planted / f"{module}.py").write_text(f"open({str(mark)!r}, 'w').close()\n", encoding="utf-8")
    monkeypatch.chdir(planted)
    with Worker(vendoring.require()) as worker:
        convert(worker, small, Path(os.path.relpath(out)), "Q8_0")
    assert not mark.exists()
    assert names(planted) == ["conversion.py", "gguf.py", "ggufpack.py", "json.py", "torch.py"]


# --- the process --------------------------------------------------------------


def test_one_process_until_a_failure(small: Path, out: Path, tmp_path: Path) -> None:
    with Worker(vendoring.require()) as worker:
        convert(worker, small, out, "Q8_0")
        (first,) = workers_of(worker)
        convert(worker, small, out, "F16")
        assert workers_of(worker) == [first]
        with pytest.raises(ConversionError):
            convert(worker, tmp_path / "nowhere", out, "F16")
        assert not first.is_running()
        convert(worker, small, out, "Q4_0")
        (second,) = workers_of(worker)
        assert second.pid != first.pid
    assert not second.is_running()
    assert names(out) == ["F16.gguf", "Q4_0.gguf", "Q8_0.gguf"]


def workers_of(worker: Worker) -> list[psutil.Process]:
    """The shared worker of this module may be running as well."""
    assert worker.pid is not None
    return [child for child in workers_running() if child.pid == worker.pid]


class Interruption:
    """Does something to the worker at the first sign of progress at which all files are there."""

    def __init__(self, act: Callable[[psutil.Process], None], worker: Worker, out: Path) -> None:
        self.act, self.worker, self.out = act, worker, out
        self.process: psutil.Process | None = None
        self.written: list[str] = []

    def __call__(self, done: int, total: int, item: str) -> None:
        if self.process is None and len(names(self.out)) == 1 + len(SLOW):
            assert done < total
            (self.process,) = workers_of(self.worker)
            self.written = names(self.out)
            self.act(self.process)


def kill(victim: psutil.Process) -> None:
    victim.kill()


def interrupt(victim: psutil.Process) -> None:
    raise KeyboardInterrupt


def interrupt_while_it_hangs(victim: psutil.Process) -> None:
    victim.send_signal(signal.SIGSTOP)  # it cannot answer SIGTERM
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("act", "raised"),
    [(kill, WorkerError), (interrupt, KeyboardInterrupt), (interrupt_while_it_hangs, KeyboardInterrupt)],
)
def test_a_worker_that_ends_in_the_middle_leaves_nothing(
    act: Callable[[psutil.Process], None],
    raised: type[BaseException],
    small: Path,
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(child, "KILL_SECONDS", 1.0)
    monkeypatch.setenv("GGUFPACK_KERNELS", "reference")  # the others are done before one can look
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    (out / "Q2_K.gguf").write_text("an older one")
    with Worker(vendoring.require()) as worker:
        interruption = Interruption(act, worker, out)
        with pytest.raises(raised) as caught:
            convert(worker, small, out, *SLOW, threads=1, on_progress=interruption)
        assert len(interruption.written) == 1 + len(SLOW), "it was writing"
        assert interruption.process is not None
        assert not interruption.process.is_running()
        assert names(scratch) == []
    assert names(out) == ["Q2_K.gguf"]
    assert (out / "Q2_K.gguf").read_text() == "an older one"
    if isinstance(caught.value, WorkerError):
        assert "was killed, most likely because memory ran out" in caught.value.problem
        assert caught.value.log is not None


def test_a_worker_that_cannot_start_shows_its_log(small: Path, out: Path, tmp_path: Path) -> None:
    empty = tmp_path / "vendor"
    empty.mkdir()
    with Worker(empty) as worker, pytest.raises(WorkerError, match="status 1") as caught:
        convert(worker, small, out, "Q8_0")
    assert caught.value.log is not None
    assert "No module named 'conversion'" in caught.value.log
    assert names(out) == []


def test_memory_does_not_grow_with_the_model(worker: Worker, small: Path, out: Path) -> None:
    """Not with the size of one tensor either: what was encoded is not mapped any more."""
    change_json(small / "config.json", lambda config: config.update(num_hidden_layers=1))
    peaks, sizes = [], []
    for width in (4096, 1 << 19):
        widen_feed_forward(small, width)
        sizes.append((small / SINGLE).stat().st_size)
        made = convert(worker, small, out, "Q8_0", on_progress=lambda *_: None)
        peaks.append(made.peak_rss)
        made.files[0].path.unlink()
    assert sizes[1] > sizes[0] + 750_000_000
    assert peaks[1] - peaks[0] < 200_000_000


def test_merging_takes_no_more_memory_than_estimated(small: Path, out: Path, tmp_path: Path) -> None:
    change_json(small / "config.json", lambda config: config.update(num_hidden_layers=1))
    width = 1 << 18
    widen_feed_forward(small, width)
    adapter, module = tmp_path / "lora", "base_model.model.model.layers.0.mlp.up_proj"
    config = {"target_modules": ["up_proj"], "use_dora": True}
    make_adapter(adapter, config=config)
    parts = {".lora_A.weight": (2, 256), ".lora_B.weight": (width, 2), ".lora_magnitude_vector": (width,)}
    factors = {
        f"{module}{end}": StoredTensor("F32", np.full(shape, 0.5, np.float32)) for end, shape in parts.items()
    }
    write_tensors(adapter / "adapter_model.safetensors", factors)
    with Worker(vendoring.require()) as worker, open_model(adapter, small) as model:
        assert model.adaptation is not None
        merge = model.adaptation.merge.to_json()
        made = convert(worker, model.folder, out, "Q8_0", merge=merge)
        assert made.peak_rss < memory_needed(model, threads=2)
        assert made.peak_rss > 300_000_000 + 2 * 4 * 256 * width  # it was merged, in float32


def widen_feed_forward(checkpoint: Path, width: int) -> None:
    """Give the only layer a feed-forward network of ``width``."""
    change_json(checkpoint / "config.json", lambda config: config.update(intermediate_size=width))
    some = np.random.default_rng(width).integers(0x3B00, 0x3D00, 1 << 20, dtype=np.uint16)
    tensors = {name: t for name, t in read_tensors(checkpoint / SINGLE).items() if ".layers." not in name}
    for name, tensor in read_tensors(checkpoint / SINGLE).items():
        if ".layers.0." in name:
            shape = [width if ".mlp." in name and size != 256 else size for size in tensor.items.shape]
            items = np.resize(some, shape) if ".mlp." in name else tensor.items
            tensors[name] = StoredTensor("BF16", items)
    write_tensors(checkpoint / SINGLE, tensors)


def test_a_configuration_that_fails_is_read_again_by_all_of_transformers(small: Path, out: Path) -> None:
    """The converter goes on with config.json alone, but only when all of transformers has failed."""
    with Worker(vendoring.require()) as worker:
        convert(worker, small, out, "F16")
        assert [process.cmdline()[-1] for process in workers_of(worker)] == ["light"]
        change_json(small / "config.json", lambda config: config.update(model_type="of-our-own"))
        (made,) = convert(worker, small, out, "F16").files
        assert [process.cmdline()[-1] for process in workers_of(worker)] == ["all"]
    assert values_of(made.path)["general.architecture"] == "llama"
