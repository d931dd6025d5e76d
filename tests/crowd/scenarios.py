"""What is shared, and what must be true afterwards."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import ggufpack
from ggufpack import tensor_cache
from ggufpack.package_folder import RECORD_NAME
from ggufpack.packages import cache_folder
from ggufpack.resources import data_folder
from ggufpack.store.check import check_store
from ggufpack.store.folder import StoreFolder
from tests.crowd import threads
from tests.crowd.together import Answer, Command, Together, together
from tests.crowd.together import ggufpack as command
from tests.support.batch import training_output
from tests.support.ollama_server import RunningOllama

LIMIT_SECONDS = 540.0
QUANTIZATION = "Q4_K_M"
_TAGS = ("latest", QUANTIZATION.lower())
_PLAIN = ("--no-register", "--verify", "none", "--threads", "1", "--quiet")
_TAKEN = ("already", "holds a package", "is built by", "is being built")


@dataclass(frozen=True)
class Shared:
    """What a scenario works on.

    Attributes:
        checkpoint: the input of all builds.
        sha256: of the GGUF that a lone build makes.
        folder: empty, of this scenario's own.
        builds: how many at once.
        server: a real one; ``None`` where no scenario needs it.
    """

    checkpoint: Path
    sha256: str
    folder: Path
    builds: int
    server: RunningOllama | None = None

    @property
    def out(self) -> Path:
        """The output folder."""
        return self.folder / "out"

    def build(self, number: int, *options: str | Path, name: str | None = None) -> Command:
        """The command of one build."""
        named = name or f"m{number}"
        return command(
            "build", self.checkpoint, "--name", named, "-q", QUANTIZATION, "--output", self.out, *options
        )

    def run(self, commands: Iterable[Command], environment: Mapping[str, str] | None = None) -> Together:
        """Run them at once."""
        return together(list(commands), self.folder / "said", LIMIT_SECONDS, environment)


@dataclass(frozen=True)
class Row:
    """One line of the table. ``wrong`` has a sentence for each outcome that must not be."""

    tries: int
    done: int
    refused: int
    wrong: tuple[str, ...]
    seconds: float
    peak_rss: int


def threads_with_other_names(shared: Shared) -> Row:
    """Threads of one process, each with a name of its own."""
    return _in_threads(shared, [f"m{number}" for number in range(shared.builds)], winners=shared.builds)


def threads_with_one_name(shared: Shared) -> Row:
    """Threads of one process that want the same name."""
    return _in_threads(shared, ["m"] * shared.builds, winners=1)


def processes_with_other_names(shared: Shared) -> Row:
    """Commands with a name each, into one folder."""
    ran = shared.run(shared.build(number, *_PLAIN) for number in range(shared.builds))
    return _row(ran, shared.builds, [*_outcomes(ran, shared.builds), *_packages(shared, shared.builds)])


def processes_with_one_name(shared: Shared) -> Row:
    """Commands that want the same name in one folder."""
    ran = shared.run(shared.build(number, *_PLAIN, name="m") for number in range(shared.builds))
    return _row(ran, shared.builds, [*_outcomes(ran, 1), *_packages(shared, 1)])


def processes_that_overwrite(shared: Shared) -> Row:
    """Commands that all may replace the package of one name."""
    ran = shared.run(
        shared.build(number, *_PLAIN, "--overwrite", name="m") for number in range(shared.builds)
    )
    return _row(ran, shared.builds, [*_outcomes(ran, shared.builds), *_packages(shared, 1)])


def one_tensor_cache(shared: Shared) -> Row:
    """Builds that share a tensor cache, while other processes empty and verify it."""
    cache = shared.folder / "cache"
    builds = [shared.build(number, *_PLAIN, "--reuse", "--cache", cache) for number in range(shared.builds)]
    script = "import sys\nfrom ggufpack.cli.main import main\nfor _ in range(40):\n" + "".join(
        f"    main(['cache', {words}, '--cache', sys.argv[1]], standalone_mode=False)\n"
        for words in ("'prune', '--all'", "'verify'")
    )
    cleaners: list[Command] = [[sys.executable, "-c", script, cache]] * 2
    ran = shared.run([*builds, *cleaners])
    wrong = [*_outcomes(ran, len(ran.answers)), *_packages(shared, shared.builds)]
    damaged = tensor_cache.remove_damaged(cache)[1].entries
    unfinished = [path.name for path in cache.glob("*/.*")]
    wrong += [f"{damaged} damaged entries in the cache"] if damaged else []
    wrong += [f"left in the cache: {unfinished}"] if unfinished else []
    return _row(ran, len(ran.answers), wrong)


def one_vendor_folder(shared: Shared) -> Row:
    """First use of a checkout without the converter: many fetch it at once."""
    root = shared.folder / "checkout"
    shutil.copytree(
        Path(ggufpack.__file__).parent, root / "ggufpack", ignore=shutil.ignore_patterns("__pycache__")
    )
    (root / "vendor").mkdir()
    for lock in data_folder("vendor").glob("*.toml"):
        shutil.copy(lock, root / "vendor")
    # the sdist comes from the user's cache of packages: what is tried here is the making of the folder
    caches = shared.folder / "caches"
    caches.mkdir()
    own = caches / "ggufpack"
    own.mkdir()
    (own / "packages").symlink_to(cache_folder() / "packages")
    environment = {"PYTHONPATH": str(root), "XDG_CACHE_HOME": str(caches)}
    ran = shared.run([command("vendor", "sync")] * shared.builds, environment)
    wrong = list(_outcomes(ran, shared.builds))
    status = together([command("vendor", "status", "--json")], shared.folder / "status", 60, environment)
    if json.loads(status.answers[0].out)["state"] != "ok":
        wrong.append(status.answers[0].out)
    left = sorted(path.name for path in (root / "vendor").iterdir() if path.suffix != ".toml")
    if left != ["llama.cpp"]:
        wrong.append(f"left beside the converter: {left}")
    return _row(ran, shared.builds, wrong)


def one_store(shared: Shared) -> Row:
    """Builds of other names, whose weights are one blob, into one offline store."""
    store = shared.folder / "store"
    ran = shared.run(shared.build(number, *_PLAIN, "--store", store) for number in range(shared.builds))
    wrong = [*_outcomes(ran, shared.builds), *_packages(shared, shared.builds)]
    folder = StoreFolder(store)
    names = {str(name) for name in folder.names().values()}
    expected = {
        f"m{number}:{tag}" for number in range(shared.builds) for tag in ("latest", QUANTIZATION.lower())
    }
    if names != expected:
        wrong.append(f"the store has {sorted(names)}")
    found = check_store(folder)
    if found.damaged or found.orphans or found.unfinished:
        wrong.append(f"the store: {found.damaged} {found.orphans} {found.unfinished}")
    return _row(ran, shared.builds, wrong)


def one_server_with_other_names(shared: Shared) -> Row:
    """Builds of other names that upload the same blob to one server."""
    server = _server(shared)
    ran = shared.run(
        shared.build(number, "--host", server.host, "--verify", "prompts", "--threads", "1", "--quiet")
        for number in range(shared.builds)
    )
    wrong = [*_outcomes(ran, shared.builds), *_packages(shared, shared.builds)]
    expected = {
        f"m{number}/{tag}" for number in range(shared.builds) for tag in ("latest", QUANTIZATION.lower())
    }
    return _row(ran, shared.builds, [*wrong, *_registered(server, expected)])


def one_server_with_one_name(shared: Shared) -> Row:
    """Builds into folders of their own that want the same name on one server."""
    server = _server(shared)
    ran = shared.run(
        command(
            *("build", shared.checkpoint, "--name", "same", "-q", QUANTIZATION, "--threads", "1", "--quiet"),
            *("--output", shared.out / str(number), "--host", server.host, "--verify", "prompts"),
        )
        for number in range(shared.builds)
    )
    wrong = list(_outcomes(ran, 1))
    packages = [path.parent for path in shared.out.rglob(RECORD_NAME)]
    if len(packages) != 1:
        wrong.append(f"packages: {packages}")
    return _row(ran, shared.builds, [*wrong, *_registered(server, {f"same/{tag}" for tag in _TAGS})])


def one_journal(shared: Shared) -> Row:
    """Two batches of one training output, with one journal and one output folder."""
    training = training_output(shared.checkpoint, shared.folder / "training", range(shared.builds))
    words = ("batch", training, "--output", shared.out, "--jobs", "1", "-q", QUANTIZATION, *_PLAIN)
    ran = shared.run([command(*words)] * 2)
    again = shared.run([command(*words)])
    wrong = [*_outcomes(again, 1)]
    wrong += [answer.problem for answer in ran.answers if answer.code < 0 or "Traceback" in answer.err]
    names = sorted(path.parent.name for path in shared.out.glob(f"*/{RECORD_NAME}"))
    if len(names) != shared.builds:
        wrong.append(f"packages: {names}")
    left = [path.name for path in shared.out.iterdir() if ".tmp-" in path.name or ".old-" in path.name]
    wrong += [f"left: {left}"] if left else []
    return _row(ran, 2, wrong)


Scenario = Callable[[Shared], Row]
SCENARIOS: tuple[Scenario, ...] = (
    threads_with_other_names,
    threads_with_one_name,
    processes_with_other_names,
    processes_with_one_name,
    processes_that_overwrite,
    one_tensor_cache,
    one_vendor_folder,
    one_store,
    one_server_with_other_names,
    one_server_with_one_name,
    one_journal,
)


def _in_threads(shared: Shared, names: list[str], winners: int) -> Row:
    ran = shared.run([[sys.executable, Path(threads.__file__), shared.checkpoint, shared.out, *names]])
    (answer,) = ran.answers
    if answer.code:
        return _row(ran, len(names), [answer.err])
    said = json.loads(answer.out)
    refused = [entry["problem"] for entry in said if "error" in entry]
    wrong = [problem for problem in refused if not _is_taken(problem)]
    if len(said) - len(refused) != winners:
        wrong.append(f"{len(said) - len(refused)} builds were done, not {winners}")
    wrong += _packages(shared, winners)
    return Row(len(names), len(said) - len(refused), len(refused), tuple(wrong), ran.seconds, ran.peak_rss)


def _row(ran: Together, tries: int, wrong: list[str]) -> Row:
    done = sum(answer.code == 0 for answer in ran.answers)
    return Row(tries, done, len(ran.answers) - done, tuple(wrong), ran.seconds, ran.peak_rss)


def _outcomes(ran: Together, winners: int) -> list[str]:
    """What is wrong with the answers: another number that were done, or a refusal that is no sentence."""
    refused = [answer for answer in ran.answers if answer.code]
    wrong = [f"exit code {answer.code}: {answer.problem}" for answer in refused if not _is_refusal(answer)]
    done = len(ran.answers) - len(refused)
    return [*wrong, *([] if done == winners else [f"{done} were done, not {winners}"])]


def _is_refusal(answer: Answer) -> bool:
    return answer.code in (2, 6) and answer.problem.count("\n") == 0 and _is_taken(answer.problem)


def _is_taken(problem: str) -> bool:
    return any(words in problem for words in _TAKEN)


def _packages(shared: Shared, count: int) -> list[str]:
    """What is wrong in the output folder: leftovers, or a GGUF that is not a lone build's."""
    wrong = []
    found = sorted(shared.out.iterdir()) if shared.out.exists() else []
    if len(found) != count or any(path.name.startswith(".") for path in found):
        wrong.append(f"in the output folder: {[path.name for path in found]}")
    for folder in found:
        record = folder / RECORD_NAME
        if not record.is_file():
            wrong.append(f"{folder.name} is no package")
            continue
        for gguf in folder.glob("*.gguf"):
            digest = subprocess.run(["sha256sum", str(gguf)], capture_output=True, check=True, text=True)  # noqa: S607
            if digest.stdout.split()[0] != shared.sha256:
                wrong.append(f"{gguf.name} is not what a lone build makes")
    return wrong


def _server(shared: Shared) -> RunningOllama:
    if shared.server is None:
        raise ValueError("this scenario needs a server")
    return shared.server


def _registered(server: RunningOllama, expected: set[str]) -> list[str]:
    names = {"/".join(name.split("/")[-2:]) for name in server.manifests()}
    wrong = [] if names == expected else [f"the server has {sorted(names)}"]
    unfinished = [name for name in server.blobs() if not name.startswith("sha256-") or name.count("-") != 1]
    return [*wrong, *([f"unfinished blobs: {unfinished}"] if unfinished else [])]
