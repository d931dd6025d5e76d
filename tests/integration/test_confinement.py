"""A hostile checkpoint whose own code runs in the conversion worker, and what it is kept from.

``--trust-remote-code`` is the worst case: any Python. The same code succeeds where the confinement is off,
so each row of the table can fail. (The C library is called directly: it passes Python's audit hooks.)
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ggufpack import build, vendoring
from ggufpack.confinement import OFF_VARIABLE, possible
from ggufpack.confinement.landlock import abi
from ggufpack.confinement.seccomp import available
from ggufpack.convert.process import Worker
from ggufpack.convert.protocol import Job
from ggufpack.errors import GgufpackError, VerificationError
from tests.support import malicious
from tests.support.checkpoints import link_checkpoint

TinyModel = Callable[[str], Path]

# what it tries, and how that ends: EACCES is Landlock's, EPERM the filter's, EFBIG the limit of file sizes
BLOCKED = {
    "connect": "EPERM",
    "send_datagram": "EPERM",
    "listen": "EPERM",
    "resolve": "EPERM",
    "local_socket": "EPERM",
    "abstract_socket": "EPERM",
    "read_home": "EACCES",
    "list_home": "EACCES",
    "read_shadow": "EACCES",
    "read_through_link": "EACCES",
    "link_secret": "EXDEV",
    "read_linked": "EACCES",
    "read_token": "ENOENT",
    "write_home": "EACCES",
    "write_other_package": "EACCES",
    "write_beside_output": "EACCES",
    "overwrite_checkpoint": "EACCES",
    "poison_cache": "EACCES",
    "plant_module": "EACCES",
    "change_mode": "EPERM",
    "change_times": "EPERM",
    "remove_other_package": "EACCES",
    "signal_parent": "EPERM",
    "signal_all": "EPERM",
    "trace_parent": "EPERM",
    "read_parents_environment": "EACCES",
    "read_parents_memory": "EACCES",
    "spawn_shell": "EPERM",
    "replace_itself": "EPERM",
    "fork": "EPERM",
    "leave_daemon": "EPERM",
    "fill_disk": "EFBIG",
    "use_io_uring": "EPERM",
    "change_namespace": "EPERM",
    "keyring": "EPERM",
}
# nothing to see where it is off: there is no such program; the kernel may lack it, or need root for it
NOT_SHOWN_OPEN = {
    "read_token",
    "replace_itself",
    "use_io_uring",
    "read_shadow",
    "plant_module",
    "change_namespace",
}

needs_kernel = pytest.mark.skipif(
    not (abi() >= 6 and available()), reason="needs Landlock's sixth version, and a known machine"
)


@pytest.fixture
def hostile(tiny_model: TinyModel, tmp_path: Path) -> Iterator[Callable[[str], dict[str, str]]]:
    """Runs the code in a worker, with ``GGUFPACK_UNCONFINED`` set so; the outcome of each attempt."""
    checkpoint = link_checkpoint(tiny_model("llama"), tmp_path / "model")
    settings = json.loads((checkpoint / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own_tokenizer.Own"]}}
    (checkpoint / "tokenizer_config.json").unlink()
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    home, other, out, cache = (tmp_path / name for name in ("home", "other", "out", "cache"))
    for folder in (home / ".ssh", other, out, cache):
        folder.mkdir(parents=True)
    for path in (
        home / ".ssh" / "id_ed25519",
        other / "model.gguf",
        other / "victim",
        checkpoint / "README.md",
    ):
        path.write_text("a secret, or a work of days", encoding="utf-8")
    (checkpoint / "vocab.json").unlink(missing_ok=True)
    (checkpoint / "vocab.json").symlink_to(home / ".ssh" / "id_ed25519")
    with ExitStack() as stack:
        tcp, udp, local, hidden = (
            stack.enter_context(socket.socket(family, kind))
            for family, kind in (
                (socket.AF_INET, socket.SOCK_STREAM),
                (socket.AF_INET, socket.SOCK_DGRAM),
                (socket.AF_UNIX, socket.SOCK_STREAM),
                (socket.AF_UNIX, socket.SOCK_STREAM),
            )
        )
        name = f"ggufpack-{os.getpid()}"
        unix = Path(f"/tmp/{name}.socket")  # noqa: S108 - such a path has at most 107 bytes
        stack.callback(unix.unlink, missing_ok=True)
        tcp.bind(("127.0.0.1", 0))
        udp.bind(("127.0.0.1", 0))
        local.bind(str(unix))
        hidden.bind(f"\0{name}")
        for listening in (tcp, local, hidden):
            listening.listen()
        bystander = stack.enter_context(
            subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
        )
        targets: dict[str, Any] = {
            "tcp": tcp.getsockname()[1],
            "udp": udp.getsockname()[1],
            "unix": str(unix),
            "abstract": name,
            "home": str(home),
            "package": str(other / "model.gguf"),
            "victim": str(other / "victim"),
            "output": str(out),
            "checkpoint": str(checkpoint),
            "cache": str(cache),
            "bystander": bystander.pid,
        }
        code = Path(malicious.__file__).read_text(encoding="utf-8")
        changed = code.replace("TARGETS: dict[str, Any] = {}", f"TARGETS: dict[str, Any] = {targets!r}")
        assert changed != code
        (checkpoint / "own_tokenizer.py").write_text(changed, encoding="utf-8")

        def run(off: str) -> dict[str, str]:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(OFF_VARIABLE, off)
                patch.setenv("HOME", str(home))
                patch.setenv("HF_TOKEN", "a-token")
                outputs = (("Q8_0", out / "a.gguf"),)
                job = Job(checkpoint, outputs, "bf16", trust_remote_code=True, cache=cache)
                with Worker(vendoring.require()) as worker, pytest.raises(GgufpackError) as caught:
                    worker.convert(job)
            found = re.search(rf"^RuntimeError: {malicious.MARK}(.*)$", caught.value.log or "", re.MULTILINE)
            assert found is not None, caught.value.log
            outcomes: dict[str, str] = json.loads(found[1])
            return outcomes

        yield run
        bystander.communicate()


@needs_kernel
def test_a_hostile_checkpoint_reaches_nothing(
    hostile: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert hostile("0") == BLOCKED
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@needs_kernel
def test_the_same_code_succeeds_where_nothing_holds_it(hostile: Callable[[str], dict[str, str]]) -> None:
    outcomes = hostile("1")
    assert outcomes.keys() == BLOCKED.keys()
    open_to_it = {name: outcome for name, outcome in outcomes.items() if name not in NOT_SHOWN_OPEN}
    assert set(open_to_it.values()) == {"done"}, open_to_it


@pytest.mark.engine
def test_the_record_says_what_held_each_process(tiny_model: TinyModel, tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "One, two, three, four."}\n', encoding="utf-8")
    with pytest.raises(VerificationError, match="did not end its answer"):  # nobody trained it
        build(
            tiny_model("llama"),
            name="m",
            quantization="F16",
            output=tmp_path,
            register=False,
            verify="fidelity",
            calibration=texts,
        )
    record = json.loads((tmp_path / "m" / "ggufpack.json").read_text(encoding="utf-8"))["result"]
    here = possible().to_json()
    assert record["confinement"] == here
    (verification,) = record["verifications"]
    assert verification["confinement"] == {"engine": here, "package": here, "source": here}
