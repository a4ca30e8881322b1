"""Every code block of the README and every sample runs as written, in a folder that has nothing but `samples/`."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(<!-- not run[^>]*-->\n)?```(\w+)\n(.*?)```", README, re.DOTALL)
NEEDS_TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="no PyTorch")
NEEDS_MAGIKA = pytest.mark.skipif(importlib.util.find_spec("magika") is None, reason="no magika")


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    # the command of this very checkout, even where another one is installed
    tools = tmp_path / ".bin"
    tools.mkdir()
    for name, line in (
        ("onnx-fp16fix", f'"{sys.executable}" -m onnx_fp16fix'),
        ("python", f'"{sys.executable}"'),
    ):
        (tools / name).write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        (tools / name).chmod(0o755)
    return tmp_path


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {
        "PATH": f"{folder / '.bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "rewriter"),
        "PYTHONWARNINGS": "ignore",
    }
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result


def test_the_readme_runs_from_top_to_bottom(workplace: Path) -> None:
    ran = 0
    for skipped, language, text in BLOCKS:
        if skipped or ("import torch" in text and importlib.util.find_spec("torch") is None):
            continue
        run(
            ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [sys.executable, "-c", text],
            workplace,
        )
        ran += 1
    assert ran >= 3
    written = {path.name for path in workplace.iterdir()}
    assert {"tiny.fp16.onnx", "tiny.fixed.onnx", "ranges.json", "run.json"} <= written


def test_the_commands_of_the_rule_guide_run(workplace: Path) -> None:
    guide = (ROOT / "docs" / "rule-language.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", guide, re.DOTALL)
    assert blocks
    for text in blocks:
        run(["bash", "-euo", "pipefail", "-c", text], workplace)


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"^make (\w+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target


def test_links_of_the_readme_lead_somewhere() -> None:
    targets = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert targets
    headings = {
        f"#{title.lower().replace(' ', '-')}" for title in re.findall(r"^## (.+)$", README, re.MULTILINE)
    }
    assert not [link for link in targets if link not in headings and not (ROOT / link).exists()]


def test_the_command_sample(workplace: Path) -> None:
    result = run(["bash", "samples/command.sh"], workplace)
    assert result.stdout == "[1]\n"  # the user's rule was applied once
    onnx.checker.check_model(str(workplace / "tiny.fp16.onnx"))
    onnx.checker.check_model(str(workplace / "tiny.fixed.onnx"))


def test_the_library_sample(workplace: Path) -> None:
    result = run([sys.executable, "samples/library.py", "out.onnx"], workplace)
    assert "nodes left in FP32" in result.stdout
    assert "a mistake is one message" in result.stdout
    onnx.checker.check_model(str(workplace / "out.onnx"))


@NEEDS_TORCH
def test_the_export_hook_sample(workplace: Path) -> None:
    result = run([sys.executable, "samples/export_hook.py", "out.onnx"], workplace)
    assert result.stdout.count("repaired: ") == 2


@NEEDS_MAGIKA
def test_the_main_job_is_right_on_magika(workplace: Path) -> None:
    result = run([sys.executable, "samples/magika_demo.py", "out.onnx"], workplace)
    assert "wrong labels, repaired" in result.stderr
    model = onnx.load(workplace / "out.onnx")
    assert any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
