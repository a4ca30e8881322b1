"""Programs solved block by block: the same price as solved whole, and what repeats is solved once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from onnx_fp16fix.plan.solver import arrays, blocks, program
from onnx_fp16fix.plan.solver.program import Program


def _layered(layers: int, kinds: int, linked: bool = False) -> Program:
    """Blocks of random integer programs, ``kinds`` different ones in turn; ``linked``: to the block before."""
    made = Program()
    last = None
    for layer in range(layers):
        random = np.random.default_rng(layer % kinds)
        pinned = made.variable(-5, 5, integer=True)
        made.row({pinned: 1.0}, 0, 0)
        known = made.variable(-9, 9, integer=True)
        made.row({known: 2.0, pinned: 1.0}, 4, 4)
        unknown = [made.variable(0, 6, float(price), integer=True) for price in random.integers(1, 9, 4)]
        for _ in range(3):
            weights = random.integers(1, 5, 4)
            made.row({v: float(w) for v, w in zip(unknown, weights, strict=True)} | {known: 1.0}, lower=9)
        if linked and last is not None:
            made.row({last: 1.0, unknown[0]: -1.0}, lower=-1, upper=1)
        last = unknown[0]
        # pinned tensors are read by neighbours: they tie nothing together
        made.row({pinned: 1.0, unknown[1]: 1.0, known: 1.0}, upper=8)
    return made


def _price(made: Program, values: np.ndarray | None) -> float:
    assert values is not None
    return float(np.dot(made.cost, values))


@pytest.mark.parametrize("linked", [False, True])
def test_blocks_cost_what_the_whole_costs(monkeypatch: pytest.MonkeyPatch, linked: bool) -> None:
    made = _layered(40, 7, linked)
    monkeypatch.setattr(program, "_GAP", 0.0)
    whole = made.solve()
    monkeypatch.setattr(blocks, "_SMALL", 0)
    monkeypatch.setattr(blocks, "_TOGETHER", 9)
    apart = made.solve()
    assert apart is not None
    assert _price(made, apart) == pytest.approx(_price(made, whole))
    sums = np.zeros(len(made._row_lower))
    rows = np.repeat(np.arange(len(sums)), made._lengths)
    np.add.at(sums, rows, np.asarray(made._values) * apart[made._columns])
    assert (sums >= np.asarray(made._row_lower) - 1e-6).all()
    assert (sums <= np.asarray(made._row_upper) + 1e-6).all()


@pytest.mark.parametrize("tiny", [0, 12])  # variables that are too few for HiGHS
def test_what_repeats_is_solved_once(monkeypatch: pytest.MonkeyPatch, tiny: int) -> None:
    made, sizes = _layered(60, 3), list[int]()
    inner = program._highs

    def counted(part: arrays.Arrays, seconds: float) -> np.ndarray | None:
        sizes.append(len(part.cost))
        return inner(part, seconds)

    monkeypatch.setattr(program, "_highs", counted)
    monkeypatch.setattr(blocks, "_TINY", tiny)
    whole = made.solve()
    sizes.clear()
    monkeypatch.setattr(blocks, "_SMALL", 0)
    values = made.solve()
    assert values is not None
    assert sum(sizes) == 3 * 4 - tiny  # neither what is fixed nor what was seen
    assert _price(made, values) == pytest.approx(_price(made, whole), rel=program._GAP)
    assert (values.reshape(60, 6)[:3] == values.reshape(60, 6)[-3:]).all()


@pytest.mark.parametrize("wrong", [4.0, 2.5])
def test_contradictions_have_no_solution(monkeypatch: pytest.MonkeyPatch, wrong: float) -> None:
    made = _layered(3, 3)
    unknown = made.variable(0, 3, integer=True)
    made.row({unknown: 1.0}, wrong, wrong)
    assert made.solve() is None
    monkeypatch.setattr(blocks, "_SMALL", 0)
    assert made.solve() is None


def test_a_block_without_solution_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    made = _layered(3, 3)
    pair = [made.variable(0, 1, integer=True) for _ in range(2)]
    made.row({pair[0]: 2.0, pair[1]: 2.0}, 1, 1)
    monkeypatch.setattr(blocks, "_SMALL", 0)
    assert made.solve() is None


def test_all_arrays_of_a_program_are_told_apart() -> None:
    """Blocks are alike if everything about them is."""
    fields = {field.name for field in dataclasses.fields(arrays.Arrays)}
    part = arrays.Arrays(*(np.full(1, place) for place in range(len(fields))))
    assert [int(array[0]) for array in part.parts()] == list(range(len(fields)))
