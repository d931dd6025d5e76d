"""Ollama's own Modelfile parser."""

from __future__ import annotations

import pytest

from tests.support.go_template_oracle.oracle import GoOracle, build_go_oracle


@pytest.fixture(scope="session")
def go_oracle() -> GoOracle:
    """Ollama's parser; fails with what to do where there is no Go."""
    try:
        return build_go_oracle()
    except RuntimeError as error:
        pytest.fail(str(error))
