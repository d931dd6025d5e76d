"""JSON to the byte; the expected texts are what Go 1.26 prints for these values."""

from __future__ import annotations

import pytest

from ggufpack.store.go_json import decoded, encode


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("<a> & b", r'"\u003ca\u003e \u0026 b"'),
        ("\u2028\u2029", r'"\u2028\u2029"'),
        ("\x00\x1f\x7f\b\f\n\r\t", '"\\u0000\\u001f\x7f\\b\\f\\n\\r\\t"'),
        ('"\\/é日😀', '"\\"\\\\/é日😀"'),
        (4096.0, "4096"),
        (0.1, "0.1"),
        (-0.0, "-0"),
        (1e-6, "0.000001"),
        (9.9e-7, "9.9e-7"),
        (1e-10, "1e-10"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (123456789.125, "123456789.125"),
        (2**53 + 1, "9007199254740993"),
        (True, "true"),
        ([], "[]"),
        ({"b": [1, "x"], "a": {}}, '{"b":[1,"x"],"a":{}}'),
    ],
)
def test_encode(value: object, text: str) -> None:
    assert encode(value) == f"{text}\n".encode()  # type: ignore[arg-type]


def test_what_go_decodes_has_sorted_keys_and_float_numbers() -> None:
    value = decoded({"stop": ["b", "a"], "num_ctx": 2**53 + 1, "numa": True, "a": {"z": 1, "b": 2}})
    assert encode(value) == b'{"a":{"b":2,"z":1},"num_ctx":9007199254740992,"numa":true,"stop":["b","a"]}\n'


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_no_number_of_json(value: float) -> None:
    with pytest.raises(ValueError, match="is not a number"):
        encode(value)
