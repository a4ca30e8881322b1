"""Exit codes, streams and messages of the command line around a pipeline that is only played."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import onnx_fp16fix
from fake_pipeline import FakePipeline, relu_model
from onnx_fp16fix import cli
from onnx_fp16fix.errors import DataError, ModelError, Problem, RuleFileError


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    played = FakePipeline()
    monkeypatch.setitem(sys.modules, "onnx_fp16fix.pipeline", played)
    monkeypatch.setattr(onnx_fp16fix, "pipeline", played, raising=False)
    return played


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(relu_model(), path)
    return path


def one_document(text: str) -> dict:
    document = json.loads(text)
    assert document["schema"] == "fp16fix-run/1"
    return document


def test_fix_writes_beside_the_input_and_says_so(
    pipeline: FakePipeline, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.main(["fix", str(model), "--data", "d.npz", "--margin", "4", "--rules", "a.yaml, pack:norm"]) == 0
    )
    assert model.with_name("model.fp16.onnx").exists()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "wrote" in printed.err
    ((name, args, options),) = pipeline.calls
    assert (name, args) == ("fix", (model, "d.npz", ["a.yaml", "pack:norm"]))
    assert options == {
        "samples": 4, "seed": 0, "ranges": None, "precision": "fp16", "io": "fp32", "tolerance": None, "margin": 4.0,
        "verify": True, "tensorrt": "auto",
        "kernels": "default", "target": None,
        "keep_fp32": (), "keep_fp32_ops": [], "force_fp16": (), "force_fp16_ops": [], "limits": {},
        "max_fp32_flops": None, "allow": None, "force": False, "trust_rules": False,
    }  # fmt: skip


def test_apply_takes_the_rules_first_and_stays_fp32(pipeline: FakePipeline, model: Path) -> None:
    assert cli.main(["apply", "a.yaml,rules/", str(model), "--no-verify", "--tensorrt", "off"]) == 0
    ((name, args, options),) = pipeline.calls
    assert (name, args) == ("apply", (model, ["a.yaml", "rules/"], None))
    assert (options["precision"], options["verify"], options["tensorrt"]) == (None, False, "off")
    assert model.with_name("model.fixed.onnx").exists()


def test_check_and_verify_write_nothing(pipeline: FakePipeline, model: Path) -> None:
    before = sorted(model.parent.iterdir())
    assert cli.main(["check", str(model)]) == 0
    assert cli.main(["verify", str(model), str(model), "--tolerance", "0.1"]) == 0
    assert sorted(model.parent.iterdir()) == before
    assert [name for name, _, _ in pipeline.calls] == ["check", "verify"]


def test_json_is_the_only_thing_on_stdout(
    pipeline: FakePipeline, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.during = lambda: print("a data script that talks")
    assert cli.main(["fix", str(model), "--json"]) == 0
    printed = capsys.readouterr()
    assert one_document(printed.out)["output"]["path"] == str(model.with_name("model.fp16.onnx"))
    assert "a data script that talks" in printed.err


def test_quiet_says_nothing(pipeline: FakePipeline, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fix", str(model), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_findings_left_still_write_the_file(pipeline: FakePipeline, model: Path) -> None:
    pipeline.status, pipeline.exit_code = "findings", 1
    assert cli.main(["fix", str(model), "-o", str(model.with_name("o.onnx"))]) == 1
    assert model.with_name("o.onnx").exists()


def test_a_quiet_rejection_still_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    other = relu_model()
    other.graph.node[0].op_type = "Abs"
    onnx.save(relu_model(), before)
    onnx.save(other, after)
    assert cli.main(["verify", str(before), str(after), "--tensorrt", "off", "--quiet"]) == 4
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: FP32 outputs differ: relative L2 error ")
    assert printed.err.endswith("[VERIFY-FAILED]\n")


def test_a_rejected_model_is_not_written(
    pipeline: FakePipeline, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.status, pipeline.exit_code = "rejected", 4
    assert cli.main(["fix", str(model)]) == 4
    assert [path.name for path in model.parent.iterdir()] == ["model.onnx"]
    assert "nothing was written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuleFileError(Problem("RULE-YAML", "bad", file="r.yaml", line=3, column=7)), 2),
        (ModelError(Problem("MODEL-READ", "truncated", file="m.onnx")), 3),
        (DataError(Problem("DATA-NAME", "no input 'z'", hint="inputs: x")), 3),
    ],
)
def test_a_users_mistake_is_a_message_and_a_code(
    pipeline: FakePipeline,
    model: Path,
    capsys: pytest.CaptureFixture[str],
    error: onnx_fp16fix.UserError,
    code: int,
) -> None:
    pipeline.error = error
    assert cli.main(["fix", str(model), "--json"]) == code
    printed = capsys.readouterr()
    assert printed.err == f"error: {error}\n"
    document = one_document(printed.out)
    assert (document["command"], document["status"], document["exit_code"]) == ("fix", "error", code)
    assert document["errors"][0]["code"] == error.problems[0].code


def test_every_problem_is_listed(
    pipeline: FakePipeline, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.error = RuleFileError(
        [Problem("RULE-KEY", "a", file="r.yaml", line=1), Problem("RULE-KEY", "b")]
    )
    assert cli.main(["apply", "r.yaml", str(model)]) == 2
    assert capsys.readouterr().err.splitlines() == ["error: r.yaml:1: a [RULE-KEY]", "error: b [RULE-KEY]"]


def test_a_bug_keeps_its_traceback_and_asks_for_a_report(
    pipeline: FakePipeline, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.error = KeyError("oops")
    assert cli.main(["fix", str(model), "--json"]) == 70
    printed = capsys.readouterr()
    assert "Traceback" in printed.err
    assert "please report it" in printed.err
    assert one_document(printed.out)["errors"][0]["code"] == "BUG"


def test_an_interrupt_writes_nothing(
    pipeline: FakePipeline, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.error = KeyboardInterrupt()
    assert cli.main(["fix", str(model), "--json"]) == 130
    assert [path.name for path in model.parent.iterdir()] == ["model.onnx"]
    printed = capsys.readouterr()
    assert printed.err.lstrip() == "error: interrupted; no file was written [INTERRUPTED]\n"
    assert one_document(printed.out)["exit_code"] == 130


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fix"], "Missing argument 'MODEL'."),
        (["fix", "m.onnx", "--no-such"], "No such option: --no-such"),
        (["mend", "m.onnx"], "No such command 'mend'."),
        (["fix", "m.onnx", "--margin", "0.5"], "Invalid value for '--margin'"),
        (["fix", "m.onnx", "--in-place", "-o", "o.onnx"], "--in-place and --output exclude each other"),
    ],
)
def test_wrong_use_is_code_2_with_a_document(
    pipeline: FakePipeline, capsys: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    assert cli.main([*args, "--json"]) == 2
    printed = capsys.readouterr()
    assert message in printed.err.replace("No such option '--no-such'", "No such option: --no-such")
    assert "Traceback" not in printed.err
    assert one_document(printed.out)["errors"][0]["code"] == "USAGE"
    assert pipeline.calls == []


def test_the_input_is_only_overwritten_in_place(
    pipeline: FakePipeline, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = model.read_bytes()
    assert cli.main(["fix", str(model), "-o", str(model)]) == 2
    assert "--in-place allows it" in capsys.readouterr().err
    assert model.read_bytes() == before
    assert cli.main(["fix", str(model), "--in-place"]) == 0
    assert [path.name for path in model.parent.iterdir()] == ["model.onnx"]


def test_a_missing_output_folder_is_told_before_the_work(
    pipeline: FakePipeline, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["fix", str(model), "-o", str(model.parent / "nowhere" / "o.onnx")]) == 3
    assert "nowhere' [MODEL-WRITE]" in capsys.readouterr().err
    assert pipeline.calls == []


def test_calibrate_saves_ranges_any_json_reader_takes(pipeline: FakePipeline, model: Path) -> None:
    target = model.with_name("r.json")
    assert cli.main(["calibrate", str(model), "--data", "d.npz", "-o", str(target), "-q"]) == 0
    ranges = json.loads(target.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert (ranges["schema"], ranges["samples"], ranges["random"]) == ("fp16fix-ranges/1", 3, False)
    assert ranges["tensors"]["x"]["maximum"] == 2.0
    assert ranges["tensors"]["nan"] | {"minimum": None, "maximum": None} == ranges["tensors"]["nan"]


def test_calibrate_into_a_missing_folder_is_code_3(
    pipeline: FakePipeline, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["calibrate", str(model), "-o", str(model.parent / "no" / "r.json")]) == 3
    assert "DATA-WRITE" in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("apply", "fix", "check", "verify", "calibrate"))
    assert cli.main(["fix", "--help"]) == 0
    assert "--tensorrt [auto|off|require]" in capsys.readouterr().out


def test_no_arguments_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    "statement",
    [
        "import onnx_fp16fix",
        "from onnx_fp16fix.cli import main; main(['fix', '--help'])",
        "from onnx_fp16fix.cli import main; assert main(['fix', 'not-there.onnx']) == 3",
        "from onnx_fp16fix.cli import main; assert main(['verify', '.', 'not-there.onnx']) == 3",
    ],
)
def test_import_help_and_a_wrong_path_load_nothing_heavy(statement: str) -> None:
    heavy = ("onnx", "onnxruntime", "scipy", "rich", "pydantic", "numpy")
    probe = f"{statement}; import sys; print('loaded', [name for name in {heavy} if name in sys.modules])"
    path = str(Path(onnx_fp16fix.__file__).parents[1])
    result = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, env={"PYTHONPATH": path}
    )
    assert result.stdout.splitlines()[-1] == "loaded []"


def test_python_dash_m_is_the_command() -> None:
    path = str(Path(onnx_fp16fix.__file__).parents[1])
    command = [sys.executable, "-m", "onnx_fp16fix", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": path})
    assert result.stdout == f"onnx-fp16fix, version {onnx_fp16fix.__version__}\n"


def test_ctrl_c_during_a_real_run_ends_with_130_and_no_file(model: Path) -> None:
    """A real process and a real signal: the data script says when it is being read, then waits."""
    probe = (
        "import sys, time, types\n"
        "from onnx_fp16fix import cli\n"
        "def fix(*args, **options):\n"
        "    print('reading', file=sys.stderr, flush=True)\n"
        "    time.sleep(60)\n"
        "played = types.ModuleType('onnx_fp16fix.pipeline')\n"
        "played.fix = fix\n"
        "sys.modules['onnx_fp16fix.pipeline'] = played\n"
        "import onnx_fp16fix; onnx_fp16fix.pipeline = played\n"
        f"sys.exit(cli.main(['fix', {str(model)!r}, '--json']))\n"
    )
    path = str(Path(onnx_fp16fix.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", probe],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "reading\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted; no file was written" in err
    assert one_document(out)["errors"][0]["code"] == "INTERRUPTED"
    assert [file.name for file in model.parent.iterdir()] == ["model.onnx"]
