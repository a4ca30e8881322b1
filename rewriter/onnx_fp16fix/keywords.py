"""Keywords of the library that have a value of the wrong Python type, refused together before anything is done.

What a parameter takes goes by its name: it is the same in all public functions.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from numbers import Integral, Real
from typing import ParamSpec, TypeVar

from onnx_fp16fix.errors import Problem, UsageError
from onnx_fp16fix.wording import spelled

__all__ = ["check_types", "typed"]

P = ParamSpec("P")
T = TypeVar("T")
Kind = tuple[str, Callable[[object], bool]]
"""What is expected, in words, and whether a value is that."""


def typed(function: Callable[P, T]) -> Callable[P, T]:
    """The function, which raises UsageError (USAGE-TYPE) for arguments of a wrong type."""
    signature = inspect.signature(function)

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        check_types(signature.bind(*args, **kwargs))
        return function(*args, **kwargs)

    return checked


def check_types(call: inspect.BoundArguments) -> None:
    """Raise UsageError (USAGE-TYPE) naming every argument of a wrong type. None is one where it is the default."""
    problems = []
    for name, value in call.arguments.items():
        default = call.signature.parameters[name].default
        if name not in _KINDS or (value is None and default is None):
            continue
        expected, fits = _KINDS[name]
        if not fits(value):
            expected += " or None" if default is None else ""
            found = f"{spelled(name)} is {_shown(value)}; it must be {expected}"
            problems.append(Problem("USAGE-TYPE", found, hint=_hint(value, fits)))
    if problems:
        raise UsageError(problems)


def _shown(value: object) -> str:
    """The value, cut where it is long, with its type unless the value tells that itself."""
    if value is None or isinstance(value, (str, bool)):
        return repr(value)
    text = repr(value)
    kind = type(value).__name__
    return f"{text} of type {kind}" if len(text) <= 60 and "\n" not in text else f"of type {kind}"


def _hint(value: object, fits: Callable[[object], bool]) -> str | None:
    """A value of the right type that may have been meant."""
    if isinstance(value, str):
        for kind in (int, float):
            try:
                meant = kind(value)
            except ValueError:
                continue
            return f"without quotes: {meant!r}" if fits(meant) else None
    if isinstance(value, (int, float)) and fits is _NAMES[1]:
        return f"as a string: {str(value)!r}"
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_flag(value: object) -> bool:
    # bool of Python or numpy, and the numbers that stand for it
    return type(value).__name__ in ("bool", "bool_") or (isinstance(value, Integral) and value in (0, 1))


def _is_path(value: object) -> bool:
    return isinstance(value, (str, os.PathLike))


def _several(one: Callable[[object], bool]) -> Callable[[object], bool]:
    def fits(value: object) -> bool:
        if one(value):
            return True
        return isinstance(value, Collection) and not isinstance(value, bytes) and all(map(one, value))

    return fits


def _is_limits(value: object) -> bool:
    return isinstance(value, Mapping) and all(_is_text(k) and _is_number(v) for k, v in value.items())


def _is_progress(value: object) -> bool:
    return callable(getattr(value, "step", None)) and callable(getattr(value, "warn", None))


_TEXT: Kind = "a string", _is_text
_NUMBER: Kind = "a number", _is_number
_COUNT: Kind = "a whole number", _is_count
_FLAG: Kind = "True or False", _is_flag
_PATH: Kind = "a path", _is_path
_NAMES: Kind = "a string or a list of strings", _several(_is_text)
_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("tolerance", "margin", "max_fp32_flops"), _NUMBER),
    **dict.fromkeys(("samples", "seed", "trials", "memory"), _COUNT),
    **dict.fromkeys(
        ("force", "verify", "simulate", "explain_misses", "trust_rules", "histogram", "fast"), _FLAG
    ),
    **dict.fromkeys(("precision", "io", "target", "tensorrt", "kernels", "as_type", "check"), _TEXT),
    **dict.fromkeys(("ranges", "cache", "resume"), _PATH),
    **dict.fromkeys(
        ("keep_fp32", "keep_fp32_ops", "force_fp16", "force_fp16_ops", "allow", "keep", "select"), _NAMES
    ),
    "limits": ("a mapping of regular expressions to numbers", _is_limits),
    "rules": ("a path or a list of paths", _several(_is_path)),
    "interrupted": ("a function", callable),
    "progress": ("an object with the methods step and warn of onnx_fp16fix.progress.Progress", _is_progress),
}
