"""``fp32-island``: keep the smallest connected part in FP32 that starts with a match and ends where values fit.

A cast straight after an Exp that overflows would overflow itself: the island must grow downstream until a value is
reached that FP16 can hold. In an FP32 model an island is a chain of casts that does nothing and that optimisers
delete, so it is only ever a request to the planner.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from onnx_fp16fix.actions.island import fits, is_larger, island_request
from onnx_fp16fix.graph import ScopeView, ViewNode
from onnx_fp16fix.language.registry import Call, NotPossible, Site
from onnx_fp16fix.language.request import PlanRequest

__all__ = ["Fp32Island", "IslandParameters"]


class IslandParameters(BaseModel):
    """``until``: a guard over ``out``, true where the island may end. ``max_nodes``: most nodes it may have,
    Identity not counted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    until: str = ""
    max_nodes: int = Field(default=8, ge=1, le=1000)


class Fp32Island:
    """Grows breadth first: every output that does not fit takes all its readers in."""

    name = "fp32-island"
    parameters: type[BaseModel] = IslandParameters
    guards: tuple[str, ...] = ("until",)

    def request(self, site: Site, call: Call) -> PlanRequest:
        """The nodes of the island. Raises NotPossible when it would grow beyond ``max_nodes`` or out of the scope."""
        scope, limit = site.match.scope, int(call.parameters.max_nodes)
        until = call.expressions.get("until")
        island = dict.fromkeys(sorted(site.match.nodes))
        waiting: list[ViewNode] = list(site.match.roots)
        while waiting and until is not None:
            node = waiting.pop(0)
            if all(fits(site, tensor, until) for tensor in node.outputs if not tensor.is_empty()):
                continue
            for reader in self._readers(scope, node):
                if reader.index not in island:
                    island[reader.index] = None
                    waiting.append(reader)
            if is_larger(site, island, limit):
                raise NotPossible(f"the values do not fit FP16 again within {limit} nodes")
        return island_request(site, island)

    def _readers(self, scope: ScopeView, node: ViewNode) -> list[ViewNode]:
        found = []
        for tensor in node.outputs:
            if tensor.is_empty():
                continue
            if scope.outside_uses(tensor):
                raise NotPossible(f"'{tensor.name}' leaves its graph without fitting FP16")
            found += [reader for reader, _ in scope.consumers(tensor)]
        return found
