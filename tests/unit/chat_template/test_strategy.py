from __future__ import annotations

from pathlib import Path

import pytest

from ggufpack.chat_template import named
from ggufpack.chat_template.content_form import in_its_form
from ggufpack.chat_template.findings import FINDINGS
from ggufpack.chat_template.guard import is_guarded
from ggufpack.chat_template.parity import DAYS
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.strategy import TemplatePlan, choose_template, plan_without_template
from ggufpack.errors import ChatTemplateError
from ggufpack.spec import Severity

CHATML = named.load("chatml").text
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NEW, OLD = (0, 33, 0), (0, 24, 0)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def plan(text: str, requested: str = "auto", server: tuple[int, int, int] | None = NEW) -> TemplatePlan:
    return choose_template(ChatTemplate(text, special_tokens=TOKENS), text, requested, server)


def ids(made: TemplatePlan) -> list[str]:
    return [finding.id for finding in made.findings]


@pytest.mark.parametrize("server", [None, OLD, NEW])
def test_chatml_becomes_a_go_template_on_every_server(server: tuple[int, int, int] | None) -> None:
    made = plan(CHATML, server=server)
    assert (made.strategy, made.gguf_chat_template, made.refused) == ("go", CHATML, ())
    assert ids(made) == ["GP424", "GP428"]
    assert made.readings is not None
    assert made.readings.go.parity["chat"].exact > 30
    assert made.readings.prefers_go


def test_the_default_system_prompt_is_carried_over() -> None:
    made = plan(SMOLLM2)
    assert made.strategy == "go"
    assert made.go_template is not None
    assert "named SmolLM, trained by Hugging Face" in made.go_template


def test_a_bos_that_opens_every_turn_stays_in_the_text() -> None:
    """SmolLM2's tokenizer calls <|im_start|> its BOS; an engine must not add another one."""
    tokens = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    made = choose_template(ChatTemplate(SMOLLM2, special_tokens=tokens), SMOLLM2, "auto", NEW)
    assert (made.strategy, made.emits_bos) == ("go", False)
    native = choose_template(ChatTemplate(SMOLLM2, special_tokens=tokens), SMOLLM2, "native", NEW)
    assert native.emits_bos is None


@pytest.mark.parametrize("bos", [True, False])
def test_a_leading_bos_is_left_to_the_engine(bos: bool) -> None:
    made = plan(("{{ bos_token }}" if bos else "") + CHATML)
    assert made.strategy == "go"
    assert made.emits_bos is bos
    assert "<s>" not in (made.go_template or "")


@pytest.mark.parametrize(
    ("what", "old", "new"),
    [
        (
            "a date that Go does not know",
            "{%- for",
            "{{- '<|im_start|>system\\n' + strftime_now('%H:%M') + '<|im_end|>\\n' }}{%- for",
        ),
        ("long chats", "'<|im_start|>' +", "('!' if messages | length > 9 else '') + '<|im_start|>' +"),
    ],
)
def test_what_go_cannot_do_is_never_shipped_as_go(what: str, old: str, new: str) -> None:
    text = CHATML.replace(old, new)
    assert text != CHATML
    made = plan(text)
    assert made.strategy == "native", what
    assert made.readings is not None
    assert not made.readings.go.complete


def test_thoughts_in_the_text_of_an_answer_are_a_finding() -> None:
    text = CHATML.replace("message['content']", "message['content'].split('</think>')[-1]")
    assert "GP439" in ids(plan(text))
    assert "GP439" not in ids(plan(CHATML))


def test_calls_that_an_old_server_hands_on_as_text_are_a_finding() -> None:
    calls = "{% for c in message.tool_calls or [] %}<call {{ c.function.name }}>{{ c.id }}</call>{% endfor %}"
    text = CHATML.replace("{%- for message in messages %}", "{%- for message in messages %}" + calls)
    made = plan(text + "{{ tools | tojson if tools }}", server=OLD)
    assert made.readings is not None
    assert made.readings.go_reads_calls is False
    assert "GP440" in ids(made)


def test_trimmed_contents_go_native_where_the_server_can() -> None:
    text = CHATML.replace("message['content']", "message['content'] | trim")
    assert text != CHATML
    made, old = plan(text), plan(text, server=OLD)
    assert old.strategy == "go"
    assert made.strategy == ("go" if not old.refused else "native")


def test_a_date_in_the_default_system_prompt_is_noticed_even_on_that_day() -> None:
    text = SMOLLM2.replace("named SmolLM", "of ' + strftime_now('%A') + '")
    today = ChatTemplate(text, special_tokens=TOKENS, now=lambda: DAYS[0])
    made = choose_template(today, text, "auto", NEW)
    assert made.strategy == "native"
    assert made.readings is not None
    assert "date" in {one.shape for one in made.readings.go.refused}


def test_on_an_old_server_what_go_cannot_do_is_left_out_and_said() -> None:
    text = CHATML + "{% if tools %}{{ tools | tojson | replace('\"', '`') }}{% endif %}"
    made = plan(text, server=OLD)
    assert (made.strategy, made.go_template is None) == ("go", False)
    warnings = [finding.id for finding in made.findings if finding.severity is Severity.WARNING]
    assert warnings == ["GP437", "GP427"]
    assert plan(text).strategy == "native"


def test_tools_that_only_change_the_prompt_are_noticed() -> None:
    made = plan(CHATML + "{% if tools %}{{ tools | length }}{% endif %}", server=OLD)
    assert [one.shape for one in made.refused] == ["tools:definition"]


def test_native_says_that_a_comment_was_added() -> None:
    made = plan(named.load("zephyr").text, "native")
    assert made.strategy == "native"
    assert is_guarded(made.gguf_chat_template or "")
    assert "GP425" in ids(made)
    assert "GP431" not in ids(made)
    assert "GP431" in ids(plan(named.load("zephyr").text, "native", server=None))


def test_native_says_what_ollama_does_not_hand_to_the_jinja() -> None:
    thoughts = "{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}"
    text = CHATML.replace("{%- for message in messages %}", "{%- for message in messages %}" + thoughts)
    text += "{% if enable_thinking is defined and enable_thinking %}<think>{% endif %}"
    made = plan(text, "native")
    lost = [finding.message for finding in made.findings if finding.id == "GP436"]
    assert len(lost) == 3
    assert "thinking:history" in lost[0]
    assert "thinking:unset" in lost[1]
    assert "prefill" in lost[2]
    assert made.think is False, "a server turns thinking on by itself; the template does not"
    assert "GP436" not in ids(plan(CHATML, "native"))
    dated = plan("{{ date_string if date_string is defined else '26 Jul 2024' }}" + CHATML, "native")
    assert "not reproduce date" in next(f.message for f in dated.findings if f.id == "GP436")
    fixed = plan("{{ date_string if date_string is defined else '26 Jul 2024' }}" + CHATML)
    assert fixed.strategy == "go", "its own fixed default, which native mode replaces"
    assert "26 Jul 2024" in (fixed.go_template or "")


def test_native_can_be_forced() -> None:
    assert plan(CHATML, "native").strategy == "native"
    assert plan(CHATML, "chatml").strategy == "go"


def test_an_old_server_runs_no_jinja() -> None:
    timed = CHATML + "{{ strftime_now('%H:%M') }}"
    for text, requested in ((timed, "auto"), (CHATML, "native")):
        with pytest.raises(ChatTemplateError, match=r"0\.24\.0.*renders Go templates only") as caught:
            plan(text, requested, OLD)
        assert caught.value.finding == "GP426"
        assert "0.30" in (caught.value.action or "")
        assert plan(text, requested, (0, 30, 0)).strategy == "native"


def test_what_the_template_refuses_is_named() -> None:
    made = plan(named.load("mistral").text)
    assert "system:middle" in {one.shape for one in made.refused}
    assert "GP432" in ids(made)


def test_a_template_that_refuses_everything_is_not_proven() -> None:
    with pytest.raises(ChatTemplateError, match=r"plain question.*never") as caught:
        plan("{{ raise_exception('never') }}")
    assert caught.value.finding == "GP438"


def test_contents_in_parts_where_the_template_wants_them() -> None:
    text = CHATML.replace("message['content']", "message['content'][0]['text']")
    template = in_its_form(ChatTemplate(text, special_tokens=TOKENS))
    made = choose_template(template, text, "auto", NEW)
    assert made.go_template == plan(CHATML).go_template
    prefill = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rendered = template.render(prefill, add_generation_prompt=False, continue_final_message=True)
    assert rendered.endswith("assistant\nb")


def test_without_a_template() -> None:
    base = plan_without_template(encoder=False)
    assert (base.strategy, base.go_template, base.gguf_chat_template) == ("go:prompt", "{{ .Prompt }}", None)
    assert ids(base) == ["GP429"]
    encoder = plan_without_template(encoder=True)
    assert (encoder.strategy, encoder.go_template, ids(encoder)) == ("none", None, ["GP430"])


def test_qwen2_5_has_its_default_system_prompt(real_chat_templates: list[Path]) -> None:
    path = next(path for path in real_chat_templates if path.stem == "Qwen-Qwen2.5-7B-Instruct")
    old = plan(path.read_text(encoding="utf-8"), server=OLD)
    assert "You are Qwen, created by Alibaba Cloud." in (old.go_template or "")


def test_finding_ids_are_in_their_range() -> None:
    assert all("GP420" <= id_ <= "GP449" for id_ in FINDINGS)
