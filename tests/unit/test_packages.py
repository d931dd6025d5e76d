"""Fetching locked package files: what pip is asked, and what counts as the locked file.

pip itself runs only in the ``network`` tests; elsewhere ``subprocess.run`` is replaced at the boundary.
"""

from __future__ import annotations

import hashlib
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from ggufpack import packages
from ggufpack.errors import VendorError
from ggufpack.spec import Event

CONTENT = b"the wheel"
SHA = hashlib.sha256(CONTENT).hexdigest()


class FakePip:
    """Stands for pip: leaves ``content`` in the folder it is told, or fails."""

    def __init__(self, content: bytes = CONTENT, returncode: int = 0, stderr: str = "") -> None:
        self.content, self.returncode, self.stderr = content, returncode, stderr
        self.calls: list[list[str]] = []
        self.requirements: list[str] = []

    def __call__(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert options["stdin"] is subprocess.DEVNULL
        assert "shell" not in options
        self.calls.append(command)
        self.requirements.append(Path(command[command.index("--requirement") + 1]).read_text())
        if self.returncode == 0:
            suffix = "-1.0.tar.gz" if "--no-binary" in command else "-1.0-py3-none-any.whl"
            folder = Path(command[command.index("--dest") + 1])
            (folder / f"thing{suffix}").write_bytes(self.content)
        return subprocess.CompletedProcess(command, self.returncode, "", self.stderr)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "cache_folder", lambda: tmp_path / "cache")


def use(monkeypatch: pytest.MonkeyPatch, pip: FakePip) -> FakePip:
    monkeypatch.setattr(subprocess, "run", pip)
    return pip


def test_a_wheel_is_fetched_once_with_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = use(monkeypatch, FakePip())
    events: list[Event] = []
    first = packages.download("thing", "1.0", SHA, "wheel", tmp_path / "f", on_event=events.append)
    second = packages.download("thing", "1.0", SHA, "wheel", tmp_path / "f", on_event=events.append)
    assert first == second == tmp_path / "f" / SHA / "thing-1.0-py3-none-any.whl"
    assert first.read_bytes() == CONTENT
    assert len(pip.calls) == len(events) == 1
    assert pip.requirements == [f"thing==1.0 --hash=sha256:{SHA}\n"]
    assert {"--no-deps", "--require-hashes", "--only-binary"} <= set(pip.calls[0])
    assert "--no-binary" not in pip.calls[0]
    assert [path.name for path in (tmp_path / "f").iterdir()] == [SHA], "the scratch folder is gone"


def test_an_sdist_is_fetched_without_build_isolation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = use(monkeypatch, FakePip())
    assert packages.download("thing", "1.0", SHA, "sdist", tmp_path).name == "thing-1.0.tar.gz"
    assert {"--no-binary", "--no-build-isolation", "--require-hashes"} <= set(pip.calls[0])


def test_a_damaged_file_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = use(monkeypatch, FakePip())
    path = packages.download("thing", "1.0", SHA, "wheel", tmp_path)
    path.write_bytes(CONTENT[:-1])
    assert packages.download("thing", "1.0", SHA, "wheel", tmp_path).read_bytes() == CONTENT
    assert len(pip.calls) == 2


def test_other_bytes_are_refused_although_pip_is_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, FakePip(content=b"something else"))
    with pytest.raises(VendorError, match="the lock says"):
        packages.download("thing", "1.0", SHA, "wheel", tmp_path)
    assert not list(tmp_path.rglob("*.whl"))


def test_the_error_quotes_pip_and_says_what_to_do_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, FakePip(returncode=1, stderr="first\n" + "noise\n" * 20 + "\nERROR: no such host\n"))
    with pytest.raises(VendorError, match="ERROR: no such host") as caught:
        packages.download("thing", "1.0", SHA, "sdist", tmp_path)
    assert "first" not in caught.value.problem
    assert "vendor sync --from FILE" in (caught.value.action or "")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("name", "version", "sha", "kind"),
    [
        ("--index-url=x", "1.0", SHA, "wheel"),
        ("thing", "1.0 --hash=sha256:0", SHA, "wheel"),
        ("thing\nother", "1.0", SHA, "wheel"),
        ("thing", "1.0\n", SHA, "wheel"),
        ("thing", "1.0", SHA.upper(), "wheel"),
        ("thing", "1.0", SHA, "egg"),
        ("../thing", "1.0", SHA, "wheel"),
    ],
)
def test_what_is_not_a_plain_name_never_reaches_pip(
    name: str, version: str, sha: str, kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = use(monkeypatch, FakePip())
    with pytest.raises(VendorError):
        packages.download(name, version, sha, kind, tmp_path)
    assert not pip.calls


def test_two_callers_fetch_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = use(monkeypatch, FakePip())
    found: list[Path] = []

    def work() -> None:
        found.append(packages.download("thing", "1.0", SHA, "wheel", tmp_path))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == len(pip.calls) == 1


def test_a_lock_that_is_not_one_names_its_file(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock.toml"
    texts = ("", "nonsense", "format = 1\n[package]\nname = 1\n", 'package = "x"\n')
    for text in texts:
        lock.write_text(text)
        with pytest.raises(VendorError) as caught:
            packages.read_lock(lock)
        assert caught.value.path == lock
    with pytest.raises(VendorError):
        packages.read_lock(tmp_path / "absent.toml")


def test_a_lock_of_another_format_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock.toml"
    text = f'format = 1\n[package]\nname = "a"\nversion = "1"\nkind = "wheel"\nsha256 = "{SHA}"\n'
    lock.write_text(text)
    assert packages.read_lock(lock)[0] == packages.LockedPackage("a", "1", "wheel", SHA)
    lock.write_text(text.replace("format = 1", "format = 2"))
    with pytest.raises(VendorError, match="format 2"):
        packages.read_lock(lock)


@pytest.mark.network
def test_real_pip_refuses_a_wrong_hash(tmp_path: Path) -> None:
    with pytest.raises(VendorError, match="DO NOT MATCH"):
        packages.download("platformdirs", "4.3.6", "0" * 64, "wheel", tmp_path)
