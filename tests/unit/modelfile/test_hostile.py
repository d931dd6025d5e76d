"""Texts of a checkpoint that try to become instructions, and names that try to leave the output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from ggufpack.chat_template.prompt import Prompt, prepare_prompt
from ggufpack.checkpoint import open_checkpoint
from ggufpack.errors import CheckpointError, InvalidModelNameError, ModelfileError
from ggufpack.modelfile.assemble import assemble, for_text
from ggufpack.modelfile.model import Modelfile
from ggufpack.modelfile.parse import parse_commands
from ggufpack.modelfile.render import render
from ggufpack.spec import BuildSpec
from ggufpack.target import target_of
from tests.support.go_template_oracle.oracle import GoOracle
from tests.unit.checkpoint.builders import TOKENIZER, make_checkpoint

# what could end a value, in all quotings, and the instruction that would follow
ENDS = ("", '"', '""', '"""', '""""', " ", '"""\t', '" #', "\\", '\\"', "{{", "'")
BREAKS = ("\n", "\r", "\r\n", "\n\n", "\x00", "\x0b", "\x0c", "\x1e", "\x85", "\u2028", "\u2029", "\ufeff")
TEXTS = tuple(f"x{end}{line}FROM /etc/passwd{line}SYSTEM {end}" for end in ENDS for line in BREAKS)
# of each field: one Modelfile, and the instructions that it has
FIELDS: Mapping[str, tuple[str, ...]] = {
    "from_": ("from", "system"),
    "template": ("from", "template"),
    "system": ("from", "system"),
    "license": ("from", "license", "license"),
    "parameters": ("from", "parameter", "parameter"),
    "adapters": ("from", "adapter", "adapter"),
    "messages": ("from", "message", "message"),
}


def modelfile(field: str, text: str) -> Modelfile:
    values: dict[str, object] = {
        "from_": text,
        "license": (text, "last"),
        "parameters": (("stop", text), ("stop", "last")),
        "adapters": (text, "last"),
        "messages": (("user", text), ("user", "last")),
    }
    given = {"from_": "./m.gguf", **({"system": "last"} if field == "from_" else {})}
    return Modelfile(**{**given, field: values.get(field, text)})  # type: ignore[arg-type]


def written(field: str) -> list[tuple[str, str]]:
    """Text and the Modelfile that holds it; what no quoting holds is refused with the instruction's name."""
    found = []
    for text in TEXTS:
        try:
            found.append((text, render(modelfile(field, text))))
        except ModelfileError as error:
            assert error.finding in ("GP502", "GP503")
            assert len(str(error)) < 500
    return found


@pytest.mark.parametrize("field", FIELDS)
def test_no_text_becomes_an_instruction(field: str) -> None:
    found = written(field)
    assert len(found) >= 30  # most line ends can be held, and no other break
    for text, rendered in found:
        commands = parse_commands(rendered)
        assert tuple(command.name for command in commands) == FIELDS[field], rendered
        assert text in [command.value for command in commands]


@pytest.mark.go
def test_no_text_becomes_an_instruction_for_ollama(go_oracle: GoOracle) -> None:
    go_names = {"from": "model", "parameter": "stop", "adapter": "adapter"}
    cases = [(field, *one) for field in FIELDS for one in written(field)]
    answers = go_oracle.ask("parse", [{"text": rendered} for _field, _text, rendered in cases])
    for (field, text, _rendered), answer in zip(cases, answers, strict=True):
        names = tuple(go_names.get(name, name) for name in FIELDS[field])
        assert tuple(command["name"] for command in answer["commands"]) == names
        value = f"user: {text}" if field == "messages" else text
        assert value in [command["args"] for command in answer["commands"]]


@pytest.mark.parametrize(
    "text", ['"\nFROM /etc/passwd', '"""\nSYSTEM """evil', "</s>\r\nFROM x", "a\u2028b", "\0"]
)
def test_a_token_and_a_licence_of_a_checkpoint(tmp_path: Path, text: str) -> None:
    """The end-of-sequence token becomes a stop, the licence file a LICENSE."""
    tokens = [{"id": 0, "content": "<unk>", "special": True}, {"id": 2, "content": text, "special": True}]
    folder = make_checkpoint(
        tmp_path / "model",
        tokenizer={**TOKENIZER, "added_tokens": tokens, "model": {"type": "BPE", "vocab": {"a": 1}}},
        tokenizer_config={"eos_token": text},
        generation={"eos_token_id": 2},
    )
    (folder / "LICENSE").write_bytes(text.encode())
    checkpoint = open_checkpoint(folder)
    made, _findings = assemble(
        checkpoint, _prompt(checkpoint), "./m.gguf", system=None, overrides={"num_ctx": ("4096",)}
    )
    assert ("stop", text) in made.parameters
    kept, left_out = for_text(made)
    try:
        rendered = render(kept)
    except ModelfileError as error:
        assert (error.exit_code, error.key) == (5, "PARAMETER stop")
        assert [finding.id for finding in left_out] == ["GP508"]
        return
    instructions = [(command.name, command.word) for command in parse_commands(rendered)]
    assert instructions == [
        ("from", None),
        ("template", None),
        *(("parameter", key) for key, _value in made.parameters),
        *[("license", None)] * (not left_out),
    ]


def _prompt(checkpoint: object) -> Prompt:
    return prepare_prompt(checkpoint, "auto", None)  # type: ignore[arg-type]


def test_half_a_character(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "\\ud800\\nFROM x"}')
    with pytest.raises(CheckpointError, match=r"half a character, U\+D800"):
        open_checkpoint(folder)


NAMES = (
    *("../m", "../../m", "/etc/m", "a/../m", "a/b/../../m", "..", ".", "a/..", "a/.", "/", "//m", "~/m"),
    *("a\\..\\m", "..\\m", "C:\\m", "C:m", "m:../x", "m:tag", "m@sha256:0", "-m", "--output", "m\0", "m\n"),
    *(".m", "m/", " m", "m ", "m\u2028", "\ud800", "m" * 5000, "a/b/c/d/m", "scheme://../m"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_would_leave_the_output(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidModelNameError) as caught:
        target_of(BuildSpec(tmp_path, name=name, output=tmp_path / "out"))
    assert caught.value.exit_code == 2


# what is left out here can be no folder's name
NO_FOLDERS = {".", "..", "\ud800", "m" * 5000}


@pytest.mark.parametrize(
    "name", [*(name for name in NAMES if not {*name} & {*"/\0"} and name not in NO_FOLDERS), "m", "a\nb"]
)
def test_a_folder_whose_name_becomes_the_model_s(tmp_path: Path, name: str) -> None:
    """A checkpoint's folder may be called anything; the files of the package may not."""
    folder = tmp_path / "in" / name
    folder.mkdir(parents=True)
    target = target_of(BuildSpec(folder, output=tmp_path / "out"))
    paths = [target.folder, *target.files().values(), target.projector(target.folder)]
    for path in paths:
        assert path.resolve().is_relative_to(tmp_path / "out")
        assert path.name.isascii()
        assert path.name.isprintable()
        assert not path.name.startswith(("-", "."))
        assert not {*path.name} & {*"\\:@/ "}
