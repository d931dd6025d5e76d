"""Archives: the same bytes each time, back as they were, resumed, and no trick of a tar's comes through."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ggufpack.errors import ArchiveError, ModelExistsError, RefusedArchiveError, StoreError, UsageError
from ggufpack.store.check import check_store
from ggufpack.store.export import export_models
from ggufpack.store.folder import StoreFolder
from ggufpack.store.index import INDEX_NAME
from ggufpack.store.manifest import Blob
from ggufpack.store.unpack import import_archive
from tests.unit.store.builders import TEXTS, WEIGHTS, contents_of, put_model, small_store

BLOB = Blob.of(WEIGHTS)
# (header, content) of every member
Members = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture
def store(tmp_path: Path) -> StoreFolder:
    return small_store(tmp_path / "store")


@pytest.fixture
def archive(store: StoreFolder, tmp_path: Path) -> Path:
    path = tmp_path / "models.tar"
    export_models(store, [], path)
    return path


def target(tmp_path: Path) -> StoreFolder:
    return StoreFolder(tmp_path / "target")


def members_of(archive: Path) -> Members:
    with tarfile.open(archive) as tar:
        return [(member, (tar.extractfile(member) or io.BytesIO()).read()) for member in tar]


def write(path: Path, members: Members, form: int = tarfile.PAX_FORMAT) -> None:
    with tarfile.open(path, "w", format=form) as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))


def plain(name: str, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, content


def special(kind: bytes, link: str = "") -> Callable[[Members], Members]:
    """The first blob as something else: of its name, size and content."""

    def apply(members: Members) -> Members:
        member, content = members[1]
        member.type, member.linkname = kind, link
        return [members[0], (member, content), *members[2:]]

    return apply


# --- there and back -----------------------------------------------------------


def test_there_and_back(store: StoreFolder, archive: Path, tmp_path: Path) -> None:
    done = import_archive(archive, target(tmp_path))
    assert set(done.models) == {"small:q8_0", "small:latest"}
    assert (done.written, done.kept) == (4, 0)
    assert done.bytes == sum(map(len, (WEIGHTS, *TEXTS)))
    assert contents_of(tmp_path / "target") == contents_of(store.root)
    again = import_archive(archive, target(tmp_path))
    assert (again.written, again.kept, again.bytes) == (0, 4, 0)


def test_the_same_models_are_the_same_bytes(store: StoreFolder, archive: Path, tmp_path: Path) -> None:
    import_archive(archive, target(tmp_path))
    os.utime(target(tmp_path).blobs.path(BLOB), (1, 1))
    export_models(target(tmp_path), ["small:q8_0", "small"], tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()


def test_blobs_come_first_once_and_manifests_last(store: StoreFolder, tmp_path: Path) -> None:
    put_model(store, ["other"], (WEIGHTS, b"another config"))
    done = export_models(store, ["other", "small"], tmp_path / "two.tar")
    assert set(done.models) == {"other:latest", "small:latest"}  # and not small:q8_0
    names = [member.name for member, _ in members_of(tmp_path / "two.tar")]
    assert names[0] == INDEX_NAME
    assert names[1:-2] == sorted(
        path.relative_to(store.root).as_posix() for path in store.root.glob("blobs/*")
    )
    assert [name.split("/")[0] for name in names[-2:]] == ["manifests", "manifests"]


def test_a_plain_tar_unpacks_it_too(store: StoreFolder, archive: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "target", filter="data")
    assert set(check_store(target(tmp_path)).models) == {"small:q8_0", "small:latest"}


def test_nothing_damaged_is_exported(store: StoreFolder, tmp_path: Path) -> None:
    content = bytearray(WEIGHTS)
    content[5] ^= 1
    store.blobs.path(BLOB).write_bytes(content)
    with pytest.raises(StoreError, match=BLOB.sha256):
        export_models(store, [], tmp_path / "new.tar")
    store.blobs.path(BLOB).unlink()
    with pytest.raises(StoreError, match=BLOB.sha256):
        export_models(store, [], tmp_path / "new.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_words_that_cannot_be_meant(store: StoreFolder, archive: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists"):
        export_models(store, [], archive)
    with pytest.raises(StoreError, match=r'no model "absent"') as caught:
        export_models(store, ["absent"], tmp_path / "new.tar")
    assert caught.value.action == "It has: small:latest, small:q8_0."
    with pytest.raises(StoreError, match="cannot be read"):
        import_archive(tmp_path / "absent.tar", target(tmp_path))
    assert not (tmp_path / "target").exists()


# --- what broke off -----------------------------------------------------------


def place_of(archive: Path, name: str) -> tarfile.TarInfo:
    with tarfile.open(archive) as tar:
        return tar.getmember(name)


def test_every_place_where_it_may_end(archive: Path, store: StoreFolder, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    last = members_of(archive)[-1][0]
    ends = [0, 100, 512, 700, 1536]
    for member, _ in members_of(archive):
        ends += [member.offset + 10, member.offset_data, member.offset_data + member.size // 2]
    ends.append(last.offset_data + last.size - 1)
    cut = tmp_path / "cut.tar"
    for number, end in enumerate(ends):
        cut.write_bytes(whole[:end])
        one = StoreFolder(tmp_path / f"cut-{number}")
        with pytest.raises(ArchiveError):
            import_archive(cut, one)
        assert not one.names()
        # what is there by its final name is whole
        assert all(
            hashlib.sha256(path.read_bytes()).hexdigest() == digest
            for digest, path in one.blobs.files()
            if digest is not None
        )
        import_archive(archive, one)
        assert contents_of(one.root) == contents_of(store.root)


def test_it_goes_on_inside_a_blob_and_says_how_far_it_came(archive: Path, tmp_path: Path) -> None:
    member = place_of(archive, f"blobs/sha256-{BLOB.sha256}")
    cut = tmp_path / "cut.tar"
    cut.write_bytes(archive.read_bytes()[: member.offset_data + 2_000_000])
    with pytest.raises(ArchiveError, match=r"after 2,000,000 of its 3,000,001 bytes") as caught:
        import_archive(cut, target(tmp_path))
    assert caught.value.action is not None
    assert "import it again" in caught.value.action
    assert not isinstance(caught.value, RefusedArchiveError)
    partial = target(tmp_path).blobs.partial_path(BLOB)
    assert partial.read_bytes() == WEIGHTS[:2_000_000]
    # the begun part is not read from the archive again: nobody would see that it is another one there
    content = bytearray(archive.read_bytes())
    content[member.offset_data + 1000] ^= 1
    archive.write_bytes(content)
    import_archive(archive, target(tmp_path))
    assert target(tmp_path).blobs.path(BLOB).read_bytes() == WEIGHTS


def test_a_damaged_rest_of_an_earlier_import_is_begun_again(archive: Path, tmp_path: Path) -> None:
    blobs = target(tmp_path).blobs
    blobs.folder.mkdir(parents=True)
    blobs.partial_path(BLOB).write_bytes(b"x" * 1_500_000)
    import_archive(archive, target(tmp_path))
    assert blobs.path(BLOB).read_bytes() == WEIGHTS
    assert not blobs.partial_path(BLOB).exists()


def test_a_flipped_bit(archive: Path, tmp_path: Path) -> None:
    content = bytearray(archive.read_bytes())
    content[place_of(archive, f"blobs/sha256-{BLOB.sha256}").offset_data + 77] ^= 1
    archive.write_bytes(content)
    with pytest.raises(ArchiveError, match=f"is damaged: blobs/sha256-{BLOB.sha256}"):
        import_archive(archive, target(tmp_path))
    checked = check_store(target(tmp_path)) if (tmp_path / "target/manifests").exists() else None
    assert checked is None or not checked.models
    assert not target(tmp_path).blobs.path(BLOB).exists()
    assert not target(tmp_path).blobs.partial_path(BLOB).exists()


def test_a_damaged_blob_in_the_store_is_mended(archive: Path, store: StoreFolder, tmp_path: Path) -> None:
    store.blobs.path(BLOB).write_bytes(b"x" * len(WEIGHTS))
    assert import_archive(archive, store).written == 1
    assert not check_store(store).damaged


def test_another_model_of_the_name(archive: Path, tmp_path: Path) -> None:
    there = target(tmp_path)
    put_model(there, ["Small"], (b"another", b"config"))
    before = contents_of(there.root)
    with pytest.raises(ModelExistsError, match="Small:latest"):
        import_archive(archive, there)
    assert contents_of(there.root) == before
    import_archive(archive, there, overwrite=True)
    assert set(map(str, there.names().values())) == {"Small:latest", "small:q8_0"}
    assert not check_store(there).damaged


# --- what a tar can do --------------------------------------------------------


def folder(name: str) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type = tarfile.DIRTYPE
    return member, b""


def changed_index(change: Callable[[dict[str, Any]], None]) -> Callable[[Members], Members]:
    def apply(members: Members) -> Members:
        value = json.loads(members[0][1])
        change(value)
        return [plain(INDEX_NAME, (json.dumps(value, indent=1) + "\n").encode()), *members[1:]]

    return apply


def _path(path: str) -> Callable[[dict[str, Any]], None]:
    return lambda value: value["models"][0].update(path=path)


def _twice(value: dict[str, Any]) -> None:
    value["blobs"].append(value["blobs"][-1])


def _sparse(members: Members) -> Members:
    member, content = members[1]
    member.pax_headers = {"GNU.sparse.map": f"0,{member.size}", "GNU.sparse.size": str(member.size)}
    return [members[0], (member, content), *members[2:]]


def _renamed(name: str) -> Callable[[Members], Members]:
    def apply(members: Members) -> Members:
        return [members[0], plain(name, members[1][1]), *members[2:]]

    return apply


TRICKS: dict[str, Callable[[Members], Members]] = {
    "no index": lambda members: members[1:],
    "index is no JSON": lambda members: [plain(INDEX_NAME, b"["), *members[1:]],
    "index is deep": lambda members: [plain(INDEX_NAME, b"[" * 100_000), *members[1:]],
    "index is of another form": changed_index(lambda value: value.update(format=2)),
    "index says more": changed_index(lambda value: value.update(more=1)),
    "path up": changed_index(_path("registry.ollama.ai/library/../../x")),
    "path absolute": changed_index(_path("/etc/cron.d/evil/latest")),
    "path short": changed_index(_path("latest")),
    "size negative": changed_index(lambda value: value["blobs"][0].update(size=-1)),
    "size a text": changed_index(lambda value: value["blobs"][0].update(size="1")),
    "digest up": changed_index(lambda value: value["blobs"][0].update(digest="sha256:../../x")),
    "blob twice in the index": changed_index(_twice),
    "manifest of 5 MB": changed_index(lambda value: value["models"][0].update(size=5 << 20)),
    "member absolute": _renamed("/etc/passwd"),
    "member up": _renamed("blobs/../../../x"),
    "member elsewhere": _renamed("bin/ollama"),
    "symbolic link": special(tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": special(tarfile.LNKTYPE, "/etc/passwd"),
    "device": special(tarfile.CHRTYPE),
    "pipe": special(tarfile.FIFOTYPE),
    "unknown kind": special(b"Z"),
    "folder": lambda members: [members[0], folder("blobs"), *members[1:]],
    "sparse": _sparse,
    "member twice": lambda members: [*members[:3], members[2], *members[3:]],
    "another size": lambda members: [
        members[0],
        plain(members[1][0].name, members[1][1] + b"x"),
        *members[2:],
    ],
    "order": lambda members: [members[0], members[2], members[1], *members[3:]],
    "one more": lambda members: [*members, plain("blobs/sha256-" + "0" * 64, b"")],
    "manifest twice": lambda members: [*members, members[-1]],
}


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_are_refused_and_leave_nothing(trick: str, archive: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.tar"
    write(hostile, TRICKS[trick](members_of(archive)))
    outside = {path for path in tmp_path.rglob("*") if "target" not in path.parts}
    with pytest.raises(RefusedArchiveError) as caught:
        import_archive(hostile, target(tmp_path))
    assert caught.value.exit_code == 6
    assert caught.value.path == hostile
    assert contents_of(tmp_path / "target") == {}
    assert {path for path in tmp_path.rglob("*") if "target" not in path.parts} == outside


def test_a_manifest_that_names_other_blobs(store: StoreFolder, tmp_path: Path) -> None:
    put_model(store, ["other"], (b"other weights", b"c"))
    export_models(store, ["small"], tmp_path / "small.tar")
    export_models(store, ["other"], tmp_path / "other.tar")
    small, other = members_of(tmp_path / "small.tar"), members_of(tmp_path / "other.tar")
    index = json.loads(small[0][1])
    index["models"] = json.loads(other[0][1])["models"]
    members = [plain(INDEX_NAME, (json.dumps(index, indent=1) + "\n").encode()), *small[1:-1], other[-1]]
    write(tmp_path / "mixed.tar", members)
    with pytest.raises(RefusedArchiveError, match="do not name the blobs"):
        import_archive(tmp_path / "mixed.tar", target(tmp_path))
    assert contents_of(tmp_path / "target") == {}


def test_what_takes_memory_is_refused_before_it_is_read(archive: Path, tmp_path: Path) -> None:
    members = members_of(archive)
    hostile = tmp_path / "hostile.tar"
    # an extended header of 64 MiB, and a chain of 2,000 long names
    members[1][0].pax_headers = {"comment": "x" * (64 << 20)}
    write(hostile, members)
    with pytest.raises(RefusedArchiveError, match="a header of 67,"):
        import_archive(hostile, target(tmp_path))
    long = tarfile.TarInfo("././@LongLink")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 5
    link = long.tobuf(tarfile.GNU_FORMAT) + b"name\0".ljust(512, b"\0")
    hostile.write_bytes(link * 2000 + archive.read_bytes())
    with pytest.raises(RefusedArchiveError, match="no plain tar"):
        import_archive(hostile, target(tmp_path))


@pytest.mark.parametrize("content", [b"", b"\0" * 1024, b"PK\x03\x04" * 300, b"\x1f\x8b" + b"x" * 2000])
def test_no_tar_at_all(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(ArchiveError):
        import_archive(tmp_path / "x.tar", target(tmp_path))
    assert contents_of(tmp_path / "target") == {}


def test_sizes_beyond_the_disk_are_refused_before_anything_is_written(archive: Path, tmp_path: Path) -> None:
    members = changed_index(lambda value: value["blobs"][0].update(size=1 << 60))(members_of(archive))
    write(tmp_path / "large.tar", members)
    with pytest.raises(StoreError, match="no room"):
        import_archive(tmp_path / "large.tar", target(tmp_path))
    assert contents_of(tmp_path / "target") == {}
