"""New nodes in the place of a match: before its root, and the last one keeps the root's output name."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_fp16fix.graph import ScopeView
from onnx_fp16fix.language.bindings import Match
from onnx_fp16fix.language.edit import Edit
from onnx_fp16fix.language.emitter import ConstantPool, Emitter, Untranslatable, inferred_output
from onnx_fp16fix.language.owned import owned_nodes
from onnx_fp16fix.language.rewire import Rewirer
from onnx_fp16fix.model import Patch
from onnx_fp16fix.wording import counted

__all__ = ["Replacer"]


class Replacer:
    """Edits of ``with`` and of actions that write nodes, in one scope."""

    def __init__(self, scope: ScopeView, patch: Patch, pool: ConstantPool, rewirer: Rewirer) -> None:
        self.scope, self.patch, self.pool, self.rewirer = scope, patch, pool, rewirer

    def place(self, match: Match, emitter: Emitter, results: Sequence[str]) -> Edit:
        """Put nodes that are written already in the place of a match, each result under the name of its root.

        Raises Untranslatable, with nothing written, where that is not possible.
        """
        outputs = [str(tensor.name) for tensor in match.results]
        if len(results) != len(outputs):
            raise Untranslatable(
                f"the pattern has {counted(len(outputs), 'root')}, the replacement {counted(len(results), 'result')}"
            )
        made: dict[str, str] = {}
        for result, output in zip(results, outputs, strict=True):
            if result not in made and any(result in node.output for node in emitter.nodes):
                emitter.rename({result: output})
                made[result] = output
            else:
                emitter.call("Identity", "", [made.get(result, result)], {}, output=output)
        for output in outputs:
            self._check_type(emitter, output)
        position = self._position(match)
        nodes = emitter.flush(self.patch, self.pool, lambda _: position)
        gone, roots = owned_nodes(self.scope, match, match.nodes), {root.index for root in match.roots}
        kept = roots - gone
        self.patch.removed |= gone & roots
        for index in kept:
            self.rewirer.keep(index, set(outputs), emitter.rule)
        names = tuple(self.scope.nodes[index].label for index in sorted(gone))
        return Edit(frozenset(gone | kept), frozenset(), names, tuple(node.name for node in nodes))

    def _position(self, match: Match) -> int:
        """Where the new nodes go: after all they read, before the first reader of a root."""
        if not match.others:
            return match.root.index
        last = max(root.index for root in match.roots)
        readers = [node.index for result in match.results for node, _ in self.scope.consumers(result)]
        if min((index for index in readers if index not in match.nodes), default=last) >= last:
            return last
        first = min(root.index for root in match.roots)
        sources = (b.tensor for b in match.bindings.values() if b.tensor is not None and not b.inner)
        makers = [self.scope.producer(tensor) for tensor in sources]
        if any(node is not None and node.index >= first for node in makers):
            raise Untranslatable("one root is read before another one can be computed")
        return first

    def _check_type(self, emitter: Emitter, output: str) -> None:
        """The replacement must have the type and shape of what it replaces, as far as both are known."""
        shape, made = self.scope.shape(output), {name for node in emitter.nodes for name in node.output}
        outside = (
            {name for node in emitter.nodes for name in node.input} - made - set(emitter.constants) - {""}
        )
        if shape is None or any(not self.scope.dtype(name) for name in outside):
            return
        inputs = {name: (self.scope.dtype(name), self.scope.shape(name)) for name in outside}
        # names of constants are placeholders until the edit is sure
        found = inferred_output(emitter.nodes, emitter.constants, inputs, output, self.scope.model.opset)
        if found is None:
            return
        if found.tensor_type.elem_type != self.scope.dtype(output):
            raise Untranslatable("the replacement would have another type")
        dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in found.tensor_type.shape.dim]
        pairs = zip(dims, shape, strict=False)
        if len(dims) != len(shape) or any(isinstance(b, int) and a is not None and a != b for a, b in pairs):
            raise Untranslatable("the replacement would have another shape")
