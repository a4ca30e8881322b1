"""The program over a region: exponents, explicit Muls, precisions and casts, tied together by the ops' relations.

For a tensor t made by node p and read by node c at some slot:

* s_t is its exponent, s_e = s_t + d_e the exponent the slot sees; d_e != 0 needs a Mul (price), unless t is constant;
* f_n = 1 if node n computes in FP32. FP16 results must fit: s_t >= lowest(t) - M f_p, and FP16 operands too:
  s_e >= lowest(t) - M f_c; where small values matter also s <= highest(t), a few bits may be lost at a price;
* casts: one down if p is FP32 and some c is not, one up if p is FP16 and some c is not.

Graph inputs count as made by an FP32 node, graph outputs and tensors read by bodies as read by one, at exponent 0.
"""

from __future__ import annotations

from onnx_fp16fix.operators import flops
from onnx_fp16fix.plan.edges import TensorView
from onnx_fp16fix.plan.problem import Problem
from onnx_fp16fix.plan.program import combine
from onnx_fp16fix.plan.region import prone_to_fp32
from onnx_fp16fix.plan.rows import operand_rows, relation_rows, tensor_rows
from onnx_fp16fix.plan.variables import largest_exponent, node_variables, tensor_variables

__all__ = ["build_problem"]


def build_problem(
    region: Problem, *, all_prone: bool = False, max_fp32_flops: float | None = None
) -> Problem:
    """Variables and rows for the nodes of ``region``, which has none yet; everything outside stays FP16 at the
    exponents of ``fixed``.

    Only nodes that scaling may not save get the choice of FP32, unless ``all_prone``: fewer choices, faster answer.
    ``max_fp32_flops``: share of all FLOPs that FP32 may have.
    """
    problem = region.blank()
    problem.bound = largest_exponent(problem)
    nodes = problem.nodes
    prone = nodes if all_prone else prone_to_fp32(
        problem.views, problem.need, nodes, problem.forced
    )  # fmt: skip
    for index in sorted(nodes):
        node_variables(problem, index, index in prone)
    tensors = _tensors(problem)
    for tensor in tensors:
        tensor_variables(problem, tensor)
    for index in sorted(nodes):
        relation_rows(problem, index)
        operand_rows(problem, index)
    for tensor in tensors:
        tensor_rows(problem, tensor)
    if max_fp32_flops is not None:
        _limit_flops(problem, max_fp32_flops)
    return problem


def _limit_flops(problem: Problem, share: float) -> None:
    counts = [flops(view) * problem.facts.runs(index) for index, view in enumerate(problem.views)]
    total = sum(counts)
    if total:
        fp32 = combine(
            (problem.precision(index), count / total) for index, count in enumerate(counts) if count
        )
        problem.program.row(fp32, upper=share)


def _tensors(problem: Problem) -> list[TensorView]:
    values = [edge.value for index in sorted(problem.nodes) for edge in problem.views[index].edges.values()]
    return list({value.key: value for value in values if not value.constant}.values())
