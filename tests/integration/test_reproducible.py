"""Same input, same bytes: one build with every difference between machines that we know how to make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.reproducible.variations import PLAIN, TOGETHER, build, contents

QUANTIZATIONS = ("Q4_K_M", "IQ4_XS")


def test_every_file_of_a_package_is_the_same_wherever_it_is_built(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    checkpoint = tiny_model("llama-spm")
    one, other = (
        contents(build(checkpoint, tmp_path / name, variation, QUANTIZATIONS))
        for name, variation in (("plain", PLAIN), ("other", TOGETHER))
    )
    assert len(one) == 2 * len(QUANTIZATIONS) + 2
    assert one == other
