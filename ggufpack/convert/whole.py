"""Worker side: whole files of an earlier package, where a conversion would write the same bytes again.

A package that is built again with another Modelfile has the same GGUF. Whether it is the same is told by its
key (``convert.file_keys``), which costs one read of the source, and by the file's own sha256. The parent has
linked it before under another name, and renames that (``convert.process``): this process may not write it.

The link is hard. Two packages never share it for long: the earlier one is replaced by the one that is built.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from ggufpack.convert.layout import FileLayout
from ggufpack.convert.sources import Rows, TensorSource, Witness
from ggufpack.packages import sha256_of

# what names the blocks of some rows; the last argument is the first row's number
NameBlocks = Callable[[TensorSource, Rows, int], None]


def is_older(checkpoint: Path, files: Sequence[Path]) -> bool:
    """Whether all files are there, and newer than the checkpoint's: then it is worth to look at them.

    A hint. Whether they are what would be written is decided by digests.
    """
    if not files or not all(path.is_file() for path in files):
        return False
    newest = max((path.stat().st_mtime for path in checkpoint.iterdir()), default=0.0)
    return all(path.stat().st_mtime >= newest for path in files)


def hash_files(
    files: Sequence[Path],
    layouts: Sequence[FileLayout],
    sources: Sequence[TensorSource],
    name_blocks: NameBlocks,
    threads: int,
) -> list[str]:
    """Hash files, and meanwhile name all blocks of the source.

    Args:
        files: of the earlier package.
        layouts: what a conversion would write, in the same order.
        sources: the tensors, in file order.
        name_blocks: called for all of their rows, in ``threads`` threads.
        threads: that read the source.

    Returns:
        their sha256; nothing when one has another size than it would be written with, or is gone.

    Raises:
        Exception: whatever reading the source raised.
    """
    try:
        if any(path.stat().st_size != layout.size for path, layout in zip(files, layouts, strict=True)):
            return []
    except FileNotFoundError:
        return []
    rows, lock = _all_rows(sources), threading.Lock()

    def name_all() -> None:
        with torch.inference_mode():
            while True:
                with lock:
                    item = next(rows, None)
                if item is None:
                    return
                name_blocks(*item)

    with ThreadPoolExecutor(threads + len(files), thread_name_prefix="whole") as pool:
        naming = [pool.submit(name_all) for _ in range(threads)]
        hashing = [pool.submit(sha256_of, path) for path in files]
        for task in naming:
            task.result()
        return [task.result() for task in hashing]


def _all_rows(sources: Sequence[TensorSource]) -> Iterator[tuple[TensorSource, Rows, int]]:
    witness = Witness()
    for source in sources:
        first_row = 0
        for rows in source.rows(witness):
            rows.parts.announce(rows.view)
            yield source, rows, first_row
            first_row += rows.view.numel() // source.columns
