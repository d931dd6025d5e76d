"""Is a broken model told apart from a rounded one? ``python -m benchmarks.sabotage``.

Breaks packages of SmolLM2 (Q4_K_M, Q8_0) in every way of tests/support/sabotage.py, and measures sound
ones: SmolLM2 in ten types, and tiny models of every generating architecture that the tests know in three.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from ggufpack.checkpoint import open_checkpoint
from ggufpack.errors import GgufpackError
from ggufpack.proofs import Fidelity
from tests.support.checkpoints import TINY, smollm2_checkpoint, tiny_checkpoint
from tests.support.fidelity import FEW, bench
from tests.support.sabotage import SABOTAGES, SabotageError

BROKEN_TYPES = ("Q4_K_M", "Q8_0")
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q2_K", "IQ4_XS")
TINY_TYPES = ("F16", "Q8_0", "Q4_K_M")


def show(name: str, found: Fidelity, tokenizer: bool, wanted: str) -> bool:
    """A row; whether it is as wanted."""
    broken = [*(["fidelity"] if found.verdict == "broken" else []), *([] if tokenizer else ["tokenizer"])]
    exact = "" if found.expected_kl is not None else "  (rounding not repeated)"
    said = f"broken by {' and '.join(broken)}" if broken else "sound"
    right = bool(broken) == (wanted == "broken")
    print(
        f"{name:48} KL {found.kl.value:9.2e}  error {found.error:.4f}  limit {found.error_limit:.4f}"
        f"  {said}{exact}{'' if right else '   <-- WRONG'}",
        flush=True,
    )
    return right


def sabotaged(folder: Path) -> Iterator[bool]:
    """Every sabotage of both types."""
    with bench(smollm2_checkpoint(), BROKEN_TYPES, folder / "smollm2") as made:
        for quantization, sound in made.files.items():
            for name, sabotage in SABOTAGES.items():
                broken = folder / "broken.gguf"
                try:
                    sabotage(sound, broken)
                except SabotageError as error:
                    print(f"{name:48} not possible: {error}")
                    continue
                yield show(f"{quantization} {name}", *made.prove(broken), "broken")


def sound(folder: Path) -> Iterator[bool]:
    """SmolLM2 in every type."""
    with bench(smollm2_checkpoint(), TYPES, folder / "sound") as made:
        for quantization, gguf in made.files.items():
            yield show(f"SmolLM2 {quantization}", *made.prove(gguf), "sound")


def tiny(folder: Path, architectures: Iterable[str] = TINY) -> Iterator[bool]:
    """Every tiny model that generates, in three types."""
    texts = folder / "few.txt"
    texts.write_text(FEW, encoding="utf-8")
    for arch in architectures:
        if open_checkpoint(tiny_checkpoint(arch)).embeds:
            continue
        try:
            with bench(tiny_checkpoint(arch), TINY_TYPES, folder / f"tiny-{arch}", texts) as made:
                for quantization, gguf in made.files.items():
                    yield show(f"{arch} {quantization}", *made.prove(gguf), "sound")
        except GgufpackError as error:
            print(f"{arch:48} {error}", flush=True)


def main() -> None:
    """All tables, or those that are named (a tiny architecture is one), and the number of wrong verdicts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = {"sabotage": sabotaged, "sound": sound, "tiny": tiny}
        verdicts = [
            right
            for part in sys.argv[1:] or parts
            for right in (parts[part](folder) if part in parts else tiny(folder, [part]))
        ]
    print(f"{len(verdicts)} verdicts, {verdicts.count(False)} wrong")


if __name__ == "__main__":
    main()
