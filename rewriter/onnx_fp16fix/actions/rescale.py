"""``rescale``: ask the planner to bring the values of a match into range by exact powers of two."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from onnx_fp16fix.language.registry import Call, NotPossible, Site
from onnx_fp16fix.language.request import PlanRequest

__all__ = ["Rescale", "RescaleParameters"]


class RescaleParameters(BaseModel):
    """No parameters: the planner knows the ranges and chooses the exponents."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Rescale:
    """Names every value made inside the match and every captured one; the planner keeps what already fits."""

    name = "rescale"
    parameters: type[BaseModel] = RescaleParameters
    guards: tuple[str, ...] = ()

    def request(self, site: Site, call: Call) -> PlanRequest:
        """A request for the tensors of the match. The planner works on the main graph (``fix`` inlines functions)."""
        match = site.match
        if match.scope.path:
            raise NotPossible("the planner rescales tensors of the main graph only")
        made = [tensor.name for index in sorted(match.nodes) for tensor in match.scope.nodes[index].outputs]
        captured = [binding.tensor.name for binding in match.bindings.values() if binding.tensor is not None]
        tensors = tuple(dict.fromkeys(name for name in (*captured, *made) if name))
        root = match.root.label
        return PlanRequest(
            site.rule, (), tensors, f"values that {site.rule} matches at '{root}' leave the FP16 range"
        )
