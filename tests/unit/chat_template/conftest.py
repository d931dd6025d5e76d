"""Where these tests get real templates from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_chat_templates(request: pytest.FixtureRequest) -> list[Path]:
    """The 70 real templates in llama.cpp's source, or those of GGUFPACK_TEST_TEMPLATES."""
    named = os.environ.get("GGUFPACK_TEST_TEMPLATES")
    folder = Path(named) if named else request.getfixturevalue("llama_cpp_source") / "models/templates"
    paths = sorted(folder.glob("*.jinja"))
    assert len(paths) >= 70, f"{folder} should hold llama.cpp's templates"
    return paths
