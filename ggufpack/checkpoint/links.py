"""What a folder from somewhere else may not hold: pipes and devices, and links to the user's own files."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from ggufpack.checkpoint.jsonfiles import MAX_TOKENIZER_BYTES
from ggufpack.errors import CheckpointLayoutError

# a file of the Hugging Face cache, which snapshots link to (huggingface_hub, file_download.py)
_BLOB = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


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


def refuse_stray_link(path: Path) -> None:
    """Of a text that goes into the package as it is: a link may not fetch another file into it.

    A link leads to a file of the same name, to one in the same folder, or into the Hugging Face cache.

    Raises:
        CheckpointLayoutError: it leads elsewhere.
    """
    if not path.is_symlink():
        return
    target = path.resolve()
    inside = target.parent == path.parent.resolve()
    cached = target.parent.name == "blobs" and _BLOB.fullmatch(target.name) is not None
    if not (inside or cached or target.name == path.name):
        raise CheckpointLayoutError(
            f"{path} is a link to {target}, which would become a part of the package.",
            action="Copy the file that is meant into the folder.",
            path=path,
        )
