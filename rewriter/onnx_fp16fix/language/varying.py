"""Which tensors of a scope are surely no constants."""

from __future__ import annotations

from typing import Final

from onnx_fp16fix.graph import ScopeView
from onnx_fp16fix.language.folding import FOLDABLE
from onnx_fp16fix.language.sizes import SIZE_OPS

__all__ = ["varying_tensors"]

_ALWAYS: Final = frozenset(("Shape", "Size", "Constant"))
_BY_FIRST: Final = SIZE_OPS - _ALWAYS | {"Identity", "Dropout", "ConstantOfShape"}
"""Ops whose result may be a constant if their first input is one."""


def varying_tensors(scope: ScopeView) -> set[int]:
    """Identities of tensors that follow from inputs of the scope, sizes left aside; others may be constants.

    One pass over the nodes settles what else would be asked of each operand, all the way up.
    """
    varying = {id(scope.tensors[name]) for name in scope.inputs}
    for node in scope.nodes:
        op = node.op
        if node.domain:
            varies = True
        elif op in _BY_FIRST:
            varies = not node.inputs or id(node.inputs[0]) in varying
        else:
            folds = op in FOLDABLE or op in _ALWAYS
            varies = not folds or (op not in _ALWAYS and any(id(source) in varying for source in node.inputs))
        if varies:
            varying.update(map(id, node.outputs))
    return varying
