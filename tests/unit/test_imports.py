"""What an import costs, and which way imports may go."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ggufpack

PACKAGE = Path(ggufpack.__file__).parent
# DESIGN §2: a module of ggufpack imports only what stands before it, or beside it in its own package
ORDER = (
    "proofs",
    "spec",
    "errors",
    "held",
    "confinement",
    "child",
    "gguf_header",
    "resources",
    "packages",
    "vendoring",
    "findings",
    "progress",
    "package_folder",
    "tensor_cache",
    "checkpoint",
    "quantize",
    "chat_template",
    "convert",
    "modelfile",
    "registry",
    "attempt",
    "engine",
    "clients",
    "verification",
    "report",
    "store",
    "proving",
    "layering",
    "target",
    "making",
    "pipeline",
    "recheck",
    "pushable",
    "transfer",
    "served",
    "batch",
    "integrations",
    "doctor",
    "publishing",
    "demo",
    "cli",
    "__main__",
)
HEAVY = frozenset({"torch", "transformers", "ollama", "httpx", "numpy", "jinja2", "matplotlib"})


def loaded_by(code: str) -> set[str]:
    """Top-level modules in a new process after ``code``."""
    script = f"{code}\nimport json, sys\nprint('\\n' + json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import ggufpack", HEAVY | {"click", "rich"}),
        ("from ggufpack import BuildSpec, Finding, GgufpackError", HEAVY | {"click", "rich"}),
        ("from ggufpack.cli.main import main; main(['--help'], standalone_mode=False)", HEAVY | {"rich"}),
        ("from ggufpack import build", {"torch", "transformers"}),
        ("from ggufpack.checkpoint import open_checkpoint", HEAVY | {"safetensors"}),
    ],
)
def test_an_import_loads_only_what_it_needs(code: str, forbidden: set[str]) -> None:
    loaded = loaded_by(code)
    assert "ggufpack" in loaded
    assert not loaded & forbidden


def test_public_names() -> None:
    assert set(ggufpack.__all__) <= set(dir(ggufpack))
    for name in ggufpack.__all__:
        assert getattr(ggufpack, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = ggufpack.no_such_name


def test_stages_import_only_what_stands_before_them() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line} imports ggufpack.{imported}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "__init__.py"  # the public API names what is behind it, and imports it late
        and "_data" not in path.parts
        for line, imported in imports_of(path)
        if not allowed(path.relative_to(PACKAGE).with_suffix("").parts[0], imported)
    ]
    assert not wrong, "\n".join(wrong)


def allowed(importer: str, imported: str) -> bool:
    """A module that is not in the table is in nobody's place: put it there."""
    if importer not in ORDER or imported not in ORDER:
        return False
    return ORDER.index(imported) <= ORDER.index(importer)


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line, and the module below ``ggufpack``, of every import; those for type checkers as well."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            dotted = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in dotted:
            root, _, rest = name.partition(".")
            if root == "ggufpack" and rest != "__version__":
                yield node.lineno, rest.partition(".")[0]


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from ggufpack.cli.main import main", [(1, "cli")]),
        ("from ggufpack import vendoring, __version__", [(1, "vendoring")]),
        ("import ggufpack.report.record", [(1, "report")]),
        ("if 1:\n    def f():\n        from ggufpack.spec import BuildSpec", [(3, "spec")]),
        ("import ggufpackage, os", []),
    ],
)
def test_the_check_sees_every_kind_of_import(code: str, found: list[tuple[int, str]], tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(code)
    assert list(imports_of(tmp_path / "module.py")) == found


def test_the_check_knows_the_direction() -> None:
    assert allowed("verification", "registry")
    assert allowed("registry", "registry")
    assert not allowed("registry", "verification")
    assert not allowed("invented", "spec")
