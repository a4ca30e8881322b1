"""The frame check: everything that no edit names is byte for byte what it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import onnx

from onnx_fp16fix.model.model import GraphLike, Model, Scope, ScopePath, subgraphs

if TYPE_CHECKING:
    from onnx_fp16fix.model.patch import Patch

__all__ = ["check_frame", "is_inside"]


def check_frame(before: onnx.ModelProto, after: onnx.ModelProto, patches: Mapping[ScopePath, Patch]) -> None:
    """Raise AssertionError if ``after`` differs from ``before`` beyond ``patches``."""
    _same_fields(before, after, skip={"graph", "functions"}, where="model")
    if len(before.functions) != len(after.functions):
        raise AssertionError("frame check: number of functions changed")
    _reachable(patches)
    after_scopes = _match_scopes(Model(before), Model(after), patches)
    for scope, patched in after_scopes:
        _check_scope(scope, patched, patches)


def _reachable(patches: Mapping[ScopePath, Patch]) -> None:
    """An edited body whose node another edit replaces or removes would be lost without a word."""
    for path in patches:
        for depth, element in enumerate(path):
            outer = patches.get(path[:depth])
            if outer is None or element.startswith("function:"):
                continue
            index = int(element.split(":")[0])
            if index in outer.removed or index in outer.replaced:
                raise AssertionError(f"frame check: scope {path} is edited, and so is a node around it")


def _match_scopes(
    before: Model, after: Model, patches: Mapping[ScopePath, Patch]
) -> Iterator[tuple[Scope, GraphLike]]:
    pairs: list[tuple[Scope, GraphLike]] = [(Scope((), before.proto.graph, None), after.proto.graph)]
    for index, (old, new) in enumerate(zip(before.proto.functions, after.proto.functions, strict=True)):
        pairs.append((Scope((f"function:{index}",), old, None), new))
    while pairs:
        scope, graph = pairs.pop()
        yield scope, graph
        if not any(len(path) > len(scope.path) and path[: len(scope.path)] == scope.path for path in patches):
            continue
        for index, old_node, new_node in _kept(scope, graph, patches.get(scope.path)):
            for (element, old_body), (_, new_body) in zip(
                subgraphs(old_node), subgraphs(new_node), strict=True
            ):
                pairs.append((Scope((*scope.path, f"{index}:{element}"), old_body, scope), new_body))


def _kept(
    scope: Scope, graph: GraphLike, patch: Patch | None
) -> list[tuple[int, onnx.NodeProto, onnx.NodeProto]]:
    """Nodes that no edit names, each beside its counterpart."""
    before, after = list(scope.graph.node), list(graph.node)
    inserted = {} if patch is None else {index: len(nodes) for index, nodes in patch.inserted.items()}
    removed, replaced = (set[int](), {}) if patch is None else (patch.removed, patch.replaced)
    position, found = 0, []
    for index, node in enumerate(before):
        if index in inserted:
            position += inserted[index]
        if index in removed:
            continue
        if index not in replaced:
            if position >= len(after):
                raise AssertionError(f"frame check: node {index} of scope {scope.path} is lost")
            found.append((index, node, after[position]))
        position += 1
    position += inserted.get(len(before), 0)
    if position != len(after):
        raise AssertionError(f"frame check: scope {scope.path} has {len(after)} nodes, not {position}")
    return found


def _check_scope(scope: Scope, graph: GraphLike, patches: Mapping[ScopePath, Patch]) -> None:
    patch = patches.get(scope.path)
    inner = {int(path[len(scope.path)].split(":")[0]) for path in patches if is_inside(path, scope.path)}
    rewirings = {} if patch is None else patch.rewired
    for index, old, new in _kept(scope, graph, patch):
        if index in inner or index in rewirings:
            rewired = index in rewirings
            skip = {"attribute"} if index in inner else set()
            _same_fields(old, new, skip | ({"input", "output"} if rewired else set()), f"node '{old.name}'")
            if rewired and (list(new.input), list(new.output)) != rewirings[index]:
                raise AssertionError(f"frame check: node '{old.name}' has other names than it was given")
        elif old != new:
            raise AssertionError(f"frame check: node {index} '{old.name}' of scope {scope.path} changed")
    _same_fields(
        scope.graph,
        graph,
        {"node", "initializer", "value_info", "input", "output"},
        where=f"scope {scope.path}",
    )
    _check_border(scope.graph, graph, set() if patch is None else set(patch.border))
    if isinstance(scope.graph, onnx.GraphProto) and isinstance(graph, onnx.GraphProto):
        edited = set() if patch is None else {*patch.replaced_initializers, *patch.dropped_initializers}
        added = 0 if patch is None else len(patch.initializers)
        # identity of content: upb compares bytes fields without copying them
        kept = [tensor for tensor in scope.graph.initializer if tensor.name not in edited]
        rest = [
            tensor
            for tensor in graph.initializer[: len(graph.initializer) - added]
            if tensor.name not in edited
        ]
        if kept != rest:
            raise AssertionError(f"frame check: an initializer of scope {scope.path} changed")
    named = set() if patch is None else set(patch.value_info)
    old_info = [info for info in scope.graph.value_info if info.name not in named]
    new_info = [info for info in graph.value_info if info.name not in named]
    if old_info != new_info:
        raise AssertionError(f"frame check: a value_info of scope {scope.path} changed")


def _check_border(before: GraphLike, after: GraphLike, edited: set[str]) -> None:
    for old, new in ((before.input, after.input), (before.output, after.output)):
        if len(old) != len(new) or any(
            a != b and getattr(a, "name", a) not in edited for a, b in zip(old, new, strict=True)
        ):
            raise AssertionError("frame check: an input or output changed")


def is_inside(path: ScopePath, scope: ScopePath) -> bool:
    """Whether the first scope is a body in the second one, at any depth."""
    return (
        len(path) > len(scope)
        and path[: len(scope)] == scope
        and not path[len(scope)].startswith("function:")
    )


def _same_fields(
    before: onnx.ModelProto | GraphLike | onnx.NodeProto,
    after: onnx.ModelProto | GraphLike | onnx.NodeProto,
    skip: set[str],
    where: str,
) -> None:
    old = {field.name: value for field, value in before.ListFields() if field.name not in skip}
    new = {field.name: value for field, value in after.ListFields() if field.name not in skip}
    if old != new:
        names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
        raise AssertionError(f"frame check: {where}: {', '.join(names)} changed")
