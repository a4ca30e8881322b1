"""The tests a rule carries: small models built from an expression exactly as written, and what the rule did to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper

from onnx_fp16fix.calibrate.ranges import RangeTable
from onnx_fp16fix.errors import ModelError
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.language.apply import apply_rules
from onnx_fp16fix.language.emitter import Emitter, Untranslatable
from onnx_fp16fix.language.expression import Suite
from onnx_fp16fix.language.given import TYPES, Given, check_size, parse_given
from onnx_fp16fix.language.guard import NOTHING
from onnx_fp16fix.language.rule import EQUAL, Case, Rule
from onnx_fp16fix.language.template import Ref, Template
from onnx_fp16fix.model import Model, Names
from onnx_fp16fix.runtime import open_session

__all__ = ["CaseResult", "build_model", "case_table", "givens", "run_case", "run_cases"]

_RUNTIME_TYPES = {f"tensor({name})": kind for name, kind in TYPES.items()}


@dataclass(frozen=True, slots=True)
class CaseResult:
    """Whether a case holds; ``message`` says what happened instead. ``known_gap``: it fails and is marked ``todo``."""

    rule: str
    case: Case
    passed: bool
    message: str = ""
    known_gap: bool = False


def build_model(suite: Suite, given: Mapping[str, Given], opset: int = 17) -> onnx.ModelProto:
    """A model whose nodes are the suite as written: ``x ** 2`` a Pow, ``Op(...)`` that op, steps name their outputs.

    Names that are not defined are inputs. Raises ValueError when the ops do not fit the shapes.
    """
    graph = onnx.GraphProto(name="case")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    emitter = Emitter(Names(Model(model)), opset, 10, "case", TensorProto.FLOAT, literal=True)
    inputs = {name: entry for name, entry in given.items() if entry.shape is not None}
    template = Template(emitter, NOTHING, {name: Ref(name) for name in inputs})
    try:
        result = template.operand(template.suite(suite, name_steps=True))
    except (Untranslatable, KeyError) as error:
        raise ValueError(f"the case cannot be written as a model: {error}") from None
    for index, (placeholder, values) in enumerate(emitter.constants.items()):
        emitter.rename({placeholder: f"constant_{index}"})
        graph.initializer.append(numpy_helper.from_array(values, f"constant_{index}"))
    for name, entry in inputs.items():
        facts = entry.facts or {}
        if "fill" not in facts and "all" not in facts:
            graph.input.append(helper.make_tensor_value_info(name, entry.dtype, entry.shape))
        else:
            graph.initializer.append(numpy_helper.from_array(_constant(entry, facts), name))
    graph.node.extend(emitter.nodes)
    graph.output.append(helper.make_empty_tensor_value_info(result))
    model.graph.CopyFrom(graph)
    _import_domains(model)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    if not inferred.graph.output[0].type.HasField("tensor_type"):
        # ONNX infers nothing for some ops it defines as functions (GroupNormalization): their bodies tell
        bodies = [("", node.op_type) for node in emitter.nodes if onnx.defs.has(node.op_type)]
        inlined = onnx.inliner.inline_selected_functions(model, bodies, inline_schema_functions=True)
        inferred = onnx.shape_inference.infer_shapes(inlined, strict_mode=True, data_prop=True)
    model.graph.output[0].CopyFrom(inferred.graph.output[0])
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        check_size(value.name, [dim.dim_value or None for dim in value.type.tensor_type.shape.dim])
    return model


def _import_domains(model: onnx.ModelProto) -> None:
    """Import the domains of ops that ONNX does not define, and write down the types that ONNX Runtime knows of them."""
    domains = {node.domain for node in model.graph.node if node.domain}
    if not domains:
        return
    model.opset_import.extend(helper.make_opsetid(domain, 1) for domain in sorted(domains))
    names = [name for node in model.graph.node for name in node.output if name]
    try:
        session = open_session(model, outputs=names)
    except ModelError as error:
        raise ValueError(error.problems[0].message) from None
    for node in model.graph.node:
        for name in node.output if node.domain else ():
            kind = _RUNTIME_TYPES.get(session.outputs.get(name, ""))
            if kind is not None:
                known = helper.make_tensor_value_info(name, kind, session.shapes[name])
                if name == model.graph.output[0].name:
                    model.graph.output[0].CopyFrom(known)
                else:
                    model.graph.value_info.append(known)


def _constant(entry: Given, facts: Mapping[str, float]) -> Any:
    shape, dtype = (
        tuple(int(size) for size in entry.shape or ()),
        helper.tensor_dtype_to_np_dtype(entry.dtype),
    )
    if "all" in facts:
        return np.full(shape, facts["all"], dtype)
    values = np.full(shape, facts["fill"], dtype)
    return np.triu(values, 1) if len(shape) > 1 else values


def givens(case: Case) -> dict[str, Given]:
    """The parsed descriptions of a case. Raises ValueError."""
    return {name: parse_given(text) for name, text in case.given.items()}


def case_table(given: Mapping[str, Given]) -> RangeTable:
    """Ranges as a case gives them."""
    ranges = {name: entry.range() for name, entry in given.items()}
    return RangeTable({name: entry for name, entry in ranges.items() if entry is not None}, 1)


def run_case(rule: Rule, case: Case) -> CaseResult:
    """Build the model of a case, apply the rule, compare with what the case expects."""
    try:
        given = givens(case)
        model = build_model(case.suite, given, case.opset)
    except (ValueError, onnx.shape_inference.InferenceError) as error:
        return CaseResult(rule.id, case, False, f"the case is no valid model: {error}")
    run = apply_rules(
        build_view(Model(model)),
        [replace(rule, after=())],
        case_table(given),
        allow=EQUAL,
        targets=[case.target] if case.target else rule.targets,
    )
    applied = [record for record in run.records if record.status == "applied"]
    clauses = [record.clause for record in (applied or run.records)] or ["match"]
    if case.hit != bool(applied):
        message = f"{'not applied' if case.hit else 'applied'}; decided by {', '.join(clauses)}"
        reasons = "; ".join(record.reason for record in run.records)
        return _failed(rule, case, f"{message} ({reasons})" if reasons else message)
    if case.clause is not None and case.clause not in clauses:
        return _failed(rule, case, f"decided by {', '.join(clauses)}, not by {case.clause}")
    return CaseResult(rule.id, case, True)


def _failed(rule: Rule, case: Case, message: str) -> CaseResult:
    return CaseResult(rule.id, case, False, message, known_gap=case.todo is not None)


def run_cases(rule: Rule) -> tuple[CaseResult, ...]:
    """Results of all written cases of a rule."""
    return tuple(run_case(rule, case) for case in rule.cases)
