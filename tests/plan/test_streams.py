"""Long streams: their exponents chosen first, and what the plan then costs."""

from __future__ import annotations

from unittest import mock

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_fp16fix.calibrate import calibrate, open_data
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.model import wrap_model
from onnx_fp16fix.plan import Plan, make_plan
from onnx_fp16fix.plan.exponents import local, streams
from onnx_fp16fix.plan.known import region
from onnx_fp16fix.plan.pieces import seams
from onnx_fp16fix.plan.pieces.problem import Problem
from plan.rms_stream import rms_stream


def growing(blocks: int, bits: float) -> onnx.ModelProto:
    """A stream that grows by so many powers of two; every third block scales what it reads."""
    gains = [2 ** (bits * block / blocks) for block in range(blocks)]
    return rms_stream(8, gains, ["Tanh" if block % 3 == 2 else "Relu" for block in range(blocks)])


def planned(model: onnx.ModelProto, long: int) -> Plan:
    """As in a graph of thousands of nodes; ``long``: nodes of a part whose streams are free."""
    feed = {"x": np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32)}
    scope = build_view(wrap_model(model)).main
    ranges = calibrate(model, open_data([feed], model))
    with mock.patch.object(region, "_WHOLE", 10), mock.patch.object(local, "_LONG", long):
        return make_plan(scope, ranges, time_limit=60)


def test_a_stream_that_outgrows_fp16_costs_what_the_whole_program_finds() -> None:
    model = growing(12, 24)
    largest = list[int]()
    groups = seams._Cut.groups

    def counted(cut: seams._Cut) -> list[tuple[int, ...]]:
        found = groups(cut)
        largest.append(max(map(len, found)))
        return found

    with mock.patch.object(seams._Cut, "groups", counted):
        held = planned(model, 0)
    assert largest[-1] < 30
    whole = planned(model, 10**6)
    assert whole.inserted_muls()
    assert held.cost <= whole.cost * 1.02
    assert 0 not in held.exponents.values()
    assert len(held.fp32) == len(whole.fp32)


def test_small_weights_of_branches_keep_a_stream_from_an_exponent_that_a_mul_at_its_end_serves() -> None:
    """All of the stream could have the exponent that its end needs, but for a Mul at each product of a Tanh with
    weights that are too small for that."""
    blocks, random = 8, np.random.default_rng(3)
    model = growing(blocks, 0)
    graph, nodes = model.graph, list[onnx.NodeProto]()
    start = next(entry for entry in graph.initializer if entry.name == "start")
    start.CopyFrom(numpy_helper.from_array(np.eye(8, dtype=np.float32) * 300, "start"))
    for node in graph.node:
        block = node.output[0][1:]
        if node.output[0][0] == "t":
            node.op_type = "Tanh"
        elif node.op_type == "Add" and node.output[0][0] == "s":
            block = str(int(block) - 1)
            size = 6000 if int(block) >= blocks - 2 else 1e-3
            values = random.standard_normal((8, 8)) * size
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), f"v{block}"))
            nodes.append(helper.make_node("MatMul", [f"t{block}", f"v{block}"], [f"u{block}"]))
            node.input[1] = f"u{block}"
        nodes.append(node)
    graph.ClearField("node")
    graph.node.extend(nodes)
    held, whole = planned(model, 0), planned(model, 10**6)
    assert whole.inserted_muls() == held.inserted_muls() == 1
    assert held.cost == whole.cost


def test_without_an_answer_for_held_streams_they_are_free_again() -> None:
    def far(problem: Problem) -> dict[int, int]:
        return dict.fromkeys(found, -40) if (found := streams.held_streams(problem)) else {}

    model = growing(8, 24)
    with mock.patch.object(local, "held_streams", far):
        plan = planned(model, 0)
    assert plan.cost == planned(model, 10**6).cost
