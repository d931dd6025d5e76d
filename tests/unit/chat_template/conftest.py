"""Where these tests get real templates and Ollama's own engine from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.go_template_oracle.oracle import GoOracle, build_go_oracle


@pytest.fixture(scope="session")
def real_chat_templates(request: pytest.FixtureRequest) -> list[Path]:
    """The 70 real templates in llama.cpp's source, or those of GGUFPACK_TEST_TEMPLATES."""
    named = os.environ.get("GGUFPACK_TEST_TEMPLATES")
    folder = Path(named) if named else request.getfixturevalue("llama_cpp_source") / "models/templates"
    paths = sorted(folder.glob("*.jinja"))
    assert len(paths) >= 70, f"{folder} should hold llama.cpp's templates"
    return paths


@pytest.fixture(scope="session")
def go_template_oracle() -> GoOracle:
    """Ollama's template engine; fails with what to do where there is no Go."""
    try:
        return build_go_oracle()
    except RuntimeError as error:
        pytest.fail(str(error))
