"""The rule language ``fp16fix/1``: rule files, patterns, guards, templates, and one pass of rules over a model."""

from onnx_fp16fix.language.apply import apply_rules
from onnx_fp16fix.language.decide import may_rewrite
from onnx_fp16fix.language.load import load_rules, select_rules, shipped_rules
from onnx_fp16fix.language.miss import Miss
from onnx_fp16fix.language.packs import Pack, installed_packs, packs
from onnx_fp16fix.language.request import PlanRequest
from onnx_fp16fix.language.rule import DEFAULT_ALLOWED, EQUAL, Rule
from onnx_fp16fix.language.run import MatchRecord, RuleRun, RuleStats
from onnx_fp16fix.language.target import Target, parse_target

__all__ = [
    "DEFAULT_ALLOWED",
    "EQUAL",
    "MatchRecord",
    "Miss",
    "Pack",
    "PlanRequest",
    "Rule",
    "RuleRun",
    "RuleStats",
    "Target",
    "apply_rules",
    "installed_packs",
    "load_rules",
    "may_rewrite",
    "packs",
    "parse_target",
    "select_rules",
    "shipped_rules",
]
