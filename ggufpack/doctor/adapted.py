"""Adapters and their base model: read together, as a build reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from ggufpack.checkpoint import Checkpoint, TensorInfo, TensorTable
from ggufpack.checkpoint.adapted import open_model
from ggufpack.checkpoint.adapter import Adapter
from ggufpack.checkpoint.adapter_sources import find_sources
from ggufpack.checkpoint.tensors import read_tensors
from ggufpack.doctor.checkpoint import (
    CONVERTER,
    MODELFILE,
    PROMPT,
    WEIGHTS,
    check_deep,
    check_prompt,
    tell_facts,
)
from ggufpack.doctor.examination import Log
from ggufpack.errors import AdapterError
from ggufpack.spec import AdapterSpec, BuildSpec

MODEL = "adapter and base model"


def is_adapted(path: Path, base: Path | None, adapters: Sequence[AdapterSpec]) -> bool:
    """Whether there are adapters, given or in ``path``, and their base model."""
    if base is not None or adapters:
        return True
    try:
        return bool(find_sources(path, None, ()).adapters)
    except AdapterError:  # no base model: the checks of a checkpoint say what is missing
        return False


def check_adapted(
    log: Log, spec: BuildSpec, server_version: Callable[[], tuple[int, int, int] | None]
) -> None:
    """All checks of a base model with adapters. A fault of either ends the reading of both.

    Args:
        log: gets the findings.
        spec: checkpoint, base and adapters.
        server_version: asks the server that will run the model, when one was named.

    Raises:
        UsageError: ``spec`` has a base model for what is no adapter.
    """
    with ExitStack() as opened:
        model: Checkpoint | None = None
        with log.check(MODEL):
            model = opened.enter_context(open_model(spec.checkpoint, spec.base, spec.adapters))
            log.add(model.findings)
        if model is None or model.adaptation is None:
            log.skip_all((PROMPT, MODELFILE, WEIGHTS, CONVERTER), "there is no model to look at")
            return
        prompt = check_prompt(log, model, server_version)
        check_deep(log, _read_weights(model), spec)
        log.facts["folder"] = str(model.adaptation.base)
        log.facts["adapters"] = [str(adapter.folder) for adapter in model.adaptation.adapters]
        tell_facts(log, model.model_config, model.tensors, model.chat_template, prompt)


def _read_weights(model: Checkpoint) -> TensorTable:
    """All tensors that the merge reads: the base model's, and the adapters'."""
    if model.adaptation is None:
        return model.tensors
    table, _ = read_tensors(model.adaptation.base)
    found = dict(table)
    for adapter in model.adaptation.adapters:
        found.update((f"{adapter.folder.name}: {tensor.name}", tensor) for tensor in _tensors(adapter))
    return TensorTable(found, table.files)


def _tensors(adapter: Adapter) -> Iterator[TensorInfo]:
    for roles in adapter.modules.values():
        yield from roles.values()
    yield from adapter.whole.values()
