"""A Modelfile: every wrong line, what it names, and its TEMPLATE against the GGUF."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ggufpack.doctor import Examination, examine
from tests.unit.doctor.files import CHATML, GO_CHATML, write_gguf

GOOD = f'FROM ./m.gguf\nTEMPLATE """{GO_CHATML}"""\nPARAMETER num_ctx 2048\nPARAMETER stop <|im_end|>\n'


def of(folder: Path, text: str | bytes, **gguf: object) -> Examination:
    if not (folder / "m.gguf").exists():
        write_gguf(folder / "m.gguf", **gguf)  # type: ignore[arg-type]
    path = folder / "Modelfile"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return examine(path)


def ids(found: Examination) -> list[str]:
    return [each.id for each in found.findings]


def test_a_good_one_is_fine(tmp_path: Path) -> None:
    found = of(tmp_path, GOOD)
    assert (found.kind, found.status, ids(found)) == ("modelfile", "fine", [])
    assert {"TEMPLATE", "stops", "parameters", "GGUF header"} <= set(found.checked)


def test_all_wrong_lines_are_told_with_their_numbers(tmp_path: Path) -> None:
    text = GOOD + 'BOGUS x\nTEMPLAT """a\nb\n"""\nMESSAGE robot hi\nPARAMETER temperature hot\n'
    found = of(tmp_path, text)
    lines = [each.message.split(":")[0].rpartition(" ")[2] for each in found.findings if each.id == "GP501"]
    first = GOOD.count("\n") + 1
    assert lines == [str(first), str(first + 1), str(first + 4)]
    assert "GP504" in ids(found)  # the checks behind the text ran all the same
    assert found.exit_code == 5


@pytest.mark.parametrize(
    ("line", "replaced", "expected"),
    [
        ("PARAMETER num_ctx 2048\n", "", None),  # 2048 is below Ollama's own 4096
        ("num_ctx 2048", "num_ctx 4096", "GP559"),
        ("num_ctx 2048", "num_ctx 2048\nPARAMETER top_p 3", "GP560"),
        ("num_ctx 2048", "num_ctx 2048\nPARAMETER mirostat 1", "GP557"),
        ("num_ctx 2048", "num_ctx 2048\nPARAMETER nonsense 1", "GP504"),
        ("./m.gguf", "./other.gguf", "GP551"),
        ("./m.gguf", "m.gguf", None),
        ("{{ end }}", "", "GP553"),
        ("{{ end }}", "{{ end }}!", "GP555"),
        ("<|im_start|>{{ .Role }}", "<s><|im_start|>{{ .Role }}", "GP555"),
        ("FROM ./m.gguf\n", "", "GP501"),
        ('assistant\n"""', "assistant\n", "GP501"),
    ],
)
def test_each_fault_is_a_finding(line: str, replaced: str, expected: str | None, tmp_path: Path) -> None:
    assert line in GOOD
    found = of(tmp_path, GOOD.replace(line, replaced, 1))
    assert ids(found)[:1] == ([] if expected is None else [expected])
    assert all(each.action for each in found.findings)


def test_a_template_that_ollama_would_ignore(tmp_path: Path) -> None:
    """The Jinja has tools, the TEMPLATE has not: 0.30 and later runs the Jinja (PreferChatTemplate)."""
    jinja = "{% if tools %}{{ tools | tojson }}{% endif %}" + CHATML
    assert "GP554" in ids(of(tmp_path, GOOD, template=jinja))


def test_a_stop_is_missing_only_where_nothing_else_ends_the_turn(tmp_path: Path) -> None:
    text = GOOD.replace("PARAMETER stop <|im_end|>\n", "")
    assert ids(of(tmp_path, text)) == []  # it is the EOS
    other = tmp_path / "other"
    other.mkdir()
    tokens = ("<unk>", "<s>", "</s>", "a", "b", "<|im_start|>", "<|stop|>", "c")
    swapped = {"template": CHATML.replace("<|im_end|>", "<|stop|>"), "tokens": tokens, "ids": {"eos": 2}}
    found = of(other, text.replace("<|im_end|>", "<|stop|>"), **swapped)
    assert "GP556" in ids(found)
    stopped = text.replace("<|im_end|>", "<|stop|>") + "PARAMETER stop <|stop|>\n"
    assert "GP556" not in ids(of(other, stopped))


def test_bos_twice(tmp_path: Path) -> None:
    template = '"""<s>' + GO_CHATML
    text = GOOD.replace('"""' + GO_CHATML, template)
    found = of(tmp_path, text, template="{{ bos_token }}" + CHATML, add_bos=True)
    assert "GP561" in ids(found)
    assert "GP555" not in ids(found)  # the BOS in front is an engine's matter


def test_neither_template(tmp_path: Path) -> None:
    found = of(tmp_path, "FROM ./m.gguf\nPARAMETER num_ctx 2048\n", template=None)
    assert {"GP451", "GP562"} <= set(ids(found))


def test_a_path_outside(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    write_gguf(tmp_path / "m.gguf")
    (inner / "Modelfile").write_text(GOOD.replace("./m.gguf", "../m.gguf"))
    assert ids(examine(inner / "Modelfile")) == ["GP552"]


def test_a_model_name_is_not_checked_without_a_server(tmp_path: Path) -> None:
    found = of(tmp_path, GOOD.replace("./m.gguf", "llama3:8b"))
    assert found.status == "fine"
    assert {"FROM model", "GGUF", "stops"} <= {one.check for one in found.not_checked}


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"hello\nworld\n", bytes(100)])
def test_no_text_of_that_kind_at_all(content: bytes, tmp_path: Path) -> None:
    found = of(tmp_path, content)
    assert ids(found) == ["GP550"]
    assert found.exit_code == 5


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "Modelfile")
    assert ids(examine(tmp_path / "Modelfile")) == ["GP550"]
