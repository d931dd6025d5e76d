"""A package as a run of an experiment tracker: settings, figures and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufpack.proofs import Estimate, Fidelity
from ggufpack.publishing.package import read_package
from ggufpack.report.page import REPORT_NAME
from ggufpack.report.reading import Record
from ggufpack.report.view import Type, make_view


@dataclass(frozen=True)
class Run:
    """What a tracker keeps of a package.

    Attributes:
        name: the package's.
        config: what it was made of: types, digests, versions, what was asked for.
        figures: ``"TYPE/kl"``, ``"TYPE/bytes"``, ``"seconds/STAGE"`` …; what was not measured is not there.
        report: the report's HTML; ``None`` when the package has none.
    """

    name: str
    config: Mapping[str, Any]
    figures: Mapping[str, float]
    report: str | None


def read_run(folder: Path) -> Run:
    """The run of a package folder. GGUFs are not read.

    Raises:
        UsageError: no package, or a damaged record.
    """
    _data, record = read_package(folder)
    report = folder / REPORT_NAME
    text = report.read_text(encoding="utf-8") if report.is_file() else None
    return Run(record.result.name, run_config(record), run_figures(record), text)


def run_config(record: Record) -> dict[str, Any]:
    """What the package was made of, as plain JSON data."""
    result, checkpoint = record.result, record.checkpoint
    return {
        "ggufpack": record.ggufpack,
        "created": record.created,
        "status": make_view(record).status,
        "architecture": checkpoint.architecture,
        "checkpoint": {"folder": checkpoint.folder, "files": dict(checkpoint.files)},
        "types": [file.quantization for file in result.files],
        "files": {file.quantization: {"name": file.path, "sha256": file.sha256} for file in result.files},
        "template": result.template,
        "engine": result.engine,
        "registered": list(result.registered),
        "request": dict(record.request),
        "converter": dict(record.converter),
        "versions": dict(record.versions),
        "findings": sorted({finding.id for finding in result.findings}),
    }


def run_figures(record: Record) -> dict[str, float]:
    """Numbers by name: KL in nats a token, shares of 0 to 1, sizes in bytes, times in seconds.

    ``passed`` is 1 or 0. A mean has the ends of its 95 % interval beside it: ``_low`` and ``_high``.
    """
    found: dict[str, float] = {}
    for item in make_view(record).types:
        found |= {f"{item.name}/{key}": value for key, value in _of_type(item).items()}
    found |= {f"seconds/{stage}": value for stage, value in record.result.seconds.items()}
    if record.result.peak_worker_rss is not None:
        found["peak_worker_bytes"] = record.result.peak_worker_rss
    return found


def _of_type(item: Type) -> dict[str, float]:
    found: dict[str, float] = {}
    if item.file is not None:
        found["bytes"] = item.file.size
    if item.state != "unchecked":
        found["passed"] = int(item.state == "ok")
    if item.proof is not None and item.proof.prompts:
        found["prompts"] = len(item.proof.prompts)
        found["prompts_equal"] = sum(case.equal for case in item.proof.prompts)
    if item.fidelity is not None:
        found |= _of_fidelity(item.fidelity)
    return found


def _of_fidelity(fidelity: Fidelity) -> dict[str, float]:
    return {
        "tokens": fidelity.tokens,
        **_interval("kl", fidelity.kl),
        **_interval("top1", fidelity.top1),
        "perplexity": fidelity.perplexity,
        "source_perplexity": fidelity.source_perplexity,
        **_interval("delta_perplexity", fidelity.delta_perplexity),
    }


def _interval(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
