"""``fix``: the whole way from an FP32 model to a proven FP16 one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnx_fp16fix.cli import options
from onnx_fp16fix.cli.autocast import translate
from onnx_fp16fix.cli.execute import execute
from onnx_fp16fix.cli.files import choose_target, lock_path, refuse_overwriting, refuse_place
from onnx_fp16fix.errors import ModelError, Problem, UsageError

if TYPE_CHECKING:
    from onnx_fp16fix.outcome import Outcome
    from onnx_fp16fix.progress import Progress

__all__ = ["command"]


class _Fix(click.Command):
    """Takes AutoCast's option names too, where they mean the same; the help shows ours alone."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, translate(args))


@click.command("fix", cls=_Fix, short_help="Repair MODEL for FP16 or BF16, prove it, write it.")
@click.argument("model", type=options.PATH)
@options.output
@options.data
@options.ranges
@options.precision
@options.io
@options.made_for
@options.tolerance_or_floor
@options.margin
@options.rules
@options.trust_rules
@options.wishes
@options.allow
@click.option(
    "--lock/--no-lock",
    default=True,
    help="Write OUT.fp16fix.yaml: with it, apply makes the same model again.",
)
@click.option(
    "--sidecar",
    type=options.PATH,
    metavar="DIR",
    help="With --precision fp32: folder of the files that tell TensorRT <= 10 and ONNX Runtime's converters which "
    "layers stay in FP32.  [default: beside OUT]",
)
@options.no_verify
@options.kernels
@options.tensorrt
@options.common
def command(
    model: Path,
    output: Path | None,
    in_place: bool,
    rules: str | None,
    as_json: bool,
    quiet: bool,
    lock: bool,
    sidecar: Path | None,
    **fix_options: Any,
) -> tuple[int, str | None]:
    """Repair MODEL for FP16 or BF16: calibrate, plan, rescale, convert, verify, write.

    The result goes to MODEL.fp16.onnx (.bf16.onnx, in FP32 .fixed.onnx) beside the input unless -o says otherwise.
    Exit code 1 means written but still at risk somewhere, 4 that verification failed and nothing was written.
    """
    precision = fix_options["precision"]
    if sidecar is not None and precision != "fp32":
        raise UsageError(Problem("USAGE", f"--sidecar goes with --precision fp32, not {precision}"))
    suffix = ".fixed" if precision == "fp32" else f".{precision}"
    target = choose_target(model, output, in_place, suffix)
    refuse_overwriting(target.path, fix_options["data"], fix_options["ranges"], rules)
    if lock and model.exists():
        refuse_place(lock_path(target.path), "MODEL-WRITE", ModelError)
    if sidecar is not None and not (sidecar if sidecar.exists() else sidecar.parent).is_dir():
        raise ModelError(
            Problem("MODEL-WRITE", "this is no folder, and none can be made here", file=str(sidecar))
        )

    def job(progress: Progress) -> Outcome:
        with progress.step("starting"):
            from onnx_fp16fix import pipeline
        chosen = options.split_rules(rules) if rules else None
        data = fix_options.pop("data")
        verify = not fix_options.pop("no_verify")
        return pipeline.fix(model, data, chosen, verify=verify, progress=progress, **fix_options)

    return execute(job, model, target=target, as_json=as_json, quiet=quiet, lock=lock, sidecar=sidecar)
