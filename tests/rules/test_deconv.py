"""Rules for transposed convolutions: what the table says of each target, the same result, and the way through fix."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_fp16fix
from actions.deconv_models import deconv, mend, run, sample
from language._models import patched, record, view
from onnx_fp16fix.actions.deconv import known
from onnx_fp16fix.actions.deconv.choose import FORMS
from onnx_fp16fix.errors import UsageError
from onnx_fp16fix.language import apply_rules, load_rules, parse_target
from onnx_fp16fix.language.cases import build_model
from onnx_fp16fix.language.given import parse_given
from onnx_fp16fix.verify.backends import tensorrt as adapter

RULES = load_rules(["pack:deconv"])
HITS = [(rule, case) for rule in RULES for case in rule.cases if case.hit]
needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="no TensorRT-RTX")


def for_target(model: onnx.ModelProto, target: str) -> onnx.ModelProto:
    """The model after all rules for a target, round after round."""
    for _ in range(4):
        found = apply_rules(view(model), RULES, None, targets=[parse_target(target)])
        if not found.patches:
            return model
        model = patched(model, found)
    raise AssertionError("no end")


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(("rule", "case"), HITS, ids=lambda value: getattr(value, "id", ""))
def test_a_hit_keeps_the_result_and_rests_after_one_pass(rule: Any, case: Any) -> None:
    model = build_model(case.suite, {k: parse_given(v) for k, v in case.given.items()}, case.opset)
    found = apply_rules(view(model), [rule], None, targets=[case.target])
    result = patched(model, found)
    assert result != model
    np.testing.assert_array_equal(run(result, sample(model)), run(model, sample(model)))
    again = apply_rules(view(result), [rule], None, targets=[case.target])
    assert not again.patches


def test_without_a_target_no_rule_of_the_pack_does_anything() -> None:
    model = deconv(8, 8, [3, 3], group=4, strides=[2, 2], output_padding=[1, 1])
    assert not apply_rules(view(model), RULES, None).records


@pytest.mark.parametrize("entry", known.KNOWN, ids=lambda entry: f"{entry.issue}-{entry.target}")
def test_an_entry_of_the_table_has_a_source_a_cure_and_a_rule(entry: known.Known) -> None:
    assert entry.source
    assert set(entry.cures) <= FORMS.keys()
    rules = [rule for rule in RULES if rule.variants[0].action.parameters.issue == entry.issue]
    assert any(entry.target in rule.targets for rule in rules)
    if entry.source.startswith("https"):
        assert any(entry.source in rule.references for rule in rules)


@pytest.mark.parametrize(
    ("target", "ends"),
    [
        ("tensorrt:10.16", "group 4"),
        ("tensorrt:11.1.9", "group 4"),
        ("tensorrt:11.2", "group 1"),
        ("tensorrt:12", "group 1"),
        ("tensorrt", "group 1"),
        ("tensorrt:11.2:bf16", "group 4"),
        ("dla", "group 1"),
        ("tensorrt-rtx", "group 4"),
    ],
)
def test_versions_and_types_decide(target: str, ends: str) -> None:
    model = deconv(8, 8, [4, 4], group=4, strides=[2, 2], pads=[1, 1, 1, 1])
    result = for_target(model, target)
    groups = {a.i for node in result.graph.node for a in node.attribute if a.name == "group"}
    assert f"group {groups.pop()}" == ends


def test_the_cheaper_form_wins(tmp_path: Path) -> None:
    choose = "{name: deconv-for-target, issue: groups}"
    small, found = mend(deconv(8, 8, [4, 4], group=2, strides=[2, 2]), choose, tmp_path)
    assert ops(small) == ["ConvTranspose"]
    assert "deconv-dense-groups (+" in record(found).reason
    wide, found = mend(deconv(512, 512, [4, 4], group=4, size=[4, 4], strides=[2, 2]), choose, tmp_path)
    assert ops(wide) == ["Split", *["ConvTranspose"] * 4, "Concat"]
    assert "deconv-split-groups (" in record(found).reason


def test_one_pass_mends_all_that_is_known(tmp_path: Path) -> None:
    model = deconv(8, 8, [3, 3], group=2, strides=[2, 2], output_padding=[1, 1])
    result, found = mend(model, "{name: deconv-for-target, issue: groups}", tmp_path)
    assert "deconv-dense-groups and deconv-fold-output-padding" in record(found).reason
    assert ops(result) == ["ConvTranspose"]
    assert not [a for a in result.graph.node[0].attribute if a.name == "output_padding"]


@pytest.mark.parametrize(
    "text", ["", "tensorrt:", "tensorrt:a", "tensorrt:8:fp8", "tensorrt:8:int8:x", "a b"]
)
def test_what_is_no_target_is_said(text: str) -> None:
    with pytest.raises(UsageError, match="is no target"):
        parse_target(text)


def network(scale: float = 1.0) -> onnx.ModelProto:
    """Conv, a grouped ConvTranspose whose output passes 65504 at scale 1000, a Relu, and a Conv that makes it small."""
    rng = np.random.default_rng(2)
    weights = {
        "w0": rng.normal(size=(16, 3, 3, 3)),
        "w1": rng.normal(size=(16, 4, 4, 4)) * scale,
        "b1": rng.normal(size=16) * scale,
        "w2": rng.normal(size=(2, 16, 1, 1)) / scale,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1] * 4),
        helper.make_node(
            "ConvTranspose", ["a", "w1", "b1"], ["u"], name="up", group=4, strides=[2, 2], pads=[1] * 4
        ),
        helper.make_node("Relu", ["u"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", 1, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", 1, [1, 2, 16, 16])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


DATA = {"x": np.random.default_rng(5).normal(size=(1, 3, 8, 8)).astype(np.float32)}


@pytest.mark.parametrize("options", [{"target": "tensorrt:11.2"}, {"rules": "pack:deconv"}])
def test_fix_rewrites_for_the_target_and_still_repairs_the_overflow(options: dict[str, Any]) -> None:
    model = network(scale=1e4)
    assert np.abs(run_all(model, "u")).max() > 65504
    outcome = onnx_fp16fix.fix(model, DATA, tensorrt="auto", **options)
    assert outcome.run.status == "ok", [finding.message for finding in outcome.findings]
    assert outcome.model is not None
    up = next(node for node in outcome.model.graph.node if node.op_type == "ConvTranspose")
    assert [a.i for a in up.attribute if a.name == "group"] == [1]
    assert outcome.plan.fp32_nodes == []
    assert outcome.plan.rescaled_tensors > 0
    assert [rule.id for rule in outcome.run.rules if rule.applied] == ["DECONV001"]


def test_a_lock_repeats_the_rewrite(tmp_path: Path) -> None:
    outcome = onnx_fp16fix.fix(network(scale=1e4), DATA, tensorrt="off", target="tensorrt:11.2")
    lock = tmp_path / "net.lock.yaml"
    lock.write_text(outcome.lock(), encoding="utf-8")
    again = onnx_fp16fix.apply(network(scale=1e4), lock, DATA, tensorrt="off")
    assert again.model.SerializeToString() == outcome.model.SerializeToString()


def run_all(model: onnx.ModelProto, name: str) -> np.ndarray:
    more = onnx.ModelProto()
    more.CopyFrom(model)
    more.graph.output.insert(0, helper.make_empty_tensor_value_info(name))
    more.graph.output[0].type.tensor_type.elem_type = 1
    return run(more, DATA["x"])


def test_fix_leaves_models_for_other_targets_alone() -> None:
    for options in ({}, {"target": "tensorrt:10.16"}, {"rules": "pack:all"}):
        outcome = onnx_fp16fix.fix(network(), DATA, tensorrt="off", **options)
        up = next(node for node in outcome.model.graph.node if node.op_type == "ConvTranspose")
        assert [a.i for a in up.attribute if a.name == "group"] == [4]


def test_apply_of_the_pack_and_of_a_single_rule() -> None:
    for rules in (
        "pack:deconv",
        [str(Path(__file__).parents[2] / "rules" / "deconv" / "deconv-groups.yaml")],
    ):
        outcome = onnx_fp16fix.apply(network(), rules, DATA, tensorrt="off")
        assert outcome.run.status == "ok"
        assert outcome.verification.passed
        assert [finding.kind for finding in outcome.findings] == ["structure"]
    with pytest.raises(UsageError, match="no rule is for the target"):
        onnx_fp16fix.apply(network(), "pack:deconv", DATA, target="tensorflow")


def typed(model: onnx.ModelProto, elem_type: int) -> onnx.ModelProto:
    """The one-op or rewritten model with its floats in another type, between two Casts."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(helper.make_tensor(tensor.name, elem_type, values.shape, values.flatten()))
    for node in graph.node:
        for names in (node.input, node.output):
            for slot, name in enumerate(names):
                names[slot] = {"x": "x_low", "y": "y_low"}.get(name, name)
    graph.node.insert(0, helper.make_node("Cast", ["x"], ["x_low"], to=elem_type))
    graph.node.append(helper.make_node("Cast", ["y_low"], ["y"], to=TensorProto.FLOAT))
    del graph.value_info[:]
    return result


SHAPES = [
    deconv(8, 8, [4, 4], opset=22, group=2, strides=[2, 2], pads=[1] * 4),
    deconv(8, 4, [2, 2], opset=22, strides=[2, 2]),
    deconv(8, 4, [3, 3, 3], opset=22, strides=[2, 2, 2], pads=[1] * 6, output_padding=[1] * 3),
    deconv(8, 4, [16], opset=22, strides=[8], pads=[4, 4]),
]


@needs_rtx
@pytest.mark.parametrize("model", SHAPES, ids=["grouped", "kernel-is-stride", "3d", "1d"])
def test_bfloat16_builds_in_tensorrt_rtx_only_after_the_rewrite(model: onnx.ModelProto) -> None:
    """What the table says was measured: with a version that builds it the entry must get an end."""
    after = for_target(model, "tensorrt-rtx:1.7:bf16")
    assert "ConvTranspose" not in ops(after)
    built = [
        adapter.build(typed(each, TensorProto.BFLOAT16).SerializeToString(), typed=True)
        for each in (model, after)
    ]
    assert [report is not None and report.built for report in built] == [False, True], built[1]


@needs_rtx
@pytest.mark.parametrize(
    "form", ["deconv-dense-groups", "deconv-split-groups", "deconv-polyphase", "deconv-pad-channels"]
)
def test_every_form_builds_in_fp16(form: str, tmp_path: Path) -> None:
    model = deconv(6, 4, [3, 3], group=2, strides=[2, 2], pads=[1, 0, 0, 1], output_padding=[1, 1])
    result, _ = mend(model, f"{{name: {form}}}", tmp_path)
    report = adapter.build(typed(result, TensorProto.FLOAT16).SerializeToString(), typed=True)
    assert report is not None
    assert report.built, report.errors
