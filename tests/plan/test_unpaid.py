"""What any plan pays for some places, known before the program is solved."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_fp16fix.calibrate import calibrate, open_data
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.model import Model
from onnx_fp16fix.plan import Draft, draft_plan, make_plan
from onnx_fp16fix.plan.prices import Prices

WIDTH = 8


def grown(blocks: int, gain: float, *, tail: bool = False) -> onnx.ModelProto:
    """Blocks of log(1 + exp(gain * tanh)): their exponentials have no other scale; ``tail``: and a square at the end
    whose root restores it."""
    nodes, last = [], "x"
    for n in range(blocks):
        nodes += [
            helper.make_node("Tanh", [last], [f"t{n}"]),
            helper.make_node("Mul", [f"t{n}", "gain"], [f"m{n}"]),
            helper.make_node("Exp", [f"m{n}"], [f"e{n}"]),
            helper.make_node("Add", [f"e{n}", "one"], [f"a{n}"]),
            helper.make_node("Log", [f"a{n}"], [f"l{n}"]),
        ]
        last = f"l{n}"
    if tail:
        nodes += [
            helper.make_node("Mul", [last, "large"], ["big"]),
            helper.make_node("Mul", ["big", "big"], ["square"]),
            helper.make_node("Sqrt", ["square"], ["root"]),
        ]
        last = "root"
    values = {"gain": gain, "one": 1.0, "large": 300.0}
    constants = [numpy_helper.from_array(np.float32(value), name) for name, value in values.items()]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, WIDTH]) for name in ("x", last))
    graph = helper.make_graph(nodes, "grown", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def data() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((4, WIDTH)).astype(np.float32)}


def drafted(proto: onnx.ModelProto) -> tuple[Draft, float]:
    """The draft, and what the whole plan costs."""
    view = build_view(Model(proto))
    ranges = calibrate(proto, open_data(data(), proto))
    return draft_plan(view.main, ranges), make_plan(view.main, ranges).cost


def places(blocks: int) -> list[set[tuple[tuple[str, ...], int]]]:
    return [{((), 5 * block + step) for step in (2, 3, 4)} for block in range(blocks)]


@pytest.mark.parametrize("blocks", [1, 7])
def test_each_place_that_no_exponent_saves_pays(blocks: int) -> None:
    draft, cost = drafted(grown(blocks, 14.0))
    paying, least = draft.least_cost(places(blocks))
    assert draft.open
    assert paying == [True] * blocks
    assert blocks * Prices().launch == least <= cost


def test_a_place_that_exponents_save_pays_nothing() -> None:
    draft, cost = drafted(grown(2, 3.0, tail=True))
    assert draft.least_cost([{((), 10), ((), 11), ((), 12)}, *places(2)]) == ([False] * 3, 0.0)
    assert not draft.open
    assert cost < 2 * Prices().launch  # a Mul where the result leaves the graph


def test_places_that_share_nodes_pay_once() -> None:
    draft, _ = drafted(grown(1, 14.0))
    (place,) = places(1)
    assert draft.least_cost([place, place]) == ([True, False], Prices().launch)


def test_nodes_that_only_move_what_is_made_outside_prove_nothing() -> None:
    """A Reshape is FP32 for nothing where what it reads is."""
    proto = grown(1, 14.0)
    proto.graph.node.insert(3, helper.make_node("Reshape", ["e0", "shape"], ["r0"]))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([4, WIDTH]), "shape"))
    proto.graph.node[4].input[0] = "r0"
    draft, _ = drafted(proto)
    assert draft.least_cost([{((), 3)}])[0] == [False]
    assert draft.least_cost([{((), 2), ((), 3)}])[0] == [True]


def test_the_draft_gives_the_same_plan_as_make_plan() -> None:
    draft, cost = drafted(grown(3, 14.0, tail=True))
    assert draft.plan().cost == cost
    assert draft.outline().risks == draft.plan().risks != ()
