"""The command line's outer shell: which subcommands there are, and what each kind of ending looks like.

Exit codes: 0 done and verified; 1 findings left; 2 wrong use or a bad rule file; 3 model or data unreadable or
invalid; 4 verification failed, nothing written; 5 rule tests failed; 70 a bug; 130 interrupted.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from typing import ClassVar, NoReturn

import click

from onnx_fp16fix import __version__
from onnx_fp16fix.cli.group import LazyGroup
from onnx_fp16fix.cli.streams import take_streams
from onnx_fp16fix.errors import ModelError, Problem, UsageError, UserError
from onnx_fp16fix.wording import options_spelled

__all__ = ["main", "run"]

BUG, INTERRUPTED = 70, 130
_PROGRAM = "onnx-fp16fix"
_COMMANDS = ("apply", "fix", "check", "verify", "calibrate", "bisect", "rules")


class _Commands(LazyGroup):
    places: ClassVar = {name: (name, "command") for name in _COMMANDS}


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=_PROGRAM)
def _program() -> None:
    """Make an FP32 ONNX model safe to run in FP16."""


def run() -> NoReturn:
    """The command as a process of its own."""
    take_streams()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = main(sys.argv[1:])
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # nothing is left to lose, and Python would complain while it ends
    sys.exit(code)


def main(args: Sequence[str]) -> int:
    """Run one command line; returns the exit code. Data go to stdout (with --json), all else to stderr."""
    started = time.monotonic()
    as_json = "--json" in args
    if list(args) in ([], ["rules"]):
        args = [*args, "--help"]
    if any(arg in ("-h", "--help", "--version") for arg in args):
        return _invoke(args)
    data: str | None = None
    problems: tuple[Problem, ...] = ()
    try:
        # a user's data script may print; stdout is for our one document
        with redirect_stdout(sys.stderr), options_spelled():
            code, data = _invoke_for_document(args)
    except (KeyboardInterrupt, click.Abort):
        code, problems = INTERRUPTED, (Problem("INTERRUPTED", "interrupted; no file was written"),)
    except click.ClickException as error:
        code, problems = UsageError.exit_code, (_usage_problem(error),)
    except UserError as error:
        code, problems = error.exit_code, error.problems
    except Exception as error:
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
        hint = f"this is a bug of {_PROGRAM} {__version__}; please report it with the lines above"
        code, problems = BUG, (Problem("BUG", message, hint=hint),)
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    if as_json:
        return _print(data or _error_document(args, code, problems, time.monotonic() - started), code)
    return code if data is None else _print(data, code)


def _print(text: str, code: int) -> int:
    """Write to stdout; the exit code is ``code``, or that of a failed write. Who closes a pipe has read enough."""
    try:
        click.echo(text, nl=not text.endswith("\n"))
        sys.stdout.flush()
    except OSError as error:
        # else Python writes what is left once more when it ends, and complains
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return code
        problem = Problem(
            "STDOUT-WRITE", f"stdout cannot be written: {(error.strerror or str(error)).lower()}"
        )
        click.echo(f"error: {problem}", err=True)
        return ModelError.exit_code
    return code


def _invoke(args: Sequence[str]) -> int:
    """For the texts of click: help and version."""
    text = io.StringIO()
    try:
        with redirect_stdout(text):
            _program.main(args=list(args), prog_name=_PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"error: {_usage_problem(error)}", err=True)
        return UsageError.exit_code
    return _print(text.getvalue(), 0)


def _invoke_for_document(args: Sequence[str]) -> tuple[int, str | None]:
    """Exit code and document of a subcommand; click's own endings give a bare code or nothing."""
    result = _program.main(args=list(args), prog_name=_PROGRAM, standalone_mode=False)
    return result if isinstance(result, tuple) else (int(result or 0), None)


def _usage_problem(error: click.ClickException) -> Problem:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else _PROGRAM
    return Problem("USAGE", error.format_message(), hint=f"'{path} --help' shows what there is")


def _error_document(args: Sequence[str], code: int, problems: Sequence[Problem], seconds: float) -> str:
    from datetime import datetime, timedelta, timezone

    from onnx_fp16fix.document import RunDocument, error_entries

    return RunDocument(
        command=next((arg for arg in args if arg in _COMMANDS), ""),
        started=datetime.now(timezone.utc) - timedelta(seconds=seconds),
        seconds=seconds,
        status="error",
        exit_code=code,
        errors=error_entries(UserError(problems)),
    ).to_json()
