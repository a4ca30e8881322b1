"""Makes FP32 ONNX models safe to run in FP16.

>>> import onnx_fp16fix
>>> outcome = onnx_fp16fix.fix("model.onnx", data="samples.npz")  # doctest: +SKIP
>>> outcome.save("model.fp16.onnx")  # doctest: +SKIP

Importing this package loads none of onnx, onnxruntime, scipy, pydantic or rich: every public name is looked
up on first use.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx_fp16fix.errors import (
        DataError,
        ModelError,
        Problem,
        RuleFileError,
        UsageError,
        UserError,
        VerificationError,
    )
    from onnx_fp16fix.outcome import Outcome
    from onnx_fp16fix.pipeline import apply, bisect, calibrate, check, fix, verify
    from onnx_fp16fix.proof import RuleProof, prove_rules

__all__ = [
    "DataError",
    "ModelError",
    "Outcome",
    "Problem",
    "RuleFileError",
    "RuleProof",
    "UsageError",
    "UserError",
    "VerificationError",
    "__version__",
    "apply",
    "bisect",
    "calibrate",
    "check",
    "fix",
    "prove_rules",
    "verify",
]

__version__ = "0.1.0"

_FUNCTIONS = ("apply", "bisect", "calibrate", "check", "fix", "verify")
_HOME = {
    **dict.fromkeys((name for name in __all__ if name[0].isupper()), "errors"),
    **dict.fromkeys(_FUNCTIONS, "pipeline"),
    "Outcome": "outcome",
    "RuleProof": "proof",
    "prove_rules": "proof",
}


class _Package(ModuleType):
    """Keeps the functions ``calibrate`` and ``verify`` from being hidden by the subpackages of that name.

    The import system sets an attribute on the parent for every submodule it loads; here the function wins.
    ``from onnx_fp16fix.verify import ...`` reaches the subpackage as ever.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _FUNCTIONS or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name == "torch":  # the export hook; `import onnx_fp16fix.torch` works as well
        return import_module(f"{__name__}.torch")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, "torch"})
