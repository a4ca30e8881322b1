"""stdout belongs to the document, whatever libraries print, and whatever became of the streams."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = f"{sys.executable} -m onnx_fp16fix"
PRINTS = """
import ctypes, os, sys
from onnx_fp16fix.cli.streams import take_streams
take_streams()
os.write(1, b"a library\\n")
ctypes.CDLL(None).puts(b"held back by C until the end")
os.system("echo a child")
print("the document")
"""


def shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)


def test_what_libraries_print_goes_to_stderr_even_at_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", PRINTS], capture_output=True, text=True, check=True)
    assert done.stdout == "the document\n"
    assert set(done.stderr.splitlines()) == {"a library", "held back by C until the end", "a child"}


full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full device is a file of Linux")


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        pytest.param(
            "--version > /dev/full", 3, "error: stdout cannot be written: no space left", marks=full
        ),
        ("--version >&-", 3, "error: stdout cannot be written: bad file descriptor"),
        pytest.param("check missing.onnx 2> /dev/full", 3, "", marks=full),
        ("check missing.onnx 2>&-", 3, ""),
        ("--help | true; exit ${PIPESTATUS[0]}", 0, ""),
        ("--version <&- >&- 2>&-", 3, ""),
    ],
)
def test_streams_that_cannot_be_written(command: str, code: int, told: str) -> None:
    done = shell(f"{COMMAND} {command}")
    assert done.returncode == code
    assert done.stderr.startswith(told)
    assert len(done.stderr.splitlines()) == bool(told)


def test_a_name_that_is_no_text_stays_in_the_document(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff.onnx"
    command = [sys.executable, "-m", "onnx_fp16fix", "check", name, "--json"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 3
    assert b"MODEL-MISSING" in done.stdout
    assert b"\\udcff.onnx" in done.stdout
    assert b"Traceback" not in done.stderr
