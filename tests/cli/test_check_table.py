"""The report of ``check`` at 80 columns."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console

from calibrate.small_models import model
from onnx_fp16fix import cli
from onnx_fp16fix.cli.tables import show
from onnx_fp16fix.document import (
    CheckEntry,
    Finding,
    OutputError,
    RunDocument,
    SimulationCheck,
    WeightEntry,
    WeightsEntry,
)

LONG = "/model/decoder/layers.{}/self_attention/query_key_value/MatMul_with_a_long_name_of_its_own"


def shown(run: RunDocument) -> list[str]:
    console = Console(width=80, record=True, file=io.StringIO(), highlight=False)
    show(run, console)
    return console.export_text().splitlines()


def finding(index: int) -> Finding:
    return Finding(
        kind="overflow", severity="error", status="available", message="'t' reaches 1e+06: stored times 2**-5",
        node=LONG.format(index), repaired_by=["plan", "NORM001", "ATTN002"], facts={"sample": 3},
    )  # fmt: skip


def test_long_reports_fit_and_are_cut_with_a_count() -> None:
    naive = SimulationCheck(
        outputs=[OutputError(name=f"o{i}", rel_l2=i / 1000, max_abs=1.0) for i in range(7)]
        + [OutputError(name="bad", rel_l2=None, max_abs=None, nonfinite=5)],
        first_nonfinite="t",
    )
    worst = [WeightEntry(name=f"w{i}", node="n", elements=9, absmax=1e6, beyond=2) for i in range(7)]
    weights = WeightsEntry(constants=7, elements=63, beyond=14, worst=worst)
    entry = CheckEntry(
        tolerance=0.01, naive=naive, nonfinite_tensors=3, harmless_overflows=1, weights=weights
    )
    lines = shown(RunDocument(command="check", check=entry, findings=[finding(i) for i in range(33)]))
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert text.index("output bad: 5 elements not finite") < text.index("output o6: relative error 6.00e-03")
    assert "and 3 more outputs" in text
    assert "first tensor not finite: t (3 in all, 1 harmless)" in text
    assert "w0: 2 beyond of 9, up to 1e+06" in text
    assert "and 2 more (--json has them)" in text
    assert "33 findings: 33 overflow" in text
    assert "and 13 more (--json has all)" in text
    assert "NORM001" in text
    assert "(sample 3)" in text


def test_a_cause_has_one_row_with_all_its_places_and_repairs() -> None:
    def at(name: str, cause: str | None, *repairs: str, severity: str = "error") -> Finding:
        return Finding(kind="overflow", severity=severity, status="available", message=f"'{name}' is too large",
                       node=name, cause=cause, repaired_by=list(repairs))  # fmt: skip

    findings = [
        at("later", "first", "plan", "NORM002"), at("other", "other", "plan"), at("first", "first", "plan", "NORM001"),
        *(at(f"more{i}", "first", "plan", severity="warning") for i in range(7)),
    ]  # fmt: skip
    text = "\n".join(shown(RunDocument(command="check", check=CheckEntry(tolerance=0.01), findings=findings)))
    assert "10 findings, 2 causes: 10 overflow" in text
    assert "'first' is too large" in text
    assert "'later' is too large" not in text
    assert "also at later, more0, more1, more2, more3, more4 and 2 more" in text
    assert text.count("NORM001") == text.count("NORM002") == 1
    assert text.index("first") < text.index("'other' is too large")


def test_without_findings_it_says_so() -> None:
    assert shown(RunDocument(command="check", check=CheckEntry(tolerance=0.01))) == ["nothing to repair"]


@pytest.mark.parametrize("simulate", [True, False])
def test_the_fast_mode_runs_no_simulation(
    simulate: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(model("g (float[4] x) => (float[4] y) { a = Mul(x, x)  y = Sqrt(a) }"), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=np.float32([300, 1, 2, 3]))
    args = ["check", str(tmp_path / "net.onnx"), "--data", str(tmp_path / "data.npz"), "--json"]
    assert cli.main(args if simulate else [*args, "--no-simulate"]) == 1
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert (document["check"]["naive"] is not None) == simulate
    assert ("plain FP16, simulated" in printed.err) == simulate
    assert document["findings"][-1]["tensor"] in ("a", "y")
