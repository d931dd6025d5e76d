"""Shards, indexes, and files that should not be there."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from ggufpack.checkpoint.tensors import read_tensors
from ggufpack.errors import TensorFileError

from .builders import make_checkpoint, model_tensors, shard, write_index, write_json, write_safetensors


def ids(folder: Path) -> list[str]:
    return [finding.id for finding in read_tensors(folder)[1]]


def test_one_file(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    table, findings = read_tensors(tmp_path)
    assert set(table) == set(model_tensors())
    assert findings == ()
    assert table.files == (tmp_path / "model.safetensors",)
    assert table.dtypes == {"BF16": 19}
    # two of 8x4, one of 4, sixteen of 4x4
    assert table.parameters == 2 * 32 + 4 + 16 * 16
    assert table.total_bytes == 2 * table.parameters
    assert table["model.norm.weight"].shape == (4,)


def test_shards_with_an_index(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    names = shard(tmp_path, 3)
    table, findings = read_tensors(tmp_path)
    assert set(table) == set(model_tensors())
    assert [path.name for path in table.files] == names
    assert findings == ()


def test_shards_without_an_index_are_read_and_reported(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    shard(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    table, findings = read_tensors(tmp_path)
    assert set(table) == set(model_tensors())
    assert [finding.id for finding in findings] == ["GP203"]


@pytest.mark.parametrize("indexed", [True, False])
def test_all_missing_shards_are_listed(tmp_path: Path, indexed: bool) -> None:
    make_checkpoint(tmp_path)
    names = shard(tmp_path, 4)
    if not indexed:
        (tmp_path / "model.safetensors.index.json").unlink()
    for name in (names[1], names[3]):
        (tmp_path / name).unlink()
    with pytest.raises(TensorFileError, match="2 of 4 shards are missing") as caught:
        read_tensors(tmp_path)
    assert names[1] in caught.value.problem
    assert names[3] in caught.value.problem
    assert names[0] not in caught.value.problem


def test_names_that_promise_many_shards_are_counted_and_not_listed(tmp_path: Path) -> None:
    for stem in range(20):
        (tmp_path / f"model{stem:02d}-00002-of-99999.safetensors").touch()
    tracemalloc.start()
    try:
        with pytest.raises(TensorFileError, match="1999960 of 1999980 shards are missing") as caught:
            read_tensors(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.key == "model00-00001-of-99999.safetensors"
    assert "model00-00002" not in caught.value.problem
    assert caught.value.problem.endswith("and 1999954 more.")
    assert len(caught.value.problem) < 1000
    assert peak < 1_000_000


def test_an_index_that_names_many_absent_files(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    write_index(tmp_path, {f"model-{number}.safetensors": [f"t{number}"] for number in range(5000)})
    with pytest.raises(TensorFileError, match="5000 of 5000 shards are missing") as caught:
        read_tensors(tmp_path)
    assert len(caught.value.problem) < 1000


def test_tensor_in_the_index_and_in_no_shard(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    write_index(tmp_path, {"model.safetensors": [*model_tensors(), "model.extra.weight"]})
    with pytest.raises(TensorFileError, match=r"promises 1 tensors that no shard has: model\.extra\.weight"):
        read_tensors(tmp_path)


def test_tensor_in_a_shard_and_not_in_the_index(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    write_index(tmp_path, {"model.safetensors": list(model_tensors())[1:]})
    with pytest.raises(TensorFileError, match=r"does not name: model\.embed_tokens\.weight"):
        read_tensors(tmp_path)


def test_index_that_names_the_wrong_shard(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    names = shard(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.norm.weight"] = names[1]
    write_json(index, content)
    (finding,) = read_tensors(tmp_path)[1]
    assert (finding.id, finding.key) == ("GP204", "model.norm.weight")


@pytest.mark.parametrize(
    "name",
    ["../model.safetensors", "/etc/x.safetensors", "a/b.safetensors", "a\\b.safetensors", "c:x.safetensors",
     "..", "", "model.bin", "x\n.safetensors", 7, None],
)  # fmt: skip
def test_a_shard_name_cannot_leave_the_folder(tmp_path: Path, name: object) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint")
    write_safetensors(tmp_path / "model.safetensors", model_tensors())
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"model.norm.weight": name}})
    with pytest.raises(TensorFileError, match="not the name of a safetensors file in this folder") as caught:
        read_tensors(folder)
    assert caught.value.key == "model.norm.weight"


def test_files_may_be_links_as_in_the_hub_cache(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    make_checkpoint(blobs)
    snapshot.mkdir(parents=True)
    for name in ("model.safetensors", "config.json"):
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    assert set(read_tensors(snapshot)[0]) == set(model_tensors())


def test_a_dangling_link_is_a_missing_shard(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    first = shard(tmp_path)[0]
    (tmp_path / first).unlink()
    (tmp_path / first).symlink_to("nowhere")
    with pytest.raises(TensorFileError, match=first):
        read_tensors(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_a_broken_index(tmp_path: Path, content: str) -> None:
    make_checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(TensorFileError, match=r"model\.safetensors\.index\.json"):
        read_tensors(tmp_path)


def test_the_same_tensor_in_two_shards(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    names = shard(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    write_safetensors(tmp_path / names[1], model_tensors())
    with pytest.raises(TensorFileError, match="in two files") as caught:
        read_tensors(tmp_path)
    assert names[0] in caught.value.problem
    assert names[1] in caught.value.problem


@pytest.mark.parametrize("indexed", [True, False])
def test_two_sets_of_weights(tmp_path: Path, indexed: bool) -> None:
    make_checkpoint(tmp_path)
    shard(tmp_path)
    if not indexed:
        (tmp_path / "model.safetensors.index.json").unlink()
    write_safetensors(tmp_path / "model.safetensors", {"other": ("F32", (1,))})
    with pytest.raises(TensorFileError, match="two sets of weights"):
        read_tensors(tmp_path)


def test_files_beside_the_checkpoint_are_reported(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    write_safetensors(tmp_path / "consolidated.safetensors", {"x": ("F32", (1,))})
    table, (finding,) = read_tensors(tmp_path)
    assert (finding.id, finding.path) == ("GP205", tmp_path / "consolidated.safetensors")
    assert "x" not in table


def test_no_tensor_at_all(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, tensors={})
    with pytest.raises(TensorFileError, match="holds no tensor"):
        read_tensors(tmp_path)


def test_a_damaged_shard_names_the_shard(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    names = shard(tmp_path)
    path = tmp_path / names[1]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(TensorFileError, match=r"5 of .* bytes are missing") as caught:
        read_tensors(tmp_path)
    assert caught.value.path == path
