"""Which files make an adapted checkpoint: from the base model, or from an adapter's folder.

PEFT's users save the tokenizer beside the adapter, because training may have added tokens to it or
changed its chat template. The rule:

* tokenizer files, the chat template among them, come as a set from the first adapter that has
  ``tokenizer.json``, ``tokenizer.model`` or ``tokenizer_config.json``: mixed with the base model's
  they could contradict each other;
* without a tokenizer, the chat template comes from the first adapter that has a file of its own for it;
* ``generation_config.json`` comes from the first adapter that has one;
* everything else (weights, ``config.json``, the licence) is the base model's. Its model card is left
  out: it describes another model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ggufpack.checkpoint.adapter import Adapter
from ggufpack.checkpoint.chat_template import JINJA_FILE, JINJA_FOLDER, PROCESSOR_FILE
from ggufpack.checkpoint.findings import make_finding
from ggufpack.checkpoint.generation import GENERATION_CONFIG
from ggufpack.checkpoint.layout import ADAPTER_CONFIG
from ggufpack.checkpoint.tokenizer import TOKENIZER_CONFIG, TOKENIZER_FILES
from ggufpack.checkpoint.wording import some
from ggufpack.spec import Finding

_TEMPLATES = frozenset({JINJA_FILE, JINJA_FOLDER, PROCESSOR_FILE})
_TOKENIZER = frozenset({*TOKENIZER_FILES, "tokenizer.model", "preprocessor_config.json"}) | _TEMPLATES
_SHOWS_A_TOKENIZER = frozenset({"tokenizer.json", "tokenizer.model", TOKENIZER_CONFIG})
_LEFT_OUT = frozenset({"README.md", ADAPTER_CONFIG})


def files_of_folder(base: Path, adapters: Sequence[Adapter]) -> tuple[dict[str, Path], tuple[Finding, ...]]:
    """Name → file (or folder) of everything that the adapted checkpoint has."""
    files = {entry.name: entry for entry in base.iterdir() if entry.name not in _LEFT_OUT}
    findings: list[Finding] = []
    with_tokenizer = [adapter for adapter in adapters if _SHOWS_A_TOKENIZER & _names(adapter)]
    sets = [(_TOKENIZER, with_tokenizer)]
    if not with_tokenizer:
        sets.append((_TEMPLATES, [adapter for adapter in adapters if _TEMPLATES & _names(adapter)]))
    generation = frozenset({GENERATION_CONFIG})
    sets.append((generation, [adapter for adapter in adapters if generation & _names(adapter)]))
    for names, having in sets:
        if having:
            taken = _taken(having[0], names)
            files = {name: path for name, path in files.items() if name not in names} | taken
            findings.append(_from_adapter(having[0], taken, base))
    findings += _differences(with_tokenizer)
    return files, tuple(findings)


def _names(adapter: Adapter) -> set[str]:
    return {entry.name for entry in adapter.folder.iterdir()}


def _taken(adapter: Adapter, names: Iterable[str]) -> dict[str, Path]:
    return {name: adapter.folder / name for name in sorted(names) if (adapter.folder / name).exists()}


def _from_adapter(adapter: Adapter, taken: Mapping[str, Path], base: Path) -> Finding:
    return make_finding(
        "GP121",
        f"{some(taken)} of {adapter.folder} count, not those of {base}: they were saved in training.",
        path=adapter.folder,
        key=next(iter(taken)),
    )


def _differences(adapters: Sequence[Adapter]) -> list[Finding]:
    found = []
    for other in adapters[1:]:
        first = adapters[0].folder
        names = sorted(name for name in _TOKENIZER if _content(first / name) != _content(other.folder / name))
        if names:
            found.append(
                make_finding(
                    "GP123",
                    f"{other.folder} brings another tokenizer than {first}, which is taken: {some(names)}.",
                    path=other.folder / names[0],
                    action="Give the adapter first whose tokenizer shall count.",
                )
            )
    return found


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
