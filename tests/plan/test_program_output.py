"""What HiGHS prints past its own switch never reaches stdout, through a pipe neither."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from onnx_fp16fix.plan.exponents.scaling import Unknowns
from onnx_fp16fix.plan.solver.program import Program

TALK = """
import ctypes
from onnx_fp16fix.plan.solver.program import _silent_stdout
libc = ctypes.CDLL(None)
with _silent_stdout():
    libc.printf(b"\\nHighs says something\\n")
print("{}", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="looks for printf in the process itself")
def test_lines_that_c_holds_back_are_dropped_too() -> None:
    # which would take the buffer away from C too
    own = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-c", TALK], capture_output=True, text=True, check=True, env=own)
    assert done.stdout == "{}\n"


def test_an_unknown_with_one_value_has_no_slopes() -> None:
    """It has a price of its own only where the first program found nothing, in time or at all."""
    unknowns = object.__new__(Unknowns)
    unknowns.low = unknowns.high = np.array([3])
    unknowns.steps, unknowns.reach = np.ones(1), 5
    program = Program()
    unknowns._widened(program, 0, np.zeros(11))
    assert program.solve() == [3]
