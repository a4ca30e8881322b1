"""``set``: the matched nodes stay, with another value at an input or in an attribute.

So every spelling and its rounding stays: nodes that read the changed name read another tensor, and the values they make
get new names, because a name's measured range belongs to its old values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, helper

from onnx_fp16fix.graph import ScopeView
from onnx_fp16fix.language.bindings import Binding, Match
from onnx_fp16fix.language.edit import Edit
from onnx_fp16fix.language.emitter import ConstantPool, Emitter, Untranslatable
from onnx_fp16fix.language.expression import Expr
from onnx_fp16fix.language.match import Matcher
from onnx_fp16fix.language.operations import moved_slot
from onnx_fp16fix.language.rewire import Rewirer
from onnx_fp16fix.language.rule import Rule, Variant
from onnx_fp16fix.language.template import Known, Template
from onnx_fp16fix.model import Patch

__all__ = ["Setter"]


class Setter:
    """Edits of ``set`` in one scope."""

    def __init__(
        self, scope: ScopeView, matcher: Matcher, patch: Patch, pool: ConstantPool, rewirer: Rewirer
    ) -> None:
        self.scope, self.matcher, self.patch, self.pool, self.rewirer = scope, matcher, patch, pool, rewirer

    def write(self, rule: Rule, variant: Variant, match: Match, template: Template, emitter: Emitter) -> Edit:
        """Write one match. Raises Untranslatable, with nothing written, where that is not possible."""
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
        taken, copied = self.rewirer.rewire(rule, match, edges, attributes)
        changed = tuple(self.scope.nodes[index].label for index in sorted(taken | copied))
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
