"""Named actions rules may call. Importing this package registers them; a new action is one file and one line here."""

from onnx_fp16fix.actions import deconv
from onnx_fp16fix.actions.fp32_island import Fp32Island
from onnx_fp16fix.actions.fp32_upstream import Fp32Upstream
from onnx_fp16fix.actions.keep_fp32 import KeepFp32
from onnx_fp16fix.actions.rescale import Rescale
from onnx_fp16fix.language.registry import action_names, register

__all__ = ["Fp32Island", "Fp32Upstream", "KeepFp32", "Rescale", "action_names"]

register(Fp32Island())
register(Fp32Upstream())
register(KeepFp32())
register(Rescale())
for _action in deconv.ACTIONS:
    register(_action)
