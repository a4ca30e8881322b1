"""The table of scale relations holds bit for bit in FP32, op by op; which slots may be FP16."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from onnx_fp16fix.calibrate.ranges import RangeTable
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.model import wrap_model
from onnx_fp16fix.operators import BY_OPERANDS, OPS, Operand, Relation, contrib, float_slots, inp, relation_of
from onnx_fp16fix.plan.known.facts import Facts, NodeView
from operators.cases import CASES
from operators.one_node import Case

UNDER_ONNX = {"LayerNormalization", "SimplifiedLayerNormalization"}
DRAWS = 4
LARGEST = 9
"""Exponents are drawn from -9 to 9: squares and cubes of the scaled values stay normal in FP32."""


def known(one: Case) -> tuple[NodeView, Relation]:
    scope = build_view(wrap_model(one.model())).main
    view = Facts(scope, RangeTable({}, 0)).node_view(scope.nodes[0])
    return view, view.relation


def movable(view: NodeView, relation: Relation) -> list[Operand]:
    return sorted(operand for operand in relation.movable if view.has(operand))


def draw(relation: Relation, operands: list[Operand], rng: np.random.Generator) -> dict[Operand, int]:
    """Integer exponents that satisfy the equations: a vertex in a random direction of a random box."""
    rows = [
        [sum(weight for operand, weight in equation if operand == column) for column in operands]
        for equation in relation.equations
    ]
    box = rng.integers(1, LARGEST + 1, len(operands))
    answer = milp(
        rng.standard_normal(len(operands)),
        integrality=np.ones(len(operands)),
        bounds=Bounds(-box, box),
        constraints=LinearConstraint(np.array(rows), 0, 0) if rows else (),
    )
    return {operand: round(value) for operand, value in zip(operands, answer.x, strict=True)}


def scaled_attributes(relation: Relation, one: Case, exponents: Mapping[Operand, int]) -> dict[str, float]:
    values: dict[str, float] = {}
    for scale in relation.attributes:
        value = values.get(scale.name, one.attrs.get(scale.name, scale.default))
        if value is not None:
            values[scale.name] = float(np.ldexp(value, scale.coefficient * exponents.get(scale.operand, 0)))
    return values


def assert_same_bits(actual: np.ndarray, expected: np.ndarray, place: str) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    if actual.dtype == np.float32:
        actual, expected = actual.view(np.uint32), expected.view(np.uint32)
    np.testing.assert_array_equal(actual, expected, err_msg=place)


@pytest.mark.parametrize("one", CASES, ids=str)
def test_scaled_operands_give_the_scaled_result_bit_for_bit(one: Case) -> None:
    view, relation = known(one)
    operands = movable(view, relation)
    expected = one.run()
    rng = np.random.default_rng(zlib.crc32(str(one).encode()))
    for _ in range(DRAWS if operands else 0):
        exponents = draw(relation, operands, rng)
        values = {
            slot: np.ldexp(value, -exponents[inp(slot)]) if inp(slot) in exponents else value
            for slot, value in one.values().items()
        }
        actual = one.run(values, scaled_attributes(relation, one, exponents))
        for slot, value in actual.items():
            exponent = exponents.get(("out", slot), 0)
            place = f"output {slot} with exponents {exponents}"
            assert_same_bits(np.ldexp(value, exponent) if exponent else value, expected[slot], place)


@pytest.mark.parametrize("one", CASES, ids=str)
def test_the_other_operands_are_pinned(one: Case) -> None:
    view, relation = known(one)
    assert " ".join(f"{kind}{slot}" for kind, slot in movable(view, relation)) == one.moves


def test_every_op_of_the_table_has_a_case() -> None:
    own = {f"{'com.microsoft.' * (op not in UNDER_ONNX)}{op}" for op in contrib.OPS}
    assert {one.op for one in CASES} == set(OPS) | own


# a mask of the attention ops of ONNX Runtime's own has no limit: in a row that it masks as a whole -inf gives NaN
SATURATING = [one for one in CASES if known(one)[1].saturating and "Attention" not in one.op]
FAR = np.float32(1e30)


@pytest.mark.parametrize("one", SATURATING, ids=str)
@pytest.mark.parametrize("sign", [-1, 1])
def test_an_infinity_in_a_saturating_slot_gives_the_limit(one: Case, sign: int) -> None:
    """Wherever the limit itself is an FP16 value."""
    for slot in known(one)[1].saturating & one.values().keys():
        limit, at_infinity = (
            one.run({**one.values(), slot: np.full_like(one.values()[slot], sign * far)})[0]
            for far in (FAR, np.float32(np.inf))
        )
        fits = np.abs(limit) <= np.finfo(np.float16).max
        np.testing.assert_array_equal(at_infinity[fits], limit[fits], err_msg=f"input {slot}")


def test_saturating_ops() -> None:
    assert {one.op for one in SATURATING} == {
        "Sigmoid",
        "Tanh",
        "Erf",
        "HardSigmoid",
        "Atan",
        "Exp",
        "Clip",
        "Max",
        "Min",
    }


def slots(op: str, inputs: int, outputs: int = 1, opset: int = 17) -> tuple[set[int], set[int]]:
    found = float_slots("", op, opset, inputs, outputs)
    return set(found.inputs), set(found.outputs)


@pytest.mark.parametrize(
    ("op", "inputs", "outputs", "expected"),
    [
        ("Add", 2, 1, ({0, 1}, {0})),
        ("Conv", 3, 1, ({0, 1, 2}, {0})),
        ("Concat", 4, 1, ({0, 1, 2, 3}, {0})),
        ("Resize", 3, 1, ({0}, {0})),
        ("Where", 3, 1, ({1, 2}, {0})),
        ("Gather", 2, 1, ({0}, {0})),
        ("Pow", 2, 1, ({0, 1}, {0})),
        ("BatchNormalization", 5, 1, ({0, 1, 2}, {0})),
        ("LayerNormalization", 3, 1, ({0, 1, 2}, {0})),
        ("Greater", 2, 1, ({0, 1}, set())),
        ("TopK", 2, 2, ({0}, {0})),
        ("Dropout", 2, 2, ({0}, {0})),
        ("OneHot", 3, 1, ({2}, {0})),
        ("LSTM", 8, 3, ({0, 1, 2, 3, 5, 6, 7}, {0, 1, 2})),
        ("Identity", 1, 1, ({0}, {0})),
        ("SequenceConstruct", 2, 1, (set(), set())),
        ("SequenceAt", 2, 1, (set(), set())),
        ("OptionalGetElement", 1, 1, (set(), set())),
        ("If", 1, 1, (set(), set())),
        ("Loop", 3, 1, (set(), set())),
        ("RoiAlign", 3, 1, (set(), set())),
        ("Range", 3, 1, (set(), set())),
        ("NonMaxSuppression", 5, 1, (set(), set())),
    ],
)
def test_slots_that_may_be_fp16(
    op: str, inputs: int, outputs: int, expected: tuple[set[int], set[int]]
) -> None:
    assert slots(op, inputs, outputs) == expected


def test_statistics_of_a_batch_normalization_share_its_type_before_opset_15() -> None:
    assert slots("BatchNormalization", 5, opset=9) == ({0, 1, 2, 3, 4}, {0})


@pytest.mark.parametrize("op", ["Shape", "Size", "Cast"])
def test_shape_and_cast_read_either_type(op: str) -> None:
    assert float_slots("", op, 17, 1, 1).either == {0}
    assert float_slots("", "Add", 17, 2, 1).either == set()


def test_ops_without_a_schema_stay_fp32() -> None:
    assert not float_slots("my.domain", "Relu", 1, 1, 1).fp16
    assert not float_slots("", "Relu", 0, 1, 1).fp16
    assert not float_slots("", "NoSuchOp", 17, 1, 1).fp16


class OnlyOperands:
    """A node of which nothing else is known; asked for more it raises AttributeError."""

    def __init__(self, op: str, slots: int) -> None:
        self.op, self.opset, self.slots = op, 17, slots

    def has(self, operand: Operand) -> bool:
        return operand[1] < (self.slots if operand[0] == "in" else 1)

    def count(self, kind: str) -> int:
        return self.slots if kind == "in" else 1


@pytest.mark.parametrize("op", sorted(BY_OPERANDS))
def test_relations_shared_by_operands_ask_for_nothing_else(op: str) -> None:
    for slots in (1, 2, 3, 5):
        relation = relation_of("", OnlyOperands(op, slots))  # type: ignore[arg-type]
        assert relation.equations or slots < 2
