"""Shapes that ``vars`` asks for: ``tensor [..., D]`` narrows a match and gives D a value."""

from __future__ import annotations

from typing import Any

from onnx_fp16fix.language.facts import MatchFacts
from onnx_fp16fix.language.guard import Unknown
from onnx_fp16fix.language.match import Match
from onnx_fp16fix.language.rule import Rule, Variable

__all__ = ["bind_sizes"]


def bind_sizes(rule: Rule, match: Match, facts: MatchFacts) -> tuple[str, str] | None:
    """Fill ``facts.sizes``; a reason and a clause when a declared shape is not the one found."""
    for variable in rule.variables.values():
        if variable.shape is None:
            continue
        binding = match.bindings.get(variable.name)
        if binding is None or binding.tensor is None:
            continue
        clause = f"vars.{variable.name}"
        shape = match.scope.shape(binding.tensor.name)
        if shape is None:
            return f"{clause}: the rank of '{binding.tensor.name}' is not known", clause
        if not _bind(variable, shape, facts, binding.tensor.name):
            return f"{clause}: shape {_show(shape)} is not {_show(variable.shape)}", clause
    return None


def _bind(variable: Variable, shape: tuple[Any, ...], facts: MatchFacts, tensor: str) -> bool:
    wanted = variable.shape or ()
    if Ellipsis in wanted:
        split = wanted.index(Ellipsis)
        tail = len(wanted) - split - 1
        if len(shape) < split + tail:
            return False
        pairs = [*zip(wanted[:split], shape, strict=False)]
        pairs += [*zip(wanted[split + 1 :], shape[len(shape) - tail :], strict=True)]
    elif len(wanted) != len(shape):
        return False
    else:
        pairs = [*zip(wanted, shape, strict=True)]
    return all(_bind_size(size, found, facts, tensor) for size, found in pairs)


def _bind_size(size: Any, found: Any, facts: MatchFacts, tensor: str) -> bool:
    if size is None:
        return True
    if isinstance(size, int):
        return bool(found == size)
    value = (
        float(found)
        if isinstance(found, int)
        else Unknown((f"{size}: '{tensor}' has a size that is not fixed",))
    )
    known = facts.sizes.get(size)
    if isinstance(known, float) and isinstance(value, float):
        return known == value
    if not isinstance(known, float):
        facts.sizes[size] = value
    return True


def _show(shape: tuple[Any, ...]) -> str:
    return (
        "["
        + ", ".join("..." if size is Ellipsis else "?" if size is None else str(size) for size in shape)
        + "]"
    )
