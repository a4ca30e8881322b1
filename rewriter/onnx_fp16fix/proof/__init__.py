"""Proof of rules: their cases, what follows from them unasked, static checks, and the pages made from them."""

from onnx_fp16fix.proof.lint import lint
from onnx_fp16fix.proof.prove import prove, prove_rule, prove_rules
from onnx_fp16fix.proof.report import STEPS, Failure, RuleProof
from onnx_fp16fix.proof.scaffold import scaffold
from onnx_fp16fix.proof.schema import rule_file_schema

__all__ = [
    "STEPS",
    "Failure",
    "RuleProof",
    "lint",
    "prove",
    "prove_rule",
    "prove_rules",
    "rule_file_schema",
    "scaffold",
]
