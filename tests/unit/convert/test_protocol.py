from __future__ import annotations

import json
from pathlib import Path

import pytest

from ggufpack.convert.protocol import Job

FULL = Job(
    Path("/models/eins zwei"),
    (("Q8_0", Path("/out/\u00e4\n.gguf")), ("F16", Path("/out/b.gguf"))),
    "bf16",
    overrides={"tokenizer.chat_template": "{{ 'line\n' }}\u2028", "tokenizer.ggml.add_bos_token": False},
    trust_remote_code=True,
    allowed=("GP250", "GP252"),
    threads=7,
    plan_only=True,
    imatrix=Path("/models/\u00e4 imatrix.gguf"),
    cache=Path("/cache/\u00e4"),
    earlier=(("Q8_0", Path("/out/\u00e4.gguf")),),
)


@pytest.mark.parametrize("job", [FULL, Job(Path("/m"), (), "f32")], ids=["full", "defaults"])
def test_a_job_goes_through_the_pipe_as_one_line(job: Job) -> None:
    line = job.to_line()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line)["checkpoint"] == str(job.checkpoint)
    assert Job.from_line(line) == job
