"""Items on a real Ray cluster: killed processes, a killed driver, a killed node.

The cluster is started outside of the drivers, and its nodes keep their processes from test to test.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from ggufpack.batch.items import Item, Outcome, carry_out
from ggufpack.batch.ray_cluster import connect
from ggufpack.batch.ray_executor import RayExecutor
from ggufpack.batch.ray_task import Errand, carry_out_errand
from ggufpack.batch.scratch import scratch_area
from ggufpack.errors import UsageError
from ggufpack.packages import sha256_of
from ggufpack.pipeline import open_worker
from ggufpack.spec import BuildSpec, Event, Note, Progress, Stage, StageStarted
from tests.support.batch import JOURNAL, command, finished, start, training_output

TinyModel = Callable[[str], Path]
MODEL = "llama-spm"
GIB = 1 << 30
NODE: dict[str, Any] = {"num_cpus": 2, "memory": 4 * GIB, "object_store_memory": 100 << 20}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One node, with room for one item; drivers are there."""
    tmp_path_factory.getbasetemp()  # not below the folder that is removed at the end
    folder = Path(tempfile.mkdtemp(prefix="ggp-ray-"))  # its sockets need a short path
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TMPDIR", str(folder))
            patch.setattr("tempfile.tempdir", None)
            patch.setenv("RAY_TMPDIR", str(folder))
            patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
            patch.setenv("RAY_local_fs_capacity_threshold", "1")  # a disk that is nearly full is no matter
            started = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
            try:
                yield started
            finally:
                started.shutdown()  # type: ignore[no-untyped-call]
    finally:
        signal.signal(signal.SIGTERM, before)  # a node that runs here sets its own
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def connected(cluster: Cluster) -> Iterator[Cluster]:
    """With one connection for several executors: their processes stay for the next test. A second node comes
    after it: this driver, and its relay, are on the first.
    """
    with contextlib.ExitStack() as stack:
        connect(cluster.address, stack)
        cluster.add_node(**NODE)
        yield cluster


@pytest.fixture(scope="module")
def here(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[str]]:
    """Type to the digests of a build without Ray."""
    output = tmp_path_factory.mktemp("here")
    with open_worker() as worker:
        return {
            kind: digests(carry_out(Item(kind, spec_of(tiny_model(MODEL), output, kind, kind)), worker))
            for kind in ("Q8_0", "Q4_K_M", "F16")
        }


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


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("listens", [False, True])
def test_an_address_where_no_cluster_is(listens: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ggufpack.batch.ray_cluster._HEALTH_SECONDS", 3.0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        port = server.getsockname()[1]
        started = time.monotonic()
        with pytest.raises(UsageError, match=f"No Ray cluster can be reached at 127.0.0.1:{port}"):
            RayExecutor(f"127.0.0.1:{port}").__enter__()
        assert time.monotonic() - started < (15 if listens else 6)


def test_who_stops_listening_stops_the_builds(
    cluster: Cluster, tiny_model: TinyModel, tmp_path: Path
) -> None:
    items = [Item(name, spec_of(tiny_model(MODEL), tmp_path, name)) for name in ("one", "two")]

    def interrupt(_key: str, event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage is Stage.CONVERSION:
            raise KeyboardInterrupt

    with RayExecutor(cluster.address) as executor:
        with pytest.raises(KeyboardInterrupt):
            list(executor.run(items, interrupt))
        assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert not ray.is_initialized()


def test_an_item_that_kills_every_process_is_given_up(
    connected: Cluster, tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ggufpack.batch.ray_executor.build_item", _die)
    item = Item("deadly", spec_of(tiny_model(MODEL), tmp_path, "deadly"))
    with RayExecutor(connected.address, retries=1) as executor:
        (outcome,) = executor.run([item], ignore)
    assert outcome.status == "error"
    assert outcome.error is not None
    assert "deadly was given up: 2 processes died with it" in outcome.error["problem"]


def _die(_errand: Any, _relay: Any) -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def test_from_and_to_storage_by_url(
    connected: Cluster, tiny_model: TinyModel, tmp_path: Path, here: Mapping[str, list[str]]
) -> None:
    source = tiny_model(MODEL)
    checkpoint = shutil.copytree(source, tmp_path / "bucket" / source.name)  # the name is in the GGUF
    (checkpoint / "optimizer.pt").write_bytes(b"not for us")
    spec = spec_of(Path(f"file://{checkpoint}"), Path(f"file://{tmp_path}/bucket/packages"), "five")
    with RayExecutor(connected.address) as executor:
        (outcome,) = executor.run([Item("five", spec)], ignore)
        (again,) = executor.run([Item("five", spec)], ignore)
    package = tmp_path / "bucket" / "packages" / "five"
    assert outcome.result is not None, outcome.error
    assert outcome.result["folder"] == f"file://{package}"
    assert {path.name for path in package.iterdir()} == {
        "five-Q8_0.gguf",
        "Modelfile",
        "ggufpack.json",
        "report.html",
    }
    assert digests(outcome) == here["Q8_0"] == [sha256_of(package / "five-Q8_0.gguf")]
    assert (
        json.loads((package / "ggufpack.json").read_text())["checkpoint"]["folder"] == f"file://{checkpoint}"
    )
    assert [path.name for path in package.parent.iterdir()] == ["five"]
    assert again.error is not None
    assert "holds a package already" in again.error["problem"]


def test_what_a_node_cannot_see_or_take(connected: Cluster, tiny_model: TinyModel, tmp_path: Path) -> None:
    good = spec_of(tiny_model(MODEL), tmp_path, "good")
    items = [
        Item("wide", replace(good, threads=64)),
        Item("missing", replace(good, checkpoint=tmp_path / "missing")),
        Item(
            "lost", replace(good, checkpoint=Path("file:///no/such/place"), output=Path(f"file://{tmp_path}"))
        ),
    ]
    with RayExecutor(connected.address) as executor:
        outcomes = {outcome.key: outcome for outcome in executor.run(items, ignore)}
    assert [outcome.status for outcome in outcomes.values()] == ["error", "error", "error"]
    assert "No node of the cluster has 64 CPUs" in str(outcomes["wide"].error)
    assert "missing does not exist" in str(outcomes["missing"].error)
    assert "does not exist, or is empty" in str(outcomes["lost"].error)
    assert not list(tmp_path.iterdir())  # the probe is gone


def test_what_a_killed_process_left_is_removed_and_nothing_else(
    connected: Cluster,
    tiny_model: TinyModel,
    tmp_path: Path,
    here: Mapping[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ggufpack.batch.ray_executor.build_item", _wait_before_conversion)
    foreign = tmp_path / "packages" / ".one.tmp-0123456789ab-mine"
    foreign.mkdir(parents=True)
    checkpoint = Path(f"file://{tiny_model(MODEL)}")
    item = Item("one", spec_of(checkpoint, tmp_path / "packages", "one"))
    left: list[Path] = []

    def kill(_key: str, event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage is Stage.CONVERSION and not left:
            left.extend(path for path in foreign.parent.glob(".one.tmp-*") if path != foreign)
            left.extend(scratch_area().glob("r.*.tmp/ggufpack-fetched-*"))
            kill_builders()

    with RayExecutor(connected.address) as executor:
        (outcome,) = executor.run([item], kill)
    assert digests(outcome) == here["Q8_0"]
    assert len(left) == 2
    assert not [path for path in left if path.exists()]
    assert names(foreign.parent) == {"one", foreign.name}
    assert not list(scratch_area().glob("r.*.tmp/ggufpack-fetched-*"))


def _wait_before_conversion(errand: Errand, relay: Any) -> Outcome:
    """The first try stays where it is until it is killed."""

    def tell(event: Event) -> None:
        ray.get(relay.tell.remote(errand.item.key, event))
        if isinstance(event, StageStarted) and event.stage is Stage.CONVERSION and not errand.again:
            time.sleep(600)

    return carry_out_errand(errand, tell, lambda: None)


def kill_builders() -> None:
    """SIGKILL to the processes that carry out an item."""
    for process in psutil.process_iter(["cmdline"]):
        if "ray::one" in " ".join(process.info["cmdline"] or ()):
            process.kill()


def test_a_terminated_driver_ends_as_without_ray(
    connected: Cluster, tiny_model: TinyModel, tmp_path: Path
) -> None:
    """``ray.init`` sets a handler of SIGTERM of its own, and Ray's calls make 1 of every exit code."""
    output = tmp_path / "packages"
    words: list[str | Path] = [tiny_model("llama-224"), "--output", output, "--executor", "ray"]
    words += [
        "--address",
        connected.address,
        "--no-register",
        "--verify",
        "none",
        "-q",
        "Q8_0",
        "--template",
        "chatml",
    ]
    driver = start(words, tmp_path / "first")
    wait_until(lambda: list(output.glob(".*.tmp-*")), driver)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(60) == 128 + signal.SIGTERM
    assert "1 interrupted" in (tmp_path / "first" / "out").read_text()


def test_the_handler_of_sigterm_stays_the_callers(cluster: Cluster) -> None:
    """In a process of its own: a second connection would end this one's."""
    script = (
        "import contextlib, signal, sys\n"
        "from ggufpack.batch.ray_cluster import connect\n"
        "def mine(*_): ...\n"
        "for handler in (mine, signal.SIG_DFL):\n"
        "    signal.signal(signal.SIGTERM, handler)\n"
        "    with contextlib.ExitStack() as stack:\n"
        "        connect(sys.argv[1], stack)\n"
        "        during = signal.getsignal(signal.SIGTERM)\n"
        "        assert (during is mine) == (handler is mine), during\n"
        "    assert signal.getsignal(signal.SIGTERM) is handler\n"
    )
    command_line = [sys.executable, "-c", script, cluster.address]
    done = subprocess.run(command_line, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_killed_driver_loses_nothing_and_leaves_nothing(
    connected: Cluster, tiny_model: TinyModel, tmp_path: Path
) -> None:
    run = training_output(tiny_model("llama-224"), tmp_path / "run", [1, 2])
    output = tmp_path / "packages"
    words: list[str | Path] = [run, "--output", output, "--executor", "ray", "--address", connected.address]
    words += ["--jobs", "1", "--no-register", "--verify", "none", "-q", "Q8_0", "--template", "chatml"]
    words += ["--no-reuse", "--threads", "2"]
    driver = start(words, tmp_path / "first")

    def unfinished() -> list[Path]:
        return [path for path in output.glob(".run-2.tmp-*") if path.is_dir()]

    wait_until(lambda: len(finished(output / JOURNAL)) == 1 and unfinished(), driver)
    before = written(output / "run-1" / "run-1-Q8_0.gguf")
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    done = subprocess.run(
        command("batch", "--json", *words),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rows = {item["key"]: (item["status"], item["reused"]) for item in found["items"]}
    assert rows["run-1"] == ("unverified", True)
    assert rows["run-2"][0] == "unverified"
    assert written(output / "run-1" / "run-1-Q8_0.gguf") == before
    assert names(output) == {"run-1", "run-2", "index.html", JOURNAL}


def written(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def wait_until(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 180
    while not condition():
        assert process.poll() is None, "it ended before it came to that"
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def test_the_same_files_as_here_though_a_node_is_killed(
    connected: Cluster, tiny_model: TinyModel, tmp_path: Path, here: Mapping[str, list[str]]
) -> None:
    """The last test: a node is missing afterwards."""
    # enough of them that one begins on the other node, whose process may have to start first
    kinds = {f"{kind.lower()}-{number}": kind for number in (1, 2, 3) for kind in here}
    items = [Item(name, spec_of(tiny_model(MODEL), tmp_path, name, kind)) for name, kind in kinds.items()]
    (victim,) = connected.worker_nodes
    events: list[tuple[str, Event]] = []
    killed = threading.Event()

    def on_event(key: str, event: Event) -> None:
        events.append((key, event))
        begun = [(key, event.stage) for key, event in events if isinstance(event, StageStarted)]
        ending = {key for key, stage in begun if stage is Stage.REPORT}
        # a node has room for one: two that run are on two nodes
        if len({key for key, _ in begun} - ending) == 2 and not killed.is_set():
            killed.set()
            connected.remove_node(victim, allow_graceful=False)

    with RayExecutor(connected.address) as executor:
        outcomes = {outcome.key: digests(outcome) for outcome in executor.run(items, on_event)}
    assert killed.is_set()
    assert outcomes == {name: here[kind] for name, kind in kinds.items()}
    lost = [key for key, event in events if isinstance(event, Note) and "was lost" in event.message]
    # the one at work there, and one that was done but whose outcome had not been fetched
    assert 1 <= len(lost) == len(set(lost)) <= 2
    assert names(tmp_path) == set(kinds)
    for key in outcomes:
        mine = [event for of, event in events if of == key]
        assert any(isinstance(event, Progress) for event in mine)
        starts = [event for event in mine if isinstance(event, StageStarted) and event.stage is Stage.REPORT]
        assert len(starts) == 1 or (key in lost and len(starts) == 2)
