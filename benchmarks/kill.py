"""kill -9 at random moments: ``python -m benchmarks.kill [--times 50] [--items 6] [--server]``.

A batch of tiny checkpoints is killed with all its processes, resumed, killed again, until it is done; then
the next one. Prints one JSON object: items redone, lost, corrupted, and what was left over.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from ggufpack.registry import OllamaServer
from tests.support.batch import Harness, training_output
from tests.support.checkpoints import tiny_checkpoint
from tests.support.ollama_build import find_ollama
from tests.support.ollama_server import running_ollama


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--items", type=int, default=6)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--longest", type=float, default=20.0, help="seconds within which a kill comes")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--arch", default="llama-224")
    parser.add_argument("--server", action="store_true", help="register on a real Ollama server")
    options = parser.parse_args()
    started = time.monotonic()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ggufpack-kill-")))
        words = ["--verify", "none", "-q", "Q8_0", "--template", "chatml", "--jobs", str(options.jobs)]
        server = None
        if options.server:
            ollama = stack.enter_context(running_ollama(find_ollama(), scratch / "ollama"))
            server = OllamaServer(ollama.host)
            words += ["--host", ollama.host]
        else:
            words += ["--no-register"]
        training = training_output(
            tiny_checkpoint(options.arch), scratch / "run", range(1, options.items + 1)
        )
        harness = Harness(
            training, scratch / "work", words, server=server, seed=options.seed, longest=options.longest
        )
        tally = harness.kill(options.times)
    print(json.dumps({**tally.to_json(), "seconds": round(time.monotonic() - started)}, indent=2))


if __name__ == "__main__":
    main()
