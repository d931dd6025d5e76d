"""Where the chat template comes from: the one that transformers would pick.

``PreTrainedTokenizerBase._from_pretrained`` and ``get_chat_template`` (transformers 5.23,
``tokenization_utils_base.py``):

1. ``chat_template.jinja`` is ``default``, ``additional_chat_templates/NAME.jinja`` is ``NAME``. When
   there is any of these, ``chat_template`` in tokenizer_config.json is ignored as a whole.
2. Otherwise ``chat_template`` in tokenizer_config.json: a text, or a list of ``{name, template}``,
   or an object of that kind. Of several of one name the last counts.
3. Of several templates, ``tool_use`` is used when tools are given, ``default`` otherwise; without
   ``default`` transformers stops.

A tokenizer never reads ``chat_template.json``; a processor does (``processing_utils.py``), so it is
used when nothing else is there. llama.cpp's converter prefers tokenizer_config.json
(gguf-py, ``vocab.py``, ``SpecialVocab``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ggufpack.checkpoint.findings import make_finding
from ggufpack.checkpoint.jsonfiles import MIB, read_object, read_text, type_name
from ggufpack.checkpoint.tokenizer import TOKENIZER_CONFIG
from ggufpack.errors import ChatTemplateError, CheckpointFileError
from ggufpack.spec import Finding

MAX_TEMPLATE_BYTES = MIB
JINJA_FILE = "chat_template.jinja"
JINJA_FOLDER = "additional_chat_templates"
PROCESSOR_FILE = "chat_template.json"
DEFAULT = "default"
TOOL_USE = "tool_use"


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template and its source.

    Attributes:
        text: Jinja, the default template.
        origin: the file that it is in.
        named: every template of the same source by name; ``{"default": text}`` when there is one.
    """

    text: str = field(repr=False)
    origin: Path
    named: Mapping[str, str] = field(repr=False)


def read_chat_template(
    folder: Path, tokenizer_config: Mapping[str, Any]
) -> tuple[ChatTemplate | None, tuple[Finding, ...]]:
    """The chat template that transformers would use for a conversation without tools.

    ``None`` when there is none, and when there are several without a default (finding GP403).

    Raises:
        ChatTemplateError: a template is larger than 1 MiB or not a text.
        CheckpointFileError: a file is unreadable or not UTF-8.
    """
    try:
        from_files = _from_files(folder)
        from_processor = _from_processor(folder / PROCESSOR_FILE)
    except OSError as error:
        raise CheckpointFileError(
            f"{folder} cannot be read: {error.strerror or error}.", path=folder
        ) from error
    config_path = folder / TOKENIZER_CONFIG
    from_config = _from_config(tokenizer_config.get("chat_template"), config_path)
    findings: list[Finding] = []
    if from_files:
        named, origin = from_files, folder / (JINJA_FILE if DEFAULT in from_files else JINJA_FOLDER)
    elif from_config:
        named, origin = from_config, config_path
    elif from_processor is not None:
        named, origin = {DEFAULT: from_processor}, folder / PROCESSOR_FILE
        findings.append(
            make_finding(
                "GP404",
                f"The chat template comes from {PROCESSOR_FILE}, which only processors read; "
                "transformers' tokenizer has none.",
                path=origin,
                action=f"Save it as {JINJA_FILE} if it is the one that was trained with.",
            )
        )
    else:
        return None, ()
    findings += _compare(folder, named.get(DEFAULT), origin, from_config, from_processor)
    if DEFAULT not in named:
        findings.append(
            make_finding(
                "GP403",
                f"The chat templates are named {', '.join(sorted(named))}, and none is the default.",
                path=origin,
                key="chat_template",
                action="Choose one with --template, or name one of them default.",
            )
        )
        return None, tuple(findings)
    if TOOL_USE in named and named[TOOL_USE] != named[DEFAULT]:
        findings.append(
            make_finding(
                "GP402",
                "transformers uses another chat template when tools are given (tool_use), "
                "and a package has one only.",
                path=origin,
                key=TOOL_USE,
                action="Choose it with --template if the model is used with tools.",
            )
        )
    return ChatTemplate(named[DEFAULT], origin, named), tuple(findings)


def _compare(
    folder: Path,
    chosen: str | None,
    origin: Path,
    from_config: Mapping[str, str],
    from_processor: str | None,
) -> list[Finding]:
    """GP401 for every other source that says something else and that some program prefers."""
    others = {TOKENIZER_CONFIG: (from_config.get(DEFAULT), "llama.cpp's converter")} if from_config else {}
    if from_processor is not None:
        others[PROCESSOR_FILE] = (from_processor, "transformers' processors")
    return [
        make_finding(
            "GP401",
            f"{origin.name} and {name} hold different chat templates; {reader} would use the latter. "
            f"{origin.name} is used, as transformers' tokenizers do.",
            path=folder / name,
            key="chat_template",
            action=f"Remove chat_template from {name}, or the file that was not trained with.",
        )
        for name, (text, reader) in others.items()
        if folder / name != origin and text != chosen
    ]


def _from_files(folder: Path) -> dict[str, str]:
    named: dict[str, str] = {}
    if (folder / JINJA_FILE).exists():
        named[DEFAULT] = _read_template(folder / JINJA_FILE)
    extra = folder / JINJA_FOLDER
    for path in sorted(extra.glob("*.jinja")) if extra.is_dir() else []:
        named[path.name.removesuffix(".jinja")] = _read_template(path)
    return named


def _read_template(path: Path) -> str:
    # Universal newlines, as open() in transformers: \r\n would be in every prompt otherwise
    return read_text(path, MAX_TEMPLATE_BYTES)


def _from_config(value: object, path: Path) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT: _sized(value, path)}
    if isinstance(value, list):
        named: dict[str, str] = {}
        for item in value:
            name, text = (item.get("name"), item.get("template")) if isinstance(item, dict) else (None, None)
            if not isinstance(name, str) or not isinstance(text, str):
                raise _not_a_template(path, f"has an entry that is not {{name, template}}: {item!r:.60}")
            named[name] = _sized(text, path)
        return named
    if isinstance(value, dict):
        for name, text in value.items():
            if not isinstance(text, str):
                raise _not_a_template(path, f"gives {name!r} {type_name(text)} for a text")
        return {name: _sized(text, path) for name, text in value.items()}
    raise _not_a_template(path, f"must be a text and is {type_name(value)}")


def _from_processor(path: Path) -> str | None:
    if not path.exists():
        return None
    value = read_object(path, 2 * MAX_TEMPLATE_BYTES).get("chat_template")
    if value is None:
        return None
    if not isinstance(value, str):
        raise _not_a_template(path, f"must be a text and is {type_name(value)}")
    return _sized(value, path)


def _sized(text: str, path: Path) -> str:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_TEMPLATE_BYTES:
        raise _not_a_template(path, f"has {size:,} bytes, more than the {MAX_TEMPLATE_BYTES:,} allowed")
    return text


def _not_a_template(path: Path, why: str) -> ChatTemplateError:
    return ChatTemplateError(
        f"{path}: chat_template {why}.",
        action="Save the tokenizer again, or choose a template with --template.",
        path=path,
        key="chat_template",
    )
