"""Reuse of encoded tensors: real workers, whole files byte by byte with and without the cache."""

from __future__ import annotations

import filecmp
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import pytest

import ggufpack
from ggufpack import tensor_cache, vendoring
from ggufpack.convert.process import Converted, Worker
from ggufpack.convert.protocol import Job
from ggufpack.errors import TensorValueError, WorkerError
from ggufpack.quantize import kernels
from ggufpack.quantize.types import FILE_TYPES
from ggufpack.spec import Event, Note, Reused
from tests.support.checkpoints import link_checkpoint
from tests.support.imatrix_files import collect, write_gguf
from tests.support.tensor_files import SINGLE, read_tensors, store_as, store_value

TinyModel = Callable[[str], Path]
ALL = tuple(FILE_TYPES)
SOME = ("Q4_K_M", "IQ4_XS", "Q8_0", "F16")
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(vendoring.require()) as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def small(tiny_model: TinyModel, tmp_path: Path) -> Path:
    """A sentencepiece Llama to change. The folder's name goes into the GGUF (general.name)."""
    return link_checkpoint(tiny_model("llama-spm"), tmp_path / "model")


def convert(
    worker: Worker,
    checkpoint: Path,
    out: Path,
    *types: str,
    cache: Path | None = None,
    imatrix: Path | None = None,
    intermediate: str = "bf16",
    allowed: tuple[str, ...] = (),
    earlier: Path | None = None,
) -> Converted:
    out.mkdir(exist_ok=True)
    outputs = tuple((name, out / f"{name}.gguf") for name in types)
    job = Job(
        checkpoint,
        outputs,
        intermediate,
        threads=2,
        cache=cache,
        imatrix=imatrix,
        allowed=allowed,
        earlier=() if earlier is None else tuple((name, earlier / f"{name}.gguf") for name in types),
    )
    return worker.convert(job)


def counted(converted: Converted) -> Reused:
    assert converted.reused is not None
    return converted.reused


def blocks(cache: Path) -> list[tensor_cache.Entry]:
    return [entry for entry in tensor_cache.entries(cache) if entry.kind not in ("VOCABULARY", "FILE")]


def same(left: Path, right: Path, *types: str) -> None:
    different = [
        name
        for name in types
        if not filecmp.cmp(left / f"{name}.gguf", right / f"{name}.gguf", shallow=False)
    ]
    assert not different


def with_and_without(
    worker: Worker, checkpoint: Path, scratch: Path, *types: str, intermediate: str = "bf16"
) -> Reused:
    """Files without the cache, with an empty one and with a full one are equal; what the last one reused."""
    cache = scratch / "cache"
    plain = convert(worker, checkpoint, scratch / "plain", *types, intermediate=intermediate)
    assert plain.reused is None
    first = convert(worker, checkpoint, scratch / "first", *types, cache=cache, intermediate=intermediate)
    second = convert(worker, checkpoint, scratch / "second", *types, cache=cache, intermediate=intermediate)
    for made in ("first", "second"):
        same(scratch / "plain", scratch / made, *types)
    digests = [[file.sha256 for file in made.files] for made in (plain, first, second)]
    assert digests[0] == digests[1] == digests[2]
    assert counted(first).stored > 0
    assert counted(second) == Reused(counted(first).of, counted(first).of, counted(second).bytes, 0, 0)
    return counted(second)


# --- the same bytes ---------------------------------------------------------------


def test_all_types_in_one_pass(worker: Worker, small: Path, tmp_path: Path) -> None:
    reused = with_and_without(worker, small, tmp_path, *ALL)
    assert reused.of == 23, "all matrices"
    assert reused.bytes == sum(entry.size - 32 for entry in blocks(tmp_path / "cache")) + (
        duplicates_of(tmp_path / "first")
    )


def duplicates_of(folder: Path) -> int:
    """Bytes of blocks that several files share: they are stored once, and taken each time."""
    seen: set[tuple[str, str]] = set()
    twice = 0
    for path in sorted(folder.iterdir()):
        for tensor in gguf.GGUFReader(path).tensors:
            key = (tensor.name, tensor.tensor_type.name)
            slow = tensor.tensor_type.name.endswith("_K") or tensor.tensor_type.name.startswith("IQ")
            if slow and key in seen:
                twice += int(tensor.n_bytes)
            seen.add(key)
    return twice


@pytest.mark.parametrize("name", ["mixtral", "granitemoe", "qwen2", "gpt2", "mixtral-wide", "llama-224"])
def test_experts_tied_embeddings_and_transposed_tensors(
    name: str, tiny_model: TinyModel, worker: Worker, tmp_path: Path
) -> None:
    with_and_without(
        worker, tiny_model(name), tmp_path, *(SOME if name != "llama-224" else ("Q6_K", "IQ4_XS"))
    )


@pytest.mark.parametrize(("stored", "intermediate"), [("F16", "f16"), ("F32", "f32"), ("mixed", "f32")])
def test_other_stored_dtypes(
    stored: str, intermediate: str, small: Path, worker: Worker, tmp_path: Path
) -> None:
    store_as(small, lambda name: ("F32" if "mlp" in name else "BF16") if stored == "mixed" else stored)
    with_and_without(worker, small, tmp_path, *SOME, intermediate=intermediate)


@pytest.mark.parametrize("name", ["llama-spm", "mixtral"])
def test_importance_is_part_of_the_key(
    name: str, tiny_model: TinyModel, worker: Worker, cache: Path, tmp_path: Path
) -> None:
    model = tiny_model(name)
    types = ("Q4_K_M", "Q4_0", "Q8_0", "F16")
    convert(worker, model, tmp_path / "none", *types, cache=cache)
    sizes = {
        tensor.name: (int(tensor.shape[2]) if len(tensor.shape) > 2 else 1, int(tensor.shape[0]))
        for tensor in gguf.GGUFReader(tmp_path / "none" / "F16.gguf").tensors
        if len(tensor.shape) > 1
    }
    matrices = [
        write_gguf(tmp_path / f"{seed}.gguf", collect(sizes, seed=seed, unused=[1])) for seed in (1, 2)
    ]
    for number, matrix in enumerate(matrices):
        plain, first, second = (tmp_path / f"{word}-{number}" for word in ("plain", "first", "second"))
        convert(worker, model, plain, *types, imatrix=matrix)
        assert counted(convert(worker, model, first, *types, imatrix=matrix, cache=cache)).tensors == 0
        reused = counted(convert(worker, model, second, *types, imatrix=matrix, cache=cache))
        assert reused.tensors == reused.of > 20
        same(plain, first, *types)
        same(plain, second, *types)
    assert not filecmp.cmp(
        tmp_path / "plain-0" / "Q4_0.gguf", tmp_path / "plain-1" / "Q4_0.gguf", shallow=False
    )


# --- what is reused, and what is not ------------------------------------------------


def test_a_changed_value_is_noticed(worker: Worker, small: Path, cache: Path, tmp_path: Path) -> None:
    first = counted(convert(worker, small, tmp_path / "first", *SOME, cache=cache))
    store_value(small, UP, 0.25)
    again = counted(convert(worker, small, tmp_path / "again", *SOME, cache=cache))
    assert (again.tensors, again.of) == (first.of - 1, first.of)
    assert 0 < again.stored < first.stored / 5
    convert(worker, small, tmp_path / "plain", *SOME)
    same(tmp_path / "plain", tmp_path / "again", *SOME)
    assert not filecmp.cmp(
        tmp_path / "first" / "Q4_K_M.gguf", tmp_path / "again" / "Q4_K_M.gguf", shallow=False
    )


def test_of_a_large_tensor_only_the_changed_chunk_is_encoded(
    worker: Worker, tiny_model: TinyModel, cache: Path, tmp_path: Path
) -> None:
    model = link_checkpoint(tiny_model("mixtral-wide"), tmp_path / "model")
    first = counted(convert(worker, model, tmp_path / "first", "Q4_K_M", cache=cache))
    store_value(model, "model.embed_tokens.weight", 0.25)
    again = counted(convert(worker, model, tmp_path / "again", "Q4_K_M", cache=cache))
    assert again.of - again.tensors == 1
    assert 500_000 < again.stored < 1_500_000, "one chunk"
    assert again.bytes > first.stored * 0.8
    convert(worker, model, tmp_path / "plain", "Q4_K_M")
    same(tmp_path / "plain", tmp_path / "again", "Q4_K_M")


def test_another_type_takes_what_both_have(worker: Worker, small: Path, cache: Path, tmp_path: Path) -> None:
    convert(worker, small, tmp_path / "out", "Q4_K_M", cache=cache)
    other = counted(convert(worker, small, tmp_path / "other", "Q4_K_S", cache=cache))
    assert other.of == 23
    assert 10 < other.tensors < 23, "Q4_K_M has Q6_K for some"
    convert(worker, small, tmp_path / "plain", "Q4_K_S")
    same(tmp_path / "plain", tmp_path / "other", "Q4_K_S")


def test_other_kernels_make_the_same_blocks(
    tiny_model: TinyModel, worker: Worker, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama-spm")
    convert(worker, model, tmp_path / "native", "Q4_K_M", "Q8_0", cache=cache)
    monkeypatch.setenv(kernels.CHOICE, kernels.REFERENCE)
    with Worker(vendoring.require()) as reference:
        made = counted(convert(reference, model, tmp_path / "reference", "Q4_K_M", cache=cache))
        assert made.tensors == made.of == 23
        slow = counted(convert(reference, model, tmp_path / "slow", "Q8_0", cache=cache))
        assert slow.stored > 0, "Q8_0 is kept as well: ggml's own kernel is slower than the cache"
    same(tmp_path / "native", tmp_path / "reference", "Q4_K_M")
    same(tmp_path / "native", tmp_path / "slow", "Q8_0")


def test_another_version_of_the_kernels_takes_nothing(
    tiny_model: TinyModel, worker: Worker, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama-spm")
    convert(worker, model, tmp_path / "old", "Q4_K_M", cache=cache)
    # a worker whose ggufpack says another number
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import ggufpack.quantize.kernels as kernels\nkernels.BYTES_VERSION += 1\n", encoding="utf-8"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(Path(ggufpack.__file__).parents[1])]))
    with Worker(vendoring.require()) as newer:
        made = counted(convert(newer, model, tmp_path / "new", "Q4_K_M", cache=cache))
    assert (made.tensors, made.of) == (0, 23)
    assert made.stored > 0


def test_a_damaged_block_is_removed_and_encoded_again(
    tiny_model: TinyModel, worker: Worker, cache: Path, tmp_path: Path
) -> None:
    model = tiny_model("llama-spm")
    convert(worker, model, tmp_path / "first", "Q4_K_M", cache=cache)
    entry = min(blocks(cache), key=lambda entry: entry.path)
    content = bytearray(entry.path.read_bytes())
    content[len(content) // 2] ^= 0x10
    entry.path.write_bytes(content)
    made = convert(worker, model, tmp_path / "again", "Q4_K_M", cache=cache)
    assert counted(made).damaged == 1
    assert counted(made).stored == entry.size
    assert f"{cache}: 1 damaged blocks were removed, and encoded again" in made.notes
    same(tmp_path / "first", tmp_path / "again", "Q4_K_M")
    assert tensor_cache.remove_damaged(cache)[1].entries == 0


def test_values_that_need_a_check_are_never_kept(
    worker: Worker, small: Path, cache: Path, tmp_path: Path
) -> None:
    store_value(small, UP, float("inf"))
    for _ in range(2):
        allowed = convert(
            worker, small, tmp_path / "allowed", "Q4_K_M", cache=cache, allowed=("GP250", "GP252")
        )
        assert (counted(allowed).of, counted(allowed).of - counted(allowed).tensors) in ((23, 23), (23, 1))
    with pytest.raises(TensorValueError, match="NaN or infinite"):
        convert(worker, small, tmp_path / "refused", "Q4_K_M", cache=cache)


def test_a_large_value_is_judged_every_time(worker: Worker, small: Path, cache: Path, tmp_path: Path) -> None:
    store_value(small, UP, 2.0**100)
    convert(worker, small, tmp_path / "allowed", "Q4_K_M", cache=cache, allowed=("GP252",))
    with pytest.raises(TensorValueError, match="block scale beyond F16"):
        convert(worker, small, tmp_path / "refused", "Q4_K_M", cache=cache)


def test_a_full_cache_is_a_note(
    tiny_model: TinyModel, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama-spm")
    monkeypatch.setenv(tensor_cache.SIZE_VARIABLE, "900kB")
    with Worker(vendoring.require()) as bounded:
        made = convert(bounded, model, tmp_path / "made", "Q4_K_M", cache=cache)
        convert(bounded, model, tmp_path / "plain", "Q4_K_M")
    same(tmp_path / "plain", tmp_path / "made", "Q4_K_M")
    assert any("full of this job's own (900,000 bytes)" in note for note in made.notes)
    assert 0 < sum(entry.size for entry in tensor_cache.entries(cache)) <= 900_000


# --- the vocabulary ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama3", "llama-spm", "bert", "qwen2"])
def test_the_vocabulary_is_read_once(
    name: str, tiny_model: TinyModel, cache: Path, tmp_path: Path, worker: Worker
) -> None:
    model = tiny_model(name)
    convert(worker, model, tmp_path / "plain", "Q8_0")
    convert(worker, model, tmp_path / "first", "Q8_0", cache=cache)
    (entry,) = [entry for entry in tensor_cache.entries(cache) if entry.kind == "VOCABULARY"]
    convert(worker, model, tmp_path / "second", "Q8_0", cache=cache)
    same(tmp_path / "plain", tmp_path / "first", "Q8_0")
    same(tmp_path / "plain", tmp_path / "second", "Q8_0")
    (again,) = [entry for entry in tensor_cache.entries(cache) if entry.kind == "VOCABULARY"]
    assert (again.path, again.made) == (entry.path, entry.made)
    assert again.used > again.made, "it was taken"


def test_a_changed_tokenizer_is_noticed(
    tiny_model: TinyModel, cache: Path, tmp_path: Path, worker: Worker
) -> None:
    model = link_checkpoint(tiny_model("llama3"), tmp_path / "model")
    convert(worker, model, tmp_path / "first", "Q8_0", cache=cache)
    path = model / "tokenizer_config.json"
    content = {**json.loads(path.read_text(encoding="utf-8")), "chat_template": "{{ 'changed' }}"}
    path.unlink()
    path.write_text(json.dumps(content), encoding="utf-8")
    (model / "trainer_state.json").write_text("{}")
    convert(worker, model, tmp_path / "plain", "Q8_0")
    convert(worker, model, tmp_path / "changed", "Q8_0", cache=cache)
    same(tmp_path / "plain", tmp_path / "changed", "Q8_0")
    assert not filecmp.cmp(
        tmp_path / "first" / "Q8_0.gguf", tmp_path / "changed" / "Q8_0.gguf", shallow=False
    )
    (model / "trainer_state.json").write_text('{"step": 2}')
    before = len(list(tensor_cache.entries(cache)))
    convert(worker, model, tmp_path / "later", "Q8_0", cache=cache)
    assert len(list(tensor_cache.entries(cache))) == before == 2, "a later step of the training is no change"


def test_a_damaged_vocabulary_is_read_again(
    tiny_model: TinyModel, cache: Path, tmp_path: Path, worker: Worker
) -> None:
    model = tiny_model("llama3")
    convert(worker, model, tmp_path / "first", "Q8_0", cache=cache)
    (entry,) = tensor_cache.entries(cache)
    content = bytearray(entry.path.read_bytes())
    content[5000] ^= 1
    entry.path.write_bytes(content)
    made = convert(worker, model, tmp_path / "again", "Q8_0", cache=cache)
    assert counted(made).damaged == 1
    same(tmp_path / "first", tmp_path / "again", "Q8_0")


# --- several at once ----------------------------------------------------------------


def test_workers_share_a_cache_and_one_is_killed(
    tiny_model: TinyModel, cache: Path, tmp_path: Path, worker: Worker
) -> None:
    model = tiny_model("mixtral")
    types = ("Q4_K_M", "Q3_K_M", "IQ4_XS", "Q2_K")
    convert(worker, model, tmp_path / "plain", *types)
    with (
        Worker(vendoring.require()) as other,
        Worker(vendoring.require()) as victim,
        ThreadPoolExecutor() as pool,
    ):
        for running in (other, victim):
            running.start()
        doomed = pool.submit(convert, victim, model, tmp_path / "doomed", *types, cache=cache)
        while not any(cache.rglob("*.*")):
            time.sleep(0.001)
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        with pytest.raises(WorkerError):
            doomed.result()
        together = [
            pool.submit(convert, one, model, tmp_path / f"made-{number}", *types, cache=cache)
            for number, one in enumerate((worker, other))
        ]
        for task in together:
            task.result()
    for number in range(2):
        same(tmp_path / "plain", tmp_path / f"made-{number}", *types)
    assert tensor_cache.remove_damaged(cache)[1].entries == 0


# --- whole files of an earlier package ------------------------------------------------


def older(checkpoint: Path) -> None:
    """Make a checkpoint look as if nothing had been written to it for an hour."""
    for path in checkpoint.iterdir():
        os.utime(path, (time.time() - 3600,) * 2)


def is_link(left: Path, right: Path, *types: str) -> bool:
    return all((left / f"{name}.gguf").samefile(right / f"{name}.gguf") for name in types)


@pytest.mark.parametrize("name", ["llama-spm", "mixtral", "qwen2"])
def test_the_files_of_an_earlier_package_are_taken_whole(
    name: str, tiny_model: TinyModel, worker: Worker, cache: Path, tmp_path: Path
) -> None:
    types = ("Q4_K_M", "IQ4_XS")
    first = convert(worker, tiny_model(name), tmp_path / "first", *types, cache=cache)
    again = convert(
        worker, tiny_model(name), tmp_path / "again", *types, cache=cache, earlier=tmp_path / "first"
    )
    assert is_link(tmp_path / "first", tmp_path / "again", *types)
    assert [(f.size, f.sha256, f.tensor_types) for f in again.files] == [
        (f.size, f.sha256, f.tensor_types) for f in first.files
    ]
    size = sum(file.size for file in first.files)
    assert counted(again) == Reused(counted(first).of, counted(first).of, size, 0, 0)
    assert again.notes == ("the earlier package's files were taken whole: these tensors make the same bytes",)


def another_value(model: Path, _earlier: Path) -> None:
    store_value(model, UP, 0.25)


def another_header(model: Path, _earlier: Path) -> None:
    path = model / "tokenizer_config.json"
    content = {**json.loads(path.read_text(encoding="utf-8")), "chat_template": "{{ 'changed' }}"}
    path.unlink()
    path.write_text(json.dumps(content), encoding="utf-8")


def another_number(model: Path, _earlier: Path) -> None:
    """Another header of the same length."""
    path = model / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["max_position_embeddings"] += 1
    path.unlink()
    path.write_text(json.dumps(content), encoding="utf-8")


def a_damaged_file(_model: Path, earlier: Path) -> None:
    with (earlier / "Q4_K_M.gguf").open("r+b") as file:
        file.seek(-5000, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-5000, os.SEEK_END)
        file.write(bytes([byte ^ 1]))


def a_longer_file(_model: Path, earlier: Path) -> None:
    with (earlier / "Q4_K_M.gguf").open("ab") as file:
        file.write(b"more")


def no_file(_model: Path, earlier: Path) -> None:
    (earlier / "Q4_K_M.gguf").unlink()


@pytest.mark.parametrize(
    "change", [another_value, another_header, another_number, a_damaged_file, a_longer_file, no_file]
)
def test_files_that_are_not_the_same_are_written_anew(
    change: Callable[[Path, Path], None], small: Path, worker: Worker, cache: Path, tmp_path: Path
) -> None:
    convert(worker, small, tmp_path / "first", "Q4_K_M", cache=cache)
    change(small, tmp_path / "first")
    older(small)
    before = [path.read_bytes() for path in (tmp_path / "first").iterdir()]
    again = convert(worker, small, tmp_path / "again", "Q4_K_M", cache=cache, earlier=tmp_path / "first")
    convert(worker, small, tmp_path / "plain", "Q4_K_M")
    same(tmp_path / "plain", tmp_path / "again", "Q4_K_M")
    assert (tmp_path / "again" / "Q4_K_M.gguf").stat().st_nlink == 1
    assert "quantised tensors from the cache" in again.notes[0]
    assert [path.read_bytes() for path in (tmp_path / "first").iterdir()] == before
    # and the next one finds what was written now
    convert(worker, small, tmp_path / "third", "Q4_K_M", cache=cache, earlier=tmp_path / "again")
    assert is_link(tmp_path / "again", tmp_path / "third", "Q4_K_M")


def test_a_file_older_than_the_checkpoint_is_not_looked_at(
    small: Path, worker: Worker, cache: Path, tmp_path: Path
) -> None:
    convert(worker, small, tmp_path / "first", "Q4_K_M", cache=cache)
    later = time.time() + 5
    os.utime(small / "config.json", (later, later))
    again = convert(worker, small, tmp_path / "again", "Q4_K_M", cache=cache, earlier=tmp_path / "first")
    assert not is_link(tmp_path / "first", tmp_path / "again", "Q4_K_M")
    assert again.notes == ("23 of 23 quantised tensors from the cache",)


def test_files_with_values_that_need_a_check_are_never_taken_whole(
    small: Path, worker: Worker, cache: Path, tmp_path: Path
) -> None:
    store_value(small, UP, float("inf"))
    allowed = ("GP250", "GP252")
    convert(worker, small, tmp_path / "first", "Q4_K_M", cache=cache, allowed=allowed)
    with pytest.raises(TensorValueError, match="NaN or infinite"):
        convert(worker, small, tmp_path / "again", "Q4_K_M", cache=cache, earlier=tmp_path / "first")
    assert list((tmp_path / "again").iterdir()) == []


def test_types_whose_source_is_not_hashed_are_not_taken_whole(
    tiny_model: TinyModel, worker: Worker, cache: Path, tmp_path: Path
) -> None:
    model = tiny_model("llama-spm")
    for types in (("Q8_0",), ("Q4_K_M", "Q8_0")):
        convert(worker, model, tmp_path / "first", *types, cache=cache)
        convert(worker, model, tmp_path / "again", *types, cache=cache, earlier=tmp_path / "first")
        assert not is_link(tmp_path / "first", tmp_path / "again", *types)
        same(tmp_path / "first", tmp_path / "again", *types)


# --- the whole build ----------------------------------------------------------------


def test_a_build_says_what_it_reused(tiny_model: TinyModel, cache: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    with ggufpack.open_worker() as worker:
        for name in ("one", "two"):
            result = ggufpack.build(
                tiny_model("llama-spm"),
                name=name,
                output=tmp_path,
                template="chatml",
                register=False,
                verify="none",
                reuse=True,
                cache=cache,
                worker=worker,
                on_event=events.append,
            )
    assert result.reused is not None
    assert (result.reused.tensors, result.reused.of) == (23, 23)
    assert '"reused": {\n      "tensors": 23,' in result.record.read_text(encoding="utf-8")
    notes = [event.message for event in events if isinstance(event, Note)]
    assert "0 of 23 quantised tensors from the cache" in notes
    assert "23 of 23 quantised tensors from the cache" in notes
    assert len(read_tensors(tiny_model("llama-spm") / SINGLE)) > 23, "norms are not asked for"


def test_a_build_with_other_parameters_keeps_its_file(
    tiny_model: TinyModel, cache: Path, tmp_path: Path
) -> None:
    made, notes = [], []
    with ggufpack.open_worker() as worker:
        for temperature in (0.1, 0.9):
            events: list[Event] = []
            result = ggufpack.build(
                tiny_model("llama-spm"),
                name="one",
                output=tmp_path,
                template="chatml",
                parameters={"temperature": temperature},
                register=False,
                verify="none",
                overwrite=True,
                reuse=True,
                cache=cache,
                worker=worker,
                on_event=events.append,
            )
            (file,) = result.package.files
            status = file.path.stat()
            made.append((file.sha256, status.st_ino, status.st_nlink))
            notes.append([event.message for event in events if isinstance(event, Note)])
            modelfile = next(iter(result.package.modelfiles.values())).read_text(encoding="utf-8")
            assert f"PARAMETER temperature {temperature}" in modelfile
    assert made[0] == made[1], "the same file, and the earlier package is gone"
    assert "were taken whole" in notes[1][0]
    assert [path.name for path in tmp_path.iterdir() if path != cache] == ["one"]
