"""The model card: README.md with YAML front matter, from the record of a package.

Source of the front matter's keys: Hugging Face's documentation, "Model Cards" (huggingface/hub-docs,
``docs/hub/model-cards.md``) and its metadata specification (``modelcard.md``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import jinja2
import jinja2.sandbox
import yaml

from ggufpack.errors import UsageError
from ggufpack.proofs import Fidelity
from ggufpack.report import words
from ggufpack.report.reading import typed
from ggufpack.report.view import make_view
from ggufpack.resources import data_folder

CARD_NAME = "README.md"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*\Z")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


@dataclass(frozen=True)
class CardFacts:
    """What a card says beside the record. What could end the front matter is no licence and no model.

    Attributes:
        repo: ``USER/REPO``.
        license: the Hub's id of a licence; ``None`` when nobody said it.
        base_models: ids of repositories on the Hub.
        template: whether the repository has a ``template`` file.
    """

    repo: str
    license: str | None = None
    base_models: tuple[str, ...] = ()
    template: bool = True

    def __post_init__(self) -> None:
        if self.license is not None and not _LICENSE.match(self.license):
            raise UsageError(
                f"{self.license!r} is no licence of the Hub.",
                action="Give its id there: apache-2.0, mit, llama3.2, other …",
                key="license",
            )
        for model in self.base_models:
            if not _MODEL.match(model):
                raise UsageError(
                    f"{model!r} is no model on the Hub.", action="Write USER/REPO.", key="base_model"
                )


@dataclass(frozen=True)
class _Verbatim:
    """Text for a code block, where Markdown's escapes would be shown."""

    text: str

    def __str__(self) -> str:
        return self.text


def render_card(record: Mapping[str, Any], facts: CardFacts) -> str:
    """The card's text. The paths of this machine's folders are left out of it.

    Raises:
        UsageError: the record is damaged or of another schema.
    """
    view = make_view(typed(without_folders(record)))
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        loader=jinja2.FileSystemLoader(data_folder("templates")),
        autoescape=False,
        finalize=_for_markdown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    embeds = view.record.result.template == "none"
    body = environment.get_template("model_card.md.jinja").render(
        view=view,
        embeds=embeds,
        facts=facts,
        words=words,
        perplexity=_perplexity,
        code=_Verbatim,
        modelfile=_word(view.record.result.modelfiles.values(), "Modelfile"),
        commands=[_Verbatim(command) for command in run_commands(record, facts.repo)],
    )
    return f"---\n{_front_matter(facts, 'feature-extraction' if embeds else 'text-generation')}---\n\n{body}"


def run_commands(record: Mapping[str, Any], repo: str) -> list[str]:
    """How each file is run: the Hub reads the type from the file's name, in any case of letters."""
    kinds = [file.quantization for file in typed(record).result.files]
    return [f"ollama run hf.co/{repo}:{kind}" for kind in kinds if _PLAIN.match(kind)]


def without_folders(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record with each absolute path of a checkpoint or adapter folder cut to the folder's name."""
    checkpoint = record.get("checkpoint")
    adapters = checkpoint.get("adapters") if isinstance(checkpoint, dict) else None
    sources = [checkpoint, *(adapters if isinstance(adapters, list) else [])]
    folders = [source.get("folder") for source in sources if isinstance(source, dict)]
    names = {path: PurePath(path).name for path in folders if isinstance(path, str) and PurePath(path).name}
    return {key: _renamed(value, names) for key, value in record.items()}


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for path in sorted(names, key=len, reverse=True):
            value = value.replace(path, names[path])
        return value
    if isinstance(value, dict):
        return {key: _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    return value


def _front_matter(facts: CardFacts, pipeline: str) -> str:
    base: Sequence[str] | str = facts.base_models
    if len(base) == 1:
        base = base[0]
    values = {
        "license": facts.license,
        "base_model": base if isinstance(base, str) else list(base),
        "library_name": "gguf",
        "pipeline_tag": pipeline,
        "tags": ["gguf", "ollama", "ggufpack"],
        "quantized_by": facts.repo.partition("/")[0],
    }
    kept = {key: value for key, value in values.items() if value}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)


def _word(names: Iterable[str], otherwise: str) -> str:
    """The first name that is one word of a command: in a code block nothing else can be told from ours."""
    return next((name for name in names if _PLAIN.match(name)), otherwise)


def _perplexity(fidelity: Fidelity) -> str:
    return f"{words.significant(fidelity.perplexity, 4)} ({words.signed(fidelity.delta_perplexity.value)})"


def _for_markdown(value: object) -> object:
    return words.markdown(value) if isinstance(value, str) else value
