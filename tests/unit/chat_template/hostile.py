"""Chat templates that were made to do harm: name, and Jinja."""

from __future__ import annotations

from collections.abc import Mapping

_NAMESPACE = "{% set n = namespace(x=[], y=[]) %}"
_LONG = "{% set a = 'a' * 4000000 %}{% set b = a[:-1] ~ 'b' %}"
_TOWERS = (
    "{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}"  # 2**60 items
)


def _nested(opening: str, closing: str, count: int = 100_000, inside: str = "1") -> str:
    return opening * count + inside + closing * count


# What would get at Python: each is refused, or prints nothing of it.
ESCAPES: Mapping[str, str] = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "class, an item": "{{ ''['__class__']['__mro__'] }}",
    "class, a joined name": "{{ ''['__cla' ~ 'ss__'] }}",
    "class, attr": "{{ '' | attr('__class__') | attr('__mro__') }}",
    "class, map": "{{ [''] | map(attribute='__class__.__mro__') | list }}",
    "class, sort": "{{ ['', 'a'] | sort(attribute='__class__.__mro__') }}",
    "class, groupby": "{{ [''] | groupby('__class__.__mro__') | list }}",
    "class, sum": "{{ [''] | sum(attribute='__class__') }}",
    "class, of undefined": "{{ nothing.__class__.__init__.__globals__ }}",
    "format": "{{ '{0.__class__.__mro__}'.format(1) }}",
    "format, kept": "{% set f = '{0.__class__.__mro__}'.format %}{{ f(1) }}",
    "format, in a namespace": "{% set n = namespace(f='{0.__class__.__mro__}'.format) %}{{ n.f(1) }}",
    "format, in a list": "{{ ['{0.__class__.__mro__}'.format][0](1) }}",
    "format, attr (CVE-2025-27516)": "{{ ('{0.__class__.__mro__}' | attr('format'))(1) }}",
    "format, mapped (CVE-2024-56326)": "{{ (['{0.__class__}'] | map(attribute='format') | first)(1) }}",
    "format_map": "{{ '{a.__class__.__mro__}'.format_map({'a': 1}) }}",
    "format_map, mapped": "{{ (['{a.__class__}'] | map(attribute='format_map') | first)({'a': 1}) }}",
    "format, safe": "{{ ('{0.__class__.__mro__}' | e).format(1) }}",
    "cycler": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "joiner": "{{ joiner.__init__.__globals__.os }}",
    "lipsum": "{{ lipsum.__globals__.os.popen('id').read() }}",
    "namespace": "{{ namespace.__init__.__globals__ }}",
    "namespace, a private name": "{% set n = namespace(__class__=1) %}{{ n.__class__ }}",
    "dict": "{{ dict.__base__.__subclasses__() }}",
    "dict, mro": "{{ dict.mro() }}",
    "macro": "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "macro, environment": "{% macro m() %}{% endmacro %}{{ m._environment.loader }}",
    "caller": "{% macro m() %}{{ caller.__globals__ }}{% endmacro %}{% call m() %}{% endcall %}",
    "self": "{{ self._TemplateReference__context.environment }}",
    "self, init": "{{ self.__init__.__globals__.__builtins__ }}",
    "loop": "{% for a in [1] %}{{ loop._iterator.__reduce__() }}{% endfor %}",
    "generator": "{% set g = [1] | map('string') %}{{ g.gi_frame.f_globals.__builtins__ }}",
    "generator, code": "{% set g = [1] | map('string') %}{{ g.gi_code.co_consts }}",
    "generator, running": "{% set g = [1] | select %}{{ g.gi_yieldfrom }}{{ g.send.__self__ }}",
    "clock": "{{ strftime_now.__globals__ }}{{ strftime_now.__func__ }}{{ strftime_now.__self__ }}",
    "raise_exception": "{{ raise_exception.__globals__ }}",
    "tojson": "{{ {} | tojson(default=cycler) }}",
    "tojson, a function": "{{ namespace | tojson }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import '/etc/passwd' as x %}{{ x }}",
    "from import": "{% from 'os' import system %}{{ system('id') }}",
    "extends": "{% extends '/etc/passwd' %}",
    "debug": "{% debug %}",
    "messages, append": "{% set _ = messages.append(1) %}",
    "messages, clear": "{{ messages.clear() }}",
    "messages, update": "{{ messages[0].update({'role': 'system'}) }}",
    "messages, do": "{% do messages.append(1) %}",
}

# What would take hours or all memory: each is refused.
BOMBS: Mapping[str, str] = {
    "compare": _NAMESPACE + _TOWERS + "{{ n.x == n.y }}",
    "compare, in": _NAMESPACE + _TOWERS + "{{ n.y in [n.x] }}",
    "compare, a test": _NAMESPACE + _TOWERS + "{{ n.x is eq(n.y) }}",
    "hash": "{% set n = namespace(x=()) %}{% for i in range(60) %}{% set n.x = (n.x, n.x) %}{% endfor %}"
    "{{ {n.x: 1} }}",
    "print namespaces": "{% set n = namespace(x=1) %}{% for i in range(60) %}"
    "{% set n.x = namespace(a=n.x, b=n.x) %}{% endfor %}{{ n.x }}",
    "print views": "{% set n = namespace(x={'a': 1}) %}{% for i in range(60) %}"
    "{% set n.x = {'a': n.x.items(), 'b': n.x.values()} %}{% endfor %}{{ n.x.items() }}",
    "print a cycle": "{% set n = namespace() %}{% set n.x = [n, n] %}{{ n }}",
    "dict": "{% set n = namespace(x=1) %}{% for i in range(60) %}{% set n.x = dict(a=n.x, b=n.x) %}"
    "{% endfor %}{{ n.x }}",
    "long texts in a list": _LONG + "{{ b in [a] * 1000000 }}",
    "long texts, index": _LONG + "{{ ([a] * 1000000).index(b) }}",
    "long texts, selectattr": _LONG + "{{ ([{'a': a}] * 100000) | selectattr('a', 'equalto', b) | list }}",
    "search backwards": _LONG + "{{ a.rfind('ab' ~ a[:2000000]) }}",
    "search backwards, split": _LONG + "{{ a.rsplit('ab' ~ a[:2000000]) }}",
    "strip": _LONG + "{{ a.strip('b' * 2000000 ~ 'a') }}",
    "trim": _LONG + "{{ a | trim('b' * 2000000 ~ 'a') }}",
    "striptags": "{{ ('<!---->' * 500000) | striptags }}",
    "striptags, a method": "{{ (('<!---->' * 40000) | e).striptags() }}",
    "urlize": "{{ ('((((a.com ' * 400000) | urlize }}",
    "wordwrap": "{{ ('a ' * 2000000) | wordwrap(2) }}",
    "wordwrap, a long break": "{{ ('a ' * 40000) | wordwrap(2, wrapstring='b' * 1000000) }}",
    "indent": "{{ ('\\n' * 4000000) | indent(9999, blank=true) }}",
    "indent, a text": "{{ ('\\n' * 40000) | indent('a' * 1000000, blank=true) }}",
    "tojson": "{{ ([[]] * 80000) | tojson(indent=9999) }}",
    "pprint": "{{ ([1] * 120000) | pprint }}",
    "sort": "{{ ('a' * 4000000) | sort }}",
    "title": "{{ ('a ' * 2000000) | title }}",
    "batch": "{{ ('a' * 4000000) | batch(1) | list }}",
    "sum of lists": "{{ ([[1]] * 80000) | sum(start=[]) }}",
    "lazy texts": "{{ range(100000) | map('string') | map('center', 9999) | list | length }}",
    "lazy texts, joined": "{{ ''.join(range(100000) | map('string') | map('center', 9999)) }}",
    "kept texts": "{% set n = namespace(x=[]) %}{% for i in range(5000) %}"
    "{% set n.x = n.x + [('' ~ i) | center(9999)] %}{% endfor %}",
    "expandtabs": "{{ ('\\t' * 400000).expandtabs(9999) }}",
    "translate": "{{ ('a' * 40000).translate({97: 'b' * 1000000}) }}",
    "fromkeys": "{{ dict.fromkeys(range(100000), 'a' * 1000000) }}",
    "punycode": "{{ ('\\u00e4' * 4000000).encode('punycode') }}",
    "escapes": "{{ ('\\u00e4' * 4000000).encode('unicode_escape') }}",
    "round": "{{ 5 | round(0 - 1000000000) }}",
    "integer": "{{ ('f' * 4000000) | int(0, 16) // 3 }}",
    "clock, padded": "{{ strftime_now('%1000000d' * 100000) }}",
    "clock, long": "{{ strftime_now('%c' * 2000000) }}",
    "half a character": "{{ '\\ud800' }}",
}

# What the parser or the compiler would choke on: each is no valid template.
SOURCES: Mapping[str, str] = {
    "integer": "{{ " + "9" * 5000 + " }}",
    "integers, divided": "{{ 0x" + "f" * 700_000 + " // 0x" + "f" * 300_000 + " }}",
    "loops": _nested("{% for a in [1] %}", "{% endfor %}", 30),
    "conditions": _nested("{% if 1 %}", "{% endif %}", 150),
    "conditions, flat": "{% if a %}" + "{% elif a %}" * 30_000 + "{% endif %}",
    "parentheses": "{{ " + _nested("(", ")") + " }}",
    "lists": "{{ " + _nested("[", "]", inside="") + " }}",
    "attributes": "{{ a" + ".b" * 40_000 + " }}",
    "sums": "{{ a" + "+a" * 40_000 + " }}",
    "nots": "{{ " + "not " * 100_000 + "a }}",
    "minus": "{{ " + "-" * 100_000 + "1 }}",
    "many expressions": "{{ a }}" * 60_000,
    "many blocks": "".join(f"{{% block a{i} %}}{{% endblock %}}" for i in range(10_000)),
    "braces": "{" * 1_000_000,
    "an open tag": "{%" + " " * 1_000_000,
    "open comments": "{#" * 500_000,
    "50 MB": "x" * 50_000_000,
}
