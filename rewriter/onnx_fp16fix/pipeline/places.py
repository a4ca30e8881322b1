"""Where findings lie, and the keys that their tensors have in tables and reports."""

from __future__ import annotations

from onnx_fp16fix.calibrate.ranges import tensor_key
from onnx_fp16fix.document import Finding
from onnx_fp16fix.graph import GraphView, ScopeView

__all__ = ["key_of", "keys_of", "place_of"]


def key_of(scope: ScopeView, name: str) -> str:
    """Key of the tensor that ``name`` means in this scope, which may belong to one around it."""
    owner = scope.owner(name)
    return tensor_key((scope if owner is None else owner).path, name)


def place_of(scope: ScopeView) -> str:
    """``Finding.scope``."""
    return "/".join(scope.path)


def keys_of(view: GraphView, findings: list[Finding]) -> frozenset[str]:
    """Keys of the tensors that findings name."""
    scopes = {place_of(scope): scope for scope in view}
    return frozenset(key_of(scopes[f.scope], f.tensor) for f in findings if f.tensor and f.scope in scopes)
