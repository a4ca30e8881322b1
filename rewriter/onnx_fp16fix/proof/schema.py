"""The JSON Schema of a rule file, for editors: which keys there are, what they mean, which words they take."""

from __future__ import annotations

from typing import Any

from onnx_fp16fix.language import EQUAL
from onnx_fp16fix.language.load import LANGUAGE
from onnx_fp16fix.language.registry import action_names, find_action

__all__ = ["rule_file_schema"]

_TEXT: dict[str, Any] = {"type": "string"}
_EXPRESSION: dict[str, Any] = {"type": ["string", "number", "boolean"]}
_MAP: dict[str, Any] = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}


def _texts(item: dict[str, Any] = _TEXT) -> dict[str, Any]:
    return {"anyOf": [item, {"type": "array", "items": item}]}


def _case() -> dict[str, Any]:
    keys = {
        "hit": {**_TEXT, "description": "A graph on which the rule fires, each function one ONNX op"},
        "miss": {**_TEXT, "description": "A graph that the rule leaves alone"},
        "given": {**_MAP, "description": 'Inputs and ranges: x: "float [4, 8] absmax=300"'},
        "uses": {**_TEXT, "description": "The variant that a hit uses: replace[0]"},
        "because": {**_TEXT, "description": "What refuses a miss: where[0], vars.x, match"},
        "todo": {**_TEXT, "description": "A known gap: reported, not failing"},
        "opset": {"type": ["integer", "string"], "description": "Opset of the graph, 17 if not given"},
        "target": {**_TEXT, "description": "What the case is run for: tensorrt:11.2"},
    }
    one_of = [{"required": ["hit"]}, {"required": ["miss"]}]
    return {"type": "object", "properties": keys, "additionalProperties": False, "oneOf": one_of}


def _actions() -> dict[str, Any]:
    forms = []
    for name in action_names():
        action = find_action(name)
        assert action is not None
        own = action.parameters.model_json_schema()
        properties = {"name": {"const": name}, **own.get("properties", {})}
        required = ["name", *own.get("required", [])]
        forms.append(
            {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
        )
    return {"oneOf": forms}


def _variant() -> dict[str, Any]:
    keys = {
        "when": {**_EXPRESSION, "description": "A guard; the first variant whose 'when' is true is used"},
        "with": {**_TEXT, "description": "New nodes, as a formula over the captured names"},
        "set": {**_MAP, "description": "New values of captured tensors; the matched nodes stay"},
        "action": {**_actions(), "description": "A named action instead"},
    }
    one_of = [{"required": [key]} for key in ("with", "set", "action")]
    return {"type": "object", "properties": keys, "additionalProperties": False, "oneOf": one_of}


def _rule_keys() -> dict[str, dict[str, Any]]:
    match = {
        "type": "object",
        "properties": {"any": _texts()},
        "required": ["any"],
        "additionalProperties": False,
    }
    return {
        "id": {**_TEXT, "pattern": "^[A-Z]{2,12}[0-9]{3}$", "description": "Stable code: NORM001"},
        "name": {**_TEXT, "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$", "description": "The problem, not the cure"},
        "status": {**_TEXT, "description": "preview, stable, or deprecated: use NORM003"},
        "since": {**_EXPRESSION, "description": "Version that brought the rule"},
        "summary": {**_TEXT, "description": "One line"},
        "why": {**_TEXT, "description": "What goes wrong in FP16, and why the cure is right"},
        "references": {**_texts(), "description": "Links to where it was seen"},
        "equal": {"enum": list(EQUAL), "description": "How alike before and after are"},
        "assumes": {**_texts(), "description": "Sentences a user must agree to; needed for equal: context"},
        "tol": {**_EXPRESSION, "description": "Relative difference that verification may find: 2 ** -11"},
        "opset": {**_EXPRESSION, "description": "Opsets: '>=13,<18'"},
        "targets": {**_texts(), "description": "The rule runs only for one of these targets"},
        "match": {"anyOf": [_TEXT, match], "description": "The pattern, or any: a list of patterns"},
        "vars": {
            **_MAP,
            "description": "Kinds of captured names: tensor, const scalar, const tensor, attr, axes",
        },
        "inner": {"enum": ["exclusive", "shared"], "description": "Whether others may read inner values"},
        "where": {**_texts(_EXPRESSION), "description": "Guards; all must be true"},
        "let": {**_MAP, "description": "Names for numbers, in order"},
        "replace": {"type": "array", "items": _variant(), "description": "Variants: with, set or action"},
        "action": {**_actions(), "description": "Short for replace with one action"},
        "after": {**_texts(), "description": "Ids that are tried before"},
        "tests": {"type": "array", "items": _case(), "description": "Cases: hits and misses"},
    }


def rule_file_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12). It knows the form; names and numbers inside expressions are checked at load."""
    rule = {
        "type": "object",
        "properties": _rule_keys(),
        "required": ["id", "name", "summary", "equal"],
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Rules of onnx-fp16fix ({LANGUAGE})",
        "type": "object",
        "properties": {
            "schema": {"const": LANGUAGE, "description": "Language version, first key"},
            "requires": {**_TEXT, "description": "onnx-fp16fix>=0.1"},
            "use": {**_texts(), "description": "Other files, or packs such as pack:norm"},
            "rules": {"type": "array", "items": rule},
        },
        "required": ["schema"],
        "additionalProperties": False,
    }
