"""Which nodes of a large graph are optimised."""

from __future__ import annotations

import numpy as np

from onnx_fp16fix.calibrate import RangeTable
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.model import wrap_model
from onnx_fp16fix.plan.known.facts import Facts
from onnx_fp16fix.plan.known.region import region
from onnx_text import model


def test_a_region_follows_ties_in_both_directions_and_ends_two_constants_further() -> None:
    """Runs of 100 Relus, each tied to the next run by nothing but a factor that may absorb its exponent."""
    run = 101
    ops = ["Mul" if place % run == run - 1 else "Relu" for place in range(5 * run)]
    steps = [f"t{place + 1} = {op}(t{place}{', w' * (op == 'Mul')})" for place, op in enumerate(ops)]
    text = f"(float[4] t0) => (float[4] t{len(ops)}) {{ {' '.join(steps)} }}"
    facts = Facts(build_view(wrap_model(model(text, {"w": np.ones(4)}))).main, RangeTable({}, 1))
    assert region(facts.table(), {run + 50}) == frozenset(range(4 * run))  # all but the last run
    assert region(facts.table(), {4 * run + 50}) == frozenset(range(2 * run - 1, 5 * run))
    assert region(facts.table(), ()) == frozenset()
