"""Rewrites matched nodes that see a change, and copies those that others need as they are."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import AttributeProto, NodeProto

from onnx_fp16fix.graph import ScopeView
from onnx_fp16fix.language.bindings import Match
from onnx_fp16fix.language.emitter import METADATA_KEY
from onnx_fp16fix.language.owned import owned_nodes
from onnx_fp16fix.language.rule import Rule
from onnx_fp16fix.model import Names, Patch

__all__ = ["Rewirer"]


class Rewirer:
    """Edits of matched nodes in one scope, written into its patch."""

    def __init__(self, scope: ScopeView, patch: Patch, names: Names) -> None:
        self.scope, self.patch, self.names = scope, patch, names
        self._clones: dict[tuple[int, tuple[str | bytes, ...]], tuple[str, ...]] = {}

    def rewire(
        self,
        rule: Rule,
        match: Match,
        slots: Mapping[tuple[int, int], str],
        attributes: Mapping[tuple[int, str], AttributeProto],
    ) -> tuple[set[int], set[int]]:
        """Rewrite the matched nodes that see a change; nodes others need too are left, and a copy is made."""
        renamed: dict[str, str] = {}
        results = {str(tensor.name) for tensor in match.results}
        changed = self._affected(match, {index for index, _ in (*slots, *attributes)})
        taken = owned_nodes(self.scope, match, changed)
        for index in sorted(changed):
            node = self.scope.nodes[index]
            proto = NodeProto()
            proto.CopyFrom(node.proto)
            for slot, name in enumerate(proto.input):
                proto.input[slot] = slots.get((index, slot), renamed.get(name, name))
            for (place, key), attribute in attributes.items():
                if place == index:
                    others = [each for each in proto.attribute if each.name != key]
                    del proto.attribute[:]
                    proto.attribute.extend([*others, attribute])
            if index in taken:
                self.patch.replaced[index] = proto
                self._new_names(proto, renamed, rule, results)
            else:
                self._copy(index, proto, renamed, rule, results)
            self.mark(proto, rule)
        return taken, changed - taken

    def keep(self, index: int, results: set[str], rule: str) -> None:
        """Leave a root for what else it makes; its results are made elsewhere and get other names here."""
        proto = NodeProto()
        proto.CopyFrom(self.scope.nodes[index].proto)
        for slot, name in enumerate(proto.output):
            if name in results:
                proto.output[slot] = self.names.fresh(f"{name}/fp16fix/{rule}/{proto.op_type}")
        self.patch.replaced[index] = proto

    def _new_names(self, proto: NodeProto, renamed: dict[str, str], rule: Rule, results: set[str]) -> None:
        """Inner values have changed, so their names, by which ranges go, change too."""
        for slot, old in enumerate(proto.output):
            if old and old not in results:
                renamed[old] = proto.output[slot] = self.names.fresh(
                    f"{old}/fp16fix/{rule.id}/{proto.op_type}"
                )

    def _copy(
        self, index: int, proto: NodeProto, renamed: dict[str, str], rule: Rule, results: set[str]
    ) -> None:
        """Insert a changed copy of a node; matches that change it in the same way share one copy."""
        old = tuple(proto.output)
        is_root = not results.isdisjoint(old)
        key = (index, (*proto.input, *(each.SerializeToString() for each in proto.attribute)))
        if key in self._clones and not is_root:
            renamed.update(zip(old, self._clones[key], strict=True))
            return
        if is_root:
            self.keep(index, results, rule.id)
        self._new_names(proto, renamed, rule, results)
        self._clones[key] = tuple(proto.output)
        proto.name = (
            proto.output[0]
            if not is_root
            else self.names.fresh(f"{old[0]}/fp16fix/{rule.id}/{proto.op_type}")
        )
        self.patch.insert(index + 1, proto)

    def _affected(self, match: Match, edited: set[int]) -> set[int]:
        changed = {root.index for root in match.roots}
        names: set[str] = set()
        for index in sorted(match.nodes):
            node = self.scope.nodes[index]
            if index in edited or any(tensor.name in names for tensor in node.inputs if tensor.name):
                changed.add(index)
                names.update(tensor.name for tensor in node.outputs if tensor.name)
        return changed

    def mark(self, proto: NodeProto, rule: Rule) -> None:
        if self.scope.model.proto.ir_version >= 10 and all(
            p.key != METADATA_KEY for p in proto.metadata_props
        ):
            proto.metadata_props.add(key=METADATA_KEY, value=rule.id)
