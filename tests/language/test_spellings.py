"""One pattern finds every spelling of its formula, and nothing that only looks like it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from language._models import RMS, case, load_text, rule_text, view
from onnx_fp16fix.language import apply_rules
from onnx_fp16fix.language.spellings import DERIVED_FROM, SPLITS

LAYER = """d = x - ReduceMean(x, axes=ax, keepdims=1)
d / Sqrt(ReduceMean(d ** 2, axes=ax, keepdims=1) + eps)"""
X = "float [4, 64]"


def matches(pattern: str, text: str, tmp_path, opset: int = 17, vars: str = "{}", **given: str) -> int:
    rules = load_text(rule_text(pattern, "action: {name: rescale}", vars=vars), tmp_path)
    model = case(text, opset, **(given or {"x": X}))
    found = apply_rules(view(model), rules, None)
    return sum(record.status == "applied" for record in found.records)


RMS_SPELLINGS = {
    "div sqrt": "x / Sqrt(ReduceMean(x ** 2, axes=[-1], keepdims=1) + 1e-6)",
    "mul": "x / Sqrt(ReduceMean(x * x, axes=[-1], keepdims=1) + 1e-6)",
    "reciprocal": "x * Reciprocal(Sqrt(ReduceMean(x * x, axes=[-1], keepdims=1) + 1e-6))",
    "one over": "x * (1.0 / Sqrt(ReduceMean(x * x, axes=[-1], keepdims=1) + 1e-6))",
    "pow -0.5": "x * (ReduceMean(x ** 2, axes=[-1], keepdims=1) + 1e-6) ** -0.5",
    "pow 0.5": "x / (ReduceMean(x ** 2, axes=[-1], keepdims=1) + 1e-6) ** 0.5",
    "sqrt of reciprocal": "x * Sqrt(Reciprocal(ReduceMean(x ** 2, axes=[-1], keepdims=1) + 1e-6))",
    "pow -1": "x * Sqrt(ReduceMean(x ** 2, axes=[-1], keepdims=1) + 1e-6) ** -1.0",
    "commuted": "Reciprocal(Sqrt(1e-6 + ReduceMean(x * x, axes=[-1], keepdims=1))) * x",
    "positive axis": "x / Sqrt(ReduceMean(x ** 2, axes=[1], keepdims=1) + 1e-6)",
    "keepdims 0, unsqueeze": "x / Sqrt(Unsqueeze(ReduceMean(x ** 2, axes=[-1], keepdims=0), axes=[-1]) + 1e-6)",
    "keepdims 0, reshape": "x / Sqrt(Reshape(ReduceMean(x ** 2, axes=[1], keepdims=0), Shape(y)) + 1e-6)",
    "sum over n": "x / Sqrt(ReduceSum(x * x, axes=[-1], keepdims=1) / 64.0 + 1e-6)",
    "sum times 1/n": "x / Sqrt(ReduceSum(x * x, axes=[-1], keepdims=1) * 0.015625 + 1e-6)",
    "sum of squares": "x / Sqrt(ReduceSumSquare(x, axes=[-1], keepdims=1) / 64.0 + 1e-6)",
    "sum minus negative": "x / Sqrt(ReduceMean(x * x, axes=[-1], keepdims=1) - -1e-6)",
    "variadic sum": "x / Sqrt(Sum(ReduceMean(x * x, axes=[-1], keepdims=1), 1e-6))",
    "identity inside": "x / Sqrt(Identity(ReduceMean(Identity(x) * x, axes=[-1], keepdims=1) + 1e-6))",
    "dropout inside": "x / Sqrt(Dropout(ReduceMean(x * x, axes=[-1], keepdims=1)) + 1e-6)",
    "cast to the same": "x / Sqrt(Cast(ReduceMean(x * x, axes=[-1], keepdims=1), to=1) + 1e-6)",
    "times one, plus zero": "x / Sqrt((ReduceMean(x * x * 1.0, axes=[-1], keepdims=1) + 0.0) / 1.0 * 1.0 + 1e-6)",
    "square of magnitude": "x / Sqrt(ReduceMean(Abs(x) ** 2, axes=[-1], keepdims=1) + 1e-6)",
    "folded eps": "x / Sqrt(ReduceMean(x * x, axes=[-1], keepdims=1) + Sqrt(1e-12))",
    "weight outside": "x / Sqrt(ReduceMean(x * x, axes=[-1], keepdims=1) + 1e-6) * w",
    "weight inside": "(x * w) * Reciprocal(Sqrt(ReduceMean(x * x, axes=[-1], keepdims=1) + 1e-6))",
}


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("name", RMS_SPELLINGS)
def test_rms_norm_is_found_in_every_spelling(name, opset, tmp_path):
    text = RMS_SPELLINGS[name]
    if "Reshape" in text and opset == 13:
        pytest.skip("shape inference does not follow Shape into Reshape at this opset")
    given = {"x": X}
    if "w)" in text or "* w" in text:
        given["w"] = "float [64]"
    if "Shape(y)" in text:
        given["y"] = "float [4, 1]"
    assert matches(RMS, text, tmp_path, opset, "{eps: const scalar, ax: axes}", **given) == 1


NEAR_MISSES = {
    "another value over the root": ("y / Sqrt(ReduceMean(x * x, axes=[-1], keepdims=1) + 1e-6)", {"y": X}),
    "product of two": ("x / Sqrt(ReduceMean(x * y, axes=[-1], keepdims=1) + 1e-6)", {"y": X}),
    "cube": ("x / Sqrt(ReduceMean(x ** 3, axes=[-1], keepdims=1) + 1e-6)", {}),
    "no root": ("x / (ReduceMean(x * x, axes=[-1], keepdims=1) + 1e-6)", {}),
    "root above": ("Sqrt(ReduceMean(x * x, axes=[-1], keepdims=1) + 1e-6) / x", {}),
    "times the root": ("x * Sqrt(ReduceMean(x * x, axes=[-1], keepdims=1) + 1e-6)", {}),
    "minus eps": ("x / Sqrt(1e-6 - ReduceMean(x * x, axes=[-1], keepdims=1))", {}),
    "sum over another n": ("x / Sqrt(ReduceSum(x * x, axes=[-1], keepdims=1) / 63.0 + 1e-6)", {}),
    "maximum": ("x / Sqrt(ReduceMax(x * x, axes=[-1], keepdims=1) + 1e-6)", {}),
    "eps is no constant": ("x / Sqrt(ReduceMean(x * x, axes=[-1], keepdims=1) + e)", {"e": "float [1]"}),
    "cube root": ("x / (ReduceMean(x * x, axes=[-1], keepdims=1) + 1e-6) ** 0.33333333", {}),
    "unsqueezed elsewhere": (
        "x / Sqrt(Unsqueeze(ReduceMean(x ** 2, axes=[-1], keepdims=0), axes=[0]) + 1e-6)",
        {"x": "float [64, 64]"},
    ),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_misses_of_rms_norm_are_left_alone(name, tmp_path):
    text, given = NEAR_MISSES[name]
    assert matches(RMS, text, tmp_path, vars="{eps: const scalar, ax: axes}", **{"x": X, **given}) == 0


LAYER_SPELLINGS = {
    "one deviation": "d = x - ReduceMean(x, axes=[1], keepdims=1)\n"
    "d / Sqrt(ReduceMean(d * d, axes=[-1], keepdims=1) + 1e-5)",
    "deviation computed twice": "d = x - ReduceMean(x, axes=[1], keepdims=1)\n"
    "e = x - ReduceMean(x, axes=[1], keepdims=1)\n"
    "e / Sqrt(ReduceMean(d ** 2, axes=[-1], keepdims=1) + 1e-5)",
    "added negative": "d = Neg(ReduceMean(x, axes=[1], keepdims=1)) + x\n"
    "d * Reciprocal(Sqrt(ReduceMean(d ** 2, axes=[-1], keepdims=1) + 1e-5))",
    "minus one times": "d = x + ReduceMean(x, axes=[1], keepdims=1) * -1.0\n"
    "d / Sqrt(ReduceMean(d ** 2, axes=[-1], keepdims=1) + 1e-5)",
    "on a sum": "d = (x + y) - ReduceMean(x + y, axes=[1], keepdims=1)\n"
    "d / Sqrt(ReduceMean(d ** 2, axes=[-1], keepdims=1) + 1e-5)",
}


@pytest.mark.parametrize("name", LAYER_SPELLINGS)
def test_layer_norm_is_found_in_every_spelling(name, tmp_path):
    text = LAYER_SPELLINGS[name]
    given = {"x": X, "y": X} if "y" in text else {"x": X}
    assert matches(LAYER, text, tmp_path, vars="{eps: const scalar, ax: axes}", **given) == 1


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("Max(x, 0)", "Relu(x)", 1),
        ("Max(x, 0)", "Max(x, 0.0)", 1),
        ("Max(x, 0)", "Max(0.0, x)", 1),
        ("Max(x, 0)", "Clip(x, 0.0)", 1),
        ("Max(x, 0)", "Clip(x, 0.0, 6.0)", 0),
        ("Min(Max(x, 0), 6)", "Clip(x, 0.0, 6.0)", 1),
        ("Max(x, 0)", "LeakyRelu(x)", 0),
        ("Max(x, 1e-5)", "Max(x, 1e-6)", 0),
        ("Min(x, 4)", "Clip(Neg(x), max=4.0)", 1),
        (
            "Max(Sqrt(ReduceSum(x ** 2, axes=_, keepdims=1)), 1)",
            "Max(ReduceL2(x, axes=[1], keepdims=1), 1.0)",
            1,
        ),
        ("ReduceMean(x, axes=[2, 3], keepdims=1)", "GlobalAveragePool(x)", 1),
        ("Exp(x) + 2 * x", "Exp(x) + x * 2.0", 1),
        ("Exp(x) + 2 * x", "x * 2.0 + Exp(x)", 1),
        ("Exp(x) + 2 * x", "Exp(x) + x * 2.1", 0),
        ("Exp(x) - x", "Neg(x) + Exp(x)", 1),
        ("Exp(x) - x", "x - Exp(x)", 0),
        ("Sqrt(Exp(x) ** 2)", "Exp(x)", 0),
        ("Exp(x) * Exp(y)", "Exp(x) * (Exp(y) * z)", 1),
        ("op.Div(x, y)", "x / y", 1),
        ("op.Div(x, y)", "x * Reciprocal(y)", 0),
        ("x / Exp(y)", "x * Reciprocal(Exp(y))", 1),
        ("Exp(x) | Log(x)", "Log(x)", 1),
        ("Softmax(x, axis=-1)", "Softmax(x, axis=3)", 1),
        ("Softmax(x, axis=-1)", "Softmax(x, axis=1)", 0),
        ("MaxPool(x, kernel_shape=k)", "MaxPool(x, kernel_shape=[2, 2])", 1),
        ("MaxPool(x, kernel_shape=k)", "MaxPool(x, kernel_shape=[2, 2], ceil_mode=1)", 0),
        ("MaxPool(x, **attrs)", "MaxPool(x, kernel_shape=[2, 2], ceil_mode=1)", 1),
        ("Clip(x, *bounds)", "Clip(x, 1.0, 2.0)", 1),
        ("Exp(moved(Log(x)))", "Exp(Transpose(Unsqueeze(Log(x), axes=[0])))", 1),
        ("Exp(moved(Log(x)))", "Exp(Relu(Log(x)))", 0),
        ("And(Not(a), b)", "And(b, Not(a))", 1),
    ],
)
def test_a_pattern_means_what_its_formula_means(pattern, text, expected, tmp_path):
    shape = "[1, 3, 8, 8]"
    given = {name: f"float {shape}" for name in ("x", "y", "z") if re.search(rf"\b{name}\b", text)}
    if "Not(" in text:
        given = {"a": "bool [4]", "b": "bool [4]"}
    assert matches(pattern, text, tmp_path, **given) == expected


def test_every_entry_of_the_table_is_written_in_a_test():
    tested = " ".join([*RMS_SPELLINGS.values(), *LAYER_SPELLINGS.values(), Path(__file__).read_text()])
    symbols = {"Mul": "*", "Div": "/", "Add": "+", "Sub": "-", "Pow": "**"}
    ops = {op for table in SPLITS.values() for op in table} | {
        op for row in DERIVED_FROM.values() for op in row
    }
    assert [op for op in ops if f"{op}(" not in tested and symbols.get(op, "\0") not in tested] == ["Or"]


@pytest.mark.parametrize("text", ["x * x * x", "x * (x * x)", "x ** 2 * x", "(x * x) * x", "x ** 3"])
def test_a_cube_is_any_product_of_its_powers(text, tmp_path):
    assert matches("Tanh(x ** 3)", f"Tanh({text})", tmp_path)
    assert not matches("Tanh(x ** 3)", f"Tanh({text} * x)", tmp_path)


@pytest.mark.parametrize(
    "text", ["y / x", "y * Reciprocal(x)", "(1.0 / x) * y", "y * x ** -1", "y * (1.0 * (1.0 / x))"]
)
def test_a_divisor_may_be_an_inverse_in_a_product(text, tmp_path):
    assert matches("Atan(y / x)", f"Atan({text})", tmp_path, x=X, y=X)
    assert not matches("Atan(y / x)", f"Atan({text} * 2.0)", tmp_path, x=X, y=X)
