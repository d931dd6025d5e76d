"""What a folder from somewhere else may not hold: pipes and devices, and links to the user's own files.

One rule for links, for the reader and for the processes that are confined to what it accepts. A link of a
checkpoint leads, step by step,

* to something in the same folder;
* into a store of files that are named by their digest (the Hugging Face cache, DVC, git-annex);
* to weights, from weights;
* to the same name elsewhere, where the name is one that checkpoints have; and where other programs have
  files of that name too (``config.json``), beside files of a model.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from ggufpack.checkpoint.jsonfiles import MAX_TOKENIZER_BYTES
from ggufpack.errors import CheckpointLayoutError

_WEIGHTS = ".safetensors"
# only models have files of these names, so that nobody's secret is called so
_A_MODELS = re.compile(
    r"(?:.+\.safetensors(?:\.index\.json)?|.+\.(?:jinja|tiktoken|spm)"
    r"|(?:tokenizer|tiktoken|spiece|sentencepiece(?:\.bpe)?|vocab)\.model(?:\.v\d)?"
    r"|tokenizer(?:_config)?\.jsonl?|special_tokens_map\.json|added_tokens\.json|generation_config\.json"
    r"|(?:video_)?(?:pre)?processor_config\.json|chat_template\.json|tekken\.json|adapter_config\.json"
    r"|config_sentence_transformers\.json|sentence_bert_config\.json|hf_quant_config\.json"
    r"|additional_chat_templates|\d_[A-Z]\w*)"
)
# files of a checkpoint whose names others use as well
_ANYBODYS = re.compile(
    r"(?:config|params|modules|vocab)\.json|vocab\.txt|merges\.txt|rwkv_vocab_v\d+\.txt"
    r"|(?:modeling|configuration|tokenization|(?:image_)?processing)_\w+\.py"
)
_PUBLIC = re.compile(r"README\.md|(?:LICEN[CS]E|COPYING)(?:[^A-Z].*)?", re.IGNORECASE)
# huggingface_hub, file_download.py; DVC, "Structure of the cache directory"; git-annex, "key format"
_STORED = (
    re.compile(r"blobs/[0-9a-f]{40}(?:[0-9a-f]{24})?"),
    re.compile(r"[0-9a-f]{2}/[0-9a-f]{30}"),
    re.compile(r"(?P<key>(?:SHA256|SHA512|MD5)E?-s\d+--[0-9a-f]{32,128}(?:\.\w+)*)/(?P=key)"),
)
_MOST_STEPS = 40  # the kernel's own limit


def refuse_hostile_entries(folder: Path) -> None:
    """Both of the next two.

    Raises:
        CheckpointLayoutError: as they do, or the folder cannot be read.
    """
    try:
        refuse_special_files(folder)
        refuse_stray_links(folder)
    except OSError as error:
        raise CheckpointLayoutError(
            f"{folder} cannot be read: {error.strerror or error}.", path=folder
        ) from error


def refuse_special_files(folder: Path) -> None:
    """Look at each entry: the libraries of the worker open what they know by name, without a look.

    Raises:
        CheckpointLayoutError: one is a pipe, a socket or a device, or a text file (by its name) is far too
            large. OSError passes.
    """
    for path in sorted(folder.iterdir()):
        try:
            status = path.stat()
        except OSError:  # a link that leads nowhere: whoever needs the file says so
            continue
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise CheckpointLayoutError(
                f"{path} is not a regular file.",
                action="Remove it; do not use this checkpoint unless you know where it comes from.",
                path=path,
            )
        read = path.suffix in (".json", ".txt", ".model", ".jinja")
        if read and stat.S_ISREG(status.st_mode) and status.st_size > MAX_TOKENIZER_BYTES:
            raise CheckpointLayoutError(
                f"{path} has {status.st_size:,} bytes, more than the {MAX_TOKENIZER_BYTES:,} that such a file"
                " may have.",
                action="Check that it is the file it is named after.",
                path=path,
            )


def refuse_stray_links(folder: Path) -> None:
    """Of all that is read of a checkpoint, by its name: no link leads to a file that is not a model's.

    What nobody reads (``trainer_state.json``, ``notes.txt``) may be any link; it is not followed.

    Raises:
        CheckpointLayoutError: one leads elsewhere. OSError passes.
    """
    for path in sorted(_entries(folder)):
        if _is_read(path.name) and path.exists() and followed(path, folder) is None:
            raise CheckpointLayoutError(
                f"{path} is a link to {path.resolve()}, which is no file of a model, as far as its name and"
                " its folder tell.",
                action="Copy the file that is meant into the folder.",
                path=path,
            )


def linked_files(folder: Path) -> Iterator[Path]:
    """The regular files outside that links of the folder, or of folders in it, lead to by the rule."""
    root = Path(os.path.realpath(folder))
    for path in _entries(folder):
        target = followed(path, folder) if _is_read(path.name) else None
        if target is not None and target.is_file() and not target.is_relative_to(root):
            yield target


def followed(path: Path, folder: Path) -> Path | None:
    """Where an entry leads to in the end; ``None`` when a link on the way leads astray, or nowhere.

    Args:
        path: below ``folder``.
        folder: of the checkpoint.
    """
    root = at = Path(os.path.realpath(folder))
    steps = 0
    for name in path.relative_to(folder).parts:
        at /= name
        while at.is_symlink():
            steps += 1
            target = _placed(at.parent / at.readlink())
            if steps > _MOST_STEPS or not _is_meant(at, target, root):
                return None
            at = target
    return at if at.exists() else None


def _is_meant(link: Path, target: Path, root: Path) -> bool:
    own = root if link.is_relative_to(root) else link.parent
    if target.is_relative_to(own) or any(kept.fullmatch("/".join(target.parts[-2:])) for kept in _STORED):
        return True
    if link.suffix == target.suffix == _WEIGHTS:
        return True
    if link.name != target.name:
        return False
    if _A_MODELS.fullmatch(link.name) or _PUBLIC.fullmatch(link.name):
        return True
    return _ANYBODYS.fullmatch(link.name) is not None and _is_beside_a_model(link, target)


def _is_beside_a_model(link: Path, target: Path) -> bool:
    """In its folder; or above it, where the folder has the link's own name (``1_Pooling``)."""
    folders = [target.parent]
    if target.parent.name == link.parent.name:
        folders.append(target.parent.parent)
    try:
        return any(_A_MODELS.fullmatch(entry.name) for folder in folders for entry in os.scandir(folder))
    except OSError:
        return False


def _is_read(name: str) -> bool:
    return any(names.fullmatch(name) for names in (_A_MODELS, _ANYBODYS, _PUBLIC))


def _entries(folder: Path) -> Iterator[Path]:
    """Of the folder and of those in it; of linked ones, where a checkpoint has some of that name."""
    for path in folder.iterdir():
        yield path
        entered = not path.is_symlink() or (_A_MODELS.fullmatch(path.name) and followed(path, folder))
        if entered and path.is_dir():
            yield from path.iterdir()


def _placed(path: Path) -> Path:
    """With a real folder; the last name may be a link."""
    if path.name == "..":
        return Path(os.path.realpath(path))
    return Path(os.path.realpath(path.parent), path.name)
