"""What the page and the Markdown show, worked out from the record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ggufpack.proofs import EmbeddingFidelity, Fidelity, PromptCase, TokenizerMiss, Verification
from ggufpack.report import embeddings
from ggufpack.report.reading import File, FoundItem, Record
from ggufpack.report.words import (
    cosine,
    counted,
    json_text,
    listed,
    megabytes,
    percent,
    seconds,
    short,
    significant,
)

Pairs = tuple[tuple[str, str], ...]
State = Literal["ok", "bad", "unchecked"]
Status = Literal["verified", "unverified", "failed"]
_SEVERITIES = ("error", "warning", "info")
_FIELDS = {"thinking": "thinking", "tool_calls": "tool calls"}


@dataclass(frozen=True)
class Cell:
    """One result: its state is said in words too."""

    state: State
    text: str
    detail: str | None = None


@dataclass(frozen=True)
class Row:
    """One thing that was checked, with a cell for each type."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Type:
    """One file of the package, and what was proven about it. Either may be missing in a record."""

    name: str
    file: File | None
    proof: Verification | None

    @property
    def fidelity(self) -> Fidelity | None:
        """Its figures, when they were measured."""
        return None if self.proof is None else self.proof.fidelity

    @property
    def embedding(self) -> EmbeddingFidelity | None:
        """The figures of an embedding model, when they were measured."""
        return None if self.proof is None else self.proof.embedding

    @property
    def state(self) -> State:
        """Of all its checks together."""
        if self.proof is None or not self.proof.checked:
            return "unchecked"
        return "ok" if self.proof.passed else "bad"

    @property
    def problems(self) -> tuple[str, ...]:
        """What is not as trained, the gravest first."""
        proof = self.proof
        if proof is None or not proof.checked:
            return ()
        found = []
        differ = sum(not case.equal for case in proof.prompts)
        if differ:
            found.append(f"{differ} of {counted(len(proof.prompts), 'prompt')} differ")
        if proof.tokenizer is not None and (wrong := proof.tokenizer.ordinary_misses):
            found.append(f"{counted(len(wrong), 'ordinary text')} cut into other tokens")
        if proof.smoke is not None and not proof.smoke.ok:
            what = "embedding" if proof.embeds else "answer"
            found.append(f"the {what} is wrong ({proof.smoke.detail or proof.smoke.done_reason})")
        found += [f"it does not end at {check.stop}" for check in proof.stops if check.ended is False]
        found += [f"{_FIELDS[check.field]} not parsed" for check in proof.parsed if check.parsed is False]
        if proof.fidelity is not None and proof.fidelity.verdict != "sound":
            found.append("rounding does not explain the difference of its probabilities")
        if proof.embedding is not None and proof.embedding.verdict != "sound":
            found.append("rounding does not explain the difference of its vectors")
        if proof.logprobs is not None and not proof.logprobs.equal:
            found.append("the server's probabilities are not this file's")
        return (*found,)


@dataclass(frozen=True)
class PromptMiss:
    """A prompt that is not as trained, in these types."""

    types: tuple[str, ...]
    case: PromptCase


@dataclass(frozen=True)
class CutMiss:
    """A text that the GGUF's tokenizer cuts differently, in these types."""

    types: tuple[str, ...]
    miss: TokenizerMiss


@dataclass(frozen=True)
class Headline:
    """A figure that matters, first on the page."""

    label: str
    value: str
    state: State
    note: str = ""


@dataclass(frozen=True)
class View:
    """Everything that is shown. ``unchecked``: what was not looked at, with the types."""

    record: Record
    status: Status
    verdict: str
    headlines: tuple[Headline, ...]
    types: tuple[Type, ...]
    prompts: tuple[Row, ...]
    prompt_misses: tuple[PromptMiss, ...]
    cut_misses: tuple[CutMiss, ...]
    behaviour: tuple[Row, ...]
    findings: tuple[FoundItem, ...]
    unchecked: tuple[str, ...]

    @property
    def measured(self) -> tuple[Type, ...]:
        """The types whose fidelity was measured."""
        return tuple(item for item in self.types if item.fidelity is not None)

    @property
    def embeds(self) -> bool:
        """Whether it is an embedding model, which has no prompts, answers and stops."""
        return any(item.proof is not None and item.proof.embeds for item in self.types)

    @property
    def embedded(self) -> tuple[Type, ...]:
        """The types whose vectors were compared."""
        return tuple(item for item in self.types if item.embedding is not None)

    @property
    def quantiles(self) -> tuple[str, ...]:
        """Of the KL of single tokens: which any type has, in per cent."""
        return (*dict.fromkeys(q for f in self._fidelities for q in f.kl_quantiles),)

    @property
    def edges(self) -> tuple[float, ...]:
        """Of the histogram's bins that hold a token of any type; log10 nats."""
        return (*sorted({edge for f in self._fidelities for edge, count in f.kl_histogram if count}),)

    @property
    def _fidelities(self) -> tuple[Fidelity, ...]:
        return tuple(item.fidelity for item in self.types if item.fidelity is not None)

    @property
    def request(self) -> Pairs:
        """What was asked for."""
        return _pairs(self.record.request)

    @property
    def versions(self) -> Pairs:
        """Of the packages that took part."""
        return _pairs(self.record.versions)

    @property
    def converter(self) -> Pairs:
        """Where the converter is from."""
        return _pairs(self.record.converter)

    @property
    def imatrix(self) -> Pairs:
        """The importance matrix."""
        return _pairs(self.record.imatrix or {})

    @property
    def costs(self) -> Pairs:
        """Seconds by stage, and the worker's memory."""
        result = self.record.result
        memory = result.peak_worker_rss
        return (
            *((stage, seconds(value)) for stage, value in result.seconds.items()),
            ("worker's memory", "not measured" if memory is None else megabytes(memory)),
        )


def _pairs(values: Mapping[str, Any]) -> Pairs:
    return tuple((name.replace("_", " "), json_text(value)) for name, value in values.items())


def make_view(record: Record) -> View:
    """What to show of a record."""
    types = _types(record)
    status = _status(record, types)
    order = {name: place for place, name in enumerate(_SEVERITIES)}
    findings = [item for item in record.result.findings if item.severity != "unchecked"]
    return View(
        record=record,
        status=status,
        verdict=_verdict(record, types, status),
        headlines=_headlines(types),
        types=types,
        prompts=_prompt_rows(types),
        prompt_misses=_prompt_misses(types),
        cut_misses=_cut_misses(types),
        behaviour=_behaviour(types),
        findings=tuple(sorted(findings, key=lambda item: order[item.severity])),
        unchecked=_unchecked(record, types),
    )


def _types(record: Record) -> tuple[Type, ...]:
    """Files with their proofs: by the type's name, by the model's tag, or by their place."""
    left = list(record.result.verifications)
    found: list[Type] = []
    in_order = len(left) == len(record.result.files)
    for index, file in enumerate(record.result.files):
        proof = next((item for item in left if _type_name(item) == file.quantization.upper()), None)
        if proof is None and in_order:
            proof = record.result.verifications[index]
        if proof in left:
            left.remove(proof)
        found.append(Type(file.quantization, file, proof))
    return (*found, *(Type(_type_name(proof) or proof.model, None, proof) for proof in left))


def _type_name(proof: Verification) -> str:
    return (proof.quantization or proof.model.rpartition(":")[2]).upper()


def _status(record: Record, types: Sequence[Type]) -> Status:
    """The worse of what the record says and what its results say."""
    states = {item.state for item in types}
    if record.result.status == "failed" or "bad" in states:
        return "failed"
    return "verified" if states == {"ok"} and record.result.status == "verified" else "unverified"


# --- the verdict --------------------------------------------------------------


def _verdict(record: Record, types: Sequence[Type], status: Status) -> str:
    name = record.result.name
    if status == "failed":
        wrong = [item for item in types if item.problems]
        if not wrong:
            return f"{name} does not behave as trained: the record says that a check failed, and not which."
        where = "" if len(types) == 1 else f" in {listed(item.name for item in wrong)}"
        first, *more = dict.fromkeys(problem for item in wrong for problem in item.problems)
        rest = f", and {counted(len(more), 'more problem')}" if more else ""
        return f"{name} does not behave as trained{where}: {first}{rest}."
    checked = [item for item in types if item.state == "ok"]
    if not checked:
        return f"Nothing was checked: whether {name} behaves as trained is not known."
    missing = [item.name for item in types if item.state == "unchecked"]
    rest = f"; nothing is known of {listed(missing)}" if missing else ""
    return f"{name} passed every check that was made: {listed(_merits(checked))}{rest}."


def _merits(types: Sequence[Type]) -> list[str]:
    proofs = [item.proof for item in types if item.proof is not None]
    merits = []
    if prompts := sum(len(proof.prompts) for proof in proofs):
        merits.append(f"{counted(prompts, 'prompt')} of {prompts:,} equal the trained model's")
    if any(proof.tokenizer for proof in proofs) and not embeddings.cut_otherwise(proofs):
        merits.append("ordinary text is cut into the same tokens")
    if any(check.ended for proof in proofs for check in proof.stops):
        merits.append("every stop that was tried ends the answer")
    elif any(proof.smoke and not proof.embeds for proof in proofs):
        merits.append("the answer ends by itself")
    if any(proof.fidelity for proof in proofs):
        merits.append("rounding explains every difference of probabilities")
    merits += embeddings.merits(proofs)
    return merits


def _headlines(types: Sequence[Type]) -> tuple[Headline, ...]:
    proofs = [item.proof for item in types if item.proof is not None]
    cases = [case for proof in proofs for case in proof.prompts]
    stops = [check for proof in proofs for check in proof.stops if check.ended is not None]
    if any(proof.embeds for proof in proofs):
        return tuple(_nearness(item) for item in types)
    return (
        _share("Prompts equal", [case.equal for case in cases]),
        *(_closeness(item) for item in types if item.fidelity is not None),
        _share("Stops that end", [bool(check.ended) for check in stops]),
    )


def _share(label: str, results: Sequence[bool]) -> Headline:
    if not results:
        return Headline(label, "not checked", "unchecked")
    return Headline(label, f"{sum(results):,} of {len(results):,}", "ok" if all(results) else "bad")


def _nearness(item: Type) -> Headline:
    found, label = item.embedding, f"Cosine, {item.name}"
    if found is None:
        return Headline(label, "not checked", "unchecked")
    state: State = "ok" if found.verdict == "sound" else "bad"
    return Headline(label, cosine(found.cosine_mean), state, f"lowest {cosine(found.cosine_min)}")


def _closeness(item: Type) -> Headline:
    fidelity = item.fidelity
    assert fidelity is not None  # noqa: S101 - the caller's filter
    return Headline(
        f"KL, {item.name}",
        significant(fidelity.kl.value),
        "ok" if fidelity.verdict == "sound" else "bad",
        f"top-1 {percent(fidelity.top1.value)}",
    )


# --- rows of results ----------------------------------------------------------

_NOT_CHECKED = Cell("unchecked", "not checked")


def _prompt_rows(types: Sequence[Type]) -> tuple[Row, ...]:
    def cell(proof: Verification, name: str) -> Cell | None:
        case = next((case for case in proof.prompts if case.name == name), None)
        if case is None:
            return None
        tokens = _tokens(case)
        if case.equal:
            return Cell("ok", f"equal{tokens}")
        return Cell("bad", f"refused{tokens}" if case.actual is None else f"differs{tokens}", case.detail)

    return _rows(types, lambda proof: [case.name for case in proof.prompts], cell)


def _tokens(case: PromptCase) -> str:
    if case.expected_tokens is None:
        return ""
    if case.actual_tokens is None or case.actual_tokens == case.expected_tokens:
        return f", {counted(case.expected_tokens, 'token')}"
    return f", {case.actual_tokens:,} tokens for {case.expected_tokens:,}"


def _behaviour(types: Sequence[Type]) -> tuple[Row, ...]:
    return (
        *_rows(types, lambda proof: [_smoke_label(proof)] if proof.smoke else [], _smoke_cell),
        *_rows(
            types, lambda proof: [_stop_label(check.kind, check.stop) for check in proof.stops], _stop_cell
        ),
        *_rows(types, lambda proof: [_parsed_label(check.field) for check in proof.parsed], _parsed_cell),
        *_rows(types, lambda proof: ["Tokenizer"] if proof.tokenizer else [], _tokenizer_cell),
        *_rows(types, lambda proof: ["Log probabilities"] if proof.logprobs else [], _logprob_cell),
    )


def _smoke_label(proof: Verification) -> str:
    return "Makes an embedding" if proof.embeds else "Ends an answer by itself"


def _stop_label(kind: str, stop: str) -> str:
    return f"Ends at the {'stop' if kind == 'string' else 'end token'} {stop}"


def _parsed_label(field: str) -> str:
    return f"Parses {_FIELDS[field]}"


def _smoke_cell(proof: Verification, _label: str) -> Cell | None:
    if proof.smoke is None:
        return None
    if proof.embeds:
        return Cell("ok" if proof.smoke.ok else "bad", proof.smoke.text, proof.smoke.detail)
    done = f"{counted(proof.smoke.generated_tokens, 'token')}, {proof.smoke.done_reason}"
    return Cell("ok", done) if proof.smoke.ok else Cell("bad", done, proof.smoke.detail)


def _stop_cell(proof: Verification, label: str) -> Cell | None:
    for check in proof.stops:
        if _stop_label(check.kind, check.stop) == label:
            if check.ended is None:
                return Cell("unchecked", "not tried", check.detail)
            return Cell("ok", "ends") if check.ended else Cell("bad", "does not end", check.detail)
    return None


def _parsed_cell(proof: Verification, label: str) -> Cell | None:
    for check in proof.parsed:
        if _parsed_label(check.field) == label:
            if check.parsed is None:
                return Cell("unchecked", "not seen", check.detail)
            return Cell("ok", "parsed") if check.parsed else Cell("bad", "not parsed", check.detail)
    return None


def _tokenizer_cell(proof: Verification, _label: str) -> Cell | None:
    if proof.tokenizer is None:
        return None
    texts, misses = proof.tokenizer.texts, len(proof.tokenizer.misses)
    same = f"{texts - misses:,} of {texts:,} texts cut the same"
    detail = "rare texts differ" if misses and not proof.tokenizer.ordinary_misses else None
    return Cell("bad" if proof.tokenizer.ordinary_misses else "ok", same, detail)


def _logprob_cell(proof: Verification, _label: str) -> Cell | None:
    check = proof.logprobs
    if check is None:
        return None
    text = f"within {short(check.largest)} in {counted(check.cases, 'conversation')}"
    if check.equal:
        return Cell("ok", f"{text} (limit {short(check.limit)})")
    return Cell("bad", f"{text}, over the limit of {short(check.limit)}", check.detail)


def _rows(
    types: Sequence[Type],
    labels: Callable[[Verification], Sequence[str]],
    cell: Callable[[Verification, str], Cell | None],
) -> tuple[Row, ...]:
    names = dict.fromkeys(label for item in types if item.proof for label in labels(item.proof))
    return tuple(
        Row(name, tuple((item.proof and cell(item.proof, name)) or _NOT_CHECKED for item in types))
        for name in names
    )


# --- misses, and what was not checked -----------------------------------------


def _prompt_misses(types: Sequence[Type]) -> tuple[PromptMiss, ...]:
    found: dict[PromptCase, list[str]] = {}
    for item in types:
        for case in item.proof.prompts if item.proof else ():
            if not case.equal:
                found.setdefault(case, []).append(item.name)
    return tuple(PromptMiss(tuple(names), case) for case, names in found.items())


def _cut_misses(types: Sequence[Type]) -> tuple[CutMiss, ...]:
    found: dict[TokenizerMiss, list[str]] = {}
    for item in types:
        for miss in item.proof.tokenizer.misses if item.proof and item.proof.tokenizer else ():
            found.setdefault(miss, []).append(item.name)
    return tuple(CutMiss(tuple(names), miss) for miss, names in found.items())


def _unchecked(record: Record, types: Sequence[Type]) -> tuple[str, ...]:
    """Findings first: they say why. Then what the results are silent about."""
    said = [f"{item.message} ({item.id})" for item in record.result.findings if item.severity == "unchecked"]
    where: dict[str, list[str]] = {}
    for item in types:
        for what in _silent(item.proof):
            where.setdefault(what, []).append(item.name)
    everywhere = len(types)
    silent = [
        what if len(names) == everywhere else f"{what} ({listed(names)})" for what, names in where.items()
    ]
    digest = record.checkpoint.tensors.weights_digest
    weights = ["The weights of the checkpoint: no digest was computed"] if digest == "not computed" else []
    return (*dict.fromkeys([*said, *silent, *weights]),)


def _silent(proof: Verification | None) -> list[str]:
    if proof is None or not proof.checked:
        return ["Anything at all: no verification was made"]
    if proof.embeds:
        return embeddings.silent(proof)
    missing = []
    if not proof.prompts:
        missing.append("Prompts: none was compared")
    elif all(case.actual_tokens is None for case in proof.prompts):
        missing.append("Prompt lengths in tokens")
    if proof.tokenizer is None:
        missing.append("The GGUF's tokenizer against the checkpoint's")
    if proof.smoke is None:
        missing.append("An answer: none was generated")
    if not proof.stops:
        missing.append("Stops, one by one")
    missing += [f"The stop {c.stop}: {c.detail or 'not tried'}" for c in proof.stops if c.ended is None]
    missing += [
        f"Parsing of {_FIELDS[c.field]}: {c.detail or 'none was seen'}"
        for c in proof.parsed
        if c.parsed is None
    ]
    if proof.fidelity is None:
        missing.append("Fidelity: next-token probabilities were not compared with the trained model's")
    if proof.logprobs is None:
        missing.append("The server's log probabilities against the file's")
    return missing
