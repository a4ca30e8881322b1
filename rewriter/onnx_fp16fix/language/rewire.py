"""Rewrites matched nodes that see a change, and copies those that others need as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from onnx import NodeProto

from onnx_fp16fix.graph import ScopeView
from onnx_fp16fix.language.bindings import Match
from onnx_fp16fix.language.emitter import METADATA_KEY
from onnx_fp16fix.language.rule import Rule
from onnx_fp16fix.model import Names, Patch

__all__ = ["Rewirer"]


class Rewirer:
    """Edits of ``set`` in one scope, written into its patch."""

    def __init__(self, scope: ScopeView, patch: Patch, names: Names) -> None:
        self.scope, self.patch, self.names = scope, patch, names
        self._clones: dict[tuple[int, tuple[str, ...]], str] = {}

    def rewire(
        self, rule: Rule, match: Match, slots: Mapping[tuple[int, int], str]
    ) -> tuple[set[int], set[int]]:
        """Rewrite the matched nodes that see a change; nodes others need too are left, and a copy is made."""
        renamed: dict[str, str] = {}
        changed = self._affected(match, slots)
        taken = self._owned(match, changed)
        roots = {root.index for root in match.roots}
        for index in sorted(changed):
            node = self.scope.nodes[index]
            proto = NodeProto()
            proto.CopyFrom(node.proto)
            for slot, name in enumerate(proto.input):
                proto.input[slot] = slots.get((index, slot), renamed.get(name, name))
            if index in taken:
                self.patch.replaced[index] = proto
                if index not in roots:
                    self._new_names(proto, renamed, rule)
            else:
                self._copy(index, proto, renamed, rule)
            self._mark(proto, rule)
        return taken, changed - taken

    def _new_names(self, proto: NodeProto, renamed: dict[str, str], rule: Rule) -> None:
        for slot, old in enumerate(proto.output):
            if old:
                renamed[old] = proto.output[slot] = self.names.fresh(
                    f"{old}/fp16fix/{rule.id}/{proto.op_type}"
                )

    def _copy(self, index: int, proto: NodeProto, renamed: dict[str, str], rule: Rule) -> None:
        """Insert a changed copy of a node; matches that change it in the same way share one copy."""
        key, old = (index, tuple(proto.input)), proto.output[0]
        if key in self._clones:
            renamed[old] = self._clones[key]
            return
        self._new_names(proto, renamed, rule)
        self._clones[key] = proto.name = renamed[old]
        self.patch.insert(index + 1, proto)

    def _affected(self, match: Match, slots: Mapping[tuple[int, int], str]) -> set[int]:
        changed = {root.index for root in match.roots}
        names: set[str] = set()
        for index in sorted(match.nodes):
            node = self.scope.nodes[index]
            direct = any(used == index for used, _ in slots)
            if direct or any(tensor.name in names for tensor in node.inputs if tensor.name):
                changed.add(index)
                names.update(tensor.name for tensor in node.outputs if tensor.name)
        return changed

    def _owned(self, match: Match, changed: set[int]) -> set[int]:
        """Nodes that nothing needs as they are; what a node reads that stays for others stays as well."""
        owned = {root.index for root in match.roots}
        for index in sorted(changed - owned, reverse=True):
            if self._is_inside(self.scope.nodes[index].outputs, owned):
                owned.add(index)
        return owned

    def _is_inside(self, tensors: Iterable[Any], owned: set[int]) -> bool:
        for tensor in tensors:
            if tensor.is_empty():
                continue
            if self.scope.outside_uses(tensor):
                return False
            if any(node.index not in owned for node, _ in self.scope.consumers(tensor)):
                return False
        return True

    def _mark(self, proto: NodeProto, rule: Rule) -> None:
        if self.scope.model.proto.ir_version >= 10 and all(
            p.key != METADATA_KEY for p in proto.metadata_props
        ):
            proto.metadata_props.add(key=METADATA_KEY, value=rule.id)
