"""Programs of one structure solved together: each as if alone."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_fp16fix.plan.solver import branching, program
from onnx_fp16fix.plan.solver.arrays import Arrays
from onnx_fp16fix.plan.solver.program import Program


def _like_a_layer(seed: int, scale: float = 1.0, *, twice: bool = False) -> Arrays:
    """A chain of exponents with a shift at each, one of two choices where range asks for it, bits to lose."""
    random, made = np.random.default_rng(seed), Program()
    choices = [made.variable(0, 1, float(random.integers(50, 90)), integer=True) for _ in range(2)]
    before = None
    for stage in range(3):
        exponent = made.variable(-9, 9, integer=True)
        size = made.variable(0, 9, 1.0)
        made.row({size: 1.0, exponent: -1.0}, lower=0)
        made.row({size: 1.0, exponent: 1.0}, lower=0)
        shift = made.variable(-9, 9, integer=True)
        used = made.variable(0, 1, float(random.integers(20, 60)) * scale, integer=True)
        made.row({shift: 1.0, used: -9.0}, upper=0)
        made.row({shift: 1.0, used: 9.0}, lower=0)
        made.row({exponent: 1.0, shift: -1.0} | ({} if before is None else {before: -2.0}), 0, 0)
        lost = [
            made.variable(0, most, float(price))
            for most, price in zip((2, 2, 30), np.cumsum(random.integers(1, 20, 3)), strict=True)
        ]
        escape = choices[stage % 2]
        made.row({exponent: 1.0, escape: 12.0}, lower=float(random.integers(1, 6)))
        made.row(
            {exponent: 1.0, escape: -9.0} | dict.fromkeys(lost, -1.0), upper=float(random.integers(-3, 5))
        )
        _tie_others(made, exponent, random, twice=twice)
        before = exponent
    other = made.variable(0, 2, 7.0)
    made.row({other: 1.0, choices[0]: -1.0, choices[1]: 1.0}, lower=0)
    made.row({other: 1.0, choices[0]: 1.0, choices[1]: -1.0}, lower=0)
    return made.arrays()


def _tie_others(made: Program, exponent: int, random: np.random.Generator, *, twice: bool) -> None:
    """One that falls as the exponent rises, one that rises with that, what follows said ``twice``; one with a price."""
    falls, rises, away = (made.variable(low, 12, integer=True) for low in (-4, -7, -12))
    one, two = random.integers(-2, 3, 2).tolist()
    made.row({exponent: 1.0, falls: 1.0}, one, one)
    made.row({rises: 1.0, falls: -1.0}, two, two)
    if twice:
        made.row({exponent: 1.0, rises: 1.0}, one + two, one + two)
    made.row({away: 1.0, rises: 1.0}, two, two)
    size = made.variable(0, 12, float(random.integers(1, 5)))
    made.row({size: 1.0, away: -1.0}, lower=0)
    made.row({size: 1.0, away: 1.0, exponent: 1.0}, lower=-1)


def _price(part: Arrays, values: np.ndarray | None) -> float:
    assert values is not None
    sums = np.bincount(part.rows, part.values * values[part.columns], len(part.row_lower))
    assert (sums >= part.row_lower - 1e-6).all()
    assert (sums <= part.row_upper + 1e-6).all()
    assert (values >= part.lower - 1e-6).all()
    assert (values <= part.upper + 1e-6).all()
    assert (values[part.integer] == np.rint(values[part.integer])).all()
    return float(part.cost @ values)


@pytest.mark.parametrize(("settled", "twice"), [(1, False), (1, True), (10**9, True)])
def test_each_has_the_price_it_has_alone(settled: int, twice: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing is left out on the way: from so many coefficients on that is done."""
    monkeypatch.setattr(branching, "_SETTLED", settled)
    monkeypatch.setattr(program, "_GAP", 0.0)
    monkeypatch.setattr(branching, "_TOGETHER", 15)
    monkeypatch.setattr(branching, "_EACH", 500)
    parts = [_like_a_layer(seed, scale, twice=twice) for scale in (0.1, 1.0) for seed in range(16)]
    assert len({part.structure() for part in parts}) == 1
    found = branching.solve_alike(parts)
    assert found is not None
    prices = [_price(part, values) for part, values in zip(parts, found, strict=True)]
    alone = [_price(part, program._highs(part, 10)) for part in parts]
    assert prices == pytest.approx(alone)
    assert len({tuple(values) for values in found}) > 10  # they do not all answer the same


def test_open_cases_and_contradictions_are_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [_like_a_layer(seed) for seed in range(8)]
    parts[3].row_lower[:] = np.where(np.isfinite(parts[3].row_lower), 99.0, -np.inf)  # nothing reaches this
    parts[3].row_upper[:] = np.where(np.isfinite(parts[3].row_upper), 99.0, np.inf)
    found = branching.solve_alike(parts)
    assert found is not None
    assert np.flatnonzero(np.isnan(found).any(axis=1)).tolist() == [3]
    monkeypatch.setattr(branching, "_CASES", 0)
    monkeypatch.setattr(branching, "_EACH", 1)
    found = branching.solve_alike(parts[:3])
    assert found is not None
    assert np.isnan(found).all()


def test_programs_it_cannot_judge_are_refused() -> None:
    """Two continuous variables in one row, one of them in another too: their sum has no price of its own."""
    made = Program()
    one, other = made.variable(0, 5, 1.0), made.variable(0, 5, 2.0)
    made.row({one: 1.0, other: 1.0}, lower=3)
    made.row({one: 1.0}, upper=2)
    assert branching.solve_alike([made.arrays()] * 4) is None
