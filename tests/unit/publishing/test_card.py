"""The model card: front matter, figures as they were measured, and nothing of this machine."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from ggufpack.errors import UsageError
from ggufpack.publishing.card import CardFacts, render_card
from tests.support.records import EMBEDDING_PROOF, record, record_of

FACTS = CardFacts("anna/smollm2-GGUF", "apache-2.0", ("HuggingFaceTB/SmolLM2-135M",))


def front_matter(card: str) -> dict[str, Any]:
    empty, head, _body = card.split("---\n", 2)
    assert empty == ""
    metadata: dict[str, Any] = yaml.safe_load(head)
    return metadata


def row(card: str, kind: str) -> list[str]:
    name = f"-{kind}.gguf".replace("_", "\\_")
    [line] = [line for line in card.splitlines() if line.startswith("|") and name in line]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_front_matter() -> None:
    assert front_matter(render_card(record(("Q8_0",)), FACTS)) == {
        "license": "apache-2.0",
        "base_model": "HuggingFaceTB/SmolLM2-135M",
        "library_name": "gguf",
        "pipeline_tag": "text-generation",
        "tags": ["gguf", "ollama", "ggufpack"],
        "quantized_by": "anna",
    }


def test_what_nobody_said_is_left_out() -> None:
    metadata = front_matter(render_card(record(("Q8_0",)), CardFacts("anna/x")))
    assert not {"license", "base_model"} & set(metadata)
    two = front_matter(render_card(record(("Q8_0",)), CardFacts("anna/x", base_models=("a/b", "c/d"))))
    assert two["base_model"] == ["a/b", "c/d"]


@pytest.mark.parametrize("evil", ["mit\n---\n# From the bank", "mit: [", "", "Mit"])
def test_front_matter_cannot_be_broken_out_of(evil: str) -> None:
    with pytest.raises(UsageError, match="is no licence of the Hub"):
        CardFacts("anna/x", license=evil)
    with pytest.raises(UsageError, match="is no model on the Hub"):
        CardFacts("anna/x", base_models=("a/b", evil))


def test_the_figures_of_each_file() -> None:
    card = render_card(record(("Q8_0", "Q4_K_M")), FACTS)
    assert row(card, "Q4_K_M")[1:] == [
        "Q4\\_K\\_M",
        "105.5 MB",
        "0.0312 (0.0293 to 0.0334)",
        "90.8 %",
        "18.45 (+0.529)",
        "passed",
    ]
    assert card.count("sha256 ") == 2
    assert "ollama run hf.co/anna/smollm2-GGUF:Q4_K_M\n" in card  # no escapes in a code block


def test_what_was_not_measured_says_so() -> None:
    made = record(("Q8_0",))
    made["result"]["verifications"][0]["fidelity"] = None
    assert row(render_card(made, FACTS), "Q8_0")[3:6] == ["not measured"] * 3
    made["result"] |= {"verifications": [], "status": "unverified"}
    card = render_card(made, FACTS)
    assert row(card, "Q8_0")[6] == "not checked"
    assert "**Not verified.** Nothing was checked" in card


def test_a_failed_package_says_so_first() -> None:
    card = render_card(record(("Q8_0", "Q2_K"), wrong=("Q2_K",)), FACTS)
    assert "**Failed.**" in card
    assert row(card, "Q2_K")[6] == "failed"


def test_no_path_of_this_machine() -> None:
    made = record(("Q8_0",))
    folder = made["checkpoint"]["folder"]
    made["checkpoint"]["adapters"] = [{"folder": "/home/anna/adapters/fox"}]
    made["result"]["findings"] += [
        {"id": "GP604", "severity": "unchecked", "message": f"{place}/config.json was not looked at"}
        for place in (folder, "/home/anna/adapters/fox")
    ]
    card = render_card(made, FACTS)
    assert "checkpoint-400/config.json was not looked at" in card
    assert "fox/config.json was not looked at" in card
    assert "/home" not in card


def test_text_of_a_stranger_stays_text() -> None:
    made = record(("Q8_0",))
    made["result"]["name"] = "x](https://evil) | <script>{{ 7*7 }}"
    card = render_card(made, FACTS)
    assert "<script>" not in card
    assert "# x\\](https://evil) \\| \\<script\\>{{ 7\\*7 }}\n" in card


def test_without_a_template_the_card_says_how_to_run_it() -> None:
    card = render_card(record(("Q8_0",)), CardFacts("anna/x", template=False))
    assert "has no `template` file" in card
    assert "hf download anna/x --local-dir model\ncd model\nollama create mymodel -f Modelfile.Q8_0\n" in card
    assert "has no `template` file" not in render_card(record(("Q8_0",)), FACTS)


def test_an_embedding_model() -> None:
    made = record_of(("Q8_0",), (EMBEDDING_PROOF,))
    made["result"]["template"] = "none"
    card = render_card(made, CardFacts("anna/minilm-GGUF", template=False))
    assert front_matter(card)["pipeline_tag"] == "feature-extraction"
    assert row(card, "Q8_0")[3:] == ["0.9996", "0.9990", "passed"]
    for absent in ("KL", "Perplexity", "chat template", "ollama create"):
        assert absent not in card
    made["result"]["verifications"] = []
    made["result"]["status"] = "unverified"
    assert row(render_card(made, FACTS), "Q8_0")[3:] == ["not measured", "not measured", "not checked"]
