"""A Modelfile: its text, what it names, its TEMPLATE against the GGUF's chat template, its parameters."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ggufpack.doctor.examination import Log
from ggufpack.doctor.findings import make_finding
from ggufpack.doctor.gguf import GgufFacts, check_gguf
from ggufpack.doctor.prompts import check_go_template, check_stops, go_turn_ends
from ggufpack.doctor.raised import finding_of
from ggufpack.errors import ModelfileError, UsageError
from ggufpack.modelfile.model import Modelfile
from ggufpack.modelfile.options import DEPRECATED, typed_value
from ggufpack.modelfile.parse import parse
from ggufpack.spec import Finding

TEXT, NAMED, TEMPLATE, STOPS, PARAMETERS = (
    "Modelfile text",
    "FROM and ADAPTER",
    "TEMPLATE",
    "stops",
    "parameters",
)
MAX_BYTES = 16 << 20
_LINE = re.compile(r"Modelfile, line (\d+): ")
_INSTRUCTION = re.compile(r"^\s*(?:FROM|TEMPLATE|PARAMETER|SYSTEM|ADAPTER|MESSAGE)\b", re.M | re.I)
_MOST_ERRORS = 20
_FILE_SUFFIXES = (".gguf", ".safetensors", ".bin")
DEFAULT_NUM_CTX = 4096  # Ollama's, below 23 GiB of video memory

# parameter: lowest and highest value that means something (llama.cpp, common/sampling.cpp)
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "typical_p": (0, 1),
    "top_k": (0, 1_000_000),
    "repeat_penalty": (0.01, 2),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "num_ctx": (1, 1 << 24),
    "num_predict": (-2, 1 << 24),
    "repeat_last_n": (-1, 1 << 24),
}


def check_modelfile(
    log: Log,
    path: Path,
    model_exists: Callable[[str], bool] | None = None,
) -> Modelfile | None:
    """All checks of a Modelfile and of the GGUF that it names.

    Args:
        log: gets the findings.
        path: the file.
        model_exists: asks a server for the model that FROM names; ``None`` without a server.
    """
    modelfile = read_modelfile(log, path)
    if modelfile is None:
        log.skip_all((NAMED, TEMPLATE, STOPS, PARAMETERS), "there is no FROM, or the text cannot be read")
        return None
    gguf = None
    with log.check(NAMED):
        gguf = _named_file(log, modelfile, path, model_exists)
        for adapter in modelfile.adapters:
            _existing(log, adapter, path, "ADAPTER")
    facts = None
    if gguf is not None:
        facts = check_gguf(log, gguf, template=modelfile.template)
    else:
        log.skip("GGUF", f"there is no GGUF file here for FROM {modelfile.from_}")
    check_against_gguf(log, modelfile, facts, path)
    return modelfile


def check_against_gguf(
    log: Log,
    modelfile: Modelfile,
    facts: GgufFacts | None,
    path: Path | None,
    *,
    on_server: bool = False,
) -> None:
    """TEMPLATE, stops and parameters.

    Args:
        log: gets the findings.
        modelfile: read.
        facts: of the GGUF; ``None`` when they are not known.
        path: the Modelfile; ``None`` for what a server stored.
        on_server: the server itself says which template it uses.
    """
    jinja = None if facts is None else facts.jinja
    parsed = None
    if modelfile.template is not None:
        with log.check(TEMPLATE):
            parsed = check_go_template(
                log,
                modelfile.template,
                path=path,
                jinja=jinja,
                bos=None if facts is None else facts.vocabulary.text("bos"),
                add_bos=None if facts is None else facts.vocabulary.add_bos,
                predict_use=not on_server,
            )
        if jinja is None:
            log.skip("TEMPLATE against the chat template", "the model's chat template is not known here")
    elif facts is not None and facts.is_whole and facts.chat_template is None and not facts.is_encoder:
        log.add(
            [
                make_finding(
                    "GP562",
                    "There is neither a TEMPLATE nor a chat template in the GGUF: Ollama passes on the"
                    " text alone,"
                    " and the roles of a chat are lost.",
                    path=path,
                    key="TEMPLATE",
                    action="Write the TEMPLATE that `ggufpack template` prints for the checkpoint.",
                )
            ]
        )
    given = tuple(value for key, value in modelfile.parameters if key == "stop")
    wanted: tuple[str, ...] = ()
    if jinja is not None:
        wanted = jinja.stops
    elif parsed is not None and facts is not None:
        wanted = go_turn_ends(parsed, facts.vocabulary.special_texts)
    if facts is not None and facts.is_encoder:
        pass  # it has no turns
    elif facts is None or not wanted:
        log.skip(STOPS, "what ends a turn of this model is not known here")
    else:
        with log.check(STOPS):
            check_stops(log, wanted, given, facts.vocabulary.ends, path)
    with log.check(PARAMETERS):
        _check_parameters(log, modelfile, None if facts is None else facts.context_length, path, facts)


def read_modelfile(log: Log, path: Path) -> Modelfile | None:
    """The Modelfile, with every line that Ollama refuses as a finding of its own.

    What is left without those lines is given back, so that the other checks can run.
    """
    with log.check(TEXT):
        if not path.is_file():
            log.add([_no_text(path, "it is no regular file")])
            return None
        try:
            size = path.stat().st_size
            text = path.read_bytes().decode("utf-8") if size <= MAX_BYTES else None
        except UnicodeDecodeError as error:
            log.add([_no_text(path, f"byte {error.start:,} is not UTF-8")])
            return None
        except OSError as error:
            log.add([_no_text(path, error.strerror or str(error))])
            return None
        if text is None:
            log.add([_no_text(path, f"it has {size:,} bytes, and a Modelfile is a page of text")])
            return None
        if not _INSTRUCTION.search(text):
            log.add([_no_text(path, "no line of it begins with an instruction such as FROM or TEMPLATE")])
            return None
        return _parsed(log, text, path)
    return None


def _parsed(log: Log, text: str, path: Path) -> Modelfile | None:
    for _ in range(_MOST_ERRORS):
        try:
            return parse(text)
        except ModelfileError as error:
            line = _LINE.match(error.problem)
            said = finding_of(error)
            sentence = error.problem.replace("Modelfile", str(path), 1)
            log.add([Finding(said.id, said.severity, sentence, path, said.key, _repair(sentence))])
            if line is None or "quotes opened here" in sentence:
                return None  # whatever follows was swallowed
            text = _without(text, int(line[1]))
    return None


def _repair(sentence: str) -> str:
    if "no FROM" in sentence:
        return "Write FROM ./FILE.gguf as the first line."
    if "quotes opened here" in sentence:
        return 'Close them with """, after the last line of the text.'
    if "several FROM" in sentence:
        return "Keep the one that names the model."
    return (
        "Correct that line; the instructions are FROM, TEMPLATE, PARAMETER, SYSTEM, MESSAGE, ADAPTER,"
        " LICENSE,"
        " RENDERER, PARSER, REQUIRES and DRAFT."
    )


def _without(text: str, line: int) -> str:
    """``text`` with that line as a comment, and those of the quoted text that it opens."""
    lines = text.splitlines()
    index = line - 1
    last = index
    if index < len(lines) and lines[index].count('"""') == 1:
        last = next((i for i in range(index + 1, len(lines)) if '"""' in lines[i]), index)
    return "\n".join("#" if index <= i <= last else each for i, each in enumerate(lines)) + "\n"


def _no_text(path: Path, why: str) -> Finding:
    return make_finding(
        "GP550",
        f"{path} is not a Modelfile: {why}.",
        path=path,
        action="Check that it is the file you meant.",
    )


def _named_file(
    log: Log, modelfile: Modelfile, path: Path, model_exists: Callable[[str], bool] | None
) -> Path | None:
    """The GGUF that FROM names."""
    target = path.parent / Path(modelfile.from_).expanduser()
    if _looks_like_a_file(modelfile.from_) or target.exists():
        found = _existing(log, modelfile.from_, path, "FROM")
        if found is not None and found.is_dir():
            log.skip("GGUF", f"FROM names a folder, {found}: run ggufpack doctor on it")
            return None
        return found
    if model_exists is None:
        log.skip("FROM model", f"{modelfile.from_} is a model's name, and no server was named: pass --host")
    elif not model_exists(modelfile.from_):
        log.add(
            [
                make_finding(
                    "GP571",
                    f"{path}: FROM {modelfile.from_} is neither a file here nor a model on the server.",
                    path=path,
                    key="FROM",
                    action=f"Run `ollama pull {modelfile.from_}`, or write the path of a GGUF file as"
                    " ./FILE.gguf.",
                )
            ]
        )
    return None


def _looks_like_a_file(text: str) -> bool:
    return text.startswith((".", "/", "~")) or text.lower().endswith(_FILE_SUFFIXES)


def _existing(log: Log, named: str, path: Path, instruction: str) -> Path | None:
    target = path.parent / Path(named).expanduser()
    if not target.exists():
        beside = sorted(each.name for each in path.parent.glob("*.gguf"))
        hint = f" The folder has {', '.join(beside[:4])}." if beside else ""
        log.add(
            [
                make_finding(
                    "GP551",
                    f"{path}: {instruction} {named} is not there.{hint}",
                    path=path,
                    key=instruction,
                    action=f"Correct the path; it counts from the Modelfile's folder,"
                    f" {path.parent.resolve()}.",
                )
            ]
        )
        return None
    if not target.resolve().is_relative_to(path.parent.resolve()):
        log.add(
            [
                make_finding(
                    "GP552",
                    f"{path}: {instruction} {named} leaves the Modelfile's folder: moving one loses the"
                    " other.",
                    path=path,
                    key=instruction,
                    action="Put the file beside the Modelfile and name it ./FILE.",
                )
            ]
        )
    return target


def _check_parameters(
    log: Log, modelfile: Modelfile, context: int | None, path: Path | None, facts: GgufFacts | None
) -> None:
    keys = [key for key, _ in modelfile.parameters]
    for key, text in modelfile.parameters:
        if key in DEPRECATED:
            log.add(
                [
                    make_finding(
                        "GP557",
                        f"PARAMETER {key}: Ollama has it no more, and drops it with a warning.",
                        path=path,
                        key=key,
                        action="Take the line out.",
                    )
                ]
            )
            continue
        try:
            value = typed_value(key, text)
        except UsageError as error:
            said = finding_of(error)
            log.add([Finding(said.id, said.severity, said.message, path, key, said.action)])
            continue
        low, high = _RANGES.get(key, (float("-inf"), float("inf")))
        if isinstance(value, (int, float)) and not low <= value <= high:
            log.add(
                [
                    make_finding(
                        "GP560",
                        f"PARAMETER {key} is {text}, outside {low:g} to {high:g}.",
                        path=path,
                        key=key,
                        action="Correct it, or take the line out.",
                    )
                ]
            )
        if key == "num_ctx" and context is not None and isinstance(value, int) and value > context:
            log.add(
                [
                    make_finding(
                        "GP559",
                        f"PARAMETER num_ctx is {value:,}, and the model was trained for {context:,} tokens:"
                        " answers behind those degrade.",
                        path=path,
                        key="num_ctx",
                        action=f"Set it to {context} at most.",
                    )
                ]
            )
    generates = facts is None or not facts.is_encoder
    if "num_ctx" not in keys and generates and (context is None or context > DEFAULT_NUM_CTX):
        of = "" if context is None else f" of the model's {context:,}"
        log.add(
            [
                make_finding(
                    "GP558",
                    f"num_ctx is not set: Ollama takes {DEFAULT_NUM_CTX:,}{of} tokens on most machines,"
                    " and drops"
                    " the oldest messages without a word.",
                    path=path,
                    key="num_ctx",
                    action=f"Add a line such as PARAMETER num_ctx {min(context or 8192, 8192)}",
                )
            ]
        )
