"""An adapter and its base model under the doctor, and their chat template on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ggufpack.cli.main import main
from ggufpack.doctor import Examination, examine
from ggufpack.errors import UsageError
from ggufpack.spec import AdapterSpec
from tests.unit.checkpoint.adapters import make_adapter
from tests.unit.checkpoint.builders import make_checkpoint
from tests.unit.doctor.files import CHATML

OTHER = CHATML.replace("<|im_end|>", "<|im_end|>\n", 1)


def ids(found: Examination) -> set[str]:
    return {each.id for each in found.findings}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = make_checkpoint(tmp_path / "base")
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


def test_a_good_one(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "lora")
    found = examine(adapter, base=base)
    assert (found.kind, found.status) == ("checkpoint", "fine")
    assert {"GP120", "GP424"} <= ids(found)
    assert found.checked == ("adapter and base model", "chat template", "Modelfile")
    assert found.facts["adapters"] == [str(adapter)]
    assert found.facts["stops"][0] == "<|im_end|>"
    given = examine(base, adapters=[AdapterSpec(adapter, 0.5)])
    assert "with weight 0.5" in next(each.message for each in given.findings if each.id == "GP120")


def test_the_base_model_that_an_adapter_names(base: Path, tmp_path: Path) -> None:
    found = examine(make_adapter(tmp_path / "lora", config={"base_model_name_or_path": str(base)}))
    assert (found.status, "GP126" in ids(found)) == ("fine", True)


def test_without_a_base_model_the_rest_is_looked_at(tmp_path: Path) -> None:
    found = examine(make_adapter(tmp_path / "lora", config={"base_model_name_or_path": "org/none"}))
    (layout,) = (each for each in found.findings if each.id == "GP150")
    assert "only an adapter of org/none" in layout.message
    assert "--base" in str(layout.action)


def test_what_cannot_be_merged(base: Path, tmp_path: Path) -> None:
    found = examine(make_adapter(tmp_path / "lora", config={"peft_type": "IA3"}), base=base)
    assert (found.status, found.exit_code) == ("errors", 3)
    assert found.findings[0].id == "GP155"
    assert "IA3" in found.findings[0].message
    assert {one.check for one in found.not_checked} == {"chat template", "Modelfile", "weights", "converter"}


def test_deep_reads_the_adapter_too(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "lora")
    assert "GP269" not in ids(examine(adapter, base=base, deep=True))
    weights = adapter / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-4:] = np.float32(np.nan).tobytes()
    weights.write_bytes(data)
    found = examine(adapter, base=base, deep=True)
    (bad,) = (each for each in found.findings if each.id == "GP269")
    assert bad.path == weights
    assert "lora_" in bad.message


def test_a_base_model_for_what_has_none(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no adapter"):
        examine(base, base=base)
    with pytest.raises(UsageError, match="is a model, which is looked at as it is"):
        examine("some-model", base=base)
    assert CliRunner().invoke(main, ["doctor", str(base), "--base", str(tmp_path)]).exit_code == 2


def test_the_chat_template_is_the_adapters(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "lora")

    def shown(*words: str) -> str:
        done = CliRunner().invoke(main, ["template", *words, "--json"])
        assert done.exit_code == 0, done.stderr
        return str(json.loads(done.stdout)["template"])

    own = shown(str(base))
    assert shown(str(adapter), "--base", str(base)) == own
    (adapter / "chat_template.jinja").write_text(OTHER)
    assert shown(str(adapter), "--base", str(base)) != own


def test_a_template_file_has_no_base_model(base: Path) -> None:
    done = CliRunner().invoke(main, ["template", str(base / "chat_template.jinja"), "--base", str(base)])
    assert (done.exit_code, "it has no base model" in done.stderr) == (2, True)
