"""The error tree is the one drawn at the top of errors.py, with its exit codes."""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path

import pytest

import ggufpack
from ggufpack import errors
from ggufpack.errors import GgufpackError, TensorFileError, UsageError

# DESIGN §3
EXIT_CODES = {
    "GgufpackError": 1,
    "UsageError": 2,
    "CheckpointError": 3,
    "ConversionError": 4,
    "PromptError": 5,
    "RegistryError": 6,
    "VerificationError": 7,
}
# an answer of a template, caught inside its own stage: it never ends a command
INTERNAL = {"ChatTemplateRefusal"}


def drawn() -> dict[str, tuple[str | None, int]]:
    """Class name to (parent, exit code), read from the drawing."""
    tree: dict[str, tuple[str | None, int]] = {}
    path: list[str] = []
    for line in inspect.getdoc(errors).__str__().splitlines():
        match = re.match(r"([│├└─ ]*)(\w+Error)\b(?:\s+exit (\d+))?", line)
        if match is None:
            continue
        depth, name, code = len(match[1]) // 4, match[2], match[3]
        del path[depth:]
        parent = path[-1] if path else None
        path.append(name)
        tree[name] = (parent, int(code) if code else tree[parent or ""][1])
    return tree


def test_the_drawing_is_the_tree() -> None:
    real = {
        name: (None if cls is GgufpackError else cls.__bases__[0].__name__, cls.exit_code)
        for name, cls in vars(errors).items()
        if isinstance(cls, type) and issubclass(cls, GgufpackError)
    }
    assert drawn() == real


def test_exit_codes_are_those_of_the_design() -> None:
    own = {
        name: cls.exit_code
        for name, cls in vars(errors).items()
        if isinstance(cls, type) and issubclass(cls, GgufpackError) and "exit_code" in vars(cls)
    }
    assert own == EXIT_CODES
    assert errors.INTERRUPTED_EXIT_CODE == 130


def test_no_error_of_ours_is_defined_elsewhere() -> None:
    known = set(drawn())
    elsewhere = {
        node.name
        for path in Path(ggufpack.__file__).parent.rglob("*.py")
        if path.name != "errors.py" or path.parent.name != "ggufpack"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and {getattr(base, "id", None) for base in node.bases} & known
    }
    assert elsewhere == INTERNAL


def test_every_class_says_what_it_is_for() -> None:
    for name in drawn():
        assert getattr(errors, name).__doc__, name


def test_the_json_object_has_everything() -> None:
    error = TensorFileError(
        "m.safetensors ends early.", action="Copy it again.", path=Path("m"), key="a", finding="GP201"
    )
    error.log = "last lines"
    assert json.loads(json.dumps(error.to_json())) == {
        "type": "TensorFileError",
        "exit_code": 3,
        "problem": "m.safetensors ends early.",
        "action": "Copy it again.",
        "path": "m",
        "key": "a",
        "finding": "GP201",
        "log": "last lines",
    }


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UsageError("It is wrong."), "It is wrong."),
        (UsageError("It is wrong.", action="Do this."), "It is wrong. Do this."),
    ],
)
def test_the_text_is_problem_and_action(error: UsageError, text: str) -> None:
    assert str(error) == text
    assert error.to_json()["path"] is None
