from __future__ import annotations

import pytest

from ggufpack.chat_template.learn import NothingLearnedError
from tests.unit.chat_template.learn.support import (
    Subject,
    assistant,
    call,
    result,
    system,
    tool,
    user,
)

CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CITY = {"type": "string", "description": "A <city> & 北京"}
DAYS = {"type": "integer"}


def assert_same(subject: Subject, *messages: object, **options: object) -> None:
    ours, theirs = subject.both(*messages, **options)  # type: ignore[arg-type]
    assert ours == theirs


def test_turns_prefill_and_systems_anywhere() -> None:
    subject = Subject(CHAT)
    turns = (user("1"), assistant("2"), user("3"), assistant("4"), user("5"))
    for messages in (turns, (system("S"), *turns), turns[:2], (*turns[:2], system("M"), *turns[2:])):
        assert_same(subject, *messages)
    assert subject.learned.confused == ()
    assert "Qz" not in subject.text


def test_one_branch_a_role_in_few_lines() -> None:
    text = Subject(CHAT).text
    assert text.count('eq .Role "user"') == text.count('eq .Role "assistant"') == 1
    assert text.count("\n") < 25


def test_a_default_system_text() -> None:
    subject = Subject("{% if messages[0].role != 'system' %}<|system|>Be kind.<|end|>{% endif %}" + CHAT)
    assert_same(subject, user("a"))
    assert_same(subject, system("S"), user("a"), assistant("b"), user("c"))


@pytest.mark.parametrize(("separator", "joined"), [("\\n\\n", True), (" / ", False)])
def test_gathered_systems(separator: str, joined: bool) -> None:
    subject = Subject(
        "{% for m in messages if m.role == 'system' %}{{ '' if loop.first else '" + separator + "' }}"
        "{{ m.content }}{% endfor %}"
        "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert_same(subject, system("1"), user("a"), assistant("b"), system("2"), user("c"))
    assert_same(subject, user("a"), assistant("b"), system("2"), user("c"))
    assert ("{{ $.System }}" in subject.text) is joined  # Ollama joins them itself


@pytest.mark.parametrize(
    "expression",
    ["m.content | trim", "m.content.lstrip()", "m.content.rstrip()", "m.content.strip('\\n')"],
)
@pytest.mark.parametrize("edges", ["", " ", "\n", "\t\n ", "  \n\n"])
def test_trimming(expression: str, edges: str) -> None:
    subject = Subject(CHAT.replace("m.content", expression))
    assert_same(subject, user(edges + "a b" + edges), assistant(edges + "c" + edges), user("d"))


def test_trimming_of_one_role_only() -> None:
    subject = Subject(CHAT.replace("m.content }}", "m.content if m.role == 'user' else m.content | trim }}"))
    assert_same(subject, user(" a "), assistant(" b "), user(" c "))


def test_dates_are_today_and_never_a_literal() -> None:
    subject = Subject("{{ strftime_now('%d %b %Y, %B %-d, %m/%y') }}" + CHAT)
    ours, theirs = subject.both(user("a"))
    assert ours == theirs
    assert ours.startswith("05 Apr 2031, April 5, 04/31")
    assert "2031" not in subject.text
    assert subject.learned.lossy == ()


def test_a_directive_that_go_has_no_words_for_is_lossy() -> None:
    assert Subject("{{ strftime_now('%A') }}" + CHAT).learned.lossy == ("date %A",)


def test_thinking_in_history_and_its_switch() -> None:
    subject = Subject(
        "{% for m in messages %}<{{ m.role }}>"
        "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
        "{{ m.content }};{% endfor %}{% if add_generation_prompt %}<assistant>"
        "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
    )
    messages = (user("a"), assistant("b", thinking="hm"), user("c"))
    for think in (None, True, False):
        assert_same(subject, *messages, think=think)
    assert "<think>{{ .Thinking }}</think>" in subject.text  # where Ollama looks for the tags


TOOLS_PYTHON = "{% if tools %}<tools>{% for t in tools %}{{ t | tojson }}\n{% endfor %}</tools>{% endif %}"


@pytest.mark.parametrize(
    "dumped",
    [
        "tools | tojson",
        "tools | tojson(indent=4)",
        "tools | tojson(indent=2)",
        "tools | tojson(separators=(',', ':'))",
        "tools | tojson(sort_keys=True)",
        "tools | map(attribute='function') | list | tojson",
        "tools",
        "(tools | tojson) | e",
    ],
)
def test_tool_lists_in_every_spelling(dumped: str) -> None:
    subject = Subject("{% if tools %}[T]{{ " + dumped + " }}[/T]{% endif %}" + CHAT)
    tools = (tool("look", 'It\'s <a> & "b"', ["city"], city=CITY, days=DAYS), tool("run", code=CITY))
    assert_same(subject, user("a"), tools=tools)
    assert_same(subject, user("a"))
    assert subject.learned.lossy == ()


SENDER = {
    "type": "object",
    "description": 'Who\'s "it".',
    "properties": {
        "at": {"type": "array", "items": {"type": "string"}},
        "name": CITY,
        "none": {"type": "null"},
    },
    "required": ["name"],
}
EITHER = {"anyOf": [{"type": "string", "description": "A text."}, {"type": ["integer", "null"]}]}


@pytest.mark.parametrize(
    "dumped",
    ["tojson", "tojson(indent=4)", "tojson(separators=(',', ':'))", "tojson(sort_keys=True)", "string"],
)
@pytest.mark.parametrize("what", ["t", "t.function", "t.function.parameters.properties"])
def test_nested_schemas_in_every_spelling(dumped: str, what: str) -> None:
    subject = Subject(
        "{% for t in tools or [] %}{{ t.function.name }}:"
        f"{{{{ {what} | {dumped} }}}};{{% endfor %}}" + CHAT
    )
    deeper = {"type": "object", "properties": {"deep": SENDER}}
    for one in (
        tool("send", sender=SENDER, to=CITY),
        tool("pick", required=["it"], it=EITHER),
        *((tool("d", d=deeper),) if "indent" not in dumped else ()),  # it writes down each depth
    ):
        assert_same(subject, user("a"), tools=(one,))


def test_nested_schemas_of_a_property_printed_by_itself() -> None:
    subject = Subject(
        "{% for t in tools or [] %}{{ t.function.name }}:"
        "{% for n, p in t.function.parameters.properties.items() %}<{{ n }}>"
        "{% if p.properties %}{{ p.properties | tojson }}{% endif %}"
        "{% if p.required %}{{ p.required | tojson }}{% endif %}{% endfor %}{% endfor %}" + CHAT
    )
    assert_same(subject, user("a"), tools=(tool("send", city=CITY, sender=SENDER, to=CITY),))


TYPES = (
    "{% macro type(p, line) %}{% if p.properties %}{ {% for n, q in p.properties.items() %}LINE{{ n }}"
    "{% if n not in (p.required or []) %}?{% endif %}: {{ type(q, line + '  ') }};{% endfor %} }"
    "{% elif p.type == 'array' %}{{ p['items'].type }}[]{% else %}{{ p.type }}{% endif %}{% endmacro %}"
    "{% for t in tools or [] %}{{ t.function.name }}{{ type(t.function.parameters, '\n') }}{% endfor %}"
)


def test_nested_schemas_written_by_a_macro_that_calls_itself() -> None:
    subject = Subject(TYPES.replace("LINE", "") + CHAT)
    place: dict[str, object] = {"type": "object", "properties": {"city": CITY, "sender": SENDER}}
    numbers = {"type": "array", "items": {"type": "integer"}}
    for one in (tool("a", to=SENDER), tool("b", required=["at"], at=place, by=CITY, n=numbers), tool("c")):
        assert_same(subject, user("a"), tools=(one,))
    assert subject.learned.lossy == ()


def test_nested_schemas_that_are_indented_are_lossy() -> None:
    subject = Subject(TYPES.replace("LINE", "{{ line }}") + CHAT)
    assert "Qz" not in subject.text
    assert any("spelling unknown" in what for what in subject.learned.lossy)


def test_tools_one_by_one() -> None:
    subject = Subject(TOOLS_PYTHON + CHAT)
    for count in (1, 2, 3):
        assert_same(subject, user("a"), tools=tuple(tool(f"t{k}", city=CITY) for k in range(count)))


SIGNATURE = (
    "{% for t in tools or [] %}{% set p = t.function.parameters %}def {{ t.function.name }}("
    "{% for n, s in p.properties.items() %}{{ n }}{% if n not in (p.required or []) %}?{% endif %}: "
    "{{ {'string': 'str', 'integer': 'int', 'boolean': 'bool'}.get(s.type, 'any') }}"
    "{% if not loop.last %}, {% endif %}{% endfor %}):\n"
    "{% for n, s in p.properties.items() %}  {{ n }}{% if s.description %} - {{ s.description }}{% endif %}\n"
    "{% endfor %}{% endfor %}"
)


def test_signatures_with_types_and_two_loops_over_one_list() -> None:
    subject = Subject(SIGNATURE + CHAT)
    tools = (
        tool("one", required=["city"], city=CITY),
        tool("two", a=DAYS, b=CITY),
        tool("three", required=["c"], a={"type": "boolean"}, b=DAYS, c=CITY),
    )
    assert_same(subject, user("a"), tools=tools)
    for one in tools:
        assert_same(subject, user("a"), tools=(one,))


def test_a_loop_over_the_required_names() -> None:
    subject = Subject(
        "{% for t in tools or [] %}{{ t.function.name }}:{% for n in t.function.parameters.properties %}"
        "{{ n }},{% endfor %} needs {% for n in t.function.parameters.required or [] %}<{{ n }}>{% endfor %}"
        "{% endfor %}" + CHAT
    )
    assert_same(subject, user("a"), tools=(tool("t", required=["b"], a=DAYS, b=CITY, c=DAYS),))
    assert_same(subject, user("a"), tools=(tool("t", required=["a", "c"], a=DAYS, b=CITY, c=DAYS),))


def test_options_of_a_property() -> None:
    subject = Subject(
        "{% for t in tools or [] %}{{ t.function.name }} "
        "{% for n, s in t.function.parameters.properties.items() %}{{ n }}: "
        "{% if s.enum %}{% for e in s.enum %}'{{ e }}'{% if not loop.last %} | {% endif %}{% endfor %}"
        "{% else %}{{ s.type }}{% endif %};{% endfor %}{% endfor %}" + CHAT
    )
    unit = {"type": "string", "enum": ["c", "f", "k"]}
    assert_same(subject, user("a"), tools=(tool("t", a=DAYS, unit=unit, z=CITY),))


CALLS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}CALL<|end|>{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def learned_calls(printed: str) -> Subject:
    return Subject(TOOLS_PYTHON + CALLS.replace("CALL", printed))


def assert_calls_same(subject: Subject) -> None:
    # in the order of their keys, which is the only one that Go has
    first = call("look", "111111111", at={"k": "v"}, city='a <b> & "c" it\'s', days=5, no=["x", 1], ok=True)
    second = call("run", "222222222", code="l1\nl2")
    third = call("run", "333333333", large=12345678, ok=False, part=-0.5)
    tools = (tool("look", city=CITY), tool("run", code=CITY))
    chat = (
        user("a"),
        assistant("", first, second, third),
        result("r1", first),
        result("r2", second),
        result("r3", third),
        assistant("b"),
        user("c"),
        assistant("d", second),
        result("r4", second),
    )
    assert_same(subject, *chat, tools=tools)
    assert_same(subject, *chat[:5], tools=tools)


@pytest.mark.parametrize(
    "printed",
    [
        '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}',
        "{{ c.function.name }}({{ c.function.arguments | tojson(separators=(',', ':')) }})",
        "{{ c.id }}:{{ c.function.name }}{{ c.function.arguments | tojson(indent=2) }}",
        "<{{ c.function.name }}>{% for k, v in c.function.arguments.items() %}<{{ k }}>"
        "{{ v if v is string else v | tojson }}</{{ k }}>{% endfor %}",
        "<{{ c.function.name }}>{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}, {% endfor %}",
    ],
)
def test_calls_and_results(printed: str) -> None:
    subject = learned_calls(printed)
    assert_calls_same(subject)
    assert subject.text.count("if .ToolCalls") == 1  # Ollama reads the tag from the first


@pytest.mark.parametrize(
    "printed",
    [
        "{{ c.function.name }}{{ c.function.arguments | tojson(indent=2) }}",
        "<{{ c.function.name }}>\n{% for k, v in c.function.arguments.items() %}<{{ k }}>{{ v }}</{{ k }}>\n"
        "{% endfor %}</{{ c.function.name }}>",
        "{{ c.function.name }}{% for k, v in c.function.arguments.items() %}"
        "{{ '(' if loop.first }}{{ k }}={{ v | tojson }}{% endfor %}",
    ],
)
def test_calls_without_arguments_and_arguments_that_are_null(printed: str) -> None:
    subject = learned_calls(printed)
    tools = (tool("now"), tool("run", code=CITY))
    for one in (call("now"), call("run", code=None), call("run", a=None, b=2, c=None)):
        assert_same(subject, user("a"), assistant("", one), result("r", one), tools=tools)
        assert_same(subject, user("a"), assistant("b", one, call("now"), one), user("c"), tools=tools)


def test_tools_without_properties() -> None:
    subject = Subject(
        "{% for t in tools or [] %}{{ t.function.name }}{% set p = t.function.parameters %}"
        "{% if p.properties %}({% for n in p.properties %}{{ n }};{% endfor %}){% endif %}"
        "{% if p.required %}{{ p.required | tojson }}{% else %}-{% endif %}{{ p | tojson }}{% endfor %}"
        + CHAT
    )
    tools = (tool("now"), tool("look", required=["city"], city=CITY), tool("see", city=CITY))
    for chosen in (tools, tools[::-1], tools[:1], tools[1:]):
        assert_same(subject, user("a"), tools=chosen)


def test_an_assistant_first_and_a_system_alone() -> None:
    subject = Subject(learned_calls("{{ c.function.name }}").jinja.text)
    for messages in ((assistant("a"), user("b")), (system("S"),), (system("S"), assistant("a"), user("b"))):
        assert_same(subject, *messages)


def test_a_name_that_a_call_prints_twice_and_a_result_once_more() -> None:
    subject = Subject(
        TOOLS_PYTHON
        + "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% for c in m.tool_calls or [] %}"
        "[{{ c.function.name }}]{{ c.function.arguments | tojson }}[/{{ c.function.name }}]{% endfor %}"
        "{% if m.role == 'tool' %} of {{ m.name }}{% endif %};{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    assert_calls_same(subject)


def test_results_of_calls_that_are_not_printed() -> None:
    subject = Subject(TOOLS_PYTHON + CHAT)
    assert (subject.traits.calls, subject.traits.results) == (False, True)
    assert_calls_same(subject)


XML = (
    "{% macro xml(v) %}{% if v is mapping %}{% for k, w in v.items() if w is not none %}<{{ k }}>{{ xml(w) }}"
    "</{{ k }}>{% endfor %}{% elif v is string %}{{ v }}{% elif v is iterable %}{% for w in v %}<item>"
    "{{ xml(w) }}</item>{% endfor %}{% elif v is boolean %}{{ v | tojson }}{% elif v is none %}"
    "{% else %}{{ v }}{% endif %}{% endmacro %}"
)
BRACES = (
    "{% macro xml(v) %}{% if v is mapping %}{{ '{' }}{% for k, w in v.items() %}{{ k }}={{ xml(w) }}"
    "{{ '; ' if not loop.last }}{% endfor %}{{ '}' }}{% elif v is string %}`{{ v }}`{% elif v is boolean %}"
    "{{ 'yes' if v else 'no' }}{% elif v is iterable %}({% for w in v %}{{ xml(w) }}"
    "{{ ' ' if not loop.last }}{% endfor %}){% else %}{{ v }}{% endif %}{% endmacro %}"
)


@pytest.mark.parametrize(("macro", "left_out"), [(XML, True), (BRACES, False)])
def test_arguments_written_by_a_macro_that_calls_itself(macro: str, left_out: bool) -> None:
    condition = "if v is not none " * left_out
    loop = f"{{% for k, v in c.function.arguments.items() {condition}%}}"
    each = "<{{ k }}>{{ xml(v) }}</{{ k }}>{% endfor %}"
    subject = Subject(macro + learned_calls("[{{ c.function.name }}]" + loop + each).jinja.text)
    assert subject.learned.lossy == ()
    deep: dict[str, object] = {"a": [1, {"b": "<x>", "c": [True, None, []]}, "y"], "d": {"e": {}}, "f": None}
    one = call("run", at=deep, list=[], no=False, none=None, text="a & b", twice=[["x"], ["y", 2]])
    for chosen in (one, call("run", m={}), call("run")):
        assert_same(subject, user("a"), assistant("", chosen), result("r", chosen), tools=(tool("run"),))


def test_arguments_wrapped_when_they_hold_markup() -> None:
    subject = learned_calls(
        "<{{ c.function.name }}>{% for k, v in c.function.arguments.items() %}<{{ k }}>"
        "{% if v is string and ('<' in v or '\\n' in v) %}<![CDATA[{{ v }}]]>{% else %}{{ v }}{% endif %}"
        "</{{ k }}>{% endfor %}</{{ c.function.name }}>"
    )
    for text in ("plain & 'simple'", "a < b", "two\nlines", "", "<"):
        one = call("run", code=text, other="x")
        assert_same(subject, user("a"), assistant("", one), result("r", one), tools=(tool("run"),))


def test_an_answer_without_text() -> None:
    subject = Subject(
        "{% for m in messages %}<|{{ m.role }}|>"
        "{% if m.content.strip() %}\n{{ m.content.strip() }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    assert_same(subject, user("a"), assistant(""), user("b"), assistant("c"), user("d"))
    assert_same(subject, system("S"), user("a"), assistant("c"), user("b"), assistant(""), user("d"))


def test_a_head_that_depends_on_who_speaks_first() -> None:
    subject = Subject(
        "{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}"
        "{% set rest = messages | rejectattr('role', 'equalto', 'system') | list %}"
        "{% if not rest %}alone{% elif rest[0].role == 'assistant' %}welcome{% else %}question{% endif %}"
        "{% for m in rest %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    for messages in ((user("a"),), (assistant("b"), user("a")), (system("S"),)):
        assert_same(subject, *messages)
        assert_same(subject, system("T"), *(m for m in messages if m.role != "system"))


def test_a_text_that_depends_on_a_result_anywhere() -> None:
    subject = Subject(
        "{% set kept = messages | selectattr('role', 'equalto', 'tool') | list %}"
        + learned_calls("[{{ c.function.name }}]{{ c.function.arguments | tojson }}").jinja.text.replace(
            "{{ m.content }}", "{% if kept and m.role == 'assistant' %}<kept>{% endif %}{{ m.content }}"
        )
    )
    one = call("run", code="x")
    turns = (user("a"), assistant("b"), user("c"))
    assert_same(subject, *turns)
    assert_same(subject, *turns, assistant("", one), result("r", one), tools=(tool("run", code=CITY),))


def test_a_generation_prompt_that_is_always_printed() -> None:
    subject = Subject(
        TOOLS_PYTHON + "{% for m in messages %}{% if m.role == 'assistant' %}<|bot|>"
        "<think>{{ m.reasoning_content }}</think>{% for c in m.tool_calls or [] %}"
        "<call>{{ c.function.name }}{{ c.function.arguments | tojson }}"
        "{% endfor %}{% else %}<|{{ m.role }}|>{% endif %}{{ m.content }}<|end|>{% endfor %}"
        "<|bot|>{% if not enable_thinking %}<think></think>{% endif %}"
    )
    for think in (True, False):
        assert_same(subject, user("a"), assistant("b", thinking="t"), user("c"), think=think)
        assert_same(
            subject, user("a"), assistant("", call("x", k="v")), think=think, tools=(tool("x", k=CITY),)
        )


def test_calls_counted_over_the_chat_and_within_a_message() -> None:
    chat = learned_calls(
        "{% set ns.n = ns.n + 1 %}#{{ ns.n }}:{{ c.function.name }}{{ c.function.arguments | tojson }}"
    )
    within = learned_calls("no. {{ loop.index }}: {{ c.function.name }}{{ c.function.arguments | tojson }}")
    assert_calls_same(within)
    subject = Subject("{% set ns = namespace(n=0) %}" + chat.jinja.text)
    assert_calls_same(subject)


def test_only_the_first_of_several_calls() -> None:
    text = CALLS.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]")
    subject = Subject(
        TOOLS_PYTHON + text.replace("CALL", "{{ c.function.name }}{{ c.function.arguments | tojson }}")
    )
    assert_calls_same(subject)
    assert "slice .ToolCalls 0 1" in subject.text


def test_a_value_in_an_unknown_spelling_is_lossy_and_never_printed() -> None:
    subject = learned_calls(
        "{% for k, v in c.function.arguments.items() %}{{ k }}:"
        "{% if v is mapping %}{% for a, b in v.items() %}({{ a }}={{ b[0] }}){% endfor %}{% else %}{{ v }}"
        "{% endif %}{% endfor %}"
    )
    assert "Qz" not in subject.text
    assert any("spelling unknown" in what for what in subject.learned.lossy)


def test_only_the_capabilities_asked_for_are_learned() -> None:
    subject = Subject(TOOLS_PYTHON + CALLS.replace("CALL", "{{ c.function.name }}"), frozenset(("system",)))
    assert ".Tools" not in subject.text
    assert ".ToolCalls" not in subject.text


def test_a_state_without_a_feature_is_confused() -> None:
    text = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ '!' if loop.index == 4 }};{% endfor %}"
    assert Subject(text).learned.confused


def test_nothing_can_be_learned() -> None:
    with pytest.raises(NothingLearnedError, match="never"):
        Subject("{{ raise_exception('never') }}")
