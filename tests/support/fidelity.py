"""Packages of one checkpoint, to be measured against it one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ggufpack
from ggufpack import vendoring
from ggufpack.chat_template.prompt import prepare_prompt
from ggufpack.checkpoint import open_checkpoint
from ggufpack.proofs import Fidelity, Verification
from ggufpack.spec import ignore_event
from ggufpack.verification.fidelity.measure import FidelityCheck, FidelityOptions
from ggufpack.verification.fidelity.prove import add_fidelity

FEW = "The quick brown fox, 12 dogs and a cat. Ein Satz mit Wörtern; naïve façade.\n" * 3


class Bench:
    """One checkpoint and its packages."""

    def __init__(
        self,
        checkpoint: Path,
        types: tuple[str, ...],
        folder: Path,
        check: FidelityCheck,
        allow: tuple[str, ...],
    ) -> None:
        self.check = check
        built = ggufpack.build(
            checkpoint,
            name=folder.name,
            quantization=types,
            output=folder.parent,
            template="native",
            register=False,
            verify="none",
            allow=("GP401", "GP402", *allow),
        )
        self.files = {file.quantization: file.path for file in built.package.files}

    def prove(self, gguf: Path) -> tuple[Fidelity, bool]:
        """Fidelity, and whether the tokenizers agree."""
        nothing = Verification(gguf.name, "", "none")
        prompt = self.check.prompt
        done = add_fidelity(self.check, gguf, nothing, prompt=prompt, server=None, on_event=ignore_event)
        if done.fidelity is None or done.tokenizer is None:
            raise RuntimeError(f"{gguf} was not measured")
        return done.fidelity, not done.tokenizer.ordinary_misses


@contextmanager
def bench(
    checkpoint: Path,
    types: tuple[str, ...],
    folder: Path,
    texts: Path | None = None,
    allow: tuple[str, ...] = (),
) -> Iterator[Bench]:
    """A checkpoint with its packages, and its trained model running."""
    opened = open_checkpoint(checkpoint)
    prompt = prepare_prompt(opened, "auto", None)
    options = FidelityOptions(calibration=texts, device="cpu")
    with FidelityCheck(opened, prompt, vendoring.require(), options) as check:
        yield Bench(checkpoint, types, folder, check, allow)
