"""A place where one command is run, broken and run again; and what must hold there after every fault."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from ggufpack.registry import OllamaServer, leftovers
from tests.faults.builder import Builder
from tests.faults.row import Row
from tests.support.batch import command
from tests.support.checkpoints import tiny_checkpoint
from tests.support.ollama_server import RunningOllama

NAME = "tiny"
NAMES = frozenset({f"{NAME}:q8_0", f"{NAME}:latest"})
SHAPE = "llama-224"
OPTIONS = ("--name", NAME, "-q", "Q8_0", "--template", "chatml", "--json")
ONE_GOOD_RUN_SECONDS = 300


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def error(self) -> Mapping[str, Any]:
        """The error object on stdout; empty when there is none."""
        try:
            return dict(json.loads(self.out.splitlines()[-1]).get("error") or {})
        except (IndexError, ValueError):
            return {}


@dataclass
class Scene:
    """One ``ggufpack build`` with its own output, temporary folder, cache and store.

    Attributes:
        folder: of everything.
        server: where it registers; ``None``: not at all.
        overwrite: an older package is there, and replaced.
        store: whether the model goes to an offline store as well.
        words: more options.
        environment: more of it.
        good: sha256 of files that may stand under a final name, by file name.
        new: of those of the command itself.
        seconds: that an undisturbed build took.
        builder: carries the builds out; ``None``: each is a command of its own.
        dirty: whether something was killed since the command last ran to its end.
        replaced: blobs that an undisturbed overwrite leaves in a store, for its server to prune.
    """

    folder: Path
    server: RunningOllama | None = None
    overwrite: bool = False
    store: bool = False
    words: Sequence[str] = ("--verify", "none")
    environment: dict[str, str] = field(default_factory=dict)
    good: dict[str, set[str]] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    dirty: bool = False
    builder: Builder | None = None
    replaced: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for path in (self.output, self.temporary, self.cache, self.aside):
            path.mkdir(parents=True, exist_ok=True)

    @property
    def output(self) -> Path:
        return self.folder / "out"

    @property
    def package(self) -> Path:
        return self.output / NAME

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def aside(self) -> Path:
        """For what no fault may reach: what the command prints, and the older package."""
        return self.folder.with_name(f"{self.folder.name}-aside")

    @property
    def models(self) -> Path:
        return self.folder / "store"

    # --- the command ------------------------------------------------------------

    def command(self, *more: str) -> list[str]:
        """The build, as it is run and run again."""
        words: list[str | Path] = ["build", tiny_checkpoint(SHAPE), "--output", self.output, *OPTIONS]
        words += ["--no-register"] if self.server is None else ["--host", self.server.host]
        words += ["--overwrite"] if self.overwrite else []
        words += ["--store", self.models] if self.store else []
        return command(*words, *self.words, *more)

    def start(self, *more: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Begin it, in a session of its own; its output goes to files."""
        with (self.aside / "stdout").open("wb") as out, (self.aside / "stderr").open("wb") as err:
            return subprocess.Popen(
                self.command(*more),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={
                    **{key: value for key, value in os.environ.items() if key != "OLLAMA_HOST"},
                    "TMPDIR": str(self.temporary),
                    "XDG_CACHE_HOME": str(self.cache),
                    **self.environment,
                    **(environment or {}),
                },
                start_new_session=True,
            )

    def wait(self, process: subprocess.Popen[bytes], started: float, limit: float = 300) -> Done:
        """Its end; one that hangs is killed, and has the code of that."""
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            code = process.wait()
        out, err = ((self.aside / name).read_text(errors="replace") for name in ("stdout", "stderr"))
        return Done(code, out, err, time.monotonic() - started)

    def run(self, *more: str, environment: Mapping[str, str] | None = None) -> Done:
        """From beginning to end; by the builder, where there is one."""
        if self.builder is not None and not more:
            return Done(*self.builder.build(self._arguments()))
        started = time.monotonic()
        return self.wait(self.start(*more, environment=environment), started)

    def _arguments(self) -> dict[str, Any]:
        """The same build, for ``ggufpack.build``."""
        return {
            "checkpoint": str(tiny_checkpoint(SHAPE)),
            "output": str(self.output),
            "name": NAME,
            "quantization": "Q8_0",
            "template": "chatml",
            "verify": "none",
            "register": self.server is not None,
            "host": None if self.server is None else self.server.host,
            "overwrite": self.overwrite,
            "store": str(self.models) if self.store else None,
            "reuse": "--reuse" in self.words,
            "cache": str(self.cache / "ggufpack" / "tensors"),
        }

    def learn(self) -> Scene:
        """Undisturbed builds say what is right; with ``overwrite`` an older one stays in place."""
        older = self.aside / "older"
        if self.overwrite:
            self._good(self.run("--system", "An older one."))
            self._take()
            if not older.exists():
                shutil.copytree(self.package, older)
        done = self.run()
        self._good(done)
        self.new = self._take()
        self.seconds = done.seconds
        self.replaced = {path.name for path in self._unnamed_blobs()}
        self.reset()
        return self

    def _good(self, done: Done) -> None:
        if done.code != 0:
            raise RuntimeError(f"An undisturbed build failed: {done.err}{done.out}")

    def _take(self) -> dict[str, str]:
        found = {path.name: _sha256(path) for path in _stable_files(self.package)}
        for name, digest in found.items():
            self.good.setdefault(name, set()).add(digest)
        return found

    def reset(self) -> None:
        """As before the first build: nothing there, or the older package."""
        shutil.rmtree(self.package, ignore_errors=True)
        if self.overwrite:
            shutil.copytree(self.aside / "older", self.package)
            return
        shutil.rmtree(self.models, ignore_errors=True)
        if self.server is not None:
            with closing(OllamaServer(self.server.host)) as server:
                for name in NAMES.intersection(server.names()):
                    server.delete(name)

    # --- what must hold -----------------------------------------------------------

    def look(self, row: Row) -> None:
        """At any moment after a fault: whatever has a final name is whole."""
        row.add("wrong", self._wrong_package())
        row.add("wrong", self._wrong_store())
        if self.overwrite and self.server is not None:
            with closing(OllamaServer(self.server.host)) as server:
                lost = NAMES.difference(server.names())
            row.add("server", f"{sorted(lost)} were there before" if lost else None)

    def again(self, row: Row) -> None:
        """Run the command again; then nothing may be left of the fault."""
        there = self._is_new()
        done = self.run()
        self.dirty = False
        row.reruns += 1
        refused = done.code == 2 and "holds a package already" in done.error.get("problem", "")
        if done.code != 0 and not (there and refused):
            row.add("rerun", f"code {done.code}: {done.error or done.err[-1500:]}")
        elif not self._is_new():
            row.add("rerun", "other bytes than the undisturbed build's")
        self.look(row)
        self.settled(row)
        self.reset()

    def settled(self, row: Row, *, failed: bool = False) -> None:
        """When no build runs, and none was killed: nothing but what was asked for.

        Where the last one ``failed`` after it had given names, the file that says so stays for the next one.
        """
        if self.dirty:
            return
        left = [path for path in self.output.iterdir() if path != self.package]
        if failed:
            left = [path for path in left if not _says_names(path)]
        left += [path for path in self.temporary.iterdir() if not _is_pythons_try(path)]
        left += [path for path in self.cache.rglob(".*") if path.name not in (".lock", ".gitignore")]
        left += self._unnamed_blobs()
        row.add("disk", f"{[str(path.relative_to(self.folder)) for path in left]}" if left else None)
        row.add("disk", self._processes())
        if self.server is not None:
            with closing(OllamaServer(self.server.host)) as server:
                names = leftovers(server)
                for name in names:
                    server.delete(name)
            row.add("server", f"{names}" if names else None)

    def _is_new(self) -> bool:
        return {path.name: _sha256(path) for path in _stable_files(self.package)} == self.new

    def _wrong_package(self) -> str | None:
        if not self.package.exists():
            return None
        try:
            record = json.loads((self.package / "ggufpack.json").read_text())
            for file in record["result"]["files"]:
                if _sha256(self.package / file["path"]) != file["sha256"]:
                    return f"{file['path']} has not the digest in ggufpack.json"
            if not (self.package / "report.html").read_text().rstrip().endswith("</html>"):
                return "report.html is cut short"
        except (OSError, ValueError, KeyError) as error:
            return f"{type(error).__name__}: {error}"
        found = {path.name: _sha256(path) for path in _stable_files(self.package)}
        wrong = [name for name, digest in found.items() if digest not in self.good.get(name, ())]
        missing = self.good.keys() - found.keys()
        return f"{wrong} differ, {sorted(missing)} are missing" if wrong or missing else None

    def _wrong_store(self) -> str | None:
        for manifest in self._manifests():
            for digest in _blobs_of(manifest):
                path = self.models / "blobs" / f"sha256-{digest}"
                if not path.is_file() or _sha256(path) != digest:
                    return f"{manifest.relative_to(self.models)} names {digest}, which is not whole"
        return None

    def _manifests(self) -> list[Path]:
        root = self.models / "manifests"
        return [path for path in root.glob("*/*/*/*") if path.is_file()]

    def _unnamed_blobs(self) -> list[Path]:
        named = {f"sha256-{digest}" for manifest in self._manifests() for digest in _blobs_of(manifest)}
        return [
            *(path for path in (self.models / "blobs").glob("*") if path.name not in named | self.replaced),
            *(self.models / "manifests").glob(".*"),
        ]

    def _processes(self, seconds: float = 60.0) -> str | None:
        """Processes of this scene that still run: a worker whose imports were under way ends after them."""
        end = time.monotonic() + seconds
        while True:
            mine = [
                " ".join(one.info["cmdline"])
                for one in psutil.process_iter(["cmdline", "environ"])
                if one.pid != os.getpid() and (one.info["environ"] or {}).get("TMPDIR") == str(self.temporary)
            ]
            if not mine:
                return None
            if time.monotonic() > end:
                return f"still running: {mine}"
            time.sleep(0.1)


def _is_pythons_try(path: Path) -> bool:
    """A file by which ``tempfile`` finds out whether a folder can be written: no kill can be told of it."""
    return (
        re.fullmatch("[a-z0-9_]{8}", path.name) is not None
        and path.is_file()
        and path.read_bytes() in (b"", b"blat")
    )


def _says_names(path: Path) -> bool:
    return path.name.startswith(f".{NAME}.build-") and '"files"' in path.read_text()


def _stable_files(package: Path) -> list[Path]:
    """What is the same in every build; the record and the report hold times."""
    return [
        path
        for path in package.glob("*")
        if path.is_file() and path.name not in ("ggufpack.json", "report.html")
    ]


def _blobs_of(manifest: Path) -> list[str]:
    found = json.loads(manifest.read_bytes())
    return [layer["digest"].removeprefix("sha256:") for layer in (found["config"], *found["layers"])]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
