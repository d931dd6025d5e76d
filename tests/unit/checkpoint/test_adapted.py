"""A base model with adapters as one checkpoint: which tensors change, and which files count."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ggufpack.checkpoint import Checkpoint
from ggufpack.checkpoint.adapted import open_model
from ggufpack.checkpoint.merge import AddProduct, Merge, Replace, ReplaceRows
from ggufpack.errors import AdapterError, CheckpointLayoutError, GgufpackError, TensorFileError, UsageError
from ggufpack.spec import AdapterSpec

from .adapters import FACTORS, PREFIX, make_adapter
from .builders import TOKENIZER_CONFIG, make_checkpoint, model_tensors, shard, write_json, write_safetensors

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "base")


def adapted(base: Path, *adapters: Path | AdapterSpec) -> Checkpoint:
    specs = [item if isinstance(item, AdapterSpec) else AdapterSpec(item) for item in adapters]
    with open_model(base, None, specs) as checkpoint:
        return checkpoint


def merge_of(base: Path, *adapters: Path | AdapterSpec) -> Merge:
    adaptation = adapted(base, *adapters).adaptation
    assert adaptation is not None
    sent = json.dumps(adaptation.merge.to_json(), default=str)
    assert Merge.from_json(json.loads(sent)) == adaptation.merge
    return adaptation.merge


def ids(checkpoint: Checkpoint) -> list[str]:
    return [finding.id for finding in checkpoint.findings]


def refused(base: Path, *adapters: Path | AdapterSpec) -> AdapterError:
    with pytest.raises(AdapterError) as caught:
        adapted(base, *adapters)
    assert caught.value.action
    assert caught.value.path is not None
    assert caught.value.path.exists()
    return caught.value


# --- changes --------------------------------------------------------------------


def test_factors_change_one_tensor(base: Path, tmp_path: Path) -> None:
    merge = merge_of(base, AdapterSpec(make_adapter(tmp_path / "a"), 0.5))
    ((name, changes),) = merge.changes.items()
    assert name == Q_PROJ
    (product,) = changes
    assert isinstance(product, AddProduct)
    assert (product.scale, product.transposed, product.magnitude) == (1.0, False, None)
    assert product.a.name == f"{PREFIX}.lora_A.weight"


def test_adapters_add_up_in_their_order(base: Path, tmp_path: Path) -> None:
    one, two = make_adapter(tmp_path / "1"), make_adapter(tmp_path / "2", config={"lora_alpha": 6})
    products = merge_of(base, AdapterSpec(two, -1.0), AdapterSpec(one, 2.0)).changes[Q_PROJ]
    found = [change for change in products if isinstance(change, AddProduct)]
    assert [(change.a.file.parent.name, change.scale) for change in found] == [("2", -3.0), ("1", 4.0)]


def test_a_resized_vocabulary_follows_the_adapter(base: Path, tmp_path: Path) -> None:
    more = {f"base_model.model.{name}": ("F32", (9, 4)) for name in (EMBEDDING, HEAD)}
    adapter = make_adapter(tmp_path / "a", more=more)
    with open_model(base, None, [AdapterSpec(adapter)]) as checkpoint:
        config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    assert config["vocab_size"] == 9
    assert checkpoint.tensors[EMBEDDING].shape == checkpoint.tensors[HEAD].shape == (9, 4)
    assert "GP124" in ids(checkpoint)
    assert "GP206" not in ids(checkpoint)
    assert json.loads((base / "config.json").read_text(encoding="utf-8"))["vocab_size"] == 8


def test_a_vocabulary_resized_by_half_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a", more={f"base_model.model.{HEAD}": ("F32", (9, 4))})
    assert "8 rows and the head 9" in refused(base, adapter).problem


def test_a_tied_head_that_was_trained_alone_becomes_its_own(tmp_path: Path) -> None:
    base = tied_base(tmp_path / "base")
    adapter = make_adapter(
        tmp_path / "a",
        more={f"base_model.model.{HEAD}": ("BF16", (8, 4))},
        config={"modules_to_save": ["lm_head"]},
    )
    with open_model(base, None, [AdapterSpec(adapter)]) as checkpoint:
        config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    assert checkpoint.adaptation is not None
    assert checkpoint.adaptation.merge.copies == {HEAD: EMBEDDING}
    assert isinstance(checkpoint.adaptation.merge.changes[HEAD][0], Replace)
    assert config["tie_word_embeddings"] is False
    assert HEAD in checkpoint.tensors
    assert "GP125" in ids(checkpoint)
    assert "GP207" not in ids(checkpoint)


def test_an_index_names_a_head_of_its_own(tmp_path: Path) -> None:
    base = tied_base(tmp_path / "base")
    tensors = {name: kind for name, kind in model_tensors().items() if name != HEAD}
    (base / "model.safetensors").unlink()
    write_safetensors(base / "model-1.safetensors", tensors)
    write_json(
        base / "model.safetensors.index.json",
        {"weight_map": dict.fromkeys(tensors, "model-1.safetensors")},
    )
    adapter = make_adapter(tmp_path / "a", more={f"base_model.model.{HEAD}": ("BF16", (8, 4))})
    with open_model(base, None, [AdapterSpec(adapter)]) as checkpoint:
        index = json.loads((checkpoint.folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["weight_map"][HEAD] == "model-1.safetensors"


@pytest.mark.parametrize(
    ("config", "names", "copies"),
    [
        # saved because it was resized: both are the same values
        ({}, (EMBEDDING, HEAD), {}),
        ({"modules_to_save": ["embed_tokens"]}, (EMBEDDING,), {HEAD: EMBEDDING}),
        ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, (EMBEDDING,), {}),
        ({}, (EMBEDDING,), {}),
    ],
)
def test_whether_embeddings_stay_tied(
    tmp_path: Path, config: dict[str, Any], names: Sequence[str], copies: dict[str, str]
) -> None:
    more = {f"base_model.model.{name}": ("BF16", (8, 4)) for name in names}
    adapter = make_adapter(tmp_path / "a", config=config, more=more)
    assert merge_of(tied_base(tmp_path / "base"), adapter).copies == copies


def test_token_rows(base: Path, tmp_path: Path) -> None:
    more = {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": ("F32", (2, 4))}
    config = {"trainable_token_indices": {"embed_tokens": [5, 3]}}
    (change,) = merge_of(base, make_adapter(tmp_path / "a", config=config, more=more)).changes[EMBEDDING]
    assert isinstance(change, ReplaceRows)
    assert change.rows == (5, 3)


def tied_base(folder: Path) -> Path:
    tensors = {name: kind for name, kind in model_tensors().items() if name != HEAD}
    return make_checkpoint(folder, config={"tie_word_embeddings": True}, tensors=tensors)


# --- refusals -------------------------------------------------------------------


OTHER = PREFIX.replace("q_proj", "c_proj")
ROWS = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"


@pytest.mark.parametrize(
    ("config", "tensors", "said"),
    [
        (
            {},
            {f"{OTHER}.lora_A.weight": ("F32", (2, 4)), f"{OTHER}.lora_B.weight": ("F32", (4, 2))},
            "fits no tensor of the base model",
        ),
        (
            {},
            {f"{PREFIX}.lora_A.weight": ("F32", (2, 6)), f"{PREFIX}.lora_B.weight": ("F32", (4, 2))},
            "[4, 2] · [2, 6]",
        ),
        ({"r": 3}, FACTORS, "its rank is 3"),
        (
            {},
            {f"{PREFIX}.lora_A.weight": ("F32", (2, 4, 1, 1)), f"{PREFIX}.lora_B.weight": ("F32", (4, 2))},
            "linear layers and embeddings",
        ),
        ({"use_dora": True}, {**FACTORS, f"{PREFIX}.lora_magnitude_vector": ("F32", (3,))}, "[3]"),
        ({"lora_bias": True}, {**FACTORS, f"{PREFIX}.lora_B.bias": ("F32", (4,))}, "has no model.layers"),
        ({}, {"base_model.model.score.weight": ("F32", (2, 4))}, "score.weight"),
        ({}, {"base_model.model.model.norm.weight": ("F32", (5,))}, "[5]"),
        ({}, {f"base_model.model.{EMBEDDING}": ("F32", (8, 5))}, "[8, 5]"),
        ({}, {ROWS: ("F32", (2, 4))}, "trainable_token_indices names none"),
        ({"trainable_token_indices": [1]}, {ROWS: ("F32", (2, 4))}, "[2, 4]"),
        ({"trainable_token_indices": [1, 8]}, {ROWS: ("F32", (2, 4))}, "row 8"),
    ],
)
def test_tensors_that_do_not_fit(
    base: Path, tmp_path: Path, config: dict[str, Any], tensors: dict[str, Any], said: str
) -> None:
    error = refused(base, make_adapter(tmp_path / "a", config=config, tensors=tensors))
    assert said in error.problem
    assert error.key


def test_a_quantised_base(tmp_path: Path) -> None:
    tensors = {**model_tensors(), Q_PROJ: ("F8_E4M3", (4, 4))}
    base = make_checkpoint(tmp_path / "base", tensors=tensors)
    error = refused(base, make_adapter(tmp_path / "a"))
    assert "F8_E4M3" in error.problem
    assert error.key == Q_PROJ


DORA: dict[str, Any] = {
    "config": {"use_dora": True},
    "more": {f"{PREFIX}.lora_magnitude_vector": ("F32", (4,))},
}
WHOLE: dict[str, Any] = {"more": {f"base_model.model.{HEAD}": ("F32", (8, 4))}}
TOKENS: dict[str, Any] = {
    "config": {"trainable_token_indices": [1, 2]},
    "more": {ROWS: ("F32", (2, 4))},
}


@pytest.mark.parametrize(("parts", "key"), [(DORA, "use_dora"), (WHOLE, HEAD), (TOKENS, ROWS)])
def test_what_has_no_weight(base: Path, tmp_path: Path, parts: dict[str, Any], key: str) -> None:
    error = refused(base, AdapterSpec(make_adapter(tmp_path / "a", **parts), 0.5))
    assert "cannot be weighted" in error.problem
    assert (error.key or "").endswith(key)


@pytest.mark.parametrize(
    ("parts", "said"),
    [(DORA, "cannot be weighted"), (WHOLE, "another adapter replaces"), (TOKENS, "rows of another adapter")],
)
def test_two_that_cannot_be_added(base: Path, tmp_path: Path, parts: dict[str, Any], said: str) -> None:
    error = refused(base, make_adapter(tmp_path / "1", **parts), make_adapter(tmp_path / "2", **parts))
    assert said in error.problem.replace("which another", "another")


# --- folders --------------------------------------------------------------------


def test_the_adapter_is_the_checkpoint(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a")
    with open_model(adapter, base) as checkpoint:
        assert checkpoint.folder.name == "a"
        assert (checkpoint.folder / "model.safetensors").resolve() == base / "model.safetensors"
        assert checkpoint.origin == base
    assert not checkpoint.folder.exists()


def test_a_base_that_is_a_folder_is_taken(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a", config={"base_model_name_or_path": str(base)})
    with open_model(adapter) as checkpoint:
        assert "GP126" in ids(checkpoint)
        assert checkpoint.origin == base


def test_a_base_that_is_not_here(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a", config={"base_model_name_or_path": "org/model"})
    with pytest.raises(AdapterError) as caught, open_model(adapter):
        pass
    assert caught.value.action == "Give the folder of org/model with --base."


@pytest.mark.parametrize(
    ("named", "warned"),
    [("org/base", False), ("org/Base", False), ("", False), ("org/other", True), ("OTHER FOLDER", True)],
)
def test_another_base_is_a_warning(base: Path, tmp_path: Path, named: str, warned: bool) -> None:
    other = make_checkpoint(tmp_path / "other")
    config = {"base_model_name_or_path": str(other) if named == "OTHER FOLDER" else named}
    checkpoint = adapted(base, make_adapter(tmp_path / "a", config=config))
    assert ("GP122" in ids(checkpoint)) is warned


def test_a_base_of_a_full_model_is_a_mistake(base: Path) -> None:
    with pytest.raises(UsageError, match="is no adapter"), open_model(base, base):
        pass


def test_an_adapter_that_is_none(base: Path) -> None:
    assert "not an adapter's folder" in refused(base, base).problem


def test_a_trainers_folder(base: Path, tmp_path: Path) -> None:
    """The adapter at the top is the last one; its checkpoints lie below."""
    run = tmp_path / "run"
    for step in (5, 10):
        make_adapter(run / f"checkpoint-{step}")
        (run / f"checkpoint-{step}" / "optimizer.pt").touch()
    with pytest.raises(AdapterError, match="2 adapters: checkpoint-5, checkpoint-10") as caught:
        adapted(base, run)
    assert str(run / "checkpoint-10") in (caught.value.action or "")
    make_adapter(run)
    checkpoint = adapted(base, run)
    assert checkpoint.adaptation is not None
    assert checkpoint.adaptation.adapters[0].folder == run


def test_the_only_adapter_inside(base: Path, tmp_path: Path) -> None:
    make_adapter(tmp_path / "run" / "checkpoint-5")
    with open_model(tmp_path / "run", base) as checkpoint:
        assert "GP101" in ids(checkpoint)


def test_a_full_model_is_opened_as_before(base: Path, tmp_path: Path) -> None:
    with open_model(base) as checkpoint:
        assert checkpoint.adaptation is None
        assert checkpoint.folder == base
    with pytest.raises(CheckpointLayoutError), open_model(tmp_path / "nothing"):
        pass


def test_shards_are_linked(base: Path, tmp_path: Path) -> None:
    names = shard(base)
    with open_model(base, None, [AdapterSpec(make_adapter(tmp_path / "a"))]) as checkpoint:
        assert {file.name for file in checkpoint.tensors.files} == set(names)


# --- which files count ------------------------------------------------------------


def test_a_tokenizer_beside_the_adapter_counts_as_a_set(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a")
    (base / "chat_template.jinja").write_text("base", encoding="utf-8")
    (base / "added_tokens.json").write_text("{}", encoding="utf-8")
    write_json(adapter / "tokenizer.json", json.loads((base / "tokenizer.json").read_text(encoding="utf-8")))
    write_json(adapter / "tokenizer_config.json", {**TOKENIZER_CONFIG, "chat_template": "adapter"})
    checkpoint = adapted(base, adapter)
    assert checkpoint.chat_template is not None
    assert checkpoint.chat_template.text == "adapter"
    assert checkpoint.chat_template.origin == adapter / "tokenizer_config.json"
    assert checkpoint.tokenizer.files["tokenizer.json"] == adapter / "tokenizer.json"
    assert "added_tokens.json" not in checkpoint.tokenizer.files
    assert checkpoint.generation.path == base / "generation_config.json"
    (finding,) = [finding for finding in checkpoint.findings if finding.id == "GP121"]
    assert "tokenizer.json, tokenizer_config.json" in finding.message


def test_a_chat_template_and_a_generation_config_alone(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a")
    (base / "chat_template.jinja").write_text("base", encoding="utf-8")
    (adapter / "chat_template.jinja").write_text("adapter", encoding="utf-8")
    write_json(adapter / "generation_config.json", {"eos_token_id": 2})
    checkpoint = adapted(base, adapter)
    assert checkpoint.chat_template is not None
    assert checkpoint.chat_template.text == "adapter"
    assert checkpoint.tokenizer.files["tokenizer.json"] == base / "tokenizer.json"
    assert checkpoint.generation.path == adapter / "generation_config.json"


def test_different_tokenizers_are_a_warning(base: Path, tmp_path: Path) -> None:
    adapters = [make_adapter(tmp_path / name) for name in "ab"]
    for number, adapter in enumerate(adapters):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (adapter / name).write_bytes((base / name).read_bytes() + b" " * number)
    checkpoint = adapted(base, *adapters)
    assert "GP123" in ids(checkpoint)
    assert "GP123" not in ids(adapted(base, adapters[0]))


def test_errors_name_the_users_files(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a")
    (adapter / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    (adapter / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(GgufpackError) as caught:
        adapted(base, adapter)
    assert caught.value.path == adapter / "tokenizer_config.json"
    (base / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(GgufpackError) as caught:
        adapted(base, adapter)
    assert str(base / "config.json") in str(caught.value)


def test_a_damaged_base(base: Path, tmp_path: Path) -> None:
    (base / "model.safetensors").write_bytes(b"12345")
    with pytest.raises(TensorFileError):
        adapted(base, make_adapter(tmp_path / "a"))
