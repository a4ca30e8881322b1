"""What a person reads after a run, as plain text."""

from __future__ import annotations

import io

from rich.console import Console

from onnx_fp16fix.cli.tables import show
from onnx_fp16fix.document import (
    Finding,
    Fp32Check,
    ModelEntry,
    OrtCheck,
    OutputEntry,
    OutputError,
    PlanEntry,
    RuleEntry,
    RunDocument,
    SimulationCheck,
    TensorRTCheck,
    VerificationEntry,
)


def text(run: RunDocument) -> str:
    stream = io.StringIO()
    show(run, Console(file=stream, width=200, highlight=False))
    return stream.getvalue()


def finding(status: str, message: str) -> Finding:
    return Finding.model_validate({"kind": "overflow", "status": status, "message": message, "node": "n[0]"})


def test_a_full_run_tells_model_findings_rules_plan_checks_and_file() -> None:
    model = ModelEntry(
        path="m.onnx", sha256="", opset=17, ir_version=8, nodes=1234, initializer_bytes=3 << 20
    )
    verification = VerificationEntry(
        passed=True,
        fp32=Fp32Check(max_abs=0, max_rel=0, identical=True),
        fp16_sim=SimulationCheck(outputs=[OutputError(name="y", rel_l2=0.003, max_abs=0.1)]),
        onnxruntime=OrtCheck(provider="CPU", loads=True, runs=True),
        tensorrt=TensorRTCheck(
            package="tensorrt_rtx", version="1.7", parsed=True, built=True, half_layer_share=0.95, layers=20
        ),
    )
    run = RunDocument(
        command="fix",
        model=model,
        findings=[finding("fixed", "reaches 1e5"), finding("left", "eps is lost")],
        rules=[RuleEntry(id="NORM001", name="rms", applied=3), RuleEntry(id="MASK001", tried=9)],
        plan=PlanEntry(
            rescaled_tensors=12, inserted_muls=1, fp32_nodes=["a"], fp32_flops_share=0.01, casts=3
        ),
        verification=verification,
        output=OutputEntry(path="o.onnx", sha256="", nodes=1239, bytes=1 << 20),
    )
    shown = text(run)
    for expected in (
        "m.onnx: 1,234 nodes, opset 17, 3.0 MiB of weights",
        "2 findings: 1 left, 1 fixed",
        "n[0]",
        "rules applied: NORM001 rms (3x)\n",
        "plan: 12 tensors rescaled, 1 Mul added, 1 node kept in FP32 (1.0% of the work), 3 casts",
        "identical bits",
        "relative L2 error 3.00e-03",
        "builds, 95% of 20 layers FP16",
        "wrote o.onnx (1.0 MiB, 1,239 nodes)",
    ):
        assert expected in shown
    assert shown.index("eps is lost") < shown.index("reaches 1e5")  # what is left comes first


def test_a_rejected_run_says_why_and_what_was_not_checked() -> None:
    outputs = [OutputError(name="y", rel_l2=None, max_abs=None, nonfinite=7)]
    verification = VerificationEntry(
        passed=False,
        fp16_sim=SimulationCheck(outputs=outputs),
        failures=["output 'y' has 7 non-finite values"],
        not_checked=["tensorrt: TensorRT is not installed"],
    )
    shown = text(RunDocument(command="fix", status="rejected", verification=verification))
    assert "relative L2 error not finite, 7 elements not finite" in shown
    assert "failed: output 'y' has 7 non-finite values" in shown
    assert "not checked: tensorrt: TensorRT is not installed" in shown
    assert "verification failed; nothing was written" in shown


def test_a_long_list_of_findings_is_cut_and_says_so() -> None:
    shown = text(RunDocument(command="check", status="findings", findings=[finding("available", "m")] * 33))
    assert "33 findings: 33 available" in shown
    assert "and 13 more (--json has all)" in shown
    assert shown.endswith("something was found\n")


def test_a_safe_model_is_one_line() -> None:
    assert text(RunDocument(command="check", plan=PlanEntry(fp32_flops_share=0.0))) == "nothing to repair\n"


def test_one_finding_is_one_finding() -> None:
    assert "1 finding: 1 fixed" in text(RunDocument(command="fix", findings=[finding("fixed", "m")]))


def test_all_files_written_are_named() -> None:
    output = OutputEntry(
        path="o.onnx",
        sha256="",
        nodes=7,
        bytes=1024,
        lock="o.onnx.fp16fix.yaml",
        sidecars=["d/o.onnx.trtexec.txt"],
    )
    shown = text(RunDocument(command="fix", output=output))
    assert "wrote o.onnx (1.0 KiB, 7 nodes), o.onnx.fp16fix.yaml, d/o.onnx.trtexec.txt" in shown.replace(
        "\n", " "
    )


def test_a_verification_does_not_speak_of_repairs() -> None:
    fp32 = Fp32Check(max_abs=0.1, max_rel=0.5, rel_l2=2e-7, identical=False)
    shown = text(RunDocument(command="verify", verification=VerificationEntry(passed=True, fp32=fp32)))
    assert "relative L2 error 2.00e-07" in shown
    assert shown.endswith("AFTER agrees with BEFORE\n")
