"""What the actions that ask for FP32 around a match have in common."""

from __future__ import annotations

from collections.abc import Collection

import onnx_graphsurgeon as gs

from onnx_fp16fix.language.expression import Expr
from onnx_fp16fix.language.guard import Unknown, is_true
from onnx_fp16fix.language.registry import NotPossible, Site
from onnx_fp16fix.language.request import PlanRequest

__all__ = ["fits", "is_larger", "island_request"]


def fits(site: Site, tensor: gs.Tensor, until: Expr) -> bool:
    """Whether the guard holds for the value. Raises NotPossible where that is unknown."""
    value = site.evaluate(until, tensor)
    if isinstance(value, Unknown):
        raise NotPossible(f"'until' is unknown: {'; '.join(value.missing)}")
    return is_true(value)


def is_larger(site: Site, island: Collection[int], limit: int) -> bool:
    """Whether the island has more nodes than that, Identity not counted."""
    return sum(site.match.scope.nodes[index].op != "Identity" for index in island) > limit


def island_request(site: Site, island: Collection[int]) -> PlanRequest:
    """These nodes in FP32."""
    scope = site.match.scope
    names = ", ".join(f"'{scope.nodes[index].label}'" for index in island)
    return PlanRequest(
        site.rule, tuple((scope.path, index) for index in island), (), f"kept in FP32: {names}"
    )
