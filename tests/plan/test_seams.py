"""Large regions solved in pieces: what the whole costs, and alike pieces really are alike."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any
from unittest import mock

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_fp16fix.calibrate import calibrate, open_data
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.model import wrap_model
from onnx_fp16fix.plan import Plan, make_plan
from onnx_fp16fix.plan.known import region
from onnx_fp16fix.plan.pieces import seams
from onnx_fp16fix.plan.pieces.build import build_problem
from onnx_fp16fix.plan.pieces.kinds import Kinds, Piece
from onnx_fp16fix.plan.pieces.problem import Problem


def _blocks(count: int, gains: tuple[float, ...], join: bool = False, step: int = 0) -> onnx.ModelProto:
    """Gated products between hyperbolic tangents, some of them with a branch that only FP32 holds; ``join``: on a
    residual stream; ``step``: 0 gives all blocks the same weights."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def op(kind: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [f"t{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def constant(values: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(values, np.float32), f"c{len(constants)}"))
        return constants[-1].name

    x = "x"
    for block in range(count):
        gain, random = gains[block % len(gains)], np.random.default_rng(step * block)
        big = op("MatMul", x, constant(random.standard_normal((8, 8)) * gain))
        gate = op("Mul", big, op("Sigmoid", big))
        small = op("MatMul", gate, constant(random.standard_normal((8, 8)) / gain))
        if block % 3 == 2:
            grown = op("Exp", op("Mul", op("Tanh", small), constant(13.0)))
            small = op("Log", op("Add", grown, constant(1.0)))
        x = op("Add", x, small) if join else op("Tanh", small)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "blocks",
        [value("x", TensorProto.FLOAT, [4, 8])],
        [value(x, TensorProto.FLOAT, None)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _planned(model: onnx.ModelProto) -> Plan:
    feed = {"x": np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32)}
    scope = build_view(wrap_model(model)).main
    return make_plan(scope, calibrate(model, open_data(feed, model)), time_limit=60)


@pytest.fixture(autouse=True)
def _large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planned as graphs of thousands of nodes are."""
    monkeypatch.setattr(region, "_WHOLE", 10)


@pytest.mark.parametrize("gains", [(1e5,), (1e5, 3e6, 1.0)])
@pytest.mark.parametrize("join", [False, True])
def test_pieces_cost_what_the_whole_costs(gains: tuple[float, ...], join: bool) -> None:
    model = _blocks(24, gains, join)
    counts = list[int]()
    groups = seams._Cut.groups

    def counted(cut: seams._Cut) -> list[tuple[int, ...]]:
        counts.append(len(groups(cut)))
        return groups(cut)

    with mock.patch.object(seams._Cut, "groups", counted):
        apart = _planned(model)
    assert max(counts) > 4 or join  # the stream ties all blocks together
    with mock.patch.object(seams._Cut, "_keeps", return_value=False):
        whole = _planned(model)
    assert apart.cost == pytest.approx(whole.cost, rel=2e-3)
    assert len(apart.fp32) == len(whole.fp32)


def _program(region_: Problem, piece: Piece) -> list[bytes]:
    made = build_problem(region_.blank(frozenset(piece.nodes))).program
    return [part.tobytes() for part in made.arrays().parts()]


def test_pieces_of_one_kind_have_one_program() -> None:
    seen: dict[Hashable, list[bytes]] = {}
    alike = 0
    inner = Kinds.piece

    def checked(kinds: Kinds, nodes: tuple[int, ...]) -> Piece:
        nonlocal alike
        piece = inner(kinds, nodes)
        program = _program(kinds.region, piece)
        if piece.kind in seen:
            alike += 1
            assert seen[piece.kind] == program
        seen[piece.kind] = program
        return piece

    with mock.patch.object(Kinds, "piece", checked):
        _planned(_blocks(24, (1e5, 3e6)))
    assert alike > 4


def test_sides_of_a_seam_that_want_a_cast_are_joined() -> None:
    """One FP32 island over what a cut would have gone through costs less than two with casts between them."""
    joined = list[int]()
    join = seams._Cut.join

    def counted(cut: seams._Cut, values: Any) -> None:
        values = list(values)
        if cut.seams:
            joined.append(len(values))
        join(cut, values)

    with (
        mock.patch.object(seams._Cut, "join", counted),
        mock.patch.object(seams._Cut, "_needs_fp32", return_value=False),
    ):
        plan = _planned(_blocks(12, (1e5,)))
    assert joined
    assert plan.fp32


@pytest.mark.parametrize("join", [False, True])
def test_where_nothing_repeats_not_all_pieces_are_compared(
    monkeypatch: pytest.MonkeyPatch, join: bool
) -> None:
    model, compared = _blocks(24, (1e5,), join, step=1), list[tuple[int, ...]]()
    inner = Kinds.piece

    def counted(kinds: Kinds, nodes: tuple[int, ...]) -> Piece:
        compared.append(nodes)
        return inner(kinds, nodes)

    monkeypatch.setattr(Kinds, "piece", counted)
    every = _planned(model)
    full = len(compared)
    monkeypatch.setattr(seams, "_SAMPLE", 4)
    some = _planned(model)
    assert len(compared) - full < full or join
    assert some.cost == pytest.approx(every.cost, rel=2e-3)
