"""One target in libFuzzer: ``python -m tests.fuzz.engine TARGET [libFuzzer's arguments]``. Needs atheris."""

from __future__ import annotations

import sys
from random import Random

import atheris

from tests.fuzz import targets
from tests.fuzz.mutations import changed_json

# Python code whose coverage guides the engine
INSTRUMENTED = ["ggufpack", "tarfile"]


def main(arguments: list[str]) -> None:
    """Does not return."""
    name, *options = arguments
    with atheris.instrument_imports(include=INSTRUMENTED):
        target = targets.load(name)

    def mutated(data: bytes, largest: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.5:
            new = changed_json(data, random)
            if new != data and len(new) <= largest:
                return new
        result: bytes = atheris.Mutate(data, largest)
        return result

    atheris.Setup(
        [sys.argv[0], *options],
        target.one_input,
        custom_mutator=mutated if target.is_json else None,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
