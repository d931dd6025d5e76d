"""The options that ``build`` and ``plan`` share, and the spec that they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ggufpack.spec import BuildSpec

F = TypeVar("F", bound=Callable[..., Any])

FIDELITY_OPTIONS = (
    click.option(
        "--calibration",
        type=click.Path(path_type=Path),
        metavar="FILE|DIR",
        help="Texts for fidelity: text files, or JSON lines with chats.  [default: a built-in set]",
    ),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        metavar="auto|cpu|cuda",
        help="Where fidelity runs the trained model.",
    ),
)
base_option = click.option(
    "--base",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Base model of CHECKPOINT, when that is a PEFT adapter.  [default: the folder that it names]",
)
ADAPTER_OPTIONS = (
    base_option,
    click.option(
        "--adapter",
        "adapters",
        multiple=True,
        metavar="DIR[=WEIGHT]",
        help="PEFT adapter that is merged into the model while it is converted; may be repeated.",
    ),
)
FROM_OPTION = click.option(
    "--from",
    "from_model",
    metavar="NAME",
    help="A model on the server: CHECKPOINT, an adapter, is not merged but registered as an ADAPTER layer on"
    " that model. Of its base folder (--base) only configuration, tokenizer and shapes are read.",
)


def _reuse_option(default: bool) -> Callable[[Any], Any]:
    return click.option(
        "--reuse/--no-reuse",
        default=default,
        show_default=True,
        help="Take quantised tensors from the cache, and put them there.",
    )


_OPTIONS = (
    click.argument("checkpoint", type=click.Path(path_type=Path)),
    click.option("--name", help="Name in Ollama.  [default: the folder's name]"),
    *ADAPTER_OPTIONS,
    FROM_OPTION,
    click.option(
        "-q",
        "--quantization",
        multiple=True,
        default=("Q4_K_M",),
        show_default=True,
        metavar="TYPE[,TYPE…]",
        help="F16, Q8_0, Q4_K_M … (llama.cpp's names). Several are made in one read.",
    ),
    click.option(
        "--imatrix",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Importance matrix for the quantiser, as llama-imatrix writes it for this model.",
    ),
    click.option(
        "--output",
        type=click.Path(file_okay=False, path_type=Path),
        help="Gets the package folder NAME/.  [default: ggufpack-out]",
    ),
    click.option(
        "--template",
        default="auto",
        show_default=True,
        metavar="auto|native|NAME|FILE",
        help="The chat template: the checkpoint's own (auto; native leaves it to Ollama ≥ 0.30), a named one"
        " for checkpoints that have none, or a Jinja file.",
    ),
    click.option(
        "--vision/--no-vision",
        default=True,
        show_default=True,
        help="Package the vision tower of a checkpoint that has one, so that the model takes images.",
    ),
    click.option("--system", metavar="TEXT", help="SYSTEM text of the Modelfile."),
    click.option(
        "--parameter",
        "parameters",
        multiple=True,
        metavar="K=V",
        help="Modelfile parameter that replaces the derived one; repeat it for several stops.",
    ),
    click.option("--host", metavar="URL", help="Ollama server.  [default: OLLAMA_HOST]"),
    click.option(
        "--register/--no-register",
        "register",
        default=None,
        help="Register the model.  [default: when a server answers]",
    ),
    click.option(
        "--verify",
        type=click.Choice(["none", "prompts", "smoke", "fidelity"]),
        default="smoke",
        show_default=True,
        help="How much to prove: prompts; then answers and stops (smoke); then the tokenizer and every"
        " token's probabilities against the trained model's (fidelity).",
    ),
    *FIDELITY_OPTIONS,
    click.option("--overwrite", is_flag=True, help="Replace a package and models of the same name."),
    click.option("--allow", multiple=True, metavar="ID", help="Accept a finding that would stop the build."),
    click.option(
        "--cache",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Folder of the tensor cache.  [default: the user's]",
    ),
    click.option("--threads", type=click.IntRange(1), metavar="N", help="Quantisation threads."),
    click.option(
        "--trust-remote-code", is_flag=True, help="Run Python code that the checkpoint brings along."
    ),
)


def with_options(options: Sequence[Callable[[Any], Any]]) -> Callable[[F], F]:
    """Adds options, in this order."""

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_STORE_OPTION = click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Put the model into an offline store, too: a folder as OLLAMA_MODELS names one.",
)
build_options = with_options((*_OPTIONS, _STORE_OPTION, _reuse_option(False)))
# all but the one checkpoint; the name is a pattern
batch_options = with_options(
    (
        click.option(
            "--name",
            metavar="PATTERN",
            help="Of packages, from {run} {step} {type} {checkpoint} {adapter}: '{run}-{step}:{type}'."
            "  [default: {run}-{step} for checkpoint-N, else the folder's name]",
        ),
        *_OPTIONS[2:],
        _reuse_option(True),
    )
)


def make_spec(**values: Any) -> BuildSpec:
    """The spec of these options.

    Raises:
        UsageError: a type or parameter that cannot be meant.
    """
    from ggufpack.checkpoint.adapter_sources import parse_adapter
    from ggufpack.quantize.types import parse_file_types
    from ggufpack.spec import BuildSpec

    register = values.pop("register")
    return BuildSpec(
        quantizations=parse_file_types(",".join(values.pop("quantization"))),
        parameters=_parameters(values.pop("parameters")),
        allow=frozenset(word.upper() for word in values.pop("allow")),
        adapters=tuple(parse_adapter(word) for word in values.pop("adapters")),
        register=register is not False,
        require_server=register is True,
        **values,
    )


def _parameters(words: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    from ggufpack.errors import UsageError

    found: dict[str, tuple[str, ...]] = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or not key:
            raise UsageError(f"--parameter {word}: there is no KEY=VALUE.", key=word)
        found[key] = (*found.get(key, ()), value)
    return found
