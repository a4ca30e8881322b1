"""What is known about a match: shapes from inference, values of constants, measured or provable ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_fp16fix.graph import GraphView
from onnx_fp16fix.language.guard import Unknown
from onnx_fp16fix.language.match import Binding, Match, Matcher
from onnx_fp16fix.language.rule import Variable
from onnx_fp16fix.language.target import Target

if TYPE_CHECKING:  # a table is only asked, so the package that makes it need not be loaded
    from onnx_fp16fix.calibrate.ranges import RangeTable, TensorRange

__all__ = ["MatchFacts", "Ranges"]

_PROVEN: Final[dict[str, tuple[float, float]]] = {
    "Softmax": (0.0, 1.0),
    "Sigmoid": (0.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
    "Erf": (-1.0, 1.0),
    "Sin": (-1.0, 1.0),
    "Cos": (-1.0, 1.0),
}
"""Outputs that lie in an interval whatever the input."""
_OF_CONSTANTS: Final = frozenset(("size", "value", "values", "is_finite", "is_pow2"))
_BOUNDS: Final = frozenset(("absmax", "vmin", "vmax", "smallest"))


class Ranges:
    """Ranges of tensors: measured, widened by the margin; else of constants; else proven by the op."""

    def __init__(self, view: GraphView, table: RangeTable | None, margin: float) -> None:
        self.view, self.table, self.margin = view, table, margin
        self.of_constants: dict[tuple[str, int, float, float], Any] = {}
        """Facts of constants by function, tensor (its identity), power and sign: many rules ask for the same."""
        self._intervals: dict[int, tuple[float, float] | None] = {}

    def interval(self, tensor: gs.Tensor, matcher: Matcher) -> tuple[float, float] | None:
        """Smallest and largest value, or None. A tensor that held a NaN or an infinity has no bounds."""
        if id(tensor) not in self._intervals:
            self._intervals[id(tensor)] = self._interval(tensor, matcher)
        return self._intervals[id(tensor)]

    def _interval(self, tensor: gs.Tensor, matcher: Matcher) -> tuple[float, float] | None:
        measured = self.measured(tensor)
        if measured is not None:
            if measured.nonfinite:
                return -math.inf, math.inf
            return self._widen(measured.minimum, measured.maximum)
        values = matcher.values(Binding(tensor))
        if values is not None and values.size:
            return float(values.min()), float(values.max())
        node = matcher.scope.producer(tensor)
        return _PROVEN.get(node.op) if node is not None and not node.domain else None

    def measured(self, tensor: gs.Tensor) -> TensorRange | None:
        """The table's entry. A name inside a body may be another tensor's outside: the tensor itself decides."""
        if self.table is None:
            return None
        name = str(tensor.name)
        if self.view.main.tensors.get(name) is tensor:
            return self.table.get(name)
        key = self._inner.get(id(tensor))
        return None if key is None else self.table.get(key)

    @cached_property
    def _inner(self) -> Mapping[int, str]:
        """Keys of tensors in bodies and local functions, by identity."""
        from onnx_fp16fix.calibrate.ranges import tensor_key

        return {
            id(tensor): tensor_key(scope.path, name)
            for scope in self.view
            if scope.path
            for name, tensor in scope.tensors.items()
        }

    def _widen(self, low: float, high: float) -> tuple[float, float]:
        return (low * self.margin if low < 0 else low), (high * self.margin if high > 0 else high)


class MatchFacts:
    """Facts of one match, for ``evaluate``. ``seen`` collects the known ones for the report.

    ``unbound``: what is unknown only because the alternative that matched does not bind the name; no data would tell.
    """

    def __init__(
        self,
        match: Match,
        matcher: Matcher,
        ranges: Ranges,
        variables: Mapping[str, Variable],
        target: Target | None,
    ) -> None:
        self.match, self.matcher, self.ranges, self.variables = match, matcher, ranges, variables
        self.lets: dict[str, Any] = {}
        self.sizes: dict[str, Any] = {}
        self.seen: dict[str, Any] = {}
        self.unbound: set[str] = set()
        self.target = target

    def name(self, name: str) -> Any:
        """Value of a let name, a size, an attribute, axes, ``opset``, ``target`` or its version."""
        for table in (self.lets, self.sizes):
            if name in table:
                return table[name]
        if name in ("opset", "target", "target_version"):
            return self._of_run(name)
        binding = self.match.bindings.get(name)
        if binding is None:
            return self._unbound(f"{name} is not bound in this alternative")
        value = binding.value
        if isinstance(value, bytes):
            return value.decode(errors="replace")
        return tuple(value) if isinstance(value, list) else value

    def _unbound(self, text: str) -> Unknown:
        self.unbound.add(text)
        return Unknown((text,))

    def _of_run(self, name: str) -> Any:
        if name == "opset":
            return float(self.match.scope.model.opset)
        if name == "target":
            return self.target.name if self.target is not None else ""
        version = self.target.version if self.target is not None else None
        return Unknown(("target_version",)) if version is None else tuple(map(float, version))

    def fact(self, function: str, subject: str | tuple[int, ...], arguments: Sequence[Any]) -> Any:
        """A fact of ``guard.FACTS``."""
        if function == "is_trailing":
            rank = int(arguments[0])
            return list(subject) == list(range(rank - len(subject), rank))
        label = f"{function}({', '.join([str(subject), *map(_show, arguments)]) if arguments else subject})"
        value = self.seen.get(label)
        if value is None:
            value = self._fact(function, str(subject), arguments, label)
            if not isinstance(value, Unknown | np.ndarray):
                self.seen[label] = value
        return value

    def _fact(self, function: str, name: str, arguments: Sequence[Any], label: str) -> Any:
        binding = self.match.bindings.get(name)
        if binding is None:
            return self._unbound(f"{label} unknown ('{name}' is not bound in this alternative)")
        if function in _OF_CONSTANTS:
            return self._kept(function, binding, label)
        if function == "is_mask" and binding.tensor is not None:
            return self._is_mask(binding.tensor, label)
        if (
            function in _BOUNDS
            and (variable := self.variables.get(name)) is not None
            and variable.kind == "const"
        ):
            value = self._kept(function, binding, label)
            if value is not None:
                return value
        if binding.tensor is None:
            return Unknown((f"{label} unknown (no tensor of the model holds '{name}')",))
        if function in _BOUNDS or function == "rms_min":
            return self._range(function, binding.tensor, label)
        return self._structure(function, binding.tensor, arguments, label)

    def _is_mask(self, tensor: gs.Tensor, label: str) -> Any:
        """Whether all values that were seen are zeros and ones; the margin has no say in that."""
        if self.match.scope.dtype(tensor.name) == onnx.TensorProto.BOOL:
            return True
        values, measured = self.matcher.values(Binding(tensor)), self.ranges.measured(tensor)
        if values is not None:
            return bool(((values == 0) | (values == 1)).all())
        if measured is None:
            return Unknown((f"{label} unknown (no calibration for '{tensor.name}')",))
        return measured.minimum >= 0 and measured.maximum <= 1 <= measured.smallest and not measured.nonfinite

    def _kept(self, function: str, binding: Binding, label: str) -> Any:
        """The fact of a constant; a number is kept for other matches."""
        key = (function, id(binding.tensor), binding.power, binding.sign)
        known = self.ranges.of_constants
        if binding.tensor is not None and key in known:
            return known[key]
        value = self._constant(function, binding, label)
        if binding.tensor is not None and isinstance(value, float | bool):
            known[key] = value
        return value

    def _constant(self, function: str, binding: Binding, label: str) -> Any:
        values = self.matcher.values(binding)
        if function in _BOUNDS:
            if values is None or not values.size:
                return None
            return _bounds(function, float(values.min()), float(values.max()), values)
        if values is None:
            return Unknown((f"{label} unknown (the constant has no numbers)",))
        if function == "size":
            return float(values.size)
        if function == "values":
            return values
        if function == "is_finite":
            return bool(np.isfinite(values).all())
        if function == "is_pow2":
            mantissa = np.frexp(np.abs(values))[0]
            return bool(np.isfinite(values).all() and (mantissa == 0.5).all())
        return (
            float(values.reshape(-1)[0])
            if values.size == 1
            else Unknown((f"{label}: it has several elements",))
        )

    def _range(self, function: str, tensor: gs.Tensor, label: str) -> Any:
        interval = self.ranges.interval(tensor, self.matcher)
        if interval is None:
            why = f"no calibration for '{tensor.name}'"
            return Unknown((f"{label} unknown ({why})",))
        low, high = interval
        if function == "smallest":
            measured = self.ranges.measured(tensor)
            return (
                measured.smallest if measured is not None else Unknown((f"{label} unknown (not measured)",))
            )
        if function == "rms_min":
            # a row's root mean square is at least the smallest magnitude; without rows measured, nothing more is known
            bound = low if low > 0 else -high if high < 0 else 0.0
            return bound if bound > 0 else Unknown((f"{label} unknown (rows are not measured)",))
        return _bounds(function, low, high, None)

    def _structure(self, function: str, tensor: gs.Tensor, arguments: Sequence[Any], label: str) -> Any:
        scope = self.match.scope
        if function == "uses":
            return float(len(scope.consumers(tensor)) + scope.outside_uses(tensor))
        if function == "dtype":
            dtype = scope.dtype(tensor.name)
            return _type_name(dtype) if dtype else Unknown((f"{label} unknown",))
        shape = scope.shape(tensor.name)
        if shape is None:
            return Unknown((f"{label} unknown (rank of '{tensor.name}' is not known)",))
        if function == "rank":
            return float(len(shape))
        if function == "shape":
            return tuple(float(size) if isinstance(size, int) else -1.0 for size in shape)
        wanted = range(len(shape))
        if arguments:
            asked = arguments[0] if isinstance(arguments[0], tuple) else (arguments[0],)
            if not all(-len(shape) <= int(axis) < len(shape) for axis in asked):
                return Unknown((f"{label}: '{tensor.name}' has rank {len(shape)}",))
            wanted = [int(axis) % len(shape) for axis in asked]  # type: ignore[assignment]
        sizes = [shape[axis] for axis in wanted]
        known = [size for size in sizes if isinstance(size, int)]
        if len(known) != len(sizes):
            return Unknown((f"{label} unknown ('{tensor.name}' has a size that is not fixed)",))
        return float(math.prod(known))


@cache
def _type_name(dtype: int) -> str:
    return str(onnx.TensorProto.DataType.Name(dtype)).lower()


def _bounds(function: str, low: float, high: float, values: Any) -> float:
    if function == "smallest":
        nonzero = np.abs(values[values != 0])
        return float(nonzero.min()) if nonzero.size else math.inf
    if function == "absmax":
        return max(abs(low), abs(high))
    return low if function == "vmin" else high


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_show, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
