"""How many real chat templates become a proven Go TEMPLATE, beside what Ollama's own detection gives.

    python -m benchmarks.chat_templates [FOLDER of *.jinja]

Each is learned and proven as a build does it; then Ollama's own Go package (the tests' oracle) judges on
conversations that the proof did not see. Cases per capability: exact / semantic / refused / wrong.
"""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from pathlib import Path

from ggufpack.chat_template.heldout import CAPABILITIES
from tests.support.go_template_oracle.oracle import build_go_oracle
from tests.support.llama_cpp import llama_cpp_source
from tests.support.template_corpus import Measured, measure

_COLUMNS = ("exact", "semantic", "refused", "wrong")


def main() -> None:
    """Print the table."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else llama_cpp_source() / "models/templates"
    paths = sorted(folder.glob("*.jinja"))
    oracle = build_go_oracle()
    requests = [{"text": path.read_text(encoding="utf-8")} for path in paths]
    detected = [answer["text"] for answer in oracle.ask("named", requests)]
    found: list[Measured] = []
    for path, name in zip(paths, detected, strict=True):
        one = measure(path, oracle)
        found.append(one)
        strategy = "go" if one.readings.prefers_go else "native"
        can = "+".join(one.go.capabilities) or "refused"
        shapes = ",".join(refusal.shape for refusal in one.go.refused)
        print(f"{one.name:50} {one.seconds:5.1f} s  {strategy:6} {can:36} {name or '-':14} {shapes}")
        for wrong in one.wrong:
            print(f"    WRONG: {wrong}")
        sys.stdout.flush()
    written = sum(one.go.text is not None for one in found)
    complete = sum(one.go.complete for one in found)
    print(
        f"{written} of {len(found)} have a TEMPLATE, {complete} without loss; "
        f"Ollama's detection names {sum(map(bool, detected))}"
    )
    print(f"{'':10}{'templates':>10}{'no refusal':>11}" + "".join(f"{name:>10}" for name in _COLUMNS))
    for capability in CAPABILITIES:
        rows = [one.parity[capability] for one in found if one.parity[capability].cases]
        counts: Counter[str] = Counter()
        for row in rows:
            counts.update({name: getattr(row, name) for name in _COLUMNS})
        whole = sum(row.refused == 0 for row in rows)
        figures = "".join(f"{counts[name]:10}" for name in _COLUMNS)
        print(f"{capability:10}{len(rows):10}{whole:11}{figures}")
    seconds = [one.seconds for one in found]
    print(f"seconds a template: median {statistics.median(seconds):.1f}, most {max(seconds):.1f}")


if __name__ == "__main__":
    main()
