"""What of an earlier build still holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from ggufpack.batch.existing import is_registered
from ggufpack.errors import ServerUnreachableError
from ggufpack.registry import OllamaServer
from ggufpack.spec import BuildSpec
from ggufpack.target import target_of

TARGET = target_of(BuildSpec(Path("run"), name="model", quantizations=("Q8_0",)))
A_SERVER = cast("OllamaServer", object())


def result(*registered: str) -> dict[str, Any]:
    return {"registered": list(registered), "files": []}


def test_what_was_built_without_a_server_is_not_finished_once_there_is_one() -> None:
    assert is_registered(None, TARGET, result(), None)
    assert not is_registered(A_SERVER, TARGET, result(), None)


def test_a_server_that_is_gone_is_not_taken_for_one_that_has_the_model() -> None:
    with pytest.raises(ServerUnreachableError, match="model was registered"):
        is_registered(None, TARGET, result("model:latest"), None)
