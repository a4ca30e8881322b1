"""``verify``: two models side by side, in FP32, in simulated FP16, in TensorRT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnx_fp16fix.cli import options
from onnx_fp16fix.cli.execute import execute

if TYPE_CHECKING:
    from onnx_fp16fix.outcome import Outcome
    from onnx_fp16fix.progress import Progress

__all__ = ["command"]


@click.command("verify")
@click.argument("before", type=options.PATH)
@click.argument("after", type=options.PATH)
@options.data
@options.tolerance_by_type
@options.kernels
@click.option(
    "--as",
    "as_type",
    type=click.Choice(["fp16", "bf16"]),
    help="Take AFTER, an FP32 model, as this type throughout, and judge it.",
)
@options.tensorrt
@options.common
def command(
    before: Path, after: Path, data: str | None, as_json: bool, quiet: bool, **verify_options: Any
) -> tuple[int, str | None]:
    """Compare AFTER with the FP32 model BEFORE.

    Exit code 4 means that AFTER is not right. No file is written.
    """

    def job(progress: Progress) -> Outcome:
        with progress.step("starting"):
            from onnx_fp16fix import pipeline
        return pipeline.verify(before, after, data, progress=progress, **verify_options)

    return execute(job, before, after, as_json=as_json, quiet=quiet)
