"""``ggufpack template``: the TEMPLATE of a chat template, what it can do and what it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from ggufpack.cli.common import ReportingCommand, json_option
from ggufpack.cli.options import base_option
from ggufpack.cli.terminal import echo, echo_text
from ggufpack.errors import ChatTemplateError, UsageError

if TYPE_CHECKING:
    from ggufpack.chat_template.page import TemplatePage
    from ggufpack.chat_template.render import ChatTemplate
    from ggufpack.checkpoint import Checkpoint

_LIKE_SPECIAL = r"<[|｜][^<>\s]+[|｜]>|</?s>|<(?:end|start)_of_turn>|\[/?[A-Z_]+\]"


@click.command(cls=ReportingCommand)
@click.argument("source", metavar="CHECKPOINT|FILE.jinja", type=click.Path(exists=True, path_type=Path))
@base_option
@click.option("--bos", metavar="TOKEN", help="bos_token of a template file.")
@click.option("--eos", metavar="TOKEN", help="eos_token of a template file.")
@click.option(
    "--target",
    type=click.Choice(["go", "native"]),
    help="Go TEMPLATE, or the Jinja in the GGUF (Ollama ≥ 0.30).  [default: what loses less]",
)
@json_option
def template(
    source: Path,
    base: Path | None,
    bos: str | None,
    eos: str | None,
    target: Literal["go", "native"] | None,
    as_json: bool,
) -> None:
    """Print the TEMPLATE that would be written; its proof and what it refuses go to stderr."""
    from ggufpack.chat_template.learned import LearnedEngine
    from ggufpack.chat_template.page import template_page

    chat_template, special_texts, eos_texts = _opened(source, base, bos, eos)
    page = template_page(
        chat_template, LearnedEngine(), special_texts=special_texts, eos_texts=eos_texts, target=target
    )
    if as_json:
        echo(json.dumps(page.to_json()))
    else:
        _print(page)
    if page.strategy == "refused":
        raise click.exceptions.Exit(ChatTemplateError.exit_code)


def _opened(
    source: Path, base: Path | None, bos: str | None, eos: str | None
) -> tuple[ChatTemplate, tuple[str, ...], tuple[str, ...]]:
    """The template, the tokenizer's special texts, and those that end a text."""
    import re

    from ggufpack.chat_template.prompt import read_template_file
    from ggufpack.chat_template.render import ChatTemplate
    from ggufpack.checkpoint.adapted import open_model

    if source.is_dir():
        with open_model(source, base) as checkpoint:
            return _of_checkpoint(source, checkpoint, bos, eos)
    if base is not None:
        raise UsageError(f"{source} is a template, so it has no base model.", path=source, key="base")
    text = read_template_file(source)
    made = ChatTemplate(text, special_tokens={"bos_token": bos, "eos_token": eos}, origin=source)
    # without a tokenizer nobody says what is special, so the look of a text has to
    looks = re.findall(_LIKE_SPECIAL, text)
    given = [token for token in (bos, eos) if token]
    return made, tuple(dict.fromkeys([*given, *looks])), (eos,) if eos else ()


def _of_checkpoint(
    source: Path, checkpoint: Checkpoint, bos: str | None, eos: str | None
) -> tuple[ChatTemplate, tuple[str, ...], tuple[str, ...]]:
    from ggufpack.chat_template.render import ChatTemplate

    own = checkpoint.chat_template
    if own is None:
        raise ChatTemplateError(f"{source} has no chat template.", path=source)
    tokens = {
        **checkpoint.tokenizer.special,
        **({"bos_token": bos} if bos else {}),
        **({"eos_token": eos} if eos else {}),
    }
    ids = checkpoint.generation.eos_token_ids
    ends = [eos or checkpoint.tokenizer.eos, *map(checkpoint.tokenizer.text, ids)]
    made = ChatTemplate(own.text, special_tokens=tokens, origin=own.origin, named=own.named)
    return made, checkpoint.special_texts, tuple(dict.fromkeys(text for text in ends if text))


def _print(page: TemplatePage) -> None:
    if page.template is not None:
        echo_text(page.template)
    rows = [
        f"{name:12}{row.cases:7}{row.exact:7}{row.semantic:10}{row.refused:9}"
        for name, row in page.parity.items()
    ]
    head = "proof" if page.strategy == "go" else "passed on"
    lines = [
        f"strategy: {page.strategy}",
        f"stop: {', '.join(map(repr, page.stop)) or 'none'}",
        f"capabilities: {', '.join(page.capabilities) or 'none'}",
        f"{head:12}{'cases':>7}{'exact':>7}{'semantic':>10}{'refused':>9}",
        *rows,
        *(f"refused {one.shape}: {one.reason}" for one in page.refused),
    ]
    if page.strategy == "refused":
        lines = [lines[0], *(f"refused {one.shape}: {one.reason}" for one in page.refused)]
        lines += [
            f"  Give {name} with --{name[:3]}."
            for name in ("bos_token", "eos_token")
            if any(f"'{name}' is undefined" in one.reason for one in page.refused)
        ]
    for line in lines:
        echo(line, err=True)
