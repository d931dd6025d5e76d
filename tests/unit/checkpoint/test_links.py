"""Which links of a checkpoint are followed: one rule for the reader and for the confined processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ggufpack.checkpoint import open_checkpoint
from ggufpack.checkpoint.adapted import open_model
from ggufpack.checkpoint.links import linked_files
from ggufpack.convert.confined import confinement_of
from ggufpack.convert.protocol import Job
from ggufpack.errors import CheckpointLayoutError

from .builders import make_checkpoint

SHA1, SHA256 = "0a" * 20, "0b" * 32
ANNEX = f"SHA256E-s12--{SHA256}.json"
# link in the checkpoint, file elsewhere
STRAY = (
    ("config.json", "home/.docker/config.json"),
    ("tokenizer.json", "home/.docker/config.json"),
    ("generation_config.json", "home/token.json"),
    ("chat_template.jinja", "home/.ssh/id_ed25519"),
    ("LICENSE", "home/.ssh/id_ed25519"),
    ("vocab.json", "home/.config/vocab.json"),
    ("README.md", "home/notes.md"),
    ("1_Pooling/config.json", "home/.docker/config.json"),
    (".docker/config.json", "home/.docker/config.json"),
    ("modeling_own.py", "home/modeling_own.py"),
    ("additional_chat_templates/a.jinja", "home/.netrc"),
    ("tokenizer.json", f"home/{SHA256}"),
    ("tokenizer.model", f"home/blobs/{SHA256}.key"),
    ("model.safetensors", "home/.ssh/id_ed25519"),
)
MEANT = (
    ("tokenizer.json", f"hub/blobs/{SHA1}"),
    ("config.json", f"hub/blobs/{SHA256}"),
    ("config.json", f"dvc/files/md5/0c/{'0d' * 15}"),
    ("config.json", f"annex/objects/{ANNEX}/{ANNEX}"),
    ("config.json", "base/config.json"),
    ("1_Pooling/config.json", "base/1_Pooling/config.json"),
    ("modeling_own.py", "base/modeling_own.py"),
    ("LICENSE", "home/LICENSE"),
    ("tokenizer.json", "home/tokenizer.json"),
    ("model.safetensors", "home/final.safetensors"),
)
UNREAD = (
    ("trainer_state.json", "home/trainer_state.json"),
    ("secrets.json", "base/secrets.json"),
    ("notes.txt", "home/notes.txt"),
    ("id_ed25519", "home/.ssh/id_ed25519"),
)


def linked(tmp_path: Path, link: str, target: str) -> tuple[Path, Path]:
    """A checkpoint with such a link, and the file it leads to: the same that was there, where one was."""
    folder = make_checkpoint(tmp_path / "model")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "tokenizer_config.json").write_text("{}")
    path, file = folder / link, tmp_path / target
    file.parent.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(exist_ok=True)
    file.write_bytes(path.read_bytes() if path.is_file() else b"{}")
    path.unlink(missing_ok=True)
    path.symlink_to(file)
    return folder, file


def readable(folder: Path) -> tuple[Path, ...]:
    """What a job of it may read."""
    job = Job(folder, (), "bf16", plan_only=True)
    return confinement_of(job, (), folder / "scratch").read


@pytest.mark.parametrize(("link", "target"), STRAY)
def test_a_stray_link(tmp_path: Path, link: str, target: str) -> None:
    folder, file = linked(tmp_path, link, target)
    assert readable(folder) == (folder,)
    with pytest.raises(CheckpointLayoutError, match="which is no file of a model") as caught:
        open_checkpoint(folder)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(("link", "target"), MEANT)
def test_a_link_that_is_meant(tmp_path: Path, link: str, target: str) -> None:
    folder, file = linked(tmp_path, link, target)
    assert readable(folder) == (folder, file)
    open_checkpoint(folder)


@pytest.mark.parametrize(("link", "target"), UNREAD)
def test_what_nobody_reads_is_not_followed(tmp_path: Path, link: str, target: str) -> None:
    folder, _ = linked(tmp_path, link, target)
    assert readable(folder) == (folder,)
    open_checkpoint(folder)


def test_a_link_stays_in_the_folder(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model")
    (folder / "..data").mkdir()  # as Kubernetes mounts files
    (folder / "config.json").rename(folder / "..data" / "other.json")
    (folder / "config.json").symlink_to("..data/other.json")
    assert list(linked_files(folder)) == []
    open_checkpoint(folder)


def test_every_step_of_a_chain_counts(tmp_path: Path) -> None:
    folder, file = linked(tmp_path, "config.json", "base/config.json")
    file.rename(tmp_path / "base" / "first.json")
    file.symlink_to("first.json")
    assert list(linked_files(folder)) == [tmp_path / "base" / "first.json"]
    file.unlink()
    file.symlink_to(tmp_path / "other.json")
    (tmp_path / "other.json").write_text("{}")
    assert list(linked_files(folder)) == []


@pytest.mark.parametrize("name", ["1_Pooling", "additional_chat_templates"])
def test_a_linked_folder(tmp_path: Path, name: str) -> None:
    folder = make_checkpoint(tmp_path / "model")
    other = tmp_path / "home" / ".docker"
    other.mkdir(parents=True)
    for file in ("config.json", "a.jinja"):
        (other / file).write_text("{}")
    (folder / name).symlink_to(other)
    assert list(linked_files(folder)) == []
    with pytest.raises(CheckpointLayoutError, match=f"{name} is a link to"):
        open_checkpoint(folder)


def test_the_linked_folder_of_a_base_model_is_read(tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    (base / "1_Pooling").mkdir()
    (base / "1_Pooling" / "config.json").write_text("{}")
    folder = make_checkpoint(tmp_path / "model")
    (folder / "1_Pooling").symlink_to(base / "1_Pooling")
    assert readable(folder) == (folder, base / "1_Pooling" / "config.json")
    open_checkpoint(folder)


def test_a_loop(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model")
    (folder / "vocab.json").symlink_to("merges.txt")
    (folder / "merges.txt").symlink_to("vocab.json")
    assert list(linked_files(folder)) == []


@pytest.fixture
def adapter(tmp_path: Path) -> Iterator[Path]:
    """A folder that calls itself an adapter."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    yield folder


def test_links_of_an_adapter_and_of_its_base(tmp_path: Path, adapter: Path) -> None:
    base, _ = linked(tmp_path, "vocab.json", "home/.config/vocab.json")
    with pytest.raises(CheckpointLayoutError, match=r"vocab\.json is a link"), open_model(adapter, base=base):
        pass
    (base / "vocab.json").rename(adapter / "vocab.json")
    with pytest.raises(CheckpointLayoutError, match=r"vocab\.json is a link"), open_model(adapter, base=base):
        pass
