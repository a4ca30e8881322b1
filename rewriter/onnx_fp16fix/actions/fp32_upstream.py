"""``fp32-upstream``: keep a match in FP32 together with the cheap ops that lead to it.

An angle, an index or a coordinate that FP16 cannot hold is lost where it is made, not where it is read: a cast in front
of Sin comes too late. The island grows backwards, through ops that compute element by element or only move elements,
until a value is reached that loses nothing in FP16: integers, constants, inputs of the graph, and whatever ``until``
allows. Ops that cost (MatMul, Conv, norms, reductions) are a border: what they make was computed in FP16 anyway.
"""

from __future__ import annotations

from typing import Final

import onnx_graphsurgeon as gs
from onnx import TensorProto
from pydantic import BaseModel, ConfigDict, Field

from onnx_fp16fix.actions.island import fits, is_larger, island_request
from onnx_fp16fix.graph import ScopeView, ViewNode
from onnx_fp16fix.language.registry import Call, NotPossible, Site
from onnx_fp16fix.language.request import PlanRequest
from onnx_fp16fix.language.spellings import MOVERS

__all__ = ["Fp32Upstream", "UpstreamParameters"]

_CHEAP: Final = MOVERS | frozenset(
    "Cast Add Sub Mul Div Neg Abs Reciprocal Pow Sqrt Exp Log Sin Cos Tanh Sigmoid Floor Ceil Round Mod Sign "
    "Max Min Clip Relu Sum Where Concat Split Range CumSum ConstantOfShape ScatterND ScatterElements".split()
)
"""Ops an island may take in: one pass over the elements at most."""
_FLOATS: Final = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


class UpstreamParameters(BaseModel):
    """``of``: captured names to go back from, all of them if empty. ``until``: a guard over ``out``, true for a value
    that FP16 holds well enough. ``max_nodes``: most nodes the island may have,
    Identity not counted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: tuple[str, ...] = ()
    until: str = ""
    max_nodes: int = Field(default=16, ge=1, le=1000)


class Fp32Upstream:
    """Walks back breadth first from what the match reads."""

    name = "fp32-upstream"
    parameters: type[BaseModel] = UpstreamParameters
    guards: tuple[str, ...] = ("until",)

    def request(self, site: Site, call: Call) -> PlanRequest:
        """The nodes of the island. Raises NotPossible beyond ``max_nodes``, and for a name the match does not have."""
        scope, limit = site.match.scope, int(call.parameters.max_nodes)
        until = call.expressions.get("until")
        island = dict.fromkeys(sorted(site.match.nodes))
        waiting = self._starts(site, call.parameters.of)
        while waiting:
            tensor = waiting.pop(0)
            node = self._maker(scope, tensor)
            if node is None or node.index in island or (until is not None and fits(site, tensor, until)):
                continue
            island[node.index] = None
            waiting += node.inputs
            if is_larger(site, island, limit):
                raise NotPossible(f"no value that FP16 holds is reached within {limit} nodes")
        return island_request(site, sorted(island))

    def _starts(self, site: Site, names: tuple[str, ...]) -> list[gs.Tensor]:
        bindings = site.match.bindings
        unknown = [name for name in names if name not in bindings]
        if unknown:
            raise NotPossible(f"'{unknown[0]}' is not bound in this alternative")
        found = [bindings[name] for name in (names or bindings)]
        return [binding.tensor for binding in found if binding.tensor is not None and not binding.inner]

    def _maker(self, scope: ScopeView, tensor: gs.Tensor) -> ViewNode | None:
        """The node to take in, None where the value needs nothing: no float, a constant, an input, or the border."""
        if tensor.is_empty() or scope.dtype(tensor.name) not in _FLOATS:
            return None
        node = scope.producer(tensor)
        if node is None or node.domain or node.op not in _CHEAP or scope.is_constant(tensor):
            return None
        return node
