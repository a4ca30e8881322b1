"""Exponents alone: tied exponents as one unknown, and answers no dearer than those of the whole program."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings

from onnx_fp16fix.calibrate import calibrate, open_data
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.model import wrap_model
from onnx_fp16fix.plan import Plan, draft_plan, make_plan, planner, solving
from onnx_fp16fix.plan.exponents.ties import Ties
from onnx_fp16fix.plan.known import region
from onnx_fp16fix.plan.prices import Prices
from onnx_text import model
from plan.random_graphs import Step, build, feed, graphs
from plan.rms_stream import rms_stream


def tied(count: int, *equations: dict[int, int], pinned: tuple[int, ...] = ()) -> Ties:
    ties = Ties(count)
    for variable in pinned:
        ties.pin(variable)
    for equation in equations:
        ties.equate(equation.items())
    return ties


def test_squares_and_roots_share_an_unknown_in_which_all_are_whole() -> None:
    # 1 = 0**2, 2 = sqrt(0), 3 = 2
    classes = tied(4, {1: 1, 0: -2}, {2: 2, 0: -1}, {3: 1, 2: -1}).classes()
    assert len(set(classes.of)) == 1
    assert np.array_equal(np.abs(classes.factor), [2, 4, 1, 1])
    assert len(set(np.sign(classes.factor))) == 1


def test_a_product_of_tied_factors_is_tied_once_they_are() -> None:
    # 2 = 0 + 1 becomes 2 = 0 when 1 is pinned behind it, 3 = 2 - 0 then is zero
    classes = tied(4, {2: 1, 0: -1, 1: -1}, {3: 1, 2: -1, 0: 1}, {1: 1}).classes()
    assert classes.equations == []
    assert classes.of[0] == classes.of[2]
    assert classes.pinned[classes.of[1]]
    assert classes.pinned[classes.of[3]]


def test_what_ties_cannot_use_up_stays_an_equation() -> None:
    classes = tied(4, {2: 1, 0: -1, 1: -1}, {3: 1, 2: -2}).classes()
    ((equation),) = classes.equations
    values = dict(zip((0, 1, 2, 3), (3, 4, 7, 14), strict=True))
    unknowns = {
        place: values[v] / factor
        for v, (place, factor) in enumerate(zip(classes.of, classes.factor, strict=True))
    }
    assert all(values[v] == unknowns[classes.of[v]] * classes.factor[v] for v in values)
    assert sum(weight * unknowns[place] for place, weight in equation.items()) == 0
    assert len(equation) == 3


def plans(steps: list[Step]) -> tuple[Plan, Plan, Plan, float] | None:
    """With exponents alone tried first, by the whole program, and as in a graph too large for that; and what is known
    of their price beforehand."""
    proto = build(steps)
    scope = build_view(wrap_model(proto)).main
    ranges = calibrate(proto, open_data([feed(1)], proto))
    if any(entry.nonfinite or entry.absmax > 1e30 for entry in ranges.tensors.values()):
        return None
    first = make_plan(scope, ranges)
    with mock.patch.object(region, "_WHOLE", 0):
        local = make_plan(scope, ranges)
    threes = [{((), index) for index in range(start, start + 3)} for start in range(0, len(scope.nodes), 3)]
    _, least = draft_plan(scope, ranges).least_cost(threes)
    with mock.patch.object(planner, "scale_alone", return_value=None):
        return first, make_plan(scope, ranges), local, least


@settings(
    derandomize=True,
    max_examples=40,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # shrinking a failure takes five minutes and helps little
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(steps=graphs)
@example(  # one node between those that are solved as one must not hold the exponents on both sides of it
    [
        Step("BatchNormalization", 1, 4, 4.7578, 84),
        Step("Gram", 2, 0, 5.399, 85),
        Step("RMS", 2, 2, 2.73, 36),
        Step("Sub tensors", 0, 2, -3.813, 49),
        Step("Min constant", 1, 5, 2.177, 48),
        Step("Divide", 0, 5, 5.759, 25),
    ]
)
def test_no_plan_is_dearer_than_that_of_the_whole_program(steps: list[Step]) -> None:
    if (found := plans(steps)) is not None:
        first, whole, local, least = found
        assert least <= min(first.cost, whole.cost, local.cost)
        assert first.cost <= whole.cost * 1.002 + 1e-6
        # a large graph is not searched for places where a cheap Mul of its border would be one less
        assert local.cost <= whole.cost * 1.1 + 2 * Prices().launch


def test_a_mul_at_the_border_moves_to_where_it_costs_less() -> None:
    """Linear attention over 1024 rows, queries, keys and values of one scale: a Mul for the 16 sums of keys serves as
    well as one for all results."""
    random = np.random.default_rng(0)
    proto = model(
        """(float[1024, 16] x) => (float[1024, 16] y) {
            m = MatMul(x, w) f, g, v = Split<axis = 1>(m) q = Relu(f) k = Relu(g)
            t = Transpose<perm = [1, 0]>(k) kv = MatMul(t, v) h = MatMul(q, kv)
            z = ReduceL1<axes = [1]>(t) d = MatMul(q, z) y = Div(h, d)
        }""",
        {"w": random.uniform(-7.5, 7.5, (16, 48))},
    )
    feed = {"x": random.standard_normal((1024, 16), np.float32) * 3}
    scope = build_view(wrap_model(proto)).main
    ranges = calibrate(proto, open_data([feed], proto))
    whole = make_plan(scope, ranges)
    with mock.patch.object(region, "_WHOLE", 0):
        parts = make_plan(scope, ranges)
    assert whole.inserted_muls() == 1
    assert parts.cost <= whole.cost * 1.1


@pytest.mark.parametrize("blocks", [3, 60])
def test_a_tied_stream_is_rescaled_as_a_whole_without_muls(blocks: int) -> None:
    proto = rms_stream(3000, [1 / 3] * blocks, ["Relu"] * blocks)
    scope = build_view(wrap_model(proto)).main
    ranges = calibrate(proto, open_data([{"x": np.ones((4, 8), np.float32)}], proto))
    with mock.patch.object(solving, "build_problem", side_effect=AssertionError("not needed")):
        plan = make_plan(scope, ranges)
    assert not plan.fp32
    assert not plan.inserted_muls()
    streams = {plan.exponents[f"s{block}"] for block in range(blocks)}  # nobody reads the last
    assert len(streams) == 1
    assert {plan.exponents[f"q{block}"] for block in range(blocks)} == {2 * streams.pop()}
