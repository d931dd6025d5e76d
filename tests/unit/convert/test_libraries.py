"""transformers without torch must say the same of every configuration.

What it says goes into the GGUF's header; a difference would be silent.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ggufpack.convert import libraries, worker

# a fifth of all model types, from one end of the alphabet to the other, and some that everybody has
MAKE = """
import sys
from transformers import logging
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
logging.set_verbosity_error()
common = ["llama", "qwen2", "gemma3_text", "mamba", "deepseek_v3", "mixtral", "bert"]
for name in [*list(CONFIG_MAPPING)[::5], *common]:
    try:
        config = CONFIG_MAPPING[name]()
    except Exception:  # a few have no defaults
        continue
    config.save_pretrained(sys.argv[1] + "/" + name)
"""
READ = """
import json, sys
from pathlib import Path
from ggufpack.convert.libraries import Imports, load_libraries
load_libraries(Imports(sys.argv[2]))
from transformers import AutoConfig, logging
logging.set_verbosity_error()
read = {
    folder.name: AutoConfig.from_pretrained(folder, trust_remote_code=False).to_dict()
    for folder in sorted(Path(sys.argv[1]).iterdir())
}
import torch
compiler = "torch._dynamo" in sys.modules
json.dump({"torch": torch.__version__, "compiler": compiler, "configs": read}, sys.stdout)
"""


def python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    return done.stdout


@pytest.mark.timeout(240)
def test_every_configuration_reads_the_same_without_torch(tmp_path: Path) -> None:
    python(MAKE, str(tmp_path))
    light = json.loads(python(READ, str(tmp_path), "light"))
    everything = json.loads(python(READ, str(tmp_path), "all"))
    assert len(light["configs"]) > 150
    assert {"llama", "mamba", "deepseek_v3", "bert"} <= light["configs"].keys()
    assert light["configs"] == everything["configs"]
    assert light["torch"] == everything["torch"], "torch itself is there either way"
    assert (light["compiler"], everything["compiler"]) == (False, True), "and this is what is saved"


def test_a_copy_of_the_worker_imports_nothing_of_ours() -> None:
    """Each job is a new copy: what it imported late, all of them would."""
    tree = ast.parse(Path(worker.__file__).read_text(encoding="utf-8"))
    every_job = {"convert", "_worth_looking_at", "_begin_before_vocabulary"}
    late = {
        node.module
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and function.name in every_job
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom)
    }
    assert len(late) > 4
    assert late <= set(libraries._OF_EVERY_JOB)
