"""The one code path behind the command, the library and the export hook; each function is looked up on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx_fp16fix.pipeline.checkup import check
    from onnx_fp16fix.pipeline.commands import calibrate, verify
    from onnx_fp16fix.pipeline.culprits import bisect
    from onnx_fp16fix.pipeline.repair import apply, fix

__all__ = ["apply", "bisect", "calibrate", "check", "fix", "verify"]

_HOME = {
    "apply": "repair",
    "bisect": "culprits",
    "calibrate": "commands",
    "check": "checkup",
    "fix": "repair",
    "verify": "commands",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
