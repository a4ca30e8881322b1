"""From ``tests:`` of a rule to its cases."""

from __future__ import annotations

from onnx.defs import onnx_opset_version

from onnx_fp16fix.errors import UsageError
from onnx_fp16fix.language.fields import Fields
from onnx_fp16fix.language.given import parse_given
from onnx_fp16fix.language.parse import parse_suite
from onnx_fp16fix.language.rule import Case
from onnx_fp16fix.language.target import Target, parse_target
from onnx_fp16fix.language.yaml_source import Branch, Tree

__all__ = ["build_cases"]


def build_cases(rule: Fields) -> tuple[Case, ...]:
    """The cases of a rule; what is wrong with any goes to the problems."""
    found = [_case(tree, rule) for tree in rule.items("tests")]
    return tuple(case for case in found if case is not None)


def _case(tree: Tree, rule: Fields) -> Case | None:
    if not isinstance(tree, Branch):
        rule.report(tree.place, "a test must be a mapping with 'hit' or 'miss'", code="RULE-TYPE")
        return None
    keys = ("hit", "miss", "given", "uses", "because", "todo", "opset", "target")
    fields = Fields(tree, "a test", keys, rule.problems)
    hit, miss = fields.scalar("hit"), fields.scalar("miss")
    source = hit or miss
    if source is None or (hit is not None and miss is not None):
        fields.report(tree.place, "a test needs either 'hit' or 'miss'")
        return None
    suite = parse_suite(source, rule.problems)
    given = {key.text: value.text for key, value in fields.mapping("given")}
    for key, value in fields.mapping("given"):
        try:
            parse_given(value.text)
        except ValueError as error:
            fields.report(value.place, f"'{key.text}': {error}", code="RULE-TYPE")
    clause = fields.text("uses") or fields.text("because") or None
    opset, newest = int(fields.number("opset") or 17), onnx_opset_version()
    if not 1 <= opset <= newest:
        fields.report(source.place, f"'opset' must lie between 1 and {newest}, not {opset}", code="RULE-TYPE")
    target = _target(fields)
    if suite is None:
        return None
    return Case(
        hit is not None, suite, given, clause, fields.text("todo") or None, opset, source.place, target
    )


def _target(fields: Fields) -> Target | None:
    """What a test is run for, written as for the command: tensorrt:11.2."""
    source = fields.scalar("target")
    try:
        return parse_target(source.text) if source is not None else None
    except UsageError as error:
        assert source is not None
        fields.report(source.place, error.problems[0].message, error.problems[0].hint, "RULE-TYPE")
        return None
