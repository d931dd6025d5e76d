"""SwanLab and wandb, in a folder of their own, and what they wrote offline.

SwanLab 0.10 wants protobuf < 7, which the other tests do not have, so neither is in the ``test`` extra.
Run as a program, with that folder on PYTHONPATH, this file prints an offline run as JSON: with the
trackers' own protobufs and SwanLab's readers of both file formats.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("swanlab==0.10.3", "wandb==0.31.0")


def trackers_folder() -> Path:
    """Both packages with what they need; fetched with pip once."""
    from tests.support.cache import cached_folder, key_of, say

    def make(folder: Path) -> None:
        say(f"fetching {' and '.join(PACKAGES)}")
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-input",
            "--disable-pip-version-check",
        ]
        subprocess.run([*command, "--target", str(folder), *PACKAGES], check=True, stdin=subprocess.DEVNULL)

    return cached_folder(f"trackers-{key_of(sys.version, *PACKAGES)}", make)


def run_with_trackers(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A Python command that finds the trackers, as nobody who is logged in."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SWANLAB_", "WANDB_"))}
    path = os.pathsep.join([str(trackers_folder()), str(Path(__file__).parents[2])])
    env = {**kept, "PYTHONPATH": path, "HOME": str(home)}
    return subprocess.run(
        [sys.executable, *words],
        env=env,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def read_offline_run(tracker: str, folder: Path, home: Path) -> dict[str, Any]:
    """``project``, ``name``, ``figures`` and the ``report`` of a run folder."""
    done = run_with_trackers(home, str(Path(__file__)), tracker, str(folder))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _read_swanlab(folder: Path) -> dict[str, Any]:
    import yaml
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    reader = DataStoreReader()
    [file] = folder.glob("*.swanlab")
    reader.open(file)
    found: dict[str, Any] = {"figures": {}}
    for data in reader:
        record = Record.FromString(data)
        if record.HasField("start"):
            found |= {"project": record.start.project, "name": record.start.name}
        elif record.HasField("scalar"):
            found["figures"][record.scalar.key] = record.scalar.value.number
        elif record.HasField("media"):
            [item] = record.media.value.items
            found[record.media.key] = (folder / "media" / "html" / item.filename).read_text(encoding="utf-8")
    config = yaml.safe_load((folder / "files" / "config.yaml").read_text(encoding="utf-8"))
    found["config"] = {key: entry["value"] for key, entry in config.items()}
    return found


def _read_wandb(folder: Path) -> dict[str, Any]:
    from swanlab.converter.wb.wbdatastore import WBDataStoreReader
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, Any] = {"figures": {}, "config": {}}
    reader = WBDataStoreReader()
    [file] = folder.glob("*.wandb")
    reader.open(file)
    while (data := reader.scan()) is not None:
        record = Record.FromString(data)
        if record.HasField("run"):
            found |= {"project": record.run.project, "name": record.run.display_name}
            found["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        for item in record.summary.update:
            keys = [item.key] if item.key else list(item.nested_key)
            if keys == ["report", "path"]:
                path = folder / "files" / json.loads(item.value_json)
                found["report"] = path.read_text(encoding="utf-8")
            elif keys[0] != "report" and not keys[0].startswith("_"):
                [key] = keys
                found["figures"][key] = json.loads(item.value_json)
    return found


if __name__ == "__main__":
    read = {"swanlab": _read_swanlab, "wandb": _read_wandb}[sys.argv[1]]
    sys.stdout.write(json.dumps(read(Path(sys.argv[2]))))
