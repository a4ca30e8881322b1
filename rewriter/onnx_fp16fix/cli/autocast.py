"""Option names of NVIDIA ModelOpt's AutoCast that ``fix`` understands, for scripts that come from there.

Only those that mean the same are here; what differs is in the README's table. Lists take every value up to the next
option, as they do in AutoCast, so MODEL comes before them (or is given by ``--onnx_path``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from onnx_fp16fix.errors import Problem, UsageError

__all__ = ["translate"]

_ENDS = {"fp16": 65504.0, "bf16": (2 - 2.0**-7) * 2.0**127}
"""``FloatType.max``, without loading numpy for the help."""


def _margin(value: str, precision: str) -> str:
    """``--data_max``: tensors up to this magnitude may be of the 16-bit type, which is a margin below its end."""
    end = _ENDS.get(precision, _ENDS["fp16"])
    try:
        limit = float(value)
    except ValueError:
        limit = 0.0
    if not 0 < limit <= end:
        found = (
            f"--data_max is '{value}'; it must be above 0 and up to {end:.6g}, where {precision.upper()} ends"
        )
        raise UsageError(Problem("USAGE-VALUE", found))
    return repr(end / limit)


_LISTS = {
    "--nodes_to_exclude": "--keep-fp32",
    "--op_types_to_exclude": "--keep-fp32-ops",
    "--nodes_to_include": "--force-fp16",
    "--op_types_to_include": "--force-fp16-ops",
}
_VALUES = {
    "--output_path": "--output",
    "--low_precision_type": "--precision",
    "--calibration_data": "--data",
    "--data_max": "--margin",
}
_FLAGS = {"--keep_io_types": ("--io", "fp32")}
_ELSEWHERE = {
    "--init_max": "constants are scaled into range, so there is nothing to set; --keep-fp32 names nodes to leave",
    "--max_depth_of_reduction": "sums are judged by their range and by simulation; --keep-fp32 names nodes to leave",
    "--opset": "the opset stays what it is",
    "--providers": "calibration runs on the CPU",
}


def translate(args: Sequence[str]) -> list[str]:
    """The arguments with AutoCast's names replaced by ours. Raises UsageError for its options that have no match."""
    return list(_translated(args))


def _translated(args: Sequence[str]) -> Iterator[str]:
    waiting = [part for arg in args for part in _split(arg)]
    precision = _precision(waiting)
    while waiting:
        name = waiting.pop(0)
        if name in _ELSEWHERE:
            raise UsageError(
                Problem("USAGE", f"{name} of AutoCast has no counterpart", hint=_ELSEWHERE[name])
            )
        if name in _LISTS:
            while waiting and not waiting[0].startswith("-"):
                yield from (_LISTS[name], waiting.pop(0))
        elif name in _FLAGS:
            yield from _FLAGS[name]
        elif name == "--onnx_path" and waiting:
            yield waiting.pop(0)
        elif name in _VALUES and waiting:
            value = waiting.pop(0)
            yield from (_VALUES[name], _margin(value, precision) if name == "--data_max" else value)
        else:
            yield name


def _precision(args: Sequence[str]) -> str:
    """The type asked for, in either spelling; the last one counts."""
    named = [value for name, value in pairwise(args) if name in ("--precision", "--low_precision_type")]
    named += [arg.partition("=")[2] for arg in args if arg.startswith("--precision=")]
    return named[-1] if named and named[-1] in _ENDS else "fp16"


def _split(arg: str) -> list[str]:
    """``--name=value`` of an AutoCast option as two arguments; all else as it is."""
    name, found, value = arg.partition("=")
    known = name in _LISTS or name in _VALUES or name == "--onnx_path"
    return [name, value] if found and known else [arg]
