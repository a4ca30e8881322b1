"""Option names of NVIDIA ModelOpt's AutoCast that ``fix`` understands, for scripts that come from there.

Only those that mean the same are here; what differs is in the README's table. Lists take every value up to the next
option, as they do in AutoCast, so MODEL comes before them (or is given by ``--onnx_path``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from onnx_fp16fix.errors import Problem, UsageError

__all__ = ["translate"]

_FP16_MAX = 65504.0
"""``fp16.MAX``, without loading numpy for the help."""


def _margin(value: str) -> str:
    """``--data_max``: FP16 tensors up to this magnitude, which is a margin below the largest FP16 value."""
    try:
        limit = float(value)
    except ValueError:
        limit = 0.0
    if not 0 < limit <= _FP16_MAX:
        found = f"--data_max is '{value}'; it can be up to {_FP16_MAX:.0f}, where FP16 ends"
        raise UsageError(Problem("USAGE-VALUE", found, hint="--margin 1 is the least margin"))
    return repr(_FP16_MAX / limit)


_LISTS = {
    "--nodes_to_exclude": "--keep-fp32",
    "--op_types_to_exclude": "--keep-fp32-ops",
    "--nodes_to_include": "--force-fp16",
    "--op_types_to_include": "--force-fp16-ops",
}
_VALUES: dict[str, tuple[str, Callable[[str], str]]] = {
    "--output_path": ("--output", str),
    "--low_precision_type": ("--precision", str),
    "--calibration_data": ("--data", str),
    "--data_max": ("--margin", _margin),
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
            ours, convert = _VALUES[name]
            yield from (ours, convert(waiting.pop(0)))
        else:
            yield name


def _split(arg: str) -> list[str]:
    """``--name=value`` of an AutoCast option as two arguments; all else as it is."""
    name, found, value = arg.partition("=")
    known = name in _LISTS or name in _VALUES or name == "--onnx_path"
    return [name, value] if found and known else [arg]
