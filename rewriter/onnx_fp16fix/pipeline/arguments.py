"""Option values as users give them, refused together where they make no sense."""

from __future__ import annotations

import math

from onnx_fp16fix.errors import Problem, UsageError

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
        Problem("USAGE-VALUE", f"{name} is {value!r}; it can be {', '.join(map(repr, _CHOICES[name]))}")
        for name, value in choices.items()
        if value not in _CHOICES[name]
    ]
    precision, io = choices.get("precision"), choices.get("io", "fp32")
    if io != "fp32" and precision in ("fp16", "bf16") and io != precision:
        found = f"io is {io!r}; with precision {precision!r} it can be 'fp32', {precision!r}"
        problems.append(Problem("USAGE-VALUE", found))
    if tolerance is not None and not 0 < tolerance < math.inf:
        problems.append(Problem("USAGE-VALUE", f"tolerance is {tolerance!r}; it must be a positive number"))
    if not 1 <= margin < math.inf:
        problems.append(Problem("USAGE-VALUE", f"margin is {margin!r}; it must be a number of at least 1"))
    if samples < 1:
        problems.append(Problem("USAGE-VALUE", f"samples is {samples!r}; it must be at least 1"))
    if problems:
        raise UsageError(problems)
