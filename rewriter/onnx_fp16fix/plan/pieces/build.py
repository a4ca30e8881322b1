"""The program over a region: exponents, explicit Muls, precisions and casts, tied together by the ops' relations.

For a tensor t made by node p and read by node c at some slot:

* s_t is its exponent, s_e = s_t + d_e the exponent the slot sees; d_e != 0 needs a Mul (price), unless t is constant;
* f_n = 1 if node n computes in FP32. FP16 results must fit: s_t >= lowest(t) - M f_p, and FP16 operands too:
  s_e >= lowest(t) - M f_c; where small values matter also s <= highest(t), a few bits may be lost at a price;
* casts: one down if p is FP32 and some c is not, one up if p is FP16 and some c is not.

Graph inputs count as made by an FP32 node, graph outputs and tensors read by bodies as read by one, at exponent 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_fp16fix.operators import flops
from onnx_fp16fix.plan.known.edges import TensorView
from onnx_fp16fix.plan.pieces.problem import ALWAYS, NEVER, Problem
from onnx_fp16fix.plan.pieces.rows import add_rows
from onnx_fp16fix.plan.pieces.variables import node_variables, tensor_variables
from onnx_fp16fix.plan.solver.program import Program

__all__ = ["build_pieces", "build_problem"]


def build_problem(problem: Problem, *, max_fp32_flops: float | None = None) -> Problem:
    """Variables and rows for the nodes of ``problem``, in a copy of it; everything outside stays FP16 at the exponents
    of ``fixed``. ``max_fp32_flops``: share of all FLOPs that FP32 may have."""
    (built,) = build_pieces([problem])
    if max_fp32_flops is not None:
        _limit_flops(built, max_fp32_flops)
    return built


def build_pieces(problems: Sequence[Problem]) -> list[Problem]:
    """The same for several pieces of a region at once, in one program.

    Whatever is asked here about a node or a tensor has to be in its kind (``kinds``), or pieces that differ would count
    as alike.
    """
    program, pieces, starts = Program(), list[tuple[Problem, list[int], list[TensorView]]](), list[int]()
    for problem in problems:
        problem = problem.blank()
        problem.program = program
        starts.append(len(program.cost))
        nodes = sorted(problem.nodes)
        tensors = _tensors(problem, nodes)
        for index in nodes:
            node_variables(problem, index)
        for tensor in tensors:
            tensor_variables(problem, tensor)
        pieces.append((problem, nodes, tensors))
    add_rows(pieces, np.array(starts))
    return [problem for problem, _, _ in pieces]


def _limit_flops(problem: Problem, share: float) -> None:
    counts = [flops(view) * problem.facts.runs(index) for index, view in enumerate(problem.views)]
    total, fp32 = sum(counts), dict[int, float]()
    for index, count in enumerate(counts):
        if count and (variable := problem.precision(index)) != NEVER:
            fp32[variable] = fp32.get(variable, 0.0) + count / total
    if total:
        problem.program.row(fp32, upper=share - fp32.pop(ALWAYS, 0.0))


def _tensors(problem: Problem, nodes: Sequence[int]) -> list[TensorView]:
    values = [edge.value for index in nodes for edge in problem.views[index].edges.values()]
    return list({value.key: value for value in values if not value.constant}.values())
