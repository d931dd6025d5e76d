"""Items on a real Ray cluster of several nodes, one of which is killed in the middle."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from ggufpack.batch.items import Item, Outcome, carry_out
from ggufpack.batch.ray_executor import RayExecutor
from ggufpack.errors import UsageError
from ggufpack.pipeline import open_worker
from ggufpack.spec import BuildSpec, Event, Note, Progress, Stage, StageStarted

TinyModel = Callable[[str], Path]
GIB = 1 << 30
NODE: dict[str, Any] = {"num_cpus": 2, "memory": 4 * GIB, "object_store_memory": 100 << 20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without CPUs, for the driver, and two nodes with room for one item each."""
    folder = Path(tempfile.mkdtemp(prefix="ggp-ray-"))  # its sockets need a short path
    head = {**NODE, "num_cpus": 0, "include_dashboard": False}
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_TMPDIR", str(folder))
            patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
            started = Cluster(initialize_head=True, head_node_args=head)
            try:
                for _ in range(2):
                    started.add_node(**NODE)
                yield started
            finally:
                started.shutdown()  # type: ignore[no-untyped-call]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def spec_of(checkpoint: Path, output: Path, name: str, quantization: str = "Q8_0") -> BuildSpec:
    return BuildSpec(
        checkpoint,
        name=name,
        quantizations=(quantization,),
        output=output,
        register=False,
        verify="none",
        template="chatml",
        threads=2,
    )


def digests(outcome: Outcome) -> list[str]:
    assert outcome.result is not None, outcome.error
    return [file["sha256"] for file in outcome.result["files"]]


def ignore(_key: str, _event: Event) -> None:
    """For those who do not watch."""


def test_the_same_files_as_here_though_a_node_is_killed(
    cluster: Cluster, tiny_model: TinyModel, tmp_path: Path
) -> None:
    items = [
        Item(name, spec_of(tiny_model("llama-spm"), tmp_path / "ray", name, kind))
        for name, kind in (("one", "Q8_0"), ("two", "Q4_K_M"), ("three", "F16"))
    ]
    with open_worker() as worker:
        here = {
            item.key: digests(
                carry_out(replace(item, spec=replace(item.spec, output=tmp_path / "here")), worker)
            )
            for item in items
        }
    victim = cluster.add_node(**NODE)
    cluster.remove_node(
        next(iter(cluster.worker_nodes))
    )  # two nodes with CPUs: the victim, and one that stays
    events: list[tuple[str, Event]] = []
    killed = threading.Event()

    def on_event(key: str, event: Event) -> None:
        events.append((key, event))
        running = {key for key, event in events if isinstance(event, StageStarted)}
        if len(running) == 2 and not killed.is_set():
            killed.set()
            cluster.remove_node(victim, allow_graceful=False)

    with RayExecutor(cluster.address) as executor:
        outcomes = list(executor.run(items, on_event))
    assert killed.is_set()
    assert {outcome.key: digests(outcome) for outcome in outcomes} == here
    notes = [key for key, event in events if isinstance(event, Note) and "was lost" in event.message]
    assert len(notes) == 1
    assert sorted(path.name for path in (tmp_path / "ray").iterdir()) == ["one", "three", "two"]
    for key in here:
        mine = [event for of, event in events if of == key]
        assert any(isinstance(event, Progress) for event in mine)
        starts = [event for event in mine if isinstance(event, StageStarted) and event.stage is Stage.REPORT]
        assert len(starts) == 1
    cluster.add_node(**NODE)


def test_an_item_that_kills_every_process_is_given_up(
    cluster: Cluster, tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ggufpack.batch.ray_executor.build_item", _die)
    item = Item("deadly", spec_of(tiny_model("llama-spm"), tmp_path, "deadly"))
    with RayExecutor(cluster.address, retries=1) as executor:
        (outcome,) = executor.run([item], ignore)
    assert outcome.status == "error"
    assert outcome.error is not None
    assert "deadly was given up: 2 processes died with it" in outcome.error["problem"]


def _die(_errand: Any, _relay: Any) -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def test_from_and_to_storage_by_url(cluster: Cluster, tiny_model: TinyModel, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(tiny_model("llama-spm"), tmp_path / "bucket" / "run" / "checkpoint-5")
    (checkpoint / "optimizer.pt").write_bytes(b"not for us")
    spec = spec_of(Path(f"file://{checkpoint}"), Path(f"file://{tmp_path}/bucket/packages"), "five")
    with RayExecutor(cluster.address) as executor:
        (outcome,) = executor.run([Item("five", spec)], ignore)
        (again,) = executor.run([Item("five", spec)], ignore)
        (lost,) = executor.run(
            [Item("lost", replace(spec, checkpoint=Path("file:///no/such/place"), name="lost"))], ignore
        )
    package = tmp_path / "bucket" / "packages" / "five"
    assert outcome.result is not None, outcome.error
    assert outcome.result["folder"] == f"file://{package}"
    assert {path.name for path in package.iterdir()} == {
        "five-Q8_0.gguf",
        "Modelfile",
        "ggufpack.json",
        "report.html",
    }
    local = carry_out(Item("five", spec_of(checkpoint, tmp_path / "here", "five")))
    assert digests(local) == digests(outcome)
    assert (package / "five-Q8_0.gguf").read_bytes() == (
        tmp_path / "here" / "five" / "five-Q8_0.gguf"
    ).read_bytes()
    assert [path.name for path in package.parent.iterdir()] == ["five"]
    assert again.error is not None
    assert "holds a package already" in again.error["problem"]
    assert lost.error is not None
    assert "does not exist, or is empty" in lost.error["problem"]


def test_what_a_node_cannot_see_or_take(cluster: Cluster, tiny_model: TinyModel, tmp_path: Path) -> None:
    good = spec_of(tiny_model("llama-spm"), tmp_path, "good")
    items = [
        Item("wide", replace(good, threads=64)),
        Item("missing", replace(good, checkpoint=tmp_path / "missing")),
    ]
    with RayExecutor(cluster.address) as executor:
        outcomes = {outcome.key: outcome for outcome in executor.run(items, ignore)}
    assert [outcome.status for outcome in outcomes.values()] == ["error", "error"]
    assert "No node of the cluster has 64 CPUs" in str(outcomes["wide"].error)
    assert "missing does not exist" in str(outcomes["missing"].error)
    assert not list(tmp_path.iterdir())  # the probe is gone


def test_who_stops_listening_stops_the_builds(
    cluster: Cluster, tiny_model: TinyModel, tmp_path: Path
) -> None:
    items = [Item(name, spec_of(tiny_model("llama-spm"), tmp_path, name)) for name in ("one", "two")]

    def interrupt(_key: str, event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage is Stage.CONVERSION:
            raise KeyboardInterrupt

    with RayExecutor(cluster.address) as executor:
        with pytest.raises(KeyboardInterrupt):
            list(executor.run(items, interrupt))
        assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert not ray.is_initialized()


@pytest.mark.parametrize("listens", [False, True])
def test_an_address_where_no_cluster_is(listens: bool) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        port = server.getsockname()[1]
        started = time.monotonic()
        with pytest.raises(UsageError, match=f"No Ray cluster can be reached at 127.0.0.1:{port}"):
            RayExecutor(f"127.0.0.1:{port}").__enter__()
        assert time.monotonic() - started < (30 if listens else 6)
