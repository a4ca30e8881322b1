"""Models of one node, a table of them per op, and their run in ONNX Runtime without optimization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_fp16fix.runtime import open_session

__all__ = ["Case", "Data", "case", "computed", "constant", "opposite", "positive", "run"]

TYPES = {
    "f": TensorProto.FLOAT, "i": TensorProto.INT64, "b": TensorProto.BOOL, "u": TensorProto.UINT8,
    "w": TensorProto.INT32,
}  # fmt: skip
RNG = np.random.default_rng(11)


@dataclass(frozen=True)
class Data:
    """Values of an operand; ``fixed`` ones are an initializer in every form of the case."""

    values: np.ndarray
    fixed: bool = False

    @property
    def is_float(self) -> bool:
        return self.values.dtype == np.float32


@dataclass(frozen=True)
class Case:
    """One node; ``op`` with its domain in front, where that is not ONNX's own. ``moves``: operands whose exponent need
    not be 0. ``outputs``: a letter of ``TYPES`` each, ``_`` for an absent one. ``constants``: slots that are
    initializers."""

    op: str
    operands: tuple[Data | None, ...]
    moves: str
    opset: int
    outputs: str
    attrs: Mapping[str, Any]
    form: str = "computed"
    constants: frozenset[int] = field(default=frozenset())

    def __str__(self) -> str:
        attrs = ",".join(f"{name}={value}" for name, value in self.attrs.items() if name != "body")
        inputs = "".join("_" if data is None else str(data.values.ndim) for data in self.operands)
        return f"{self.op}-{self.opset}[{inputs}]{attrs}:{self.form}"

    def forms(self) -> list[Case]:
        """All operands computed, and all but the first constant."""
        slots = [slot for slot, data in enumerate(self.operands) if data is not None]
        always = frozenset(slot for slot in slots if self.operands[slot].fixed)
        later = frozenset(slots[1:]) | always
        forms = [self._with("computed", always)]
        return forms if later == always else [*forms, self._with("constant", later)]

    def _with(self, form: str, constants: frozenset[int]) -> Case:
        fields = (self.op, self.operands, self.moves, self.opset, self.outputs, self.attrs)
        return Case(*fields, form, constants)

    def values(self) -> dict[int, np.ndarray]:
        """Arrays by input slot."""
        return {slot: data.values for slot, data in enumerate(self.operands) if data is not None}

    def model(
        self, values: Mapping[int, np.ndarray] | None = None, attrs: Mapping[str, Any] | None = None
    ) -> onnx.ModelProto:
        """``y0, y1, ... = op(x0, x1, ...)``; ``values`` are those of constants."""
        values = self.values() if values is None else values
        names = ["" if data is None else f"x{slot}" for slot, data in enumerate(self.operands)]
        makes = ["" if letter == "_" else f"y{slot}" for slot, letter in enumerate(self.outputs)]
        domain, _, op = self.op.rpartition(".")
        attributes = {**self.attrs, **(attrs or {})}
        node = helper.make_node(op, names, makes, name="node", domain=domain, **attributes)
        graph = helper.make_graph(
            [node],
            "one",
            [
                helper.make_tensor_value_info(
                    f"x{slot}", helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
                )
                for slot, value in values.items()
                if slot not in self.constants
            ],
            [
                helper.make_tensor_value_info(f"y{slot}", TYPES[letter], None)
                for slot, letter in enumerate(self.outputs)
                if letter != "_"
            ],
            [numpy_helper.from_array(values[slot], f"x{slot}") for slot in sorted(self.constants)],
        )
        opsets = [helper.make_opsetid("", self.opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8 if self.opset < 20 else 10)

    def run(
        self, values: Mapping[int, np.ndarray] | None = None, attrs: Mapping[str, Any] | None = None
    ) -> dict[int, np.ndarray]:
        """Outputs by slot."""
        values = self.values() if values is None else values
        found = run(self.model(values, attrs), {f"x{slot}": value for slot, value in values.items()})
        return {int(name[1:]): value for name, value in found.items()}


def run(proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """ONNX Runtime in FP32, the graph as written."""
    return open_session(proto).run(feeds)


def case(
    op: str, *operands: Data | None, moves: str, opset: int = 17, outputs: str = "f", **attrs: object
) -> list[Case]:
    """The forms of one case."""
    return Case(op, operands, moves, opset, outputs, attrs).forms()


def computed(*shape: int) -> Data:
    """Both signs, magnitudes over several powers of two."""
    values = RNG.standard_normal(shape) * np.exp2(RNG.uniform(-3, 3, shape))
    return Data(values.astype(np.float32))


def positive(*shape: int) -> Data:
    """As ``computed``, without zeros and signs."""
    return Data(np.abs(computed(*shape).values) + np.float32(2**-6))


def opposite(data: Data) -> Data:
    """The same values in another operand, every other one with another sign: comparisons see equal ones."""
    signs = np.where(np.arange(data.values.size) % 2, np.float32(-1), np.float32(1))
    return Data(data.values * signs.reshape(data.values.shape))


def constant(values: object, dtype: type = np.int64) -> Data:
    """An initializer in every form."""
    return Data(np.asarray(values, dtype), fixed=True)
