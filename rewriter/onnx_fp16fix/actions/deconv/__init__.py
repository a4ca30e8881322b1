"""Exact rewrites of ConvTranspose, one file each, and the choice among them for a target."""

from onnx_fp16fix.actions.deconv.choose import FORMS, DeconvForTarget
from onnx_fp16fix.actions.deconv.form import FormAction
from onnx_fp16fix.language.registry import RewriteAction

__all__ = ["ACTIONS"]

ACTIONS: tuple[RewriteAction, ...] = (DeconvForTarget(), *(FormAction(form) for form in FORMS.values()))
"""All actions of this package."""
