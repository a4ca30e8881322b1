"""Option values as users give them, refused together where they make no sense."""

from __future__ import annotations

import math

from onnx_fp16fix.errors import Problem, UsageError
from onnx_fp16fix.wording import spelled

__all__ = ["check_arguments"]

_CHOICES = {
    "precision": ("fp16", "bf16", "fp32"),
    "io": ("fp32", "fp16", "bf16"),
    "tensorrt": ("auto", "off", "require"),
    "kernels": ("default", "cuda", "pessimistic"),
    "as_type": ("fp16", "bf16"),
}


def check_arguments(
    *, tolerance: float | None = None, margin: float = 1.0, samples: int = 1, **choices: str
) -> None:
    """Raise UsageError naming every value that is not one: ``choices`` are those of ``_CHOICES``."""
    problems = [
        Problem(
            "USAGE-VALUE", f"{spelled(name)} is {value!r}; it can be {', '.join(map(repr, _CHOICES[name]))}"
        )
        for name, value in choices.items()
        if value not in _CHOICES[name]
    ]
    precision, io = choices.get("precision"), choices.get("io", "fp32")
    if io != "fp32" and precision in _CHOICES["precision"] and io != precision:
        possible = " or ".join(map(repr, dict.fromkeys(["fp32", precision])))
        found = f"{spelled('io')} is {io!r}; with {spelled('precision')} {precision!r} it can be {possible}"
        problems.append(Problem("USAGE-VALUE", found))
    if tolerance is not None and not 0 < tolerance < math.inf:
        problems.append(_wrong("tolerance", tolerance, "a positive number"))
    if not 1 <= margin < math.inf:
        problems.append(_wrong("margin", margin, "a number of at least 1"))
    if samples < 1:
        problems.append(_wrong("samples", samples, "at least 1"))
    if problems:
        raise UsageError(problems)


def _wrong(name: str, value: object, expected: str) -> Problem:
    return Problem("USAGE-VALUE", f"{spelled(name)} is {value!r}; it must be {expected}")
