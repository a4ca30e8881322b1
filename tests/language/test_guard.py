"""Three-valued guards: unknown is not true, and no number is an accident."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from language._models import parse
from onnx_fp16fix.language.evaluate import evaluate
from onnx_fp16fix.language.guard import Unknown, is_true

VALUES = {"t": True, "f": False, "u": None}


class Names:
    def name(self, name):
        return Unknown(("u",)) if name == "u" else VALUES.get(name, 8.0)

    def fact(self, function, subject, arguments):
        return Unknown((f"{function}({subject})",)) if subject == "u" else 300.0


def value(text: str):
    return evaluate(parse(text).result, Names())


def kleene(result):
    return None if isinstance(result, Unknown) else result


@pytest.mark.parametrize(("a", "b"), list(itertools.product("tfu", repeat=2)))
def test_logic_follows_kleene(a, b):
    left, right = VALUES[a], VALUES[b]
    conjunction = False if False in (left, right) else None if None in (left, right) else True
    disjunction = True if True in (left, right) else None if None in (left, right) else False
    assert kleene(value(f"{a} and {b}")) is conjunction
    assert kleene(value(f"{a} or {b}")) is disjunction
    assert kleene(value(f"not {a}")) is (None if left is None else not left)


def test_a_chain_compares_every_pair():
    assert value("1 < x < 9") is True
    assert value("1 < x < 2") is False
    assert value("9 < x < u") is False  # false already, whatever u is


def test_missing_facts_are_collected():
    result = value("absmax(u) ** 2 > 3 + vmax(u)")
    assert isinstance(result, Unknown)
    assert result.missing == ("absmax(u)", "vmax(u)")
    assert not is_true(result)


@pytest.mark.parametrize(
    "text", ["x ** 999999", "1 / (x - 8)", "log(0 - x)", "(-x) ** 0.5", "[1, 2][5]", "pow2_floor(0 * x)"]
)
def test_numbers_without_a_value_are_unknown(text):
    assert isinstance(value(text), Unknown)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-x ** 2", -64.0),
        ("x / 2 / 2", 2.0),
        ("FP16.max", 65504.0),
        ("FP16.tiny", 2.0**-24),
        ("pow2_floor(300)", 256.0),
        ("pow2_floor(256)", 256.0),
        ("pow2_floor(0.3)", 0.25),
        ("round(2.5)", 2.0),
        ("max(1, x, 3)", 8.0),
        ("8 in [1, x]", True),
        ("[4, 5][1]", 5.0),
        ("x == 8 and x != 7", True),
    ],
)
def test_arithmetic(text, expected):
    assert value(text) == expected


def test_elementwise_functions_keep_arrays():
    class Arrays(Names):
        def fact(self, function, subject, arguments):
            return np.array([-5.0, 1.0])

    assert evaluate(parse("maximum(values(c), -2)").result, Arrays()).tolist() == [-2.0, 1.0]
