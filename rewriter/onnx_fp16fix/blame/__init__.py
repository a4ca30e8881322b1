"""Which nodes cause the error of the outputs: measured, ranked, and reduced to the smallest set to keep in FP32."""

from onnx_fp16fix.blame.cache import TrialCache, model_stamp
from onnx_fp16fix.blame.check_command import CheckCommand
from onnx_fp16fix.blame.minimise import minimise
from onnx_fp16fix.blame.names import node_names, resolve_names
from onnx_fp16fix.blame.places import Places
from onnx_fp16fix.blame.ranking import Alone, measure_alone
from onnx_fp16fix.blame.rule_file import rule_file
from onnx_fp16fix.blame.simulated import Simulated
from onnx_fp16fix.blame.trials import OutOfTrials, Trials

__all__ = [
    "Alone",
    "CheckCommand",
    "OutOfTrials",
    "Places",
    "Simulated",
    "TrialCache",
    "Trials",
    "measure_alone",
    "minimise",
    "model_stamp",
    "node_names",
    "resolve_names",
    "rule_file",
]
