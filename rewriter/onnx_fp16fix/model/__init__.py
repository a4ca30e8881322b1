"""The model layer: ``ModelProto`` is the truth, and this package is the only one that writes into it."""

from onnx_fp16fix.model.carry import carried_types
from onnx_fp16fix.model.contrib import CONTRIB_DOMAIN, contrib_slots, is_contrib
from onnx_fp16fix.model.infer import TypeTable, infer_types
from onnx_fp16fix.model.inline import with_weights
from onnx_fp16fix.model.load import load_model, wrap_model
from onnx_fp16fix.model.model import Model, Scope, ScopePath
from onnx_fp16fix.model.names import Names
from onnx_fp16fix.model.patch import Patch, apply_patches
from onnx_fp16fix.model.save import save_model
from onnx_fp16fix.model.spool import Spool, is_heavy, is_heavy_file

__all__ = [
    "CONTRIB_DOMAIN",
    "Model",
    "Names",
    "Patch",
    "Scope",
    "ScopePath",
    "Spool",
    "TypeTable",
    "apply_patches",
    "carried_types",
    "contrib_slots",
    "infer_types",
    "is_contrib",
    "is_heavy",
    "is_heavy_file",
    "load_model",
    "save_model",
    "with_weights",
    "wrap_model",
]
