"""All edits of one scope: matches are written one by one, and what nothing uses any more goes at the end.

``with`` puts new nodes before the root and gives the last one the root's output name. ``set`` keeps the matched nodes,
and so every spelling and its rounding: nodes that read the changed name read another tensor, and the values they make
get new names, because a name's measured range belongs to its old values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs
from onnx import AttributeProto, TensorProto, helper

from onnx_fp16fix.graph import ScopeView
from onnx_fp16fix.language.emitter import ConstantPool, Emitter, Untranslatable, inferred_output
from onnx_fp16fix.language.expression import Expr
from onnx_fp16fix.language.facts import MatchFacts
from onnx_fp16fix.language.match import Binding, Match, Matcher
from onnx_fp16fix.language.operations import moved_slot
from onnx_fp16fix.language.rewire import Rewirer
from onnx_fp16fix.language.rule import Rule, Variant
from onnx_fp16fix.language.sweep import sweep
from onnx_fp16fix.language.template import Known, Ref, Template
from onnx_fp16fix.model import Names, Patch
from onnx_fp16fix.wording import counted

__all__ = ["Edit", "ScopeEditor"]

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)


@dataclass(frozen=True, slots=True)
class Edit:
    """What one match changed: nodes taken (removed or replaced), nodes copied, names of nodes removed, added, changed.

    A copied node stays as it is, but other rules must leave it alone too: the copy reads what it reads.
    """

    taken: frozenset[int]
    copied: frozenset[int]
    removed: tuple[str, ...]
    added: tuple[str, ...]
    changed: tuple[str, ...] = ()


class ScopeEditor:
    """Collects the edits of one scope."""

    def __init__(self, scope: ScopeView, matcher: Matcher, names: Names) -> None:
        self.scope, self.matcher, self.names = scope, matcher, names
        self.patch = Patch(scope.path)
        is_function = bool(scope.path) and len(scope.path) == 1 and scope.path[0].startswith("function:")
        self.pool = ConstantPool(self.patch, names, is_function)
        self._candidates: set[int] = set()
        self._rewirer = Rewirer(scope, self.patch, names)

    def write(self, rule: Rule, variant: Variant, match: Match, facts: MatchFacts) -> Edit:
        """Write one match. Raises Untranslatable, with nothing written, when that is not possible."""
        emitter = self.emitter(rule, match)
        edit = (
            self._replace(rule, variant, match, facts, emitter)
            if variant.template is not None
            else self._set(rule, variant, match, facts, emitter)
        )
        self._candidates |= match.nodes
        return edit

    def place(self, match: Match, emitter: Emitter, result: str) -> Edit:
        """Put nodes that are written already in the place of a match. Raises Untranslatable as ``write`` does."""
        edit = self._place(match, emitter, [result])
        self._candidates |= match.nodes
        return edit

    def finish(self) -> Patch:
        """The patch, with what nothing reads any more removed: matched nodes, and what they alone read."""
        sweep(self.scope, self.patch, self._candidates)
        return self.patch

    def emitter(self, rule: Rule, match: Match) -> Emitter:
        """Where the new nodes of a match are written. Raises Untranslatable where no float type is known."""
        output = str(match.results[0].name)
        dtype = self.scope.dtype(output) or self._constant_type(match)
        if dtype not in _FLOATS:  # an index, or what a quantizer makes: what it is made from tells
            dtype = self._captured_type(match)
        if dtype not in _FLOATS:
            raise Untranslatable(f"the type of '{output}' is not known to be a float type")
        proto = self.scope.model.proto
        base = f"{output}/fp16fix/{rule.id}"
        return Emitter(self.names, self.scope.model.opset, proto.ir_version, base, dtype, rule=rule.id)

    def _captured_type(self, match: Match) -> int:
        tensors = [binding.tensor for binding in match.bindings.values() if binding.tensor is not None]
        return next(filter(_FLOATS.__contains__, (self.scope.dtype(t.name) for t in tensors)), 0)

    def _constant_type(self, match: Match) -> int:
        """Functions carry no types: a captured constant tells."""
        for binding in match.bindings.values():
            values = None if binding.tensor is None else self.matcher.canonical.constant_of(binding.tensor)
            if values is not None and values.dtype.kind == "f":
                return helper.np_dtype_to_tensor_dtype(values.dtype)
        return TensorProto.UNDEFINED

    def _template(self, rule: Rule, match: Match, facts: MatchFacts, emitter: Emitter) -> Template:
        tensors: dict[str, Ref | Known] = {}
        rests: dict[str, Any] = {}
        for name, binding in match.bindings.items():
            variable = rule.variables.get(name)
            if variable is not None and variable.kind == "const":
                values = self.matcher.values(binding)
                if values is None:
                    raise Untranslatable(f"the constant '{name}' has no numbers")
                same = binding.tensor is not None and binding.power == 1 and binding.sign == 1
                tensors[name] = Known(
                    values, binding.tensor.name if same and binding.tensor is not None else None
                )
            elif binding.tensor is not None:
                tensors[name] = Ref(binding.tensor.name)
            else:
                rests[name] = binding.value
        return Template(emitter, facts, tensors, rests)

    def _replace(
        self, rule: Rule, variant: Variant, match: Match, facts: MatchFacts, emitter: Emitter
    ) -> Edit:
        assert variant.template is not None
        template = self._template(rule, match, facts, emitter)
        results = template.results(variant.template)
        for term, weight in match.rest:
            assert term.tensor is not None
            op = ("Mul", "Div") if match.rest_kind == "*" else ("Add", "Sub")
            results[0] = emitter.call(op[weight < 0], "", [results[0], term.tensor.name], {})
        return self._place(match, emitter, results)

    def _place(self, match: Match, emitter: Emitter, results: Sequence[str]) -> Edit:
        outputs = [str(tensor.name) for tensor in match.results]
        if len(results) != len(outputs):
            raise Untranslatable(
                f"the pattern has {counted(len(outputs), 'root')}, the replacement {counted(len(results), 'result')}"
            )
        made: dict[str, str] = {}
        for result, output in zip(results, outputs, strict=True):
            if result not in made and any(result in node.output for node in emitter.nodes):
                emitter.rename(result, output)
                made[result] = output
            else:
                emitter.call("Identity", "", [made.get(result, result)], {}, output=output)
        for output in outputs:
            self._check_type(emitter, output)
        position = self._position(match)
        nodes = emitter.flush(self.patch, self.pool, lambda _: position)
        gone, kept = self._gone(match)
        self.patch.removed |= gone & {root.index for root in match.roots}
        for index in kept:
            self._rewirer.keep(index, set(outputs), emitter.rule)
        names = tuple(self._name(index) for index in sorted(gone))
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

    def _gone(self, match: Match) -> tuple[set[int], set[int]]:
        """Matched nodes that nothing reads after the replacement, and roots that stay for what else they make."""
        results = {id(tensor) for tensor in match.results}
        roots = {root.index for root in match.roots}
        kept = set[int]()
        while True:
            gone = roots - kept
            for index in sorted(match.nodes - roots, reverse=True):
                if not self._is_read(self.scope.nodes[index].outputs, gone):
                    gone.add(index)
            needed = {
                index
                for index in roots - kept
                if self._is_read([t for t in self.scope.nodes[index].outputs if id(t) not in results], gone)
            }
            if not needed:
                return gone, kept
            kept |= needed

    def _is_read(self, tensors: Iterable[gs.Tensor], gone: set[int]) -> bool:
        """Whether anything but these nodes reads one of the values."""
        made = [tensor for tensor in tensors if not tensor.is_empty()]
        if any(self.scope.outside_uses(tensor) for tensor in made):
            return True
        return any(node.index not in gone for tensor in made for node, _ in self.scope.consumers(tensor))

    def _check_type(self, emitter: Emitter, output: str) -> None:
        """The replacement must have the type and shape of what it replaces, as far as both are known."""
        shape, made = self.scope.shape(output), {name for node in emitter.nodes for name in node.output}
        outside = (
            {name for node in emitter.nodes for name in node.input} - made - set(emitter.constants) - {""}
        )
        if shape is None or any(not self.scope.dtype(name) for name in outside):
            return
        inputs = [
            helper.make_tensor_value_info(name, self.scope.dtype(name), self.scope.shape(name))
            for name in sorted(outside)
        ]
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

    def _set(self, rule: Rule, variant: Variant, match: Match, facts: MatchFacts, emitter: Emitter) -> Edit:
        template = self._template(rule, match, facts, emitter)
        slots: dict[tuple[int, int], str] = {}
        attributes: dict[tuple[int, str], AttributeProto] = {}
        for name, expr in variant.settings:
            binding = match.bindings.get(name)
            if binding is None:
                continue  # another alternative of 'any' binds it
            if rule.variables[name].kind == "attr":
                attributes |= self._new_attribute(name, binding, template.value(expr))
                continue
            new = self._new_value(rule, name, binding, expr, template, emitter)
            if not binding.uses:
                raise Untranslatable(f"'{name}' is no input of a node")
            slots.update(dict.fromkeys(binding.uses, new))
        if any(len([b for b in match.bindings.values() if slot in b.uses]) > 1 for slot in slots):
            raise Untranslatable("a value to set is read under another name too")
        if any(index not in match.nodes for index, _ in slots):
            raise Untranslatable("a value to set is read outside the match")
        places = self._places(match, emitter)
        if any(places.get(name, 0) > index for (index, _), name in slots.items()):
            raise Untranslatable("a value to set is read before it can be computed")
        made = tuple(node.name for node in emitter.nodes)
        final = {name: name for name in slots.values()}
        for placeholder, values in emitter.constants.items():
            final[placeholder] = self.pool.add(values, f"{emitter.base}/constant")
        emitter.flush(self.patch, self.pool, lambda node: places[node.output[0]])
        edges = {slot: final[name] for slot, name in slots.items()}
        taken, copied = self._rewirer.rewire(rule, match, edges, attributes)
        changed = tuple(self._name(index) for index in sorted(taken | copied))
        return Edit(frozenset(taken), frozenset(copied), (), made, changed)

    def _places(self, match: Match, emitter: Emitter) -> dict[str, int]:
        """Where each new node goes, by its outputs: right behind the last of what it reads."""
        places: dict[str, int] = {}
        for binding in match.bindings.values():
            maker = None if binding.tensor is None else self.scope.producer(binding.tensor)
            if maker is not None and binding.tensor is not None:
                places[binding.tensor.name] = maker.index + 1
        for node in emitter.nodes:
            places.update(
                dict.fromkeys(node.output, max((places.get(name, 0) for name in node.input), default=0))
            )
        return places

    def _new_value(
        self, rule: Rule, name: str, binding: Binding, expr: Expr, template: Template, emitter: Emitter
    ) -> str:
        value = template.value(expr)
        if rule.variables[name].kind != "const":
            return template.operand(value)
        old = None if binding.tensor is None else self.matcher.canonical.constant_of(binding.tensor)
        if old is None:
            raise Untranslatable(f"'{name}' is a constant that no tensor holds")
        if isinstance(value, Known):
            wanted: npt.NDArray[Any] = value.values
        elif isinstance(value, float):
            wanted = np.full(old.shape, value, np.float64)
        else:
            raise Untranslatable(f"'{name}' is a constant; its new value must be a number")
        with np.errstate(all="ignore"):
            stored = (binding.sign * wanted) ** (1 / binding.power)
            result = np.broadcast_to(stored, old.shape).astype(old.dtype)
        if not np.array_equal(np.isfinite(result), np.isfinite(wanted)):
            raise Untranslatable(f"the new value of '{name}' does not fit its type")
        return emitter.array(np.ascontiguousarray(result).reshape(old.shape))

    def _new_attribute(
        self, name: str, binding: Binding, value: Any
    ) -> dict[tuple[int, str], AttributeProto]:
        """The number in the type that the attribute has."""
        found: dict[tuple[int, str], AttributeProto] = {}
        for index, key in binding.attributes:
            node = self.scope.nodes[index]
            if not isinstance(binding.value, int | float) or not isinstance(value, int | float):
                raise Untranslatable(f"the attribute '{name}' and its new value must be numbers")
            if moved_slot(node.op, key, self.scope.model.opset) is not None and not node.domain:
                raise Untranslatable(f"'{name}' is an input of {node.op} here, no attribute")
            is_whole = isinstance(binding.value, int)
            if (is_whole and value != int(value)) or not abs(value) <= np.finfo(np.float32).max:
                raise Untranslatable(f"the new value of '{name}' does not fit its type")
            found[index, key] = helper.make_attribute(key, int(value) if is_whole else float(value))
        if not found:
            raise Untranslatable(f"'{name}' is no attribute of a node")
        return found

    def _name(self, index: int) -> str:
        return self.scope.nodes[index].label
