"""Whatever a user can get wrong, through the real pipeline: the exit code, the message, and no file written."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from calibrate.small_models import model as parsed
from onnx_fp16fix import cli
from onnx_fp16fix.verify.backends import tensorrt

SAMPLES = Path(__file__).parents[2] / "samples"
_spec = importlib.util.spec_from_file_location("tiny_model", SAMPLES / "tiny_model.py")
assert _spec is not None
assert _spec.loader is not None
tiny_model = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny_model)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny_model.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save_data(**arrays: np.ndarray) -> str:
    np.savez("bad.npz", **arrays)
    return "bad.npz"


def expect(
    args: list[str], code: int, problem: str, words: str, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert cli.main([*args, "--json"]) == code
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert words in printed.err
    document = json.loads(printed.out)
    assert (document["exit_code"], document["status"]) == (code, "error")
    assert problem in {error["code"] for error in document["errors"]}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_missing_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expect(["fix", "no.onnx"], 3, "MODEL-MISSING", "no.onnx: there is no such file", capsys, folder)


def test_a_truncated_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = Path("tiny.onnx").read_bytes()
    Path("cut.onnx").write_bytes(whole[: len(whole) // 2])
    expect(["check", "cut.onnx"], 3, "MODEL-READ", "truncated", capsys, folder)


def test_a_file_that_is_no_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.onnx").write_text("hello")
    expect(["fix", "text.onnx"], 3, "MODEL-READ", "not an ONNX model", capsys, folder)


def test_external_data_outside_the_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load("tiny.onnx")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    Path("outside.onnx").write_bytes(model.SerializeToString())
    expect(["fix", "outside.onnx"], 3, "MODEL-EXTERNAL", "outside the model's folder", capsys, folder)


def test_an_operator_of_an_unknown_domain(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Fancy", ["x"], ["y"], "f", domain="vendor")], "g", [x], [y])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("vendor", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), "fancy.onnx")
    expect(["fix", "fancy.onnx"], 3, "MODEL-LOAD", "Fancy", capsys, folder)


def test_data_for_another_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = save_data(z=np.ones((1, 16, 64), np.float32))
    expect(["fix", "tiny.onnx", "--data", data], 3, "DATA-UNKNOWN", "'z'", capsys, folder)


def test_data_of_another_shape(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = save_data(x=np.ones((1, 16, 65), np.float32))
    expect(["fix", "tiny.onnx", "--data", data], 3, "DATA-SHAPE", "65", capsys, folder)


def test_data_of_another_type(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = save_data(x=np.ones((1, 16, 64), np.int64))
    expect(["fix", "tiny.onnx", "--data", data], 3, "DATA-DTYPE", "int64", capsys, folder)


def test_data_with_a_nan(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = save_data(x=np.full((1, 16, 64), np.nan, np.float32))
    expect(["fix", "tiny.onnx", "--data", data], 3, "DATA-NONFINITE", "'x'", capsys, folder)


def test_data_that_do_not_exist(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expect(["fix", "tiny.onnx", "--data", "no.npz"], 3, "DATA-READ", "no such file or folder", capsys, folder)


def test_random_numbers_for_an_input_beyond_all_memory(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2**40, 2**20]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "huge.onnx"
    )
    expect(["check", "huge.onnx"], 3, "DATA-RANDOM", "too large for random numbers", capsys, folder)


@pytest.mark.parametrize(
    ("args", "code", "problem", "words"),
    [
        (["fix", "tiny.onnx", "-o", "folder"], 3, "MODEL-WRITE", "folder: cannot be written: Is a directory"),
        (["bisect", "tiny.onnx", "-o", "folder"], 2, "BISECT-WRITE", "Is a directory"),
        (["calibrate", "tiny.onnx", "-o", "folder"], 3, "DATA-WRITE", "Is a directory"),
        (["fix", "tiny.onnx", "--rules", ","], 2, "USAGE", "',' names no rules"),
        (
            ["check", "tiny.onnx", "--samples", "2", "--data", "tiny.npz"],
            2,
            "USAGE",
            "--samples is the number",
        ),
        (["fix", "tiny.onnx", "-o", "-"], 2, "USAGE", "not to stdout"),
        (["fix", "tiny.onnx", "--keep-fp32", ""], 2, "USAGE-VALUE", "--keep-fp32: an empty pattern"),
        (["fix", "tiny.onnx", "--allow", ","], 2, "USAGE", "names nothing"),
        (["fix", "tiny.onnx", "-o", "taken"], 3, "MODEL-WRITE", "taken.fp16fix.yaml: cannot be written"),
        (["fix", "tiny.onnx", "--precision", "fp32", "--sidecar", "tiny.npz"], 3, "MODEL-WRITE", "no folder"),
        (["check", "pipe.onnx"], 3, "MODEL-READ", "a pipe or a device"),
        (["rules", "tets"], 2, "USAGE", "Did you mean 'test'?"),
        (["chek", "tiny.onnx"], 2, "USAGE", "Did you mean 'check'?"),
        (
            ["verify", "tiny.onnx", "other.onnx"],
            3,
            "MODEL-INPUTS",
            "of shape [n, 3], the first model [1, 16, 64]",
        ),
        (["verify", "other.onnx", "more.onnx"], 3, "MODEL-INPUTS", "needs an input 'w'"),
    ],
)
def test_told_before_the_work(
    args: list[str], code: int, problem: str, words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "folder").mkdir()
    (folder / "taken.fp16fix.yaml").mkdir()
    os.mkfifo(folder / "pipe.onnx")
    onnx.save(parsed("g (float[n,3] x) => (float[n,3] y) { y = Relu(x) }"), "other.onnx")
    onnx.save(parsed("g (float[n,3] x, float[n,3] w) => (float[n,3] y) { y = Add(x, w) }"), "more.onnx")
    before = sorted(folder.iterdir())
    assert cli.main(args) == code
    told = capsys.readouterr().err
    assert f"[{problem}]" in told
    assert words in told
    assert sorted(folder.iterdir()) == before


def test_a_rule_file_with_a_yaml_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.yaml").write_text("schema: fp16fix/1\nrules: [\n")
    expect(["apply", "r.yaml", "tiny.onnx"], 2, "RULE-YAML", "r.yaml:", capsys, folder)


def test_an_unknown_pack(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expect(["apply", "pack:nothing", "tiny.onnx"], 2, "RULE-READ", "nothing", capsys, folder)


def test_an_unknown_operator_in_a_pattern(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (SAMPLES / "rules.yaml").read_text().replace("/ Sqrt(", "/ Squareroot(")
    Path("r.yaml").write_text(text)
    expect(["apply", "r.yaml", "tiny.onnx"], 2, "RULE-OP", "Squareroot", capsys, folder)


def test_tensorrt_required_and_missing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "_PACKAGES", ())
    args = ["fix", "tiny.onnx", "--data", "tiny.npz", "--tensorrt", "require"]
    expect(args, 2, "TENSORRT-MISSING", "pip install tensorrt-rtx", capsys, folder)


def test_tensorrt_missing_is_not_checked_and_never_passed(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "_PACKAGES", ())
    assert cli.main(["fix", "tiny.onnx", "--data", "tiny.npz", "--json"]) == 0
    verification = json.loads(capsys.readouterr().out)["verification"]
    assert verification["tensorrt"] is None
    assert any("TensorRT is not installed" in text for text in verification["not_checked"])


def test_random_data_come_with_a_warning(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "tiny.onnx", "--json"]) in (0, 1)
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["data"]["random"] is True
    assert any("random" in text for text in document["warnings"])
    assert "warning: no data given" in printed.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full device is a file of Linux")
def test_a_stdout_that_cannot_be_written_is_one_line_and_no_bug():
    command = [sys.executable, "-m", "onnx_fp16fix", "check", "missing.onnx", "--json", "-q"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    assert "STDOUT-WRITE" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["check", "fix", "apply", "verify", "calibrate", "bisect"])
def test_a_model_that_declares_a_wrong_type(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load("tiny.onnx")
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    onnx.save(model, "wrong.onnx")
    before = {"apply": [str(SAMPLES / "rules.yaml")], "verify": ["tiny.onnx"]}.get(command, [])
    expect([command, *before, "wrong.onnx"], 3, "MODEL-INVALID", "declared as INT64", capsys, folder)
