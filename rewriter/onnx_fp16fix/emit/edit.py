"""One scope of the model that is being rescaled: what its plan says of each tensor and slot, and its new names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from onnx_fp16fix.graph import ScopeView, ViewNode, border_slots
from onnx_fp16fix.model import Names, Patch, ScopePath
from onnx_fp16fix.plan import Plan
from onnx_fp16fix.plan.known.facts import Facts
from onnx_fp16fix.plan.plan import Slot

__all__ = ["Edit", "half_borders"]


def half_borders(scope: ScopeView, plan: Plan) -> dict[ScopePath, frozenset[str]]:
    """Names of the inputs and outputs of bodies that cross their border in FP16."""
    return {
        body.path: frozenset({*body.inputs, *body.outputs}) - part.float_borders.keys()
        for body in scope.inside()
        if (part := plan.bodies.get(body.path)) is not None and not part.whole
    }


@dataclass
class Edit:
    """``outer``: the scope around this one; ``half``: see ``half_borders``."""

    scope: ScopeView
    plan: Plan
    facts: Facts
    names: Names
    patch: Patch
    outer: Edit | None
    half: Mapping[ScopePath, frozenset[str]]
    inputs: dict[Slot, str] = field(default_factory=dict)
    """New tensor names of operands."""
    made: dict[tuple[str, int, bool], str] = field(default_factory=dict)
    """Scaled tensors by (name, shift, FP32)."""
    fp32_outputs: set[str] = field(default_factory=set)
    """Outputs of inserted Muls that run in FP32."""
    renamed: dict[str, str] = field(default_factory=dict)
    factors: dict[int, str] = field(default_factory=dict)
    """Constants 2**-shift by shift."""
    muls: int = 0

    def owner(self, tensor: gs.Tensor) -> Edit:
        """The scope, this or an outer one, that the tensor belongs to."""
        edit = self
        while edit.outer is not None and edit.scope.tensors.get(tensor.name) is not tensor:
            edit = edit.outer
        return edit

    def name_of(self, tensor: gs.Tensor) -> str:
        """Under which name the planned nodes read the tensor, and make it; a body that stays as it is reads outer
        tensors under their own names, which keep the true values."""
        owner, name = self.owner(tensor), str(tensor.name)
        return name if self.plan.whole and owner is not self else owner.renamed.get(name, name)

    def all_renamed(self) -> set[str]:
        """Names of this and outer scopes that planned nodes read or make under another name."""
        outer = set() if self.outer is None else self.outer.all_renamed()
        return outer.union(self.renamed)

    def all_scaled(self) -> set[str]:
        """Names of this and outer scopes that are stored at another exponent than 0."""
        outer = set() if self.outer is None else self.outer.all_scaled()
        return outer.union(self.plan.exponents, self.plan.entries)

    def exponent_of(self, tensor: gs.Tensor) -> int:
        """The exponent at which the tensor is stored."""
        plan = self.owner(tensor).plan
        return plan.exponents.get(tensor.name, plan.entries.get(tensor.name, 0))

    def made_half(self, tensor: gs.Tensor) -> bool:
        """Whether a tensor of this scope is made in FP16."""
        producer = self.scope.producer(tensor)
        if producer is None:
            return tensor.name in self.half.get(self.scope.path, ())
        slot = producer.output_slot(tensor)
        if producer.index in self.scope.bodies:
            return slot in border_slots(self.scope, producer, self.half)[1]
        return producer.index not in self.plan.fp32 and slot in self.facts.half_slots(producer).outputs

    def read_half(self, node: ViewNode, slot: int) -> bool:
        """Whether the node of this scope reads FP16 there."""
        if node.index in self.scope.bodies:
            return slot in border_slots(self.scope, node, self.half)[0]
        return node.index not in self.plan.fp32 and slot in self.facts.half_slots(node).inputs
