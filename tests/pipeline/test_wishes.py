"""What users ask for by name: honoured, refused with the reason, or obeyed and reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnx_fp16fix
from onnx_fp16fix import cli
from onnx_fp16fix.errors import UsageError
from onnx_text import model
from pipeline.user_rule import RULE

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
X = np.linspace(-3, 3, 32, dtype=np.float32).reshape(4, 8)
SAFE = """(float[4,8] x) => (float[4,8] y) {
    [first] h = MatMul(x, w)
    [act_Relu] r = Relu(h)
    [second] z = MatMul(r, w)
    y = Sigmoid(z)
}"""
BURSTING = """(float[4,8] x) => (float[4,8] y) {
    [grow] h = Mul(x, ten)
    [burst] e = Exp(h)
    [back] y = Log(e)
}"""


def safe() -> onnx.ModelProto:
    return model(SAFE, {"w": np.eye(8)})


def bursting() -> onnx.ModelProto:
    """Exp(30) is beyond FP16, and no scale can change what Exp wants."""
    return model(BURSTING, {"ten": np.float32(10)})


def fixed(proto: onnx.ModelProto, **options: object) -> onnx_fp16fix.Outcome:
    return onnx_fp16fix.fix(proto, {"x": X}, tensorrt="off", **options)  # type: ignore[arg-type]


def half_nodes(outcome: onnx_fp16fix.Outcome) -> set[str]:
    """Names of the nodes whose output is FP16."""
    assert outcome.model is not None
    inferred = onnx.shape_inference.infer_shapes(outcome.model)
    types = {info.name: info.type.tensor_type.elem_type for info in inferred.graph.value_info}
    nodes = inferred.graph.node
    return {node.name for node in nodes if types.get(node.output[0]) == HALF and node.op_type != "Cast"}


@pytest.mark.parametrize(
    ("wish", "kept"),
    [
        ({"keep_fp32": "act_"}, {"act_Relu"}),
        ({"keep_fp32": ["act_", "sec.nd$"]}, {"act_Relu", "second"}),
        # Relu stays with its neighbours, which saves two casts
        ({"keep_fp32_ops": "MatMul"}, {"first", "act_Relu", "second"}),
        ({"keep_fp32": "y"}, {"y"}),
        ({"keep_fp32_ops": ["Relu", "LSTM"]}, {"act_Relu"}),
    ],
)
def test_named_nodes_stay_in_fp32(wish: dict[str, object], kept: set[str]) -> None:
    outcome = fixed(safe(), **wish)
    assert outcome.plan is not None
    assert set(outcome.plan.fp32_nodes) == kept
    assert half_nodes(outcome) & {"first", "act_Relu", "second"} == {"first", "act_Relu", "second"} - kept
    assert outcome.run.status == "ok"


@pytest.mark.parametrize(
    ("wish", "hint"),
    [
        ({"keep_fp32": "Relu"}, "act_Relu"),
        ({"force_fp16": "fist"}, "first"),
        ({"keep_fp32_ops": "Matmul"}, "MatMul"),
        ({"limits": {"hh": 3.0}}, "'h'"),
    ],
)
def test_a_wish_that_names_nothing_is_an_error(wish: dict[str, object], hint: str) -> None:
    with pytest.raises(UsageError, match="USAGE-WISH") as caught:
        fixed(safe(), **wish)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    "wish",
    [
        {"keep_fp32": "("},
        {"limits": {"h": -1.0}},
        {"limits": {"h": float("nan")}},
        {"max_fp32_flops": 5},
        {"allow": "exakt"},
    ],
)
def test_values_that_make_no_sense(wish: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="USAGE-VALUE"):
        fixed(safe(), **wish)


def test_kept_and_forced_at_once() -> None:
    with pytest.raises(UsageError, match="USAGE-CONTRADICTION"):
        fixed(safe(), keep_fp32="fir", force_fp16_ops="MatMul")
    assert "first" in half_nodes(fixed(safe(), keep_fp32="fir", force_fp16_ops="MatMul", force=True))


def test_what_must_overflow_is_refused_with_the_reason() -> None:
    assert fixed(bursting()).run.status == "ok"
    with pytest.raises(UsageError, match="Exp cannot run in FP16: its output 'e' reaches 1"):
        fixed(bursting(), force_fp16="burst")


def test_or_obeyed_and_reported() -> None:
    outcome = fixed(bursting(), force_fp16="burst", force=True)
    assert "burst" in half_nodes(outcome)
    assert outcome.run.exit_code == 1
    left = [finding for finding in outcome.findings if finding.status == "left"]
    assert {finding.node for finding in left} >= {"burst"}
    assert outcome.verification is not None
    assert not outcome.verification.passed


def test_force_alone_changes_nothing() -> None:
    assert fixed(bursting(), force=True).model == fixed(bursting()).model


def test_what_fp16_can_do_is_forced() -> None:
    """A norm's epsilon goes to FP32 or is raised; asked for FP16, everything runs there, by other means."""
    wide = {"w": np.eye(8) * 1e6, "v": np.eye(8) * 1e-6}
    text = "(float[4,8] x) => (float[4,8] y) { [a] h = MatMul(x, w) [b] r = Relu(h) [c] y = MatMul(r, v) }"
    outcome = fixed(model(text, wide), force_fp16="[abc]$")
    assert half_nodes(outcome) >= {"a", "b"}
    assert outcome.run.status == "ok"


def test_a_limit_stands_in_for_the_measured_range() -> None:
    plain, wider = fixed(safe()), fixed(safe(), limits={"h": 1e7})
    assert plain.plan is not None
    assert wider.plan is not None
    assert (plain.plan.rescaled_tensors, wider.plan.rescaled_tensors > 0) == (0, True)
    assert any("is to hold 1e+07 (limits)" in finding.message for finding in wider.findings)
    assert wider.verification is not None
    assert wider.verification.fp32 is not None
    assert wider.verification.fp32.identical


def test_a_share_of_flops_that_cannot_be_reached_is_left() -> None:
    outcome = fixed(safe(), keep_fp32="first", max_fp32_flops=0.2, force=True)
    assert outcome.run.exit_code == 1
    (left,) = [f for f in outcome.findings if f.status == "left"]
    assert left.name == "fp32-flops"
    assert left.message.endswith("are of nodes to keep there")
    wishes = r"keep_fp32 asks for 'first' \(\d+\.\d% of the FLOPs\), but max_fp32_flops allows 20\.0% in FP32"
    with pytest.raises(UsageError, match=wishes):
        fixed(safe(), keep_fp32="first", max_fp32_flops=0.2)
    assert fixed(safe(), keep_fp32="first", max_fp32_flops=0.6).run.exit_code == 0


def test_only_rules_of_allowed_classes_are_used(tmp_path: Path) -> None:
    everything, exact = fixed(safe()), fixed(safe(), allow="exact")
    assert everything.run.status == exact.run.status == "ok"
    rule = tmp_path / "rule.yaml"
    rule.write_text(RULE, encoding="utf-8")
    used = [
        sum(entry.applied for entry in fixed(bursting(), rules=rule, **options).run.rules)
        for options in ({}, {"allow": ["exact", "real"]}, {"allow": "exact"})
    ]
    assert used == [1, 1, 0]
    # a rule does not rewrite what the user spoke of
    kept = fixed(bursting(), rules=rule, keep_fp32="burst")
    assert kept.plan is not None
    assert "burst" in kept.plan.fp32_nodes
    assert sum(entry.applied for entry in kept.run.rules) == 0


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    onnx.save(safe(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=X)
    return str(tmp_path / "m.onnx"), str(tmp_path / "d.npz"), str(tmp_path / "out.onnx")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, object]]:
    code = cli.main(["fix", *arguments, "--json", "--quiet", "--tensorrt", "off"])
    return code, json.loads(capsys.readouterr().out)


OURS = ["--keep-fp32", "fir", "--keep-fp32", "sec", "--keep-fp32-ops", "Relu,LSTM"]
THEIRS = ["--nodes_to_exclude", "fir", "sec", "--op_types_to_exclude", "Relu", "LSTM", "--keep_io_types"]


def test_the_command_and_the_names_of_autocast(
    files: tuple[str, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    proto, data, out = files
    code, ours = run(capsys, proto, "--data", data, "-o", out, *OURS, "--margin", "4")
    theirs_code, theirs = run(
        capsys, f"--onnx_path={proto}", "--calibration_data", data, "--output_path", out, *THEIRS,
        "--low_precision_type", "fp16", "--data_max", "16376",
    )  # fmt: skip
    assert (code, theirs_code) == (0, 0)
    assert ours["plan"] == theirs["plan"]
    assert ours["output"] == theirs["output"]
    assert ours["plan"]["fp32_nodes"] == ["first", "act_Relu", "second"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--limit", "h"], "REGEX=VALUE"),
        (["--limit", "h=x"], "REGEX=VALUE"),
        (["--max-fp32-flops", "500%"], "5% or 0.05"),
        (["--max-fp32-flops", "some"], "5% or 0.05"),
        (["--allow", "lossless"], "lossy"),
        (["--data_max", "1e9"], "65504"),
        (["--data_max", "1e39", "--precision", "bf16"], "3.38953e+38, where BF16 ends"),
        (["--keep-fp32-ops", "MatMul", "--max-fp32-flops", "1%"], "but --max-fp32-flops allows 1.0%"),
        (["--margin", "nan"], "--margin is nan"),
        (["--init_max", "4"], "no counterpart"),
        (["--keep-fp32", "nowhere"], "nowhere"),
    ],
)
def test_wrong_values_on_the_command_line(
    arguments: list[str], words: str, files: tuple[str, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    proto, data, out = files
    assert cli.main(["fix", proto, "--data", data, "-o", out, *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not Path(out).exists()


def test_shares_and_limits_on_the_command_line(
    files: tuple[str, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    proto, data, out = files
    limited = ["--limit", "h=1e7", "--limit", "r=1e7"]
    code, document = run(capsys, proto, "--data", data, "-o", out, "--max-fp32-flops", "5%", *limited)
    assert code == 0
    assert document["plan"]["rescaled_tensors"] >= 2  # type: ignore[index]


PICKS = """(float[4,8] x) => (int64[4] l, float[4,8] y) {
    [turn] t = Transpose<perm = [0, 1]>(x)
    [pick] l = ArgMax<axis = 1, keepdims = 0>(t)
    y = Relu(x)
}"""


@pytest.mark.parametrize(
    ("wish", "pick"),
    [
        ({}, FLOAT),
        ({"force_fp16": "pick"}, HALF),
        ({"force_fp16_ops": "ArgMax"}, HALF),
        ({"force_fp16": ".*"}, HALF),
    ],
)
def test_what_selects_among_graph_inputs_runs_in_fp16_if_asked_to(
    wish: dict[str, object], pick: int, tmp_path: Path
) -> None:
    proto = model(PICKS)
    outcome = fixed(proto, **wish)
    assert outcome.run.status == "ok"
    assert outcome.model is not None
    inferred = onnx.shape_inference.infer_shapes(outcome.model).graph
    types = {info.name: info.type.tensor_type.elem_type for info in (*inferred.input, *inferred.value_info)}
    (node,) = [node for node in inferred.node if node.op_type == "ArgMax"]
    assert types[node.input[0]] == pick
    lock = tmp_path / "lock.yaml"
    lock.write_text(outcome.lock(), encoding="utf-8")
    again = onnx_fp16fix.apply(proto, lock)
    assert again.model is not None
    assert again.model.SerializeToString() == outcome.model.SerializeToString()
    assert not again.warnings
