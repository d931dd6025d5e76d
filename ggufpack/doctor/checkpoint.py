"""A checkpoint folder: the steps of ``open_checkpoint``, each on its own, so that all findings come up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ggufpack.chat_template.prompt import Prompt, prepare_prompt
from ggufpack.checkpoint import (
    Checkpoint,
    Generation,
    ModelConfig,
    TensorTable,
    Tokenizer,
    layout_findings,
    license_files,
    locate,
    pooling_findings,
)
from ggufpack.checkpoint.chat_template import ChatTemplate, read_chat_template
from ggufpack.checkpoint.checks import cross_checks
from ggufpack.checkpoint.config import check_weight_format, read_config
from ggufpack.checkpoint.generation import GENERATION_CONFIG, read_generation
from ggufpack.checkpoint.header import read_header
from ggufpack.checkpoint.jsonfiles import read_object
from ggufpack.checkpoint.layers import check_layers
from ggufpack.checkpoint.layout import ADAPTER_CONFIG, CONFIG
from ggufpack.checkpoint.links import refuse_hostile_entries
from ggufpack.checkpoint.sentence import read_pipeline
from ggufpack.checkpoint.tensors import read_tensors
from ggufpack.checkpoint.tokenizer import TOKENIZER_CONFIG, TOKENIZER_FILES, read_tokenizer
from ggufpack.doctor.examination import DEEP, Log
from ggufpack.doctor.raised import finding_of
from ggufpack.errors import CheckpointError, CheckpointLayoutError
from ggufpack.modelfile.assemble import assemble, for_text
from ggufpack.modelfile.render import inexpressible
from ggufpack.spec import BuildSpec, Severity

LAYOUT, CONFIGURATION, TENSORS, FORMAT, LAYERS, GENERATION, TOKENIZER, SOURCE, CROSS, PROMPT, MODELFILE = (
    "layout",
    "configuration",
    "tensors",
    "weight format",
    "layers",
    "generation configuration",
    "tokenizer",
    "chat template source",
    "cross-checks",
    "chat template",
    "Modelfile",
)
WEIGHTS, CONVERTER = "weights", "converter"
_ALL = (CONFIGURATION, TENSORS, FORMAT, LAYERS, GENERATION, TOKENIZER, SOURCE, CROSS, PROMPT, MODELFILE)
_REMARKABLE = frozenset({CONFIG, ADAPTER_CONFIG, *TOKENIZER_FILES, "chat_template.jinja"})


@dataclass
class _Parts:
    """What could be read so far; ``None`` is what could not."""

    folder: Path
    config: ModelConfig | None = None
    tensors: TensorTable | None = None
    generation: Generation | None = None
    tokenizer: Tokenizer | None = None
    tokenizer_config: dict[str, Any] = field(default_factory=dict)
    chat_template: ChatTemplate | None = None
    source_read: bool = False

    def unread(self) -> str:
        """What is missing for a checkpoint."""
        parts = {
            CONFIG: self.config is not None,
            "the generation configuration": self.generation is not None,
            "the tokenizer": self.tokenizer is not None,
            "the chat template's source": self.source_read,
        }
        return " and ".join(name for name, is_there in parts.items() if not is_there)

    def checkpoint(self) -> Checkpoint | None:
        """For the stages behind; they look at no tensor, so broken weights do not keep them."""
        if self.config is None or self.generation is None or self.tokenizer is None or not self.source_read:
            return None
        return Checkpoint(
            folder=self.folder,
            model_config=self.config,
            generation=self.generation,
            tensors=self.tensors or TensorTable({}, ()),
            tokenizer=self.tokenizer,
            chat_template=self.chat_template,
            license_files=license_files(self.folder),
            findings=(),
        )


def check_checkpoint(log: Log, path: Path, server_version: Callable[[], tuple[int, int, int] | None]) -> None:
    """All checks of a checkpoint folder.

    Args:
        log: gets the findings.
        path: the folder.
        server_version: asks the server that will run the model, when one was named.
    """
    parts = _locate(log, path)
    if parts is None:
        return
    _read_parts(log, parts)
    _check_together(log, parts)
    checkpoint = parts.checkpoint()
    prompt = None
    if checkpoint is None:
        log.skip_all((PROMPT, MODELFILE), f"{parts.unread()} cannot be read")
    else:
        prompt = check_prompt(log, checkpoint, server_version)
    check_deep(log, parts.tensors, BuildSpec(parts.folder))
    log.facts["folder"] = str(parts.folder)
    tell_facts(log, parts.config, parts.tensors, parts.chat_template, prompt)


def check_prompt(
    log: Log, checkpoint: Checkpoint, server_version: Callable[[], tuple[int, int, int] | None]
) -> Prompt | None:
    """Whether the chat template can be carried over, and the Modelfile that it gives."""
    prompt = None
    with log.check(PROMPT):
        prompt = prepare_prompt(checkpoint, "auto", server_version())
        log.add(prompt.findings)
    if prompt is None:
        log.skip(MODELFILE, "the chat template cannot be carried over")
    else:
        with log.check(MODELFILE):
            _check_modelfile(log, checkpoint, prompt)
    return prompt


def _locate(log: Log, path: Path) -> _Parts | None:
    with log.check(LAYOUT):
        try:
            folder = locate(path)
        except CheckpointLayoutError as error:
            log.add([finding_of(error)])
        else:
            log.add(layout_findings(path, folder))
            return _Parts(folder)
    reason = "there is not one checkpoint here to look at"
    if path.is_dir() and any((path / name).is_file() for name in _REMARKABLE):
        # not a whole checkpoint; what is there can be looked at all the same
        try:
            refuse_hostile_entries(path)
        except CheckpointLayoutError:
            reason = "the folder has what no checkpoint has"
        else:
            return _Parts(path)
    log.skip_all((*_ALL, WEIGHTS, CONVERTER), reason)
    return None


def _read_parts(log: Log, parts: _Parts) -> None:
    folder = parts.folder
    if (folder / CONFIG).is_file():
        with log.check(CONFIGURATION):
            parts.config, raised = read_config(folder)
            pipeline = read_pipeline(folder) if parts.config.embeds else None
            log.add([*raised, *pooling_findings(folder, parts.config, pipeline)])
    else:
        log.skip(CONFIGURATION, f"there is no {CONFIG}")
    if any(folder.glob("model*.safetensors*")):
        with log.check(TENSORS):
            _read_tensors(log, parts)
    else:
        log.skip(TENSORS, "there is no model*.safetensors")
    if parts.config is None and not (folder / GENERATION_CONFIG).is_file():
        log.skip(GENERATION, f"there is neither {GENERATION_CONFIG} nor a {CONFIG} that can be read")
    else:
        _read_generation(log, parts)
    with log.check(TOKENIZER):
        parts.tokenizer, parts.tokenizer_config, raised = read_tokenizer(folder)
        log.add(raised)
    if parts.tokenizer is None and (folder / TOKENIZER_CONFIG).is_file():
        try:
            parts.tokenizer_config = read_object(folder / TOKENIZER_CONFIG)
        except CheckpointError as error:
            log.add([finding_of(error)])
            log.skip(SOURCE, f"{TOKENIZER_CONFIG} cannot be read")
            return
    with log.check(SOURCE):
        parts.chat_template, raised = read_chat_template(folder, parts.tokenizer_config)
        log.add(raised)
        parts.source_read = not any(finding.id == "GP403" for finding in raised)


def _read_generation(log: Log, parts: _Parts) -> None:
    config = parts.config
    with log.check(GENERATION):
        parts.generation, raised = read_generation(
            parts.folder,
            {} if config is None else config.text,
            parts.folder / CONFIG,
            generates=config is None or not config.embeds,
        )
        log.add(raised)


def _read_tensors(log: Log, parts: _Parts) -> None:
    try:
        parts.tensors, raised = read_tensors(parts.folder)
        log.add(raised)
    except CheckpointError as error:
        log.add([finding_of(error)])
        # the first fault ended it: look for more in the other files
        for file in sorted(parts.folder.glob("model*.safetensors")):
            try:
                read_header(file)
            except CheckpointError as other:
                log.add([finding_of(other)])


def _check_together(log: Log, parts: _Parts) -> None:
    config, tensors = parts.config, parts.tensors
    if config is None or tensors is None:
        missing = "config.json" if config is None else "the weights"
        log.skip_all((FORMAT, LAYERS, CROSS), f"{missing} cannot be read")
        return
    with log.check(FORMAT):
        check_weight_format(config, {name: tensor.dtype for name, tensor in tensors.items()})
    with log.check(LAYERS):
        log.add(check_layers(tensors, config.text, parts.folder))
    if parts.generation is None or parts.tokenizer is None:
        log.skip(CROSS, "the tokenizer or the generation configuration cannot be read")
        return
    with log.check(CROSS):
        log.add(cross_checks(config, parts.generation, tensors, parts.tokenizer))


def _check_modelfile(log: Log, checkpoint: Checkpoint, prompt: Prompt) -> None:
    modelfile, raised = assemble(checkpoint, prompt, "./model.gguf", system=None, overrides={})
    log.add(raised)
    text, left_out = for_text(modelfile)
    log.add([*left_out, *inexpressible(text)])
    log.facts["parameters"] = [list(pair) for pair in modelfile.parameters]


def check_deep(log: Log, tensors: TensorTable | None, spec: BuildSpec) -> None:
    """Every weight of ``tensors``, and a dry run of the converter as a build of ``spec`` would have it."""
    if not log.deep:
        log.skip(WEIGHTS, DEEP)
        log.skip(CONVERTER, "it loads the converter for a dry run: pass --deep")
        return
    if tensors is None:
        log.skip_all((WEIGHTS, CONVERTER), "the weights cannot be read")
        return
    from ggufpack.doctor.weights import check_checkpoint_weights

    with log.check(WEIGHTS), log.reading("the weights"):
        check_checkpoint_weights(log, tensors)
    if any(finding.severity is Severity.ERROR for finding in log.findings):
        log.skip(CONVERTER, "errors that were found would stop it")
        return
    from ggufpack.pipeline import plan

    with log.check(CONVERTER):
        log.add(plan(replace(spec, name="doctor", register=False)).findings)


def tell_facts(
    log: Log,
    config: ModelConfig | None,
    tensors: TensorTable | None,
    chat_template: ChatTemplate | None,
    prompt: Prompt | None,
) -> None:
    """What was read, for those who want it whole."""
    if config is not None:
        log.facts["architecture"] = config.architecture
        log.facts["context_length"] = config.context_length
    if tensors is not None:
        log.facts["parameters_count"] = tensors.parameters
        log.facts["dtypes"] = dict(tensors.dtypes)
    if chat_template is not None:
        log.facts["chat_template"] = str(chat_template.origin)
    if prompt is not None:
        log.facts["strategy"] = prompt.plan.strategy
        log.facts["stops"] = list(prompt.stops)
        log.facts["refused"] = [one.to_json() for one in prompt.plan.refused]
