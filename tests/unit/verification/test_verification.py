"""Verification against a small engine that is wrong in one way at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from ggufpack.engine.protocol import Engine, Generation, Message
from ggufpack.errors import (
    CheckpointFileError,
    ExchangeBrokenError,
    GgufpackError,
    ServerResponseError,
    ServerUnreachableError,
)
from ggufpack.proofs import SmokeResult, Verification
from ggufpack.spec import Event, Progress, Severity
from ggufpack.verification import verify
from ggufpack.verification.conversations import CONVERSATIONS, SMOKE_MESSAGES
from ggufpack.verification.findings import findings_of
from ggufpack.verification.prompts import check_prompts, describe_difference
from ggufpack.verification.smoke import run_smoke
from ggufpack.verification.tokens import special_texts, token_counter

BOS = "<s>"
END = 7  # the token of "[end]"
ANSWER = Generation("Hello there.", "stop", 0, 4)


def template(messages: Sequence[Message]) -> str:
    return BOS + "".join(f"[{m['role']}]{m['content']}[end]" for m in messages) + "[assistant]"


def count(text: str) -> int:
    return len(text)


class FakeEngine:
    """Renders ``template`` and answers, with one fault put in."""

    name = "fake 1.0"

    def __init__(
        self,
        render: Callable[[Sequence[Message]], str] = template,
        answer: Generation = ANSWER,
        extra_tokens: int = 0,
    ) -> None:
        self._render, self._answer, self._extra = render, answer, extra_tokens
        self.generated: list[tuple[Sequence[Message], int]] = []

    def render(self, messages: Sequence[Message], *, think: bool | None = None) -> str:
        return self._render(messages)

    def generate(
        self, messages: Sequence[Message], *, max_tokens: int, seed: int = 0, think: bool | None = None
    ) -> Generation:
        self.generated.append((messages, max_tokens))
        return replace(self._answer, prompt_tokens=count(template(messages)) + self._extra)

    def force_text(self, text: str, *, max_tokens: int) -> Generation:
        return Generation(text.partition("[end]")[0], "stop", 0, 4)

    def force_token(self, token: int, text: str, *, max_tokens: int) -> Generation:
        return Generation("", "stop" if token == END else "length", 0, 1)


def run(engine: Engine, level: str = "smoke") -> tuple[Verification, list[str]]:
    done = verify(
        engine,
        level,  # type: ignore[arg-type]
        model="m:q8_0",
        expected=template,
        count_tokens=count,
        bos_text=BOS,
        special_texts=("<|end|>", " "),
        stops=["[end]"],
        end_tokens=[(END, "[end]")],
    )
    return done, [finding.id for finding in findings_of(done)]


def test_an_engine_that_is_right_passes() -> None:
    engine = FakeEngine()
    done, found = run(engine)
    assert done.passed
    assert found == []
    assert (done.model, done.engine, done.level) == ("m:q8_0", "fake 1.0", "smoke")
    assert len(done.prompts) == len(CONVERSATIONS)
    counted = [case.name for case in done.prompts if case.actual_tokens is not None]
    assert counted == [c.name for c in CONVERSATIONS if c.count_tokens]
    assert [tokens for _, tokens in engine.generated].count(1) == len(counted)
    assert engine.generated[-1] == (SMOKE_MESSAGES, 128)
    assert [(check.kind, check.ended) for check in done.stops] == [("string", True), ("token", True)]


def test_a_package_without_stops_is_not_checked_for_them() -> None:
    done = verify(FakeEngine(), "smoke", model="m", expected=template, count_tokens=count, bos_text=BOS)
    assert done.passed
    assert [finding.id for finding in findings_of(done)] == ["GP616"]
    assert verify(FakeEngine(), "prompts", model="m", expected=template, stops=["[end]"]).stops == ()


def test_the_conversations_have_unique_names_and_cover_what_breaks_templates() -> None:
    assert len({c.name for c in CONVERSATIONS}) == len(CONVERSATIONS) >= 20
    texts = [m["content"] for c in CONVERSATIONS for m in c.messages]
    everything = "".join(texts)
    assert any(text != text.strip() for text in texts)
    assert "" in texts
    assert all(part in everything for part in ("<|im_end|>", '"', "&", "{{", "你", "👩‍👩‍👧", "\r\n", "\\"))
    pairs = [pair for c in CONVERSATIONS for pair in zip(c.messages, c.messages[1:], strict=False)]
    assert all(first["role"] != second["role"] for first, second in pairs), "Ollama joins neighbours"
    assert {m["role"] for c in CONVERSATIONS for m in c.messages} == {"system", "user", "assistant"}


@pytest.mark.parametrize(
    "fault",
    [
        lambda text: text.replace("  two", "two"),
        lambda text: text.replace("&", "&amp;"),
        lambda text: text.replace("\r\n", "\n"),
        lambda text: text.replace("e\u0301", "é"),
        lambda text: text.replace("\u200d", ""),
        lambda text: text.replace("[system][end]", ""),
        lambda text: text.replace("[assistant][end]", ""),
        lambda text: text.replace('"', "'"),
        lambda text: text[:5000],
    ],
)
def test_a_small_fault_is_seen(fault: Callable[[str], str]) -> None:
    done, found = run(FakeEngine(lambda messages: fault(template(messages))))
    assert not done.passed
    assert set(found) == {"GP601"}


def test_one_bos_is_left_out_of_the_comparison_on_either_side() -> None:
    without = FakeEngine(lambda messages: template(messages).removeprefix(BOS))
    assert all(case.equal for case in check_prompts(without, template, bos_text=BOS))
    twice = FakeEngine(lambda messages: BOS + template(messages))
    assert not any(case.equal for case in check_prompts(twice, template, bos_text=BOS))
    assert not any(case.equal for case in check_prompts(without, template, bos_text="")), "no BOS is known"


def test_a_doubled_bos_that_the_text_hides_shows_in_the_tokens() -> None:
    done, found = run(FakeEngine(extra_tokens=1))
    wrong = [case for case in done.prompts if not case.equal]
    assert [case.name for case in wrong] == [c.name for c in CONVERSATIONS if c.count_tokens and not c.rare]
    assert all(case.actual_tokens == (case.expected_tokens or 0) + 1 for case in wrong)
    assert set(found) == {"GP603"}
    assert not done.passed


def test_a_conversation_that_the_template_refuses_is_no_case() -> None:
    def strict(messages: Sequence[Message]) -> str | None:
        return None if messages[0]["role"] == "system" else template(messages)

    cases = check_prompts(FakeEngine(), strict)
    with_system = sum(c.messages[0]["role"] == "system" for c in CONVERSATIONS)
    assert len(cases) == len(CONVERSATIONS) - with_system
    assert 0 < len(cases) < len(CONVERSATIONS)


def test_an_engine_that_refuses_what_was_trained_is_an_error() -> None:
    def refuse(messages: Sequence[Message]) -> str:
        if len(messages) > 2:
            raise ServerResponseError("roles must alternate")
        return template(messages)

    done, found = run(FakeEngine(refuse))
    refused = [case for case in done.prompts if case.actual is None]
    assert refused
    assert all(not case.equal and "roles must alternate" in (case.detail or "") for case in refused)
    assert set(found) == {"GP602"}


@pytest.mark.parametrize("error", [ServerUnreachableError, ExchangeBrokenError])
@pytest.mark.parametrize("when", ["render", "generate"])
def test_a_server_that_goes_away_has_said_nothing_about_the_model(
    error: type[GgufpackError], when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise error("gone")

    engine = FakeEngine()
    monkeypatch.setattr(engine, when, gone)
    with pytest.raises(error, match="gone"):
        verify(engine, "prompts", model="m", expected=template, count_tokens=len)


def test_counts_that_cannot_be_had_are_unchecked_not_fine() -> None:
    class NoCount(FakeEngine):
        def generate(
            self, messages: Sequence[Message], *, max_tokens: int, seed: int = 0, think: bool | None = None
        ) -> Generation:
            if max_tokens == 1:
                raise ServerResponseError("out of memory")
            return ANSWER

    class Silent(FakeEngine):
        def generate(
            self, messages: Sequence[Message], *, max_tokens: int, seed: int = 0, think: bool | None = None
        ) -> Generation:
            return ANSWER  # prompt_tokens 0

    for engine, said in ((NoCount(), "out of memory"), (Silent(), "does not say")):
        done, found = run(engine)
        assert set(found) == {"GP604"}
        assert all(said in finding.message for finding in findings_of(done))
        assert all(finding.severity is Severity.UNCHECKED for finding in findings_of(done))


def test_what_was_not_looked_at_is_said() -> None:
    nothing = verify(FakeEngine(), "none", model="m", expected=template)
    assert not nothing.passed
    assert findings_of(nothing) == ()
    only_prompts, found = run(FakeEngine(), "prompts")
    assert only_prompts.level == "prompts"
    assert found == ["GP609"]
    fidelity, found = run(FakeEngine(), "fidelity")
    assert fidelity.level == "smoke", "the logits were not compared"
    assert found == []
    no_template = verify(FakeEngine(), "smoke", model="m", expected=None)
    assert [finding.id for finding in findings_of(no_template)] == ["GP605", "GP616"]
    not_counted = verify(FakeEngine(), "smoke", model="m", expected=template)
    assert [finding.id for finding in findings_of(not_counted)] == ["GP604", "GP616"]


@pytest.mark.parametrize(
    ("answer", "identifier", "reason"),
    [
        (Generation("on and on", "length", 9, 128), "GP606", "did not end"),
        (Generation("no reason", "", 9, 128), "GP606", "no reason"),
        (Generation("Hi<|end|>\nuser", "stop", 9, 5), "GP607", "<|end|>"),
        (Generation(" \n", "stop", 9, 1), "GP608", "empty"),
    ],
)
def test_an_answer_that_is_not_good(answer: Generation, identifier: str, reason: str) -> None:
    done, found = run(FakeEngine(answer=answer))
    assert not done.passed
    assert found == [identifier]
    assert isinstance(done.smoke, SmokeResult)
    assert reason in (done.smoke.detail or "")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Generation("on", "length", 9, 128), "(128 tokens)"),
        (Generation("MATMAT", "", 9, 0), "(the server broke it off)"),
    ],
)
def test_how_an_answer_ended_instead(answer: Generation, said: str) -> None:
    done = verify(FakeEngine(answer=answer), "smoke", model="m", expected=None)
    (finding,) = (one for one in findings_of(done) if one.id == "GP606")
    assert finding.message == f"m did not end its answer {said}"


def test_several_faults_of_an_answer_are_all_said() -> None:
    smoke = run_smoke(
        FakeEngine(answer=Generation("<a><b>", "length", 1, 7)), special_texts=("<b>", "<a>", "\n", "<a>")
    )
    assert smoke.leaked == ("<a>", "<b>")
    assert (smoke.detail or "").count(";") == 1


def test_a_difference_is_readable() -> None:
    assert describe_difference("same", "same") == ""
    shown = describe_difference("x" * 100 + "a\u00a0b", "x" * 100 + "a b")
    assert shown == (f"at character 101: expected '…{'x' * 29}a⟨here⟩\\xa0b', got '…{'x' * 29}a⟨here⟩ b'")
    assert describe_difference("ab", "abc\n") == "at character 2: expected 'ab⟨here⟩', got 'ab⟨here⟩c\\n'"
    assert "⟨here⟩" in describe_difference("", "x")


def test_progress_names_every_conversation() -> None:
    events: list[Event] = []
    check_prompts(FakeEngine(), template, on_event=events.append)
    progress = [event for event in events if isinstance(event, Progress)]
    assert [event.item for event in progress] == [c.name for c in CONVERSATIONS]
    assert progress[-1].done == progress[-1].total == len(CONVERSATIONS)


@pytest.fixture
def tokenizer_json(tmp_path: Path) -> Path:
    """A real tokenizers file that adds a BOS by itself, and cuts at 3 tokens."""
    words = {"[unk]": 0, "hello": 1, "world": 2}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[unk]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("<|end|>", special=True)])
    tokenizer.add_tokens(["<think>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=64)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_tokens_are_counted_as_apply_chat_template_does(tokenizer_json: Path) -> None:
    counted = token_counter(tokenizer_json)
    assert counted("hello world") == 2, "nothing added, nothing padded"
    assert counted("<s>hello world hello<|end|>") == 5, "special tokens are one each, nothing cut"
    assert special_texts(tokenizer_json) == ("<s>", "<|end|>")


def test_a_tokenizer_that_cannot_be_read_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for text in ("{", "[]", '{"added_tokens": [{"special": true}]}'):
        path.write_text(text)
        for function in (token_counter, special_texts):
            with pytest.raises(CheckpointFileError) as caught:
                function(path)
            assert caught.value.path == path
