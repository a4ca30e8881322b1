"""Data and models that tell nothing, through every command: one message, the exit code, no file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibrate.small_models import model as parsed
from onnx_fp16fix import cli

SQUARE = "g (float[n,4] x) => (float[n,4] y) { h = Mul(x, x)  y = Sqrt(h) }"
LOG = "g (float[n,4] x) => (float[n,4] y) { l = Log(x)  y = Tanh(l) }"
LOOP = """g (int64 n, bool c, float[4] x) => (float[4] y) {
    y = Loop (n, c, x) <body = b (int64 i, bool go, float[4] p) => (bool again, float[4] q) {
        again = Identity(go)  l = Log(p)  q = Neg(l) }> }"""
COMMANDS = {
    "check": ["check", "m.onnx"],
    "fix": ["fix", "m.onnx", "--tensorrt", "off"],
    "apply": ["apply", "pack:norm", "m.onnx", "--tensorrt", "off"],
    "verify": ["verify", "m.onnx", "m.onnx", "--tensorrt", "off"],
    "calibrate": ["calibrate", "m.onnx"],
    "bisect": ["bisect", "m.onnx"],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(parsed(SQUARE), "m.onnx")
    Path("mixed").mkdir()
    np.savez("mixed/a.npz", x=np.ones((1, 4), np.float32))
    np.savez("mixed/b.npz", x=np.ones((1, 5), np.float32))
    np.savez("nothing.npz", x=np.ones((0, 4), np.float32))
    np.savez("log.npz", x=np.float32([[-1, -2, -3, -4]]))
    yields = "import numpy as np\ndef load_data():\n    yield {'x': np.ones((1, 4), np.float32)}\n"
    Path("raises.py").write_text(f"{yields}    raise RuntimeError('disk on fire')\n")
    Path("ragged.py").write_text("def load_data():\n    yield {'x': [[1, 2], [3]]}\n")
    Path("none.py").write_text("def load_data():\n    return iter(())\n")
    Path("number.py").write_text("def load_data():\n    yield 3\n")
    Path("broken.json").write_text("{")
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    kept = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path): path.read_bytes() for path in kept}


def refused(
    args: list[str], problem: str, words: str, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    before = files(folder)
    assert cli.main([*args, "--json"]) == 3
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert words in printed.err
    assert [error["code"] for error in json.loads(printed.out)["errors"]] == [problem]
    assert files(folder) == before


BAD = [
    ("mixed", "DATA-SHAPE", "mixed/b.npz, tensor 'x': input 'x' has shape [1, 5], expected [n, 4]"),
    ("nothing.npz", "DATA-EMPTY", "nothing.npz: has no element in any input"),
    ("raises.py", "DATA-SCRIPT", "raises.py: raised RuntimeError: disk on fire"),
    ("ragged.py", "DATA-SHAPE", "input 'x' is no array"),
    ("none.py", "DATA-EMPTY", "none.py: holds no sample"),
    ("number.py", "DATA-SOURCE", "is of type int, not a mapping"),
    ("broken.json", "DATA-READ", "broken.json: is no JSON document"),
]


@pytest.mark.parametrize(("data", "problem", "words"), BAD, ids=[entry[0] for entry in BAD])
def test_bad_data(
    data: str, problem: str, words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["calibrate", "m.onnx", "--data", data], problem, words, capsys, folder)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "calibrate"])
def test_a_sample_that_goes_wrong_late_leaves_nothing_behind(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused([*COMMANDS[command], "--data", "raises.py"], "DATA-SCRIPT", "disk on fire", capsys, folder)


@pytest.mark.parametrize("command", COMMANDS)
def test_string_inputs(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(parsed("g (string[n] s, float[n] x) => (float[n] y) { y = Neg(x) }"), "m.onnx")
    refused(COMMANDS[command], "DATA-STRING", "input 's' holds strings", capsys, folder)


def test_an_input_of_no_elements_beside_others_is_data(folder: Path) -> None:
    onnx.save(
        parsed("g (float[n,4] x, float[m,4] past) => (float[k,4] y) { y = Concat <axis = 0> (past, x) }"),
        "m.onnx",
    )
    np.savez("first.npz", x=np.ones((1, 4), np.float32), past=np.ones((0, 4), np.float32))
    assert cli.main(["calibrate", "m.onnx", "--data", "first.npz"]) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_nan_in_fp32_already_is_said_with_the_first_tensor(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(parsed(LOG), "m.onnx")
    code = cli.main([*COMMANDS[command], "--data", "log.npz", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert code == document["exit_code"] == {"fix": 4, "bisect": 3}.get(command, 0)
    said = [
        *document["warnings"],
        *(finding["message"] for finding in document["findings"] if finding["name"] == "fp32-nonfinite"),
        *(error["message"] for error in document["errors"]),
    ]
    if command != "calibrate":  # whose document has a field for it
        assert [text for text in said if "'l'" in text and "FP32 already" in text]
    else:
        assert document["summary"]["first_nonfinite"] == "l"


def test_the_first_tensor_in_a_loop_is_the_one_that_was_made_first(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(parsed(LOOP), "m.onnx")
    np.savez("loop.npz", n=np.array(3), c=np.array(True), x=np.float32([2, 3, 4, 5]))
    assert cli.main(["calibrate", "m.onnx", "--data", "loop.npz"]) == 0
    assert "'0:body:0::l' is the first tensor" in " ".join(capsys.readouterr().err.split())
    refused(["bisect", "m.onnx", "--data", "loop.npz"], "BISECT-NONFINITE", "'0:body:0::l'", capsys, folder)


def test_bisect_goes_on_where_only_some_outputs_are_not_finite(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(
        parsed("g (float[n,4] x) => (float[n,4] y, float[n,4] z) { h = Mul(x, x)  y = Sqrt(h)  z = Log(x) }"),
        "m.onnx",
    )
    np.savez("large.npz", x=np.float32([[-300, -200, 1, 2]]))
    assert cli.main(["bisect", "m.onnx", "--data", "large.npz", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["bisect"]["fp32_nodes"] == ["h", "y"]
    assert "'z' is the first tensor, with 2 NaN from sample 0 on" in document["warnings"][0]


def test_a_memory_budget_says_what_would_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["calibrate", "m.onnx", "--data", "mixed/a.npz", "--memory"]
    assert cli.main([*args, "15"]) == 2
    assert "take 16 bytes, more than the budget of 15 bytes" in capsys.readouterr().err
    assert not Path("m.ranges.json").exists()
    assert cli.main([*args, "32"]) == 0
