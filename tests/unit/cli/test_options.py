"""From words to a BuildSpec, and what the help says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from ggufpack.checkpoint.adapter_sources import parse_adapter
from ggufpack.cli.common import ReportingCommand
from ggufpack.cli.main import main
from ggufpack.cli.options import build_options, make_spec
from ggufpack.errors import UsageError
from ggufpack.spec import AdapterSpec, BuildSpec


def spec_of(*words: str) -> BuildSpec:
    made: list[BuildSpec] = []

    @click.command(cls=ReportingCommand)
    @build_options
    def command(**values: Any) -> None:
        made.append(make_spec(**values))

    done = CliRunner().invoke(command, list(words))
    assert done.exit_code == 0, done.stderr
    return made[0]


def test_defaults_are_those_of_the_spec() -> None:
    assert spec_of("folder") == BuildSpec(Path("folder"))


def test_all_options() -> None:
    spec = spec_of(
        *("folder", "--name", "x", "-q", "q4,F16", "--output", "out", "--template", "native"),
        *("--system", "Be brief.", "--parameter", "stop=a", "--parameter", "stop=b=c", "--host", "h:1"),
        *("--no-register", "--verify", "prompts", "--overwrite", "--allow", "gp250", "--threads", "3"),
        *("--imatrix", "m.gguf"),
        "--trust-remote-code",
    )
    assert spec == BuildSpec(
        Path("folder"),
        name="x",
        quantizations=("Q4_K_M", "F16"),
        output=Path("out"),
        template="native",
        system="Be brief.",
        parameters={"stop": ("a", "b=c")},
        host="h:1",
        register=False,
        verify="prompts",
        overwrite=True,
        allow=frozenset({"GP250"}),
        threads=3,
        trust_remote_code=True,
        imatrix=Path("m.gguf"),
    )


def test_register_that_is_said_needs_a_server() -> None:
    assert spec_of("folder", "--register").require_server
    assert not spec_of("folder").require_server
    assert spec_of("folder", "--store", "models").store == Path("models")
    assert spec_of("folder").store is None


@pytest.mark.parametrize("word", ["stop", "=x", ""])
def test_a_parameter_without_a_value(word: str) -> None:
    with pytest.raises(UsageError, match="KEY=VALUE"):
        make_spec(checkpoint=Path("c"), quantization=("F16",), parameters=(word,), allow=(), register=None)


@pytest.mark.parametrize("word", ["a=much", "a=inf", "a=nan", "a=", "=0.5"])
def test_an_adapter_with_a_weight_that_is_none(word: str) -> None:
    with pytest.raises(UsageError, match="is no weight"):
        parse_adapter(word)


def test_an_adapter_whose_name_has_an_equals_sign(tmp_path: Path) -> None:
    (tmp_path / "lr=0.1").mkdir()
    spec = spec_of("folder", "--adapter", f"{tmp_path}/lr=0.1", "--adapter", f"{tmp_path}/lr=0.1=-2")
    assert spec.adapters == (AdapterSpec(tmp_path / "lr=0.1"), AdapterSpec(tmp_path / "lr=0.1", -2.0))


def test_the_help_lists_what_the_design_promises() -> None:
    promised = "--name -q --imatrix --output --template --system --parameter --host --register --verify"
    for command in ("build", "plan"):
        shown = CliRunner().invoke(main, [command, "--help"]).stdout
        assert {*promised.split(), "--json", "--quiet"} <= set(re.findall(r"--?[\w-]+", shown))
    top = CliRunner().invoke(main, ["--help"]).stdout
    assert "130" in top
    for command in ("build", "plan", "template", "demo", "vendor"):
        assert re.search(rf"^  {command} ", top, re.MULTILINE)


def test_types_named_together_and_one_by_one() -> None:
    spec = spec_of("folder", "-q", "F16", "-q", "q8_0,q4")
    assert spec.quantizations == ("F16", "Q8_0", "Q4_K_M")
