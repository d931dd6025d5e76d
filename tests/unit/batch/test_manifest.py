"""Manifests: what they say, and every error with its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ggufpack.batch.manifest import read_manifest
from ggufpack.errors import ManifestError
from ggufpack.spec import AdapterSpec
from tests.unit.batch.builders import training

YAML = """\
name: "{run}-{step}:{type}"
defaults:
  quantization: [q8, f16]
  parameters: {temperature: 0.5, stop: [a, b], use_mmap: true}
items:
  - checkpoint: out/checkpoint-*
  - checkpoint: out/checkpoint-1
    name: best
    verify: none
    adapter: out/checkpoint-2=0.5
"""
TOML = """\
name = "{run}-{step}:{type}"
[defaults]
quantization = ["q8", "f16"]
parameters = {temperature = 0.5, stop = ["a", "b"], use_mmap = true}
[[items]]
checkpoint = "out/checkpoint-*"
[[items]]
checkpoint = "out/checkpoint-1"
name = "best"
verify = "none"
adapter = "out/checkpoint-2=0.5"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    training(tmp_path / "out", 1, 2, 10)
    return tmp_path


def write(folder: Path, text: str, suffix: str = ".yaml") -> Path:
    path = folder / f"m{suffix}"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("text", "suffix"), [(YAML, ".yaml"), (TOML, ".toml")])
def test_both_forms_say_the_same(folder: Path, text: str, suffix: str) -> None:
    *globbed, best = read_manifest(write(folder, text, suffix))
    assert [one.folder.name for one in globbed] == ["checkpoint-1", "checkpoint-2", "checkpoint-10"]
    assert globbed[0].values == {
        "name": "{run}-{step}:{type}",
        "quantizations": ("Q8_0", "F16"),
        "parameters": {"temperature": ("0.5",), "stop": ("a", "b"), "use_mmap": ("true",)},
    }
    assert best.values["name"] == "best"
    assert best.values["adapters"] == (AdapterSpec(folder / "out/checkpoint-2", 0.5),)
    assert re.search(r"m\.\w+:7$", best.place)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("items: []", 1, "items must be a list"),
        ("defaults: {}\n", 1, "items must be a list"),
        ("itmes:\n- checkpoint: out", 1, "itmes is no key of a manifest. Did you mean items?"),
        ("items:\n- checkpoint: out\n  quantisation: q8", 3, "Did you mean quantization?"),
        ("items:\n- checkpoint: out\n  threads: many", 3, "threads must be a number from 1, and is a text"),
        (
            "items:\n- checkpoint: out\n  threads: true",
            3,
            "threads must be a number from 1, and is a boolean",
        ),
        ("items:\n- checkpoint: out\n  system:", 3, "system must be a text, and is empty"),
        ("items:\n- checkpoint: out\n  verify: all", 3, "verify: 'all' is no level"),
        ("items:\n- checkpoint: out\n  name: '{epoch}'", 3, "unknown field {epoch}"),
        ("items:\n- checkpoint: out\n  quantization: Q9", 3, "'Q9' is no quantisation type"),
        ("items:\n- checkpoint: out\n  imatrix: no.dat", 3, "no.dat does not exist"),
        ("items:\n- checkpoint: out\n  adapter: out=much", 3, "'much' is no weight"),
        ("items:\n- checkpoint: out\n  adapter: out=nan", 3, "'nan' is no weight"),
        ("items:\n- checkpoint: out\n  adapter: none=0.5", 3, "none does not exist"),
        ("items:\n- checkpoint: out\n- name: x", 3, "An item has no checkpoint"),
        ("items:\n- checkpoint: no/*", 2, "nothing matches no/*"),
        ("items:\n- checkpoint: nowhere", 2, "there is no nowhere"),
        ("items:\n- checkpoint: [a]", 2, "checkpoint must be a path or a glob"),
        ("items:\n- out", 2, "An item must be a mapping"),
        ("items:\n- checkpoint: out\n  checkpoint: out", 3, "checkpoint is given twice (first in line 2)"),
        ("items: [\n", 2, "expected the node content"),
        ("a: &x 1\nitems: *x", 2, "YAML aliases are not taken"),
        ("items:\n- checkpoint: !!python/object/apply:os.system [id]", 2, "the YAML tag"),
        ("items: " + "[" * 100 + "]" * 100, 1, "nested deeper than 16"),
        ("items: 1\n---\nitems: 2", 2, "but found another document"),
        ("items:\n- checkpoint: 2024-13-45", 2, "cannot be read"),
        ("? [a]\n: 1", 1, "a key must be a word"),
    ],
)
def test_errors_name_the_line(folder: Path, text: str, line: int, said: str) -> None:
    path = write(folder, text)
    with pytest.raises(ManifestError, match=re.escape(said)) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}:{line}: "), caught.value


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('[[items]]\ncheckpoint = "out"\n\n[[items]]\nchekpoint = "out"', 5, "Did you mean checkpoint?"),
        ('[defaults]\nthreads = 0\n[[items]]\ncheckpoint = "out"', 2, "threads must be a number"),
        ("[[items]\n", 1, "]]"),
        (
            '[[items]]\ncheckpoint = "out"\n[items.parameters]\nstop = {a = 1}',
            3,
            "must be a mapping of Modelfile",
        ),
    ],
)
def test_errors_of_toml_name_the_line(folder: Path, text: str, line: int, said: str) -> None:
    path = write(folder, text, ".toml")
    with pytest.raises(ManifestError, match=re.escape(said)) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}:{line}: "), caught.value


def test_a_manifest_that_is_no_text(folder: Path) -> None:
    path = folder / "m.yaml"
    path.write_bytes(b"\xff\xfe\0")
    with pytest.raises(ManifestError, match="is not UTF-8"):
        read_manifest(path)
    path.write_bytes(b" " * ((4 << 20) + 1))
    with pytest.raises(ManifestError, match="larger than 4 MiB"):
        read_manifest(path)
