"""Checkpoints found by URL: on a filesystem of fsspec, and in one that is an object store to us."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ggufpack.batch import storage
from ggufpack.batch.budget import needs_of
from ggufpack.batch.discover import discover
from ggufpack.batch.planning import BatchPlan, plan_batch
from ggufpack.errors import CheckpointFileError, ManifestError, UsageError
from tests.unit.batch.builders import small_spec, training, write_checkpoint


@pytest.fixture(params=["file", "memory"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Two runs: the first has three checkpoints (one of them cut short) and an adapter."""
    source = tmp_path / "bucket"
    run = training(source / "run", 2, 10, state=True)
    broken = write_checkpoint(run / "checkpoint-11")
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[:-1])
    adapter = run / "lora"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "base"}')
    (adapter / "adapter_model.safetensors").write_bytes((run / "checkpoint-2/model.safetensors").read_bytes())
    training(source / "other", 1)
    (source / "other" / "packages").mkdir()
    (source / "other" / "packages" / "ggufpack.json").write_text("{}")
    if request.param == "file":
        yield f"file://{source}"
        return
    name = uuid.uuid4().hex
    filesystem = MemoryFileSystem()
    filesystem.put(str(source), f"/{name}", recursive=True)
    yield f"memory://{name}"
    filesystem.rm(f"/{name}", recursive=True)


def plan(*arguments: str, output: str = "memory://out", **options: Any) -> BatchPlan:
    return plan_batch(arguments, replace(small_spec(Path(output)), **options))


def checkpoints(plan: BatchPlan) -> dict[str, str]:
    return {one.item.key: str(one.item.spec.checkpoint) for one in plan.items}


def test_a_training_output(bucket: str) -> None:
    found = plan(f"{bucket}/run")
    path = Path(f"{bucket}/run")
    assert checkpoints(found) == {f"run-{n}": str(path / f"checkpoint-{n}") for n in (2, 10)}
    assert [str(one.folder) for one in found.items] == ["memory:/out/run-2", "memory:/out/run-10"]
    reasons = {one.folder.name: one.reason for one in found.left_out}
    assert set(reasons) == {"checkpoint-11", "lora"}
    assert f"{bucket}/run/checkpoint-11/model.safetensors" in reasons["checkpoint-11"]
    assert "its base model is not known (base, which is no folder here)" in reasons["lora"]


def test_an_adapter_and_its_base(bucket: str) -> None:
    found = plan(f"{bucket}/run/lora", base=Path(f"{bucket}/run/checkpoint-2"))
    (item,) = [one.item for one in found.items]
    assert (item.key, item.spec.base) == ("lora", Path(f"{bucket}/run/checkpoint-2"))


def test_globs_in_natural_order(bucket: str) -> None:
    assert list(checkpoints(plan(f"{bucket}/run/checkpoint-*"))) == ["run-2", "run-10"]
    assert list(checkpoints(plan(f"{bucket}/*/checkpoint-?"))) == ["other-1", "run-2"]
    with pytest.raises(UsageError, match="does not exist"):
        plan(f"{bucket}/none-*")


def test_a_manifest(bucket: str, tmp_path: Path) -> None:
    manifest = tmp_path / "m.yaml"
    manifest.write_text(
        f"defaults: {{output: '{bucket}/packages'}}\n"
        f"items:\n  - checkpoint: '{bucket}/run/checkpoint-1*'\n    name: x\n"
    )
    (one,) = plan(str(manifest)).items
    assert (one.item.key, one.folder) == ("x", Path(f"{bucket}/packages/x"))
    manifest.write_text("items: [{checkpoint: 's3://key:hunter2@bucket/run'}]")
    with pytest.raises(ManifestError, match=r"m\.yaml:1: checkpoint: s3://…@bucket/run has credentials"):
        plan(str(manifest))
    manifest.write_text(
        f"defaults: {{base: 's3://b/run?sig=hunter2'}}\nitems: [{{checkpoint: {bucket}/run}}]"
    )
    with pytest.raises(ManifestError, match=r"m\.yaml:1: base: s3://b/run\?… has credentials"):
        plan(str(manifest))


def test_credentials_in_options_are_refused(bucket: str) -> None:
    with pytest.raises(UsageError, match="s3://…@b has credentials"):
        plan(f"{bucket}/run", output="s3://key:hunter2@b")


def test_a_protocol_whose_package_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        plan("s3://bucket/run")
    assert str(caught.value).startswith("s3://bucket/run needs a package that is not installed")
    assert caught.value.action == "Run: pip install s3fs"


def test_names_that_lead_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def hostile(self: Any, path: str, **_: Any) -> dict[str, Any]:
        return {f"{path}/../../etc/x.safetensors": {"size": 1}}

    monkeypatch.setattr(MemoryFileSystem, "find", hostile)
    with pytest.raises(CheckpointFileError, match="has a file whose name leads elsewhere"):
        discover(Path("memory://bucket/run"))


def test_headers_are_read_and_weights_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of 1 GB that takes no room: what is asked of the store stays small."""
    folder = tmp_path / "run" / "checkpoint-1"
    write_checkpoint(folder)
    header = json.dumps(
        {"model.norm.weight": {"dtype": "F32", "shape": [1 << 28], "data_offsets": [0, 1 << 30]}}
    )
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        file.truncate(8 + len(header) + (1 << 30))
    asked: list[int] = []
    read = storage.read

    def counting(url: str, start: int, end: int) -> bytes:
        asked.append(end - start)
        return read(url, start, end)

    monkeypatch.setattr(storage, "read", counting)
    (one,) = plan(f"file://{tmp_path}/run").items
    assert sum(asked) < 1 << 20
    needs = needs_of(one.item.spec)
    assert needs.disk == 0
    assert needs.scratch > (1 << 30) + (1 << 29)  # what is fetched, and the F16 package
    assert sum(asked) < 1 << 20
