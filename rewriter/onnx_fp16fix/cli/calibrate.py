"""``calibrate``: the range of every tensor, as a JSON file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnx_fp16fix.cli import options
from onnx_fp16fix.cli.execute import execute
from onnx_fp16fix.cli.files import beside, refuse_overwriting, refuse_place
from onnx_fp16fix.errors import DataError, Problem, StoppedError
from onnx_fp16fix.wording import counted

if TYPE_CHECKING:
    from onnx_fp16fix.calibrate import RangeTable
    from onnx_fp16fix.outcome import Outcome
    from onnx_fp16fix.progress import Progress

__all__ = ["command"]


@click.command("calibrate")
@click.argument("model", type=options.PATH)
@click.option("-o", "--output", type=options.PATH, metavar="R.json", help="Where to write the ranges.")
@options.data
@click.option(
    "--resume", type=options.PATH, metavar="R.json", help="Go on after the samples this file holds."
)
@click.option("--histogram", is_flag=True, help="Count the elements of every exponent as well.")
@options.memory
@options.common
def command(
    model: Path,
    output: Path | None,
    data: str | None,
    samples: int,
    seed: int,
    resume: Path | None,
    histogram: bool,
    memory: int | None,
    as_json: bool,
    quiet: bool,
) -> tuple[int, str | None]:
    """Measure the range of every tensor of MODEL over the samples.

    The ranges go to MODEL.ranges.json beside the input unless -o says otherwise; with --resume to the file that is
    resumed. An interrupted run writes what it has, and --resume goes on from there.
    """
    path = output or resume or beside(model, ".ranges.json")
    refuse_overwriting(path, model, data)

    def job(progress: Progress) -> Outcome:
        with progress.step("starting"):
            from onnx_fp16fix import pipeline
            from onnx_fp16fix.calibrate.nonfinite import first_nonfinite
            from onnx_fp16fix.document import DataEntry, RunDocument
            from onnx_fp16fix.model import load_model
            from onnx_fp16fix.outcome import Outcome, describe_model
            from onnx_fp16fix.range_file import write_ranges
        started = time.monotonic()
        loaded = load_model(model, lean=True)
        described = describe_model(loaded)
        refuse_place(path, "DATA-WRITE", DataError)
        run = RunDocument(command="calibrate", model=described)

        def interrupted(table: RangeTable) -> None:
            write_ranges(table, path, model_sha256=described.sha256)
            raise _stopped(path, table.samples)

        table = pipeline.calibrate(
            model,
            data,
            samples=samples,
            seed=seed,
            histogram=histogram,
            memory=memory,
            resume=resume,
            interrupted=interrupted,
            progress=progress,
        )
        write_ranges(table, path, model_sha256=described.sha256)
        run.data = DataEntry(source=data, samples=table.samples, random=table.random)
        run.summary = {
            "ranges": str(path),
            "tensors": len(table.tensors),
            "first_nonfinite": first_nonfinite(table, loaded),
        }
        run.seconds = time.monotonic() - started
        return Outcome(run)

    return execute(job, model, as_json=as_json, quiet=quiet)


def _stopped(path: Path, samples: int) -> StoppedError:
    return StoppedError(
        Problem(
            "INTERRUPTED",
            f"interrupted; holds the first {counted(samples, 'sample')}",
            file=str(path),
            hint=f"the same command with '--resume {path}' goes on from there",
        )
    )
