"""All edits of one scope: matches are written one by one, and what nothing uses any more goes at the end."""

from __future__ import annotations

from typing import Any

from onnx import TensorProto, helper

from onnx_fp16fix.graph import ScopeView
from onnx_fp16fix.language.edit import Edit
from onnx_fp16fix.language.emitter import ConstantPool, Emitter, Untranslatable
from onnx_fp16fix.language.facts import MatchFacts
from onnx_fp16fix.language.match import Match, Matcher
from onnx_fp16fix.language.replacement import Replacer
from onnx_fp16fix.language.rewire import Rewirer
from onnx_fp16fix.language.rule import Rule, Variant
from onnx_fp16fix.language.setting import Setter
from onnx_fp16fix.language.sweep import sweep
from onnx_fp16fix.language.template import Known, Ref, Template
from onnx_fp16fix.model import Names, Patch

__all__ = ["ScopeEditor"]

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)


class ScopeEditor:
    """Collects the edits of one scope."""

    def __init__(self, scope: ScopeView, matcher: Matcher, names: Names) -> None:
        self.scope, self.matcher, self.names = scope, matcher, names
        self.patch = Patch(scope.path)
        is_function = bool(scope.path) and len(scope.path) == 1 and scope.path[0].startswith("function:")
        pool = ConstantPool(self.patch, names, is_function)
        self._candidates: set[int] = set()
        rewirer = Rewirer(scope, self.patch, names)
        self._replacer = Replacer(scope, self.patch, pool, rewirer)
        self._setter = Setter(scope, matcher, self.patch, pool, rewirer)

    def write(self, rule: Rule, variant: Variant, match: Match, facts: MatchFacts) -> Edit:
        """Write one match. Raises Untranslatable, with nothing written, when that is not possible."""
        emitter = self.emitter(rule, match)
        template = self._template(rule, match, facts, emitter)
        if variant.template is None:
            edit = self._setter.write(rule, variant, match, template, emitter)
        else:
            results = _with_rest(template.results(variant.template), match, emitter)
            edit = self._replacer.place(match, emitter, results)
        self._candidates |= match.nodes
        return edit

    def place(self, match: Match, emitter: Emitter, result: str) -> Edit:
        """Put nodes that are written already in the place of a match. Raises Untranslatable as ``write`` does."""
        edit = self._replacer.place(match, emitter, [result])
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


def _with_rest(results: list[str], match: Match, emitter: Emitter) -> list[str]:
    """The results, the first one joined with the factors or terms that the pattern does not name."""
    first, *others = results
    for term, weight in match.rest:
        assert term.tensor is not None
        op = ("Mul", "Div") if match.rest_kind == "*" else ("Add", "Sub")
        first = emitter.call(op[weight < 0], "", [first, term.tensor.name], {})
    return [first, *others]
