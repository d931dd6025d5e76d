"""The vendored tree: made from real tar files, hostile ones too; compared byte by byte."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner

from ggufpack import packages, resources, vendoring
from ggufpack.cli.vendor import vendor
from ggufpack.errors import VendorError
from ggufpack.packages import LockedPackage
from ggufpack.vendoring import archive
from ggufpack.vendoring import lock as locks

ROOT = "thing-1.0"
PREFIX = f"{ROOT}/vendor/llama.cpp/"
MEMBERS = ("LICENSE", "convert.py", "conversion/")
FILES = {
    "LICENSE": b"MIT\n",
    "convert.py": b"print('hi')\n",
    "conversion/__init__.py": b"",
    "conversion/deep/base.py": b"x = 1\n",
}
REAL_LOCK = Path(__file__).parents[2] / "vendor" / "llama.cpp.lock.toml"


def file_entry(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    return entry, content


def special_entry(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry, b""


def sparse_entry(name: str) -> tuple[tarfile.TarInfo, bytes]:
    entry, content = file_entry(name)
    entry.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "5"}
    return entry, content


def write_tar(
    path: Path, *more: tuple[tarfile.TarInfo, bytes], files: dict[str, bytes] | None = None
) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in (FILES if files is None else files).items():
            entry, data = file_entry(PREFIX + name, content)
            tar.addfile(entry, io.BytesIO(data))
        for name in ("setup.py", "vendor/llama.cpp/ggml.c", "vendor/llama.cpp/conversions.py"):
            entry, data = file_entry(f"{ROOT}/{name}")
            tar.addfile(entry, io.BytesIO(data))
        for entry, data in more:
            tar.addfile(entry, io.BytesIO(data))
    return path


def lock_for(path: Path, files: dict[str, bytes] | None = None) -> locks.Lock:
    listing = {n: hashlib.sha256(c).hexdigest() for n, c in (FILES if files is None else files).items()}
    package = LockedPackage("thing", "1.0", "sdist", packages.sha256_of(path))
    return locks.Lock(package, PREFIX, MEMBERS, locks.tree_digest(listing), "c0ffee", "b1")


class World:
    """A checkout with a lock for ``sdist``."""

    def __init__(self, tmp_path: Path) -> None:
        self.vendor = tmp_path / "vendor"
        self.vendor.mkdir()
        self.tree = self.vendor / "llama.cpp"
        self.sdist = write_tar(tmp_path / "thing-1.0.tar.gz")
        self.lock(self.sdist)

    def lock(self, sdist: Path, files: dict[str, bytes] | None = None) -> None:
        (self.vendor / locks.LOCK_NAME).write_text(locks.lock_text(lock_for(sdist, files)))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(resources, "data_folder", lambda name: tmp_path / name)
    monkeypatch.setattr(resources, "in_checkout", lambda: True)
    monkeypatch.setattr(packages, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(vendoring, "cache_folder", lambda: tmp_path / "cache")
    return World(tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_sync_extracts_the_listed_members_and_nothing_else(world: World) -> None:
    assert vendoring.status().state == "absent"
    assert vendoring.sync(world.sdist).state == "ok"
    found = contents(world.tree)
    provenance = json.loads(found.pop("PROVENANCE.json"))
    assert found == FILES
    assert provenance["sdist_sha256"] == packages.sha256_of(world.sdist)
    assert provenance["files"].keys() == FILES.keys()
    assert sorted(p.name for p in world.vendor.iterdir()) == ["llama.cpp", locks.LOCK_NAME], "no leftovers"


def test_sync_again_gives_the_same_bytes_and_touches_nothing_when_ok(world: World) -> None:
    vendoring.sync(world.sdist)
    first, inode = contents(world.tree), world.tree.stat().st_ino
    vendoring.sync(world.sdist)
    assert world.tree.stat().st_ino == inode
    shutil.rmtree(world.tree)
    vendoring.sync(world.sdist)
    assert contents(world.tree) == first


def test_the_tree_digest_is_the_documented_one() -> None:
    # by hand: names in byte order ("B" < "a" < "é"), NUL, digest of the content, LF
    a, b = hashlib.sha256(b"1").hexdigest(), hashlib.sha256(b"2").hexdigest()
    text = f"B\0{b}\na/b\0{a}\né\0{a}\n".encode()
    assert locks.tree_digest({"é": a, "a/b": a, "B": b}) == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize(
    "entry",
    [
        file_entry(PREFIX + "conversion/../../../evil.py"),
        file_entry(PREFIX + "conversion//etc/evil.py"),
        file_entry(PREFIX + "conversion/./x.py"),
        file_entry(PREFIX + "conversion/a\\b.py"),
        file_entry(PREFIX + "convert.py", b"second of this name"),
        sparse_entry(PREFIX + "conversion/sparse.py"),
        special_entry(PREFIX + "conversion/link.py", tarfile.SYMTYPE, "/etc/passwd"),
        special_entry(PREFIX + "conversion", tarfile.SYMTYPE, "/etc"),
        special_entry(PREFIX + "conversion/hard.py", tarfile.LNKTYPE, PREFIX + "convert.py"),
        special_entry(PREFIX + "conversion/pipe", tarfile.FIFOTYPE),
        special_entry(PREFIX + "conversion/null", tarfile.CHRTYPE),
        special_entry(PREFIX + "conversion/disk", tarfile.BLKTYPE),
    ],
    ids=lambda entry: f"{entry[0].name[len(PREFIX) :]}-{entry[0].type.decode()}",
)
def test_a_hostile_member_stops_the_sync(entry: tuple[tarfile.TarInfo, bytes], world: World) -> None:
    hostile = write_tar(world.sdist, entry)
    world.lock(hostile)
    with pytest.raises(VendorError, match=r"in the sdist"):
        vendoring.sync(hostile)
    assert sorted(p.name for p in world.vendor.iterdir()) == [locks.LOCK_NAME]
    assert not list(world.vendor.parent.rglob("evil.py"))


def test_hostile_members_outside_the_list_are_never_written(world: World) -> None:
    hostile = write_tar(
        world.sdist,
        file_entry("/abs/evil.py"),
        file_entry("../evil.py"),
        special_entry(f"{ROOT}/link", tarfile.SYMTYPE, "/"),
    )
    world.lock(hostile)
    assert vendoring.sync(hostile).state == "ok"
    assert contents(world.tree).keys() == {*FILES, "PROVENANCE.json"}
    assert not list(world.vendor.parent.rglob("evil.py"))


@pytest.mark.parametrize("limit", ["_MAX_FILE", "_MAX_TREE", "_MAX_ARCHIVE"])
def test_size_limits(limit: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, limit, 5)
    with pytest.raises(VendorError, match=r"larger than it can be|more than a source archive"):
        vendoring.sync(world.sdist)


@pytest.mark.parametrize("limit", ["_MAX_FILES", "_MAX_MEMBERS"])
def test_count_limits(limit: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, limit, len(FILES) - 1)
    with pytest.raises(VendorError):
        vendoring.sync(world.sdist)


def test_another_sdist_is_refused(world: World, tmp_path: Path) -> None:
    other = write_tar(tmp_path / "other.tar.gz", file_entry(f"{ROOT}/more"))
    with pytest.raises(VendorError, match="the lock says") as caught:
        vendoring.sync(other)
    assert caught.value.path == other
    assert not world.tree.exists()


def test_a_tree_that_is_not_the_locked_one_is_refused_although_the_sdist_is(world: World) -> None:
    world.lock(world.sdist, {**FILES, "convert.py": b"other"})
    with pytest.raises(VendorError, match="digest"):
        vendoring.sync(world.sdist)
    assert not world.tree.exists()


def test_a_missing_member_and_a_cut_archive_are_refused(world: World) -> None:
    partial = {name: content for name, content in FILES.items() if name != "convert.py"}
    world.lock(write_tar(world.sdist, files=partial), partial)
    with pytest.raises(VendorError, match=r"has no .*convert\.py"):
        vendoring.sync(world.sdist)
    write_tar(world.sdist, file_entry(PREFIX + "conversion/big.py", os.urandom(100_000)))
    world.sdist.write_bytes(world.sdist.read_bytes()[:50_000])
    world.lock(world.sdist)
    with pytest.raises(VendorError, match="not a whole tar"):
        vendoring.sync(world.sdist)


def outdate(world: World) -> dict[str, bytes]:
    """An untouched tree of an older lock, and a lock for a newer sdist."""
    vendoring.sync(world.sdist)
    old = contents(world.tree)
    files = {**FILES, "convert.py": b"newer\n"}
    world.lock(write_tar(world.sdist, files=files), files)
    return old


@pytest.mark.parametrize("fails_at", ["write", "rename"])
def test_an_interrupted_sync_leaves_the_old_tree(
    fails_at: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = outdate(world)
    real_rename, real_fsync = Path.rename, os.fsync
    calls = 0

    def rename(self: Path, target: Path) -> Path:
        if fails_at == "rename" and self.name == "new":
            raise OSError("no")
        return real_rename(self, target)

    def fsync(handle: int) -> None:
        nonlocal calls
        calls += 1
        if fails_at == "write" and calls == 3:
            raise KeyboardInterrupt
        real_fsync(handle)

    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises((VendorError, KeyboardInterrupt)):
        vendoring.sync(world.sdist)
    assert contents(world.tree) == old
    assert sorted(p.name for p in world.vendor.iterdir()) == ["llama.cpp", locks.LOCK_NAME]


def test_an_untouched_tree_of_an_older_lock_is_replaced_without_asking(world: World) -> None:
    outdate(world)
    assert vendoring.status().state == "outdated"
    assert vendoring.sync(world.sdist).state == "ok"
    assert (world.tree / "convert.py").read_bytes() == b"newer\n"


def test_scratch_of_a_killed_run_is_removed(world: World) -> None:
    (world.vendor / ".llama.cpp.tmpdead" / "new").mkdir(parents=True)
    vendoring.sync(world.sdist)
    assert not list(world.vendor.glob(".llama.cpp.tmp*"))


def change_byte(tree: Path) -> None:
    (tree / "convert.py").write_bytes(b"print('ho')\n")


def remove_file(tree: Path) -> None:
    (tree / "LICENSE").unlink()


def add_module(tree: Path) -> None:
    (tree / "torch.py").write_text("evil")


def add_bytecode(tree: Path) -> None:
    (tree / "conversion" / "__pycache__").mkdir()
    (tree / "conversion" / "__pycache__" / "base.cpython-311.pyc").write_bytes(b"evil")


def link_file(tree: Path) -> None:
    target = tree.parent / "elsewhere.py"
    shutil.copy(tree / "convert.py", target)
    (tree / "convert.py").unlink()
    (tree / "convert.py").symlink_to(target)


def link_folder(tree: Path) -> None:
    (tree / "extra").symlink_to(tree.parent)


def forge_listing(tree: Path) -> None:
    """Change a file and record the change: the tree is consistent with its own provenance."""
    change_byte(tree)
    path = tree / "PROVENANCE.json"
    document = json.loads(path.read_text())
    document["files"]["convert.py"] = packages.sha256_of(tree / "convert.py")
    path.write_text(json.dumps(document))


def forge_provenance(tree: Path) -> None:
    path = tree / "PROVENANCE.json"
    path.write_text(path.read_text().replace('"1.0"', '"9.9"'))


def remove_provenance(tree: Path) -> None:
    (tree / "PROVENANCE.json").unlink()


@pytest.mark.parametrize(
    ("damage", "kind", "named"),
    [
        (change_byte, "changed", "convert.py"),
        (remove_file, "missing", "LICENSE"),
        (add_module, "extra", "torch.py"),
        (add_bytecode, "extra", "conversion/__pycache__/base.cpython-311.pyc"),
        (link_file, "changed", "convert.py"),
        (link_folder, "extra", "extra"),
        (forge_provenance, "changed", "PROVENANCE.json"),
        (remove_provenance, "changed", "PROVENANCE.json"),
    ],
)
def test_a_changed_tree_is_named_refused_and_replaced_by_force_only(
    damage: object, kind: str, named: str, world: World
) -> None:
    vendoring.sync(world.sdist)
    assert callable(damage)
    damage(world.tree)
    found = vendoring.status()
    assert found.state == "changed"
    lists = {key: asdict(found)[key] for key in ("changed", "missing", "extra")}
    assert lists == {"changed": (), "missing": (), "extra": (), kind: (named,)}
    for call in (vendoring.require, lambda: vendoring.sync(world.sdist)):
        with pytest.raises(VendorError, match=named) as caught:
            call()
        assert "sync --force" in (caught.value.action or "")
    assert vendoring.sync(world.sdist, force=True).state == "ok"
    assert contents(world.tree).keys() == {*FILES, "PROVENANCE.json"}


def test_a_forged_listing_never_passes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    vendoring.sync(world.sdist)
    forge_listing(world.tree)
    assert vendoring.status().state == "outdated"
    monkeypatch.setattr(vendoring, "download", lambda **_: world.sdist)
    assert vendoring.require() == world.tree
    assert (world.tree / "convert.py").read_bytes() == FILES["convert.py"], "replaced before use"


def test_require_syncs_on_first_use_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(**arguments: object) -> Path:
        asked.append(str(arguments["sha256"]))
        return world.sdist

    monkeypatch.setattr(vendoring, "download", download)
    assert vendoring.require() == vendoring.require() == world.tree
    assert asked == [packages.sha256_of(world.sdist)]


def test_an_installed_wheel_uses_its_tree_or_the_cache(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "in_checkout", lambda: False)
    in_cache = vendoring.sync(world.sdist).folder
    assert in_cache.is_relative_to(tmp_path / "cache")
    assert not world.tree.exists()
    add_bytecode(in_cache)
    assert vendoring.status().state == "changed", "nobody compiles what lies in the cache"
    shutil.copytree(in_cache, world.tree)
    assert vendoring.status().folder == world.tree
    assert vendoring.status().state == "ok", "installers byte-compile a wheel"
    (world.tree / "planted.pyc").write_bytes(b"evil")
    assert vendoring.status().extra == ("planted.pyc",)


def test_a_folder_that_cannot_be_written_is_a_vendor_error(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "in_checkout", lambda: False)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "vendor").write_text("a file where the folder should be")
    with pytest.raises(VendorError, match="cannot be written"):
        vendoring.sync(world.sdist)


def test_update_writes_a_lock_that_sync_accepts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    vendoring.sync(world.sdist)
    files = {**FILES, "convert.py": b"2\n", "conversion/new.py": b"n\n"}
    del files["conversion/deep/base.py"]
    head = file_entry(f"{ROOT}/.git/modules/vendor/llama.cpp/HEAD", b"abcdef\n")
    newer = write_tar(world.sdist, head, files=files)
    monkeypatch.setattr(vendoring, "download_unverified", lambda *_: newer)
    done = vendoring.update("1.0", "b2")
    assert done.changed == ("convert.py",)
    assert done.added == ("conversion/new.py",)
    assert done.removed == ("conversion/deep/base.py",)
    assert locks.load_lock() == done.after
    assert (done.after.commit, done.after.build) == ("abcdef", "b2")
    assert vendoring.status().state == "outdated"
    assert vendoring.sync(newer).state == "ok"


def test_the_commands(world: World) -> None:
    runner = CliRunner()
    absent = runner.invoke(vendor, ["status", "--json"])
    assert absent.exit_code == 4
    assert json.loads(absent.stdout)["state"] == "absent"
    synced = runner.invoke(vendor, ["sync", "--from", str(world.sdist), "--json"])
    assert synced.exit_code == 0, synced.output
    assert json.loads(synced.stdout)["state"] == "ok"
    change_byte(world.tree)
    changed = runner.invoke(vendor, ["status"])
    assert changed.exit_code == 4
    assert "changed: convert.py" in changed.stdout
    assert runner.invoke(vendor, ["sync", "--from", str(world.sdist), "--force"]).exit_code == 0


def test_the_shipped_lock_is_what_update_would_write() -> None:
    lock = locks.load_lock()
    assert REAL_LOCK.read_text() == locks.lock_text(lock)


@pytest.mark.network
def test_the_real_converter(world: World) -> None:
    shutil.copy(REAL_LOCK, world.vendor / locks.LOCK_NAME)
    folder = vendoring.require()
    assert vendoring.status().state == "ok"
    assert (folder / "convert_hf_to_gguf.py").is_file()
    assert (folder / "gguf-py" / "gguf" / "__init__.py").is_file()
    assert not list(folder.rglob("*.so"))
