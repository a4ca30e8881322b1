"""What every shipped rule must show: its own cases, the same bits in FP32, FP16 that works, and rest after one pass."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from language._models import absmax, case, patched, run, view
from onnx_fp16fix import shipped
from onnx_fp16fix.calibrate.ranges import RangeTable
from onnx_fp16fix.language import Rule, apply_rules, load_rules
from onnx_fp16fix.language.cases import build_model, parse_given, run_case

RULES = {rule.id: rule for rule in load_rules(["pack:all"])}
CASES = [(rule, case) for rule in RULES.values() for case in rule.cases]
HITS = [(rule, case) for rule, case in CASES if case.hit]


def label(value) -> str:
    return value.id if isinstance(value, Rule) else f"line{value.place.line}"


@pytest.mark.parametrize(("rule", "case"), CASES, ids=label)
def test_case_of_the_rule_file_holds(rule, case):
    result = run_case(rule, case)
    assert result.passed, f"{case.place.file}:{case.place.line}: {result.message}"


def prepared(rule, case) -> tuple[onnx.ModelProto, RangeTable]:
    given = {name: parse_given(text) for name, text in case.given.items()}
    ranges = {name: entry.range() for name, entry in given.items()}
    table = RangeTable({name: entry for name, entry in ranges.items() if entry is not None}, 1)
    return build_model(case.suite, given, case.opset), table


def feeds(model: onnx.ModelProto, table: RangeTable) -> dict[str, np.ndarray]:
    """Values within the given ranges; masks keep the first entry of each row."""
    rng, values = np.random.default_rng(3), {}
    for entry in model.graph.input:
        shape = [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
        known = table.get(entry.name)
        if entry.type.tensor_type.elem_type == onnx.TensorProto.BOOL:
            mask = rng.random(shape) < 0.5
            mask[..., ::2], mask[..., 1::4] = True, False
            values[entry.name] = mask
        elif entry.name == "mask":
            mask = (rng.random(shape) < 0.5).astype(np.float32)
            mask[..., 0] = 1
            values[entry.name] = mask
        elif (kind := entry.type.tensor_type.elem_type) in (onnx.TensorProto.INT64, onnx.TensorProto.INT32):
            integers = rng.integers(8, 640, shape)
            values[entry.name] = integers.astype(onnx.helper.tensor_dtype_to_np_dtype(kind))
        else:
            low, high = (known.minimum, known.maximum) if known else (-1, 1)
            values[entry.name] = rng.uniform(low, high, shape).astype(np.float32)
    return values


@pytest.mark.parametrize(("rule", "case"), HITS, ids=label)
def test_a_hit_keeps_every_bit_in_fp32(rule, case):
    model, table = prepared(rule, case)
    found = apply_rules(view(model), [rule], table)
    result = patched(model, found)
    values = feeds(model, table)
    if rule.equal in ("real", "lossy"):
        true, tolerance = run(model, **values), rule.tol or 1e-5
        np.testing.assert_allclose(run(result, **values), true, rtol=0, atol=tolerance * np.abs(true).max())
    else:
        np.testing.assert_array_equal(run(result, **values), run(model, **values))


@pytest.mark.parametrize(("rule", "case"), HITS, ids=label)
def test_a_second_pass_changes_nothing(rule, case):
    model, table = prepared(rule, case)
    once = patched(model, apply_rules(view(model), [rule], table))
    assert patched(once, apply_rules(view(once), [rule], table)) == once


@pytest.mark.parametrize(("rule", "case"), HITS, ids=label)
def test_the_edit_keeps_names_types_and_leaves_nothing_dangling(rule, case):
    model, table = prepared(rule, case)
    result = patched(model, apply_rules(view(model), [rule], table))
    assert list(result.graph.input) == list(model.graph.input)
    assert list(result.graph.output) == list(model.graph.output)
    assert result.opset_import == model.opset_import
    read = {name for node in result.graph.node for name in node.input} | {o.name for o in result.graph.output}
    assert {name for node in result.graph.node for name in node.output} <= read
    assert {tensor.name for tensor in result.graph.initializer} <= read


@pytest.mark.parametrize("rule", list(RULES.values()), ids=label)
def test_a_rule_is_documented_and_filed_under_its_name(rule):
    assert rule.summary
    assert len(rule.why) > 100
    assert rule.references
    assert rule.where or rule.targets, "a guard or a target must express the problem"
    assert {case.hit for case in rule.cases} == {True, False}
    stem = rule.place.file.rsplit("/", 1)[-1].removesuffix(".yaml")
    assert stem == rule.name
    assert (shipped.rules_dir() / rule.place.file.removeprefix("rules/")).is_file()


_BY_TYPE = ("CONV002",)
"""Rules about types alone: no range is asked for."""


@pytest.mark.parametrize("rule", [rule for rule in RULES.values() if rule.id not in _BY_TYPE], ids=label)
def test_without_calibration_a_rule_waits(rule):
    for written in rule.cases:
        model, _ = prepared(rule, written)
        found = apply_rules(view(model), [rule], None)
        assert not found.patches
        assert not found.requests


def _without_scale(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model cut before its last node, the multiplication that comes too late."""
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    del cut.graph.node[-1]
    cut.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(cut.graph.node[-1].output[0], 1, None))
    return cut


def half(model: onnx.ModelProto, **values: np.ndarray) -> np.ndarray:
    """The model with every value rounded to FP16: a numpy evaluation of the few ops the rules touch."""
    known = {
        name: value.astype(np.float16) if value.dtype == np.float32 else value
        for name, value in values.items()
    }
    with np.errstate(all="ignore"):
        for tensor in model.graph.initializer:
            array = numpy_helper.to_array(tensor)
            known[tensor.name] = array.astype(np.float16) if array.dtype == np.float32 else array
        for node in model.graph.node:
            known[node.output[0]] = _half_op(node, [known[name] for name in node.input if name])
    return known[model.graph.output[0].name].astype(np.float32)


def _half_op(node: onnx.NodeProto, args: list[np.ndarray]) -> np.ndarray:
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    if node.op_type.startswith("Reduce"):
        axes = tuple(args[1]) if len(args) > 1 else tuple(attributes["axes"])
        keep = bool(attributes.get("keepdims", 1))
        wide = args[0].astype(np.float64)
        total = (wide**2 if node.op_type == "ReduceSumSquare" else wide).sum(axes, keepdims=keep)
        total = total.astype(np.float16)  # the sum inside a ReduceMean is kept in FP16 by kernels
        return (total / np.float16(args[0].shape[axes[0]])) if node.op_type == "ReduceMean" else total
    if node.op_type == "Softmax":
        wide = np.exp(args[0].astype(np.float32) - args[0].max(-1, keepdims=True))
        return (wide / wide.sum(-1, keepdims=True)).astype(np.float16)
    functions = {
        "Mul": np.multiply,
        "Add": np.add,
        "Sub": np.subtract,
        "Div": np.divide,
        "Sqrt": np.sqrt,
        "Reciprocal": lambda a: np.float16(1) / a,
        "Max": np.maximum,
        "Pow": lambda a, b: (a.astype(np.float64) ** b).astype(np.float16),
        "MatMul": lambda a, b: (a.astype(np.float64) @ b.astype(np.float64)).astype(np.float16),
        "Where": np.where,
        "Unsqueeze": lambda a, axes: np.expand_dims(a, tuple(int(axis) for axis in axes)),
    }
    return np.asarray(functions[node.op_type](*args))


_BY_HAND = ("NORM001", "NORM002", "NORM003", "NORM004", "ATTN001", "SUM001")
"""Rules whose ops ``half`` knows; ``test_exported.py`` simulates the others."""
FP16_MENDED = [(rule, case) for rule, case in HITS if case.clause == "replace[0]" and rule.id in _BY_HAND]


@pytest.mark.parametrize(("rule", "case"), FP16_MENDED, ids=label)
def test_fp16_is_wrong_before_and_right_after(rule, case):
    model, table = prepared(rule, case)
    result = patched(model, apply_rules(view(model), [rule], table))
    values = feeds(model, table)
    if rule.family in ("SUM", "ATTN"):  # sums of random signs cancel; all ones reach what the case says
        values = {name: np.ones_like(value) for name, value in values.items()}
        first, whole = next(iter(values)), table.get("total") or table.get("p")
        values[first] *= whole.maximum / run(_without_scale(model), **values).max()
    true = run(model, **values)
    before, after = half(model, **values), half(result, **values)
    scale = np.abs(true).max()
    assert not np.abs(before - true).max() / scale < 0.1
    assert np.abs(after - true).max() / scale < 5e-3


def test_masked_entries_stay_exactly_zero_in_fp16_and_rows_without_a_key_stay_numbers():
    text = "Softmax(Where(mask, s, -3.4e38), axis=-1)"
    model = case(text, s="float [2, 8]", mask="bool [2, 8]")
    result = patched(model, apply_rules(view(model), [RULES["MASK002"]], absmax(s=50)))
    scores = np.linspace(-50, 50, 16, dtype=np.float32).reshape(2, 8)
    mask = np.array([[True, False] * 4, [False] * 8])
    true = run(model, s=scores, mask=mask)
    np.testing.assert_array_equal(run(result, s=scores, mask=mask), true)
    assert np.isnan(half(model, s=scores, mask=mask)).any()
    np.testing.assert_allclose(half(result, s=scores, mask=mask), true, atol=1e-3)
