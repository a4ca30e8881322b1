"""Proof of rules: their cases, what follows from them unasked, static checks, and the pages made from them."""

from onnx_fp16fix.proof.prove import prove, prove_rule
from onnx_fp16fix.proof.report import STEPS, Failure, RuleProof

__all__ = ["STEPS", "Failure", "RuleProof", "prove", "prove_rule"]
