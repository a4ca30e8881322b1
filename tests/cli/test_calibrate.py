"""``calibrate`` and ``--ranges`` through the real pipeline: resuming, interrupting, refusing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibrate.small_models import model as parsed
from onnx_fp16fix import cli
from onnx_fp16fix.calibrate import measure
from onnx_fp16fix.calibrate.data import Dataset

MODEL = parsed("""g (float[2] x) => (float[2] y) <float[2] w = {300, 2}>
    { h = Mul(x, w)  s = Mul(h, h)  r = Sqrt(s)  y = Tanh(r) }""")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(MODEL, "m.onnx")
    Path("data").mkdir()
    for index in range(4):
        np.savez(f"data/{index}.npz", x=np.array([index + 1, -index], np.float32))
    return tmp_path


def read(name: str) -> dict:
    return json.loads(Path(name).read_text())


def interrupt_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Dataset.__iter__

    def samples(self: Dataset):
        for index, feed in enumerate(original(self)):
            if index == count:
                raise KeyboardInterrupt
            yield feed

    monkeypatch.setattr(Dataset, "__iter__", samples)


def test_everything_is_in_the_file(folder: Path) -> None:
    assert cli.main(["calibrate", "m.onnx", "--data", "data", "--histogram"]) == 0
    document = read("m.ranges.json")
    assert (document["samples"], document["complete"], document["source"]) == (4, True, "data")
    assert list(document["tensors"]) == ["x", "h", "s", "r", "y"]
    h = document["tensors"]["h"]
    assert (h["maximum"], h["maximum_sample"], h["minimum"], h["minimum_sample"]) == (1200, 3, -6, 3)
    assert h["histogram"]["8"] == 1
    assert document["constants"]["w"]["maximum"] == 300


def test_an_interrupted_run_goes_on_to_the_same_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["calibrate", "m.onnx", "--data", "data", "-o", "whole.json"]) == 0
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        assert cli.main(["calibrate", "m.onnx", "--data", "data", "-o", "r.json"]) == 130
    assert "r.json: interrupted; holds the first 2 samples [INTERRUPTED]" in capsys.readouterr().err
    assert (read("r.json")["samples"], read("r.json")["complete"]) == (2, False)
    assert cli.main(["calibrate", "m.onnx", "--data", "data", "--resume", "r.json"]) == 0
    assert read("r.json") == read("whole.json")


def test_interrupted_before_the_first_sample_nothing_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(0, monkeypatch)
    before = sorted(path.name for path in folder.iterdir())
    assert cli.main(["calibrate", "m.onnx", "--data", "data", "-o", "r.json"]) == 130
    assert sorted(path.name for path in folder.iterdir()) == before


def test_resuming_runs_no_sample_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["calibrate", "m.onnx", "--data", "data", "-o", "r.json"]) == 0
    before = read("r.json")
    monkeypatch.setattr(measure._Counter, "measure", lambda *args: pytest.fail("ran again"))
    assert cli.main(["calibrate", "m.onnx", "--data", "data", "--resume", "r.json"]) == 0
    assert read("r.json") == before


def refused(
    args: list[str], exit_code: int, code: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert cli.main([*args, "--json"]) == exit_code
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert words in printed.err
    assert [error["code"] for error in json.loads(printed.out)["errors"]] == [code]
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_another_models_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["calibrate", "m.onnx", "--data", "data", "-o", "r.json", "-q"]) == 0
    changed = onnx.ModelProto()
    changed.CopyFrom(MODEL)
    changed.producer_name = "another"
    onnx.save(changed, "other.onnx")
    for command in ("fix", "check"):
        args = [command, "other.onnx", "--ranges", "r.json"]
        refused(args, 3, "RANGES-MODEL", "r.json: belongs to another model", capsys)
    refused(
        ["calibrate", "other.onnx", "--resume", "r.json"], 3, "RANGES-MODEL", "calibrate this model", capsys
    )


def test_resuming_with_other_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["calibrate", "m.onnx", "--data", "data", "-o", "r.json", "-q"]) == 0
    args = ["calibrate", "m.onnx", "--resume", "r.json", "--data"]
    refused([*args, "data/0.npz"], 3, "RANGES-RESUME", "holds samples of data, not of data/0.npz", capsys)
    refused([*args, "data", "--histogram"], 3, "RANGES-RESUME", "begun without a histogram", capsys)
    Path("data/3.npz").unlink()
    refused([*args, "data"], 3, "RANGES-SAMPLES", "has 3 samples; the table to resume holds 4", capsys)


def test_a_sample_of_another_shape_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("data/2.npz", x=np.ones(3, np.float32))
    args = ["calibrate", "m.onnx", "--data", "data"]
    refused(args, 3, "DATA-SHAPE", "data/2.npz, tensor 'x': input 'x' has shape [3], expected [2]", capsys)


def test_empty_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("none").mkdir()
    refused(["calibrate", "m.onnx", "--data", "none"], 3, "DATA-EMPTY", "none: folder without .npz", capsys)


def test_too_little_memory(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["calibrate", "m.onnx", "--data", "data", "--memory"]
    refused([*args, "9B"], 2, "MEMORY", "more than the budget", capsys)
    refused([*args, "much"], 2, "USAGE", "'much' is no size; expected for instance 2GB or 512MiB", capsys)
    refused([*args, "0"], 2, "USAGE", "holds nothing", capsys)
    assert cli.main([*args, "1KiB"]) == 0


def test_a_missing_folder_is_told_before_the_work(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure._Counter, "measure", lambda *args: pytest.fail("worked"))
    refused(["calibrate", "m.onnx", "-o", "no/r.json"], 3, "DATA-WRITE", "there is no folder 'no'", capsys)


def test_a_model_that_is_not_finite_in_fp32(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = parsed("g (float[2] x) => (float[2] y) { h = Sqrt(x)  i = Neg(h)  y = Tanh(i) }")
    onnx.save(proto, "nan.onnx")
    assert cli.main(["calibrate", "nan.onnx", "--data", "data"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "not finite in FP32 already: 'h' is the first tensor, with 3 NaN from sample 1 on" in said
    assert read("nan.ranges.json")["tensors"]["h"]["nan"] == 3


def test_ranges_replace_measuring(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["calibrate", "m.onnx", "--data", "data", "-o", "r.json", "-q"]) == 0
    assert cli.main(["check", "m.onnx", "--data", "data", "--json", "-q"]) == 1
    measured = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(measure._Counter, "saw", lambda *args: pytest.fail("measured again"))
    assert cli.main(["check", "m.onnx", "--data", "data", "--ranges", "r.json", "--json", "-q"]) == 1
    given = json.loads(capsys.readouterr().out)
    assert given["findings"] == measured["findings"]
    cli.main(["check", "m.onnx", "--ranges", "r.json", "--json", "-q"])
    given = json.loads(capsys.readouterr().out)
    assert (given["data"]["samples"], given["data"]["random"]) == (4, False)
    assert "no data given: whatever is run beside these ranges" in given["warnings"][0]


def test_fix_writes_the_same_model_from_ranges(folder: Path) -> None:
    assert cli.main(["calibrate", "m.onnx", "--data", "data", "-o", "r.json", "-q"]) == 0
    common = ["fix", "m.onnx", "--data", "data", "--tensorrt", "off", "-q"]
    assert cli.main([*common, "-o", "a.onnx"]) == cli.main([*common, "--ranges", "r.json", "-o", "b.onnx"])
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()


def test_what_makes_a_table_worth_less_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        assert cli.main(["calibrate", "m.onnx", "-o", "r.json"]) == 130
    capsys.readouterr()
    cli.main(["check", "m.onnx", "--ranges", "r.json"])
    said = " ".join(capsys.readouterr().err.split())
    assert "r.json is of an interrupted run and holds 2 samples only" in said
    assert "r.json was measured on random inputs" in said


def test_functions_find_their_entries(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = parsed(
        "g (float[2] x) => (float[2] y) { a = local.f(x)  y = Tanh(a) }",
        functions='<domain: "local", opset_import: ["" : 17]> f (p) => (q) { h = Exp(p)  q = Log(h) }',
        domains=', "local" : 1',
    )
    onnx.save(proto, "f.onnx")
    np.savez("big.npz", x=np.array([12, 1], np.float32))
    assert cli.main(["calibrate", "f.onnx", "--data", "big.npz", "-o", "r.json", "-q"]) == 0
    cli.main(["check", "f.onnx", "--data", "big.npz", "--json", "-q"])
    measured = json.loads(capsys.readouterr().out)
    cli.main(["check", "f.onnx", "--data", "big.npz", "--ranges", "r.json", "--json", "-q"])
    assert json.loads(capsys.readouterr().out)["findings"] == measured["findings"] != []


def test_without_data_ranges_reach_their_bounds(folder: Path) -> None:
    assert cli.main(["calibrate", "m.onnx", "-q"]) == 0
    tensors = read("m.ranges.json")["tensors"]
    assert (tensors["y"]["minimum"], tensors["y"]["maximum"]) == (-1, 1)
    assert tensors["s"]["minimum"] == 0
    assert read("m.ranges.json")["random"] is True
