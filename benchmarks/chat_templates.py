"""How many real chat templates become a proven Go TEMPLATE, beside what Ollama's own detection gives.

    python -m benchmarks.chat_templates [FOLDER of *.jinja]

Renders with Ollama's own Go package (the tests' oracle), so that nothing here is judged by our own
evaluator. Per capability: cases exact / semantic / refused / wrong, and seconds per template.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from datetime import date, datetime
from pathlib import Path

from ggufpack.chat_template import parity
from ggufpack.chat_template.conversation import Conversation
from ggufpack.chat_template.go_strategy import GoTemplate, learn_template
from ggufpack.chat_template.heldout import CAPABILITIES
from ggufpack.chat_template.learned import LearnedEngine
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import probe_traits
from tests.support.go_template_oracle.oracle import GoOracle, build_go_oracle
from tests.support.llama_cpp import llama_cpp_source

TOKENS = {"bos_token": "<BOS>", "eos_token": "<EOS>"}


class OracleEngine(LearnedEngine):
    """Learns as usual; renders with Ollama's Go, whose day is today."""

    def __init__(self, oracle: GoOracle) -> None:
        self._process = subprocess.Popen(
            [str(oracle.program), "render"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def render(self, text: str, conversation: Conversation, today: date) -> str:  # noqa: ARG002
        """What Ollama renders; ``today`` is the machine's."""
        request = {
            "template": text,
            "messages": conversation.for_ollama(),
            "tools": list(conversation.tools) or None,
            "think": conversation.think,
        }
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if answer.get("error"):
            raise ValueError(answer["error"])
        rendered: str = answer["text"]
        return rendered

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()


def main() -> None:
    """Print the table."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else llama_cpp_source() / "models/templates"
    paths = sorted(folder.glob("*.jinja"))
    oracle = build_go_oracle()
    texts = [path.read_text(encoding="utf-8") for path in paths]
    named = [answer["text"] for answer in oracle.ask("named", [{"text": text} for text in texts])]
    engine = OracleEngine(oracle)
    parity.DAYS = (datetime.now(),)  # type: ignore[assignment]
    totals: dict[str, Counter[str]] = {name: Counter() for name in CAPABILITIES}
    complete = shipped = 0
    for path, text, detected in zip(paths, texts, named, strict=True):
        started = time.perf_counter()
        template = ChatTemplate(text, special_tokens=TOKENS, origin=path)
        try:
            found: GoTemplate = learn_template(template, probe_traits(template), engine)
        except Exception as error:  # noqa: BLE001 - a bug in one template must not hide the others
            print(f"{path.stem:50} {type(error).__name__}: {error}"[:140])
            continue
        seconds = time.perf_counter() - started
        for name, row in found.parity.items():
            counts = {
                "exact": row.exact,
                "semantic": row.semantic,
                "refused": row.refused,
                "wrong": row.wrong,
            }
            totals[name].update(counts)
            if row.cases:
                totals[name]["templates"] += 1
                totals[name]["templates without refusals"] += row.refused == 0
        complete += found.complete
        shipped += found.text is not None
        shapes = ",".join(one.shape for one in found.refused)
        can = "+".join(found.capabilities) or "refused"
        print(f"{path.stem:50} {seconds:5.1f} s  {can:38} {detected or '-':14} {shapes}", flush=True)
    engine.close()
    detected_count = sum(map(bool, named))
    print(
        f"{shipped} of {len(paths)} have a TEMPLATE, {complete} without loss; Ollama detects {detected_count}"
    )
    for name, counts in totals.items():
        print(f"{name:10}", dict(counts))


if __name__ == "__main__":
    main()
