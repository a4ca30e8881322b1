"""Calibration: feeds for a model, and a few exact numbers per tensor measured on them."""

from onnx_fp16fix.calibrate.data import Dataset, Feed, Source, open_data
from onnx_fp16fix.calibrate.measure import calibrate
from onnx_fp16fix.calibrate.outputs import KeptOutputs
from onnx_fp16fix.calibrate.ranges import RangeTable, TensorRange

__all__ = ["Dataset", "Feed", "KeptOutputs", "RangeTable", "Source", "TensorRange", "calibrate", "open_data"]
