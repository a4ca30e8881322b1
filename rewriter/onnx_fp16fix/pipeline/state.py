"""The model as repaired so far, and the models that its plan stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import JsonValue

from onnx_fp16fix.calibrate import RangeTable
from onnx_fp16fix.calibrate.ranges import tensor_key
from onnx_fp16fix.document import Finding, PlanEntry, RunDocument
from onnx_fp16fix.emit import Rescaled, convert, half_borders, rescale
from onnx_fp16fix.graph import GraphView, ScopeView, ViewNode, build_view
from onnx_fp16fix.half import BF16, FP16, FloatType
from onnx_fp16fix.language import parse_target
from onnx_fp16fix.model import Model, ScopePath
from onnx_fp16fix.operators import TARGETS
from onnx_fp16fix.pipeline.decisions import plan_entry
from onnx_fp16fix.pipeline.findings import constant_findings
from onnx_fp16fix.pipeline.headroom import Analysis
from onnx_fp16fix.pipeline.lock import Step
from onnx_fp16fix.pipeline.prepare import Run
from onnx_fp16fix.plan import Draft, Place, Plan
from onnx_fp16fix.plan.known.facts import Facts
from onnx_fp16fix.sidecar import named_layers, sidecar_texts
from onnx_fp16fix.wording import counted, spelled

__all__ = ["Emitted", "Io", "Precision", "State", "by_scope", "emit", "made_for", "type_for"]

Precision = Literal["fp16", "bf16", "fp32"]
Io = Literal["fp32", "fp16", "bf16"]


@dataclass
class State:
    """A model with everything known about it; ``margin`` as in ``fix``."""

    model: Model
    view: GraphView
    ranges: RangeTable
    margin: float
    plan: Plan = field(default_factory=Plan)
    wished: dict[Place, str] = field(default_factory=dict)
    """Nodes that are to be FP32 whatever their range, with the reason: users, rules or measured errors ask for it."""
    half: dict[Place, str] = field(default_factory=dict)
    """Nodes that the user wants in FP16, with the wish in words."""
    obeyed: dict[Place, str] = field(default_factory=dict)
    """Those of them that FP16 cannot hold, with the reason."""
    max_fp32_flops: float | None = None
    steps: tuple[Step, ...] = ()
    """How ``model`` came from the user's model, functions inlined."""
    half_type: FloatType = FP16
    """The 16-bit type that the plan is for; what is called FP16 here and in the planner is this type."""
    analysis: Analysis = field(default_factory=Analysis)
    draft: Draft | None = None
    """Where ``plan`` only names the risks so far, what makes it whole."""

    @property
    def scope(self) -> ScopeView:
        """The main graph."""
        return self.view.main

    def node(self, place: Place) -> ViewNode:
        """The node there."""
        path, index = place
        return self.view.scopes[path].nodes[index]

    @property
    def facts(self) -> Facts:
        """What the planner knows."""
        return Facts(self.scope, self.ranges, self.margin, self.half_type)


def type_for(precision: Precision) -> FloatType:
    """The type to plan for; what weakly typed engines make of an FP32 model is FP16."""
    return BF16 if precision == "bf16" else FP16


def made_for(half: FloatType, target: str | None) -> FloatType:
    """The type as the target that a user names has it."""
    name = "" if target is None else parse_target(target, half.name).name
    return replace(half, target=name) if (name, half.name) in TARGETS else half


def by_scope(
    fp32: Mapping[Place, str],
) -> tuple[dict[int, str], dict[ScopePath, dict[int, str]]]:
    """Nodes of the main graph, and those of bodies by scope."""
    main: dict[int, str] = {}
    bodies: dict[ScopePath, dict[int, str]] = {}
    for (path, index), why in fp32.items():
        (bodies.setdefault(path, {}) if path else main)[index] = why
    return main, bodies


@dataclass
class Emitted:
    """``result`` is what is written, ``exponents`` the scales of its tensors by key in it, ``findings`` what constants
    went through; ``sidecars`` tell engines what stays FP32."""

    result: Model
    exponents: dict[str, int]
    findings: list[Finding]
    rescaled: Rescaled
    """How the FP32 model came from the planned one."""
    plan: PlanEntry
    summary: dict[str, JsonValue]
    sidecars: dict[str, str] = field(default_factory=dict)
    half: FloatType | None = None
    """What the result is typed in, even where nothing is left to be typed; None for an FP32 model."""

    @property
    def fp32(self) -> Model:
        """The rescaled FP32 model that the result was typed from, or that it is."""
        return self.result if self.half is None else self.rescaled.model

    def note(self, document: RunDocument) -> None:
        """Tell the plan: of several that were tried, the one that is kept."""
        document.plan, document.summary = self.plan, self.summary


def emit(run: Run, state: State, precision: Precision, io: Io) -> Emitted:
    """Make the models of a plan."""
    plan = state.plan
    findings, casts = list[Finding](), 0
    with run.progress.step("emit"):
        rescaled = _as_it_is(state) if plan.is_empty() else rescale(state.scope, state.facts, plan)
        frame, fp32_nodes, bodies = rescaled.frame, rescaled.fp32_nodes, rescaled.bodies
        if precision == "fp32":
            result = rescaled.model
        else:
            view = state.view if frame is state.model else build_view(frame, rescaled.types)
            converted = convert(
                view.main, fp32_nodes, half=state.half_type, half_io=io != "fp32",
                guards=rescaled.raised, bodies=bodies, half_borders=rescaled.half_borders,
                forced=_forced(state, rescaled), share=True, unscaled=rescaled.unscaled,
            )  # fmt: skip
            result, casts = converted.model, converted.casts
            findings = constant_findings(converted, state.half_type, rescaled.raised)
        exponents = _moved(rescaled.exponents, state.model, result)
    nodes, kept = frame.proto.graph.node, sum(len(part.fp32) for _, part in plan.scopes())
    entry = plan_entry(state.view, plan, rescaled.inserted_muls, casts)
    entry.precision = precision
    summary: dict[str, JsonValue] = {
        "nodes_before": len(run.model.proto.graph.node),
        "nodes_after": len(result.proto.graph.node),
        "fp32_nodes": kept,
        "nodes_fp32_model": len(nodes),
    }
    sidecars: dict[str, str] = {}
    if precision == "fp32" and (kept or run.command == "fix"):
        result, layers = named_layers(result, fp32_nodes, bodies)
        sidecars = sidecar_texts(layers)
    if precision == "fp32" and kept:
        typed = spelled("precision", "fp16")
        run.warn(
            f"{counted(kept, 'node')} must stay in FP32; an FP32 model cannot say so, its sidecar files and {typed} do"
        )
    half = None if precision == "fp32" else state.half_type
    return Emitted(result, exponents, findings, rescaled, entry, summary, sidecars, half)


def _forced(state: State, rescaled: Rescaled) -> frozenset[int]:
    """The nodes of the rescaled main graph that the user wants in FP16."""
    if not state.half:
        return frozenset()
    origins = rescaled.origins(state.model)
    return frozenset(index for (path, index), old in origins.items() if not path and old in state.half)


def _as_it_is(state: State) -> Rescaled:
    """What a plan without a scale makes of the model."""
    plan = state.plan
    return Rescaled(
        state.model,
        frozenset(plan.fp32),
        {},
        {
            state.view.scopes[path].nodes[index].inputs[slot].name: 0
            for path, part in plan.scopes()
            for index, slot in part.raised
        },
        0,
        {path: frozenset(body.fp32) for path, body in plan.bodies.items()},
        half_borders(state.scope, plan),
    )


def _moved(exponents: Mapping[str, int], before: Model, after: Model) -> dict[str, int]:
    """Exponents with the places that bodies have in ``after``: nodes were inserted before them."""
    if not any(scope.parent for scope in before.scopes()):
        return dict(exponents)
    places = {old.path: new.path for old, new in zip(before.scopes(), after.scopes(), strict=True)}
    keys = {tensor_key(old, ""): tensor_key(new, "") for old, new in places.items() if old}
    moved = {}
    for key, exponent in exponents.items():
        place, separator, name = key.partition("::")
        inside = f"{place}{separator}" in keys
        moved[f"{keys[place + separator]}{name}" if inside else key] = exponent
    return moved
