"""Options that several commands share, defined once so that they mean the same everywhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from onnx_fp16fix.errors import Problem, UsageError

__all__ = [
    "PATH",
    "allow",
    "as_type",
    "common",
    "data",
    "io",
    "kernels",
    "made_for",
    "margin",
    "memory",
    "no_verify",
    "output",
    "precision",
    "ranges",
    "rules",
    "split_rules",
    "tensorrt",
    "tolerance_by_type",
    "tolerance_or_floor",
    "types_of_apply",
    "wishes",
]

Command = TypeVar("Command", bound=Callable[..., Any])


def _stack(*decorators: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def _without_data(ctx: click.Context, param: click.Parameter, value: int) -> int:
    """All samples that are given are used: a number beside them would be taken for a limit."""
    given = ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
    if given and ctx.params.get("data") is not None:
        raise click.UsageError(
            "--samples is the number of random samples; with --data all of its samples are used"
        )
    return value


PATH = click.Path(path_type=Path)

common = _stack(
    click.option("--json", "as_json", is_flag=True, help="Print the run as one JSON document on stdout."),
    click.option("-q", "--quiet", is_flag=True, help="No talk on stderr but errors."),
)
data = _stack(
    click.option(
        "--data",
        metavar="D",
        is_eager=True,
        help="Samples: a .npz, a folder of .npz, a .npy for a single input, a Polygraphy inputs .json, or "
        "script.py[:function]. Without it: random numbers.",
    ),
    click.option(
        "--samples",
        type=click.IntRange(min=1),
        default=4,
        show_default=True,
        callback=_without_data,
        help="Random samples.",
    ),
    click.option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of random samples."
    ),
)
output = _stack(
    click.option("-o", "--output", type=PATH, metavar="OUT", help="Where to write the model."),
    click.option("--in-place", is_flag=True, help="Write over the input model."),
)
ranges = click.option(
    "--ranges",
    type=PATH,
    metavar="R.json",
    help="Ranges that calibrate wrote for this model, instead of measuring again.",
)


as_type = click.option(
    "--as",
    "as_type",
    type=click.Choice(["fp16", "bf16"]),
    default="fp16",
    show_default=True,
    help="The type to take the model as.",
)


def _to_bytes(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """``2GB``, ``512MiB``, ``1000000`` as bytes."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)(i?)B?", value, re.IGNORECASE)
    if found is None:
        raise click.BadParameter(f"'{value}' is no size; expected for instance 2GB or 512MiB", ctx, param)
    power = " KMGT".index(found[2].upper() or " ")
    size = int(float(found[1]) * (1024 if found[3] else 1000) ** power)
    if not size:
        raise click.BadParameter("a budget of no bytes holds nothing", ctx, param)
    return size


memory = click.option(
    "--memory",
    callback=_to_bytes,
    metavar="SIZE",
    help="Memory that tensors may take at a time, beside the weights: 2GB, 512MiB.",
)
_IO: dict[str, Any] = {
    "type": click.Choice(["fp32", "fp16", "bf16"]),
    "help": "Type of float graph inputs and outputs: FP32, or that of --precision.",
}
io = click.option("--io", default="fp32", show_default=True, **_IO)
margin = click.option(
    "--margin",
    type=click.FloatRange(min=1),
    default=2.0,
    show_default=True,
    help="Keep values this factor below the FP16 limit.",
)
tolerance_by_type = click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    help="Largest relative L2 error of an output.  [default: 0.01, in BF16 0.08]",
)
tolerance_or_floor = click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    help="Largest relative L2 error of an output.  [default: 0.01, in BF16 0.08, or more where the type's own "
    "rounding costs more]",
)
tensorrt = click.option(
    "--tensorrt",
    type=click.Choice(["auto", "off", "require"]),
    default="auto",
    show_default=True,
    help="Build with TensorRT when it is installed, never, or fail without it.",
)
kernels = click.option(
    "--kernels",
    type=click.Choice(["default", "cuda", "pessimistic"]),
    default="default",
    show_default=True,
    help="What simulation takes GPU kernels to keep in FP16 inside: what all do, what ONNX Runtime's CUDA kernels were "
    "seen to do, or the worst (sums of products and convolutions too).",
)
rules = click.option(
    "--rules", metavar="RULES", help="Rules to use instead of all shipped ones; commas separate."
)
trust_rules = click.option(
    "--trust-rules", is_flag=True, help="Use rules of your own even if their own cases or equality fail."
)
made_for = click.option(
    "--target",
    metavar="T[:V]",
    help="What the model is made for: tensorrt:11.2, tensorrt-rtx, onnxruntime-cuda (BF16 kernels it has), ... "
    "Rules for that target apply.",
)
no_verify = click.option("--no-verify", is_flag=True, help="Write without proof.")


def _to_limits(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    """``REGEX=VALUE`` as a mapping; the last ``=`` counts."""
    limits = {}
    for value in values:
        pattern, found, number = value.rpartition("=")
        try:
            limits[pattern] = float(number)
        except ValueError:
            found = ""
        if not (found and pattern):
            message = f"'{value}' is no limit; expected REGEX=VALUE, for instance 'logits.*=3e4'"
            raise click.BadParameter(message, ctx, param)
    return limits


def _to_share(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """``5%`` or ``0.05``."""
    try:
        share = None if value is None else float(value.rstrip("% ")) / (100 if value.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if share is not None and not 0 <= share <= 1:
        raise click.BadParameter(f"'{value}' is no share; expected for instance 5% or 0.05", ctx, param)
    return share


def _to_list(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> list[str]:
    """Comma lists, given any number of times."""
    found = [part for value in values for part in _split(value)]
    if values and not found:
        raise click.BadParameter("it names nothing", ctx, param)
    return found


_OPS: dict[str, Any] = {"multiple": True, "callback": _to_list, "metavar": "OP,OP"}
wishes = _stack(
    click.option(
        "--keep-fp32",
        multiple=True,
        metavar="REGEX",
        help="Keep nodes in FP32 whose names match from the start. Repeatable.",
    ),
    click.option("--keep-fp32-ops", **_OPS, help="Keep all nodes of these op types in FP32."),
    click.option("--force-fp16", multiple=True, metavar="REGEX", help="Run these nodes in FP16. Repeatable."),
    click.option("--force-fp16-ops", **_OPS, help="Run all nodes of these op types in FP16."),
    click.option(
        "--limit",
        "limits",
        multiple=True,
        callback=_to_limits,
        metavar="REGEX=VALUE",
        help="Largest magnitude to plan for in tensors of these names, instead of the measured one. Repeatable.",
    ),
    click.option(
        "--max-fp32-flops",
        callback=_to_share,
        metavar="5%",
        help="Share of the FLOPs that FP32 is to have at most; exit code 1 where that cannot be.",
    ),
    click.option(
        "--force", is_flag=True, help="Obey wishes that cannot go well, and report what is at risk."
    ),
)


def _to_classes(ctx: click.Context, param: click.Parameter, value: str | None) -> list[str] | None:
    return None if value is None else _to_list(ctx, param, (value,))


allow = click.option(
    "--allow",
    callback=_to_classes,
    metavar="CLASSES",
    help="Equality classes of rules that may be used: exact,real,context,lossy.  [default: all but lossy]",
)


_PRECISION: dict[str, Any] = {
    "type": click.Choice(["fp16", "bf16", "fp32"]),
    "help": "Types of the written model.",
}
precision = click.option("--precision", default="fp16", show_default=True, **_PRECISION)
_OF_LOCK = "fp32, of a lock file what it says"
types_of_apply = _stack(
    click.option("--precision", show_default=_OF_LOCK, **_PRECISION),
    click.option("--io", show_default=_OF_LOCK, **_IO),
)


def split_rules(text: str) -> list[str]:
    """``a.yaml,pack:norm`` as a list; the rule loader resolves each entry. Raises UsageError where it names none."""
    found = _split(text)
    if not found:
        raise UsageError(Problem("USAGE", f"'{text}' names no rules", hint="a file, a folder or pack:NAME"))
    return found


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
