"""A lock file gives the same bytes again, without data and without solving; and only for its own model."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnx_fp16fix
from onnx_fp16fix import cli
from onnx_fp16fix.errors import RuleFileError, UsageError
from onnx_fp16fix.pipeline import repair
from onnx_fp16fix.pipeline.lock import read_lock
from onnx_fp16fix.plan import Plan
from onnx_text import model
from pipeline.user_rule import RULE

X = np.linspace(-3, 3, 32, dtype=np.float32).reshape(4, 8)
WIDE = {"w": np.eye(8) * 1e6, "v": np.eye(8) * 1e-6}
CHAIN = "(float[4,8] x) => (float[4,8] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
NORM = """(float[4,8] x) => (float[4,8] y) {
    b = Mul(x, big) q = Mul(b, b) m = ReduceMean<axes = [1]>(q) a = Add(m, eps) s = Sqrt(a) y = Div(b, s)
}"""
PINNED = "(float[4,8] x) => (float[4,8] y) { h = Mul(x, ten) e = Exp(h) l = Log(e) y = Sigmoid(l) }"
VARIANCE = """(float[4,8] x) => (float[4,1] y) {
    b = Add(x, far) q = Mul(b, b) m = ReduceMean<axes = [1]>(q) n = ReduceMean<axes = [1]>(b) o = Mul(n, n)
    y = Sub(m, o)
}"""
MODELS = {
    "chain": (CHAIN, WIDE),
    "norm": (NORM, {"big": np.float32(3e3), "eps": np.float32(1e-12)}),
    "pinned": (PINNED, {"ten": np.float32(10)}),
    "refined": (VARIANCE, {"far": np.float32(200)}),
    "safe": (CHAIN, {"w": np.eye(8), "v": np.eye(8)}),
}


def remade(source: onnx.ModelProto | Path, tmp_path: Path, **options: object) -> tuple[bytes, bytes]:
    """The bytes of what ``fix`` writes, and of what its lock file gives."""
    outcome = onnx_fp16fix.fix(source, {"x": X}, tensorrt="off", **options)  # type: ignore[arg-type]
    text = outcome.lock()
    (tmp_path / "first").mkdir()
    (tmp_path / "again").mkdir()
    outcome.save(tmp_path / "first" / "out.onnx")
    lock = tmp_path / "out.fp16fix.yaml"
    lock.write_text(text, encoding="utf-8")
    again = onnx_fp16fix.apply(source, lock)
    again.save(tmp_path / "again" / "out.onnx")
    assert again.run.status == outcome.run.status
    assert again.plan == outcome.plan

    def files(folder: str) -> bytes:
        return b"|".join(
            path.name.encode() + path.read_bytes() for path in sorted((tmp_path / folder).iterdir())
        )

    return files("first"), files("again")


@pytest.fixture
def unsolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """``apply`` of a lock must neither calibrate nor plan: both are broken when it begins."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a lock file needs neither ranges nor a plan")

    original = repair.replay

    def guarded(*args: object, **options: object) -> object:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("onnx_fp16fix.pipeline.prepare.measure", never)
            patch.setattr("onnx_fp16fix.pipeline.planning.make_plan", never)
            patch.setattr("onnx_fp16fix.plan.solver.program.Program.solve", never)
            return original(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(repair, "replay", guarded)


@pytest.mark.usefixtures("unsolved")
@pytest.mark.parametrize("options", [{}, {"io": "fp16"}, {"precision": "fp32"}], ids=["fp16", "io", "fp32"])
@pytest.mark.parametrize("name", MODELS)
def test_the_same_bytes_again(name: str, options: dict[str, object], tmp_path: Path) -> None:
    first, again = remade(model(*MODELS[name]), tmp_path, **options)
    assert first == again


@pytest.mark.usefixtures("unsolved")
def test_rules_are_applied_again(tmp_path: Path) -> None:
    rule = tmp_path / "rule.yaml"
    rule.write_text(RULE, encoding="utf-8")
    proto = model(*MODELS["pinned"])
    outcome = onnx_fp16fix.fix(proto, {"x": X}, rule, tensorrt="off")
    assert [entry.applied for entry in outcome.run.rules] == [1]
    first, again = remade(proto, tmp_path, rules=rule)
    assert first == again
    assert "Exp" not in [node.op_type for node in onnx.load(tmp_path / "again" / "out.onnx").graph.node]


@pytest.mark.usefixtures("unsolved")
def test_scales_per_channel_are_made_again(tmp_path: Path) -> None:
    size = np.float32(2.0) ** np.array([0, 22, -18, 3, 0, -14, 21, 1])
    rng = np.random.default_rng(0)
    w, v = rng.standard_normal((8, 8)) * size, rng.standard_normal((8, 8)) / size[:, None]
    first, again = remade(model(CHAIN, {"w": w, "v": v}), tmp_path)
    assert first == again
    assert read_lock(tmp_path / "out.fp16fix.yaml").steps


@pytest.mark.usefixtures("unsolved")
def test_external_weights(tmp_path: Path) -> None:
    weights = {"w": np.tile(np.eye(8), (1, 64)) * 1e6, "v": np.tile(np.eye(8), (64, 1)) * 1e-6}
    path = tmp_path / "model.onnx"
    onnx.save_model(model(CHAIN, weights), path, save_as_external_data=True, location="w", size_threshold=0)
    first, again = remade(path, tmp_path)
    assert first == again
    # the same content in memory is the same model
    onnx_fp16fix.apply(onnx.load(path), tmp_path / "out.fp16fix.yaml")
    # one weight more is another
    data = bytearray((tmp_path / "w").read_bytes())
    data[100] ^= 1
    (tmp_path / "w").write_bytes(data)
    with pytest.raises(RuleFileError, match="LOCK-MODEL"):
        onnx_fp16fix.apply(path, tmp_path / "out.fp16fix.yaml")


def test_wishes_are_in_the_lock(tmp_path: Path) -> None:
    first, again = remade(model(*MODELS["pinned"]), tmp_path, force_fp16_ops="Exp", force=True)
    assert first == again


def test_every_decision_of_a_plan_is_kept(tmp_path: Path) -> None:
    """A new field of Plan must be stored, or be listed here as no decision."""
    no_decision = {"risks", "cost", "optimal"}
    outcome = onnx_fp16fix.fix(model(*MODELS["norm"]), {"x": X}, tensorrt="off")
    lock = tmp_path / "l.yaml"
    lock.write_text(outcome.lock(), encoding="utf-8")
    stored = lock.read_text(encoding="utf-8").split("\nplan:")[1]
    names = {field.name for field in dataclasses.fields(Plan)} - no_decision - {"muls_why"}
    assert [name for name in names if f"  {name}:" not in stored] == []


@pytest.fixture
def files(tmp_path: Path) -> Path:
    onnx.save(model(*MODELS["chain"]), tmp_path / "m.onnx")
    onnx.save(model(*MODELS["norm"]), tmp_path / "other.onnx")
    np.savez(tmp_path / "d.npz", x=X)
    return tmp_path


def test_the_command_writes_and_reads_it(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, again = files / "out.onnx", files / "again.onnx"
    fix = ["fix", str(files / "m.onnx"), "--data", str(files / "d.npz"), "-o", str(out), "--tensorrt", "off"]
    assert cli.main(fix) == 0
    lock = files / "out.onnx.fp16fix.yaml"
    assert cli.main(["apply", str(lock), str(files / "m.onnx"), "-o", str(again), "--json"]) == 0
    assert out.read_bytes() == again.read_bytes()
    capsys.readouterr()
    assert cli.main(["apply", str(lock), str(files / "other.onnx"), "-o", str(files / "no.onnx")]) == 2
    assert "another model" in capsys.readouterr().err
    assert not (files / "no.onnx").exists()
    lock.unlink()
    assert cli.main([*fix, "--no-lock"]) == 0
    assert not lock.exists()


def test_a_lock_refuses_options_that_ask_for_something_else(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = files / "l.yaml"
    lock.write_text(onnx_fp16fix.fix(files / "m.onnx", {"x": X}, tensorrt="off").lock(), encoding="utf-8")
    typed = onnx_fp16fix.apply(files / "m.onnx", lock, precision="fp16", io="fp32").model
    assert typed == onnx_fp16fix.apply(files / "m.onnx", lock).model
    with pytest.raises(UsageError, match="precision is 'fp32', and this lock makes 'fp16'"):
        onnx_fp16fix.apply(files / "m.onnx", lock, precision="fp32")
    options = ["--precision", "bf16", "--io", "fp16", "--margin", "4", "--explain-misses"]
    assert cli.main(["apply", str(lock), str(files / "m.onnx"), *options]) == 2
    told = capsys.readouterr().err
    assert told.count("LOCK-OPTION") == 4
    for what in (
        "--precision is 'bf16', and this lock makes 'fp16'",
        "--io is 'fp16'",
        "--margin does not go",
    ):
        assert what in told


def test_in_place_the_lock_names_the_model_that_was_there(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, sha256 = files / "m.onnx", hashlib.sha256((files / "m.onnx").read_bytes()).hexdigest()
    copy = shutil.copy(path, files / "copy.onnx")
    command = ["fix", str(path), "--data", str(files / "d.npz"), "--tensorrt", "off", "--in-place"]
    assert cli.main(command) == 0
    assert "fits the model as it was before" in capsys.readouterr().err
    lock = f"{path}.fp16fix.yaml"
    assert cli.main(["apply", lock, str(path), "-o", str(files / "no.onnx")]) == 2
    told = capsys.readouterr().err
    assert f"this model is what the lock makes already: it was made for 'm.onnx' with sha256 {sha256}" in told
    assert cli.main(["apply", lock, str(copy), "-o", str(files / "again.onnx")]) == 0
    assert (files / "again.onnx").read_bytes() == path.read_bytes()


def test_verification_of_a_locked_result(files: Path) -> None:
    outcome = onnx_fp16fix.fix(files / "m.onnx", {"x": X}, tensorrt="off")
    lock = files / "l.yaml"
    lock.write_text(outcome.lock(), encoding="utf-8")
    assert onnx_fp16fix.apply(files / "m.onnx", lock).verification is None
    verified = onnx_fp16fix.apply(files / "m.onnx", lock, {"x": X}, tensorrt="off").verification
    assert verified is not None
    assert verified.passed
    # a result that is not the one proven is verified, and a lock that was edited to overflow fails
    text = lock.read_text(encoding="utf-8")
    lock.write_text(text.replace("exponent: ", "exponent: 0 # "), encoding="utf-8")
    broken = onnx_fp16fix.apply(files / "m.onnx", lock, tensorrt="off")
    assert broken.run.exit_code == 4
    assert any("the lock was edited" in text for text in broken.run.warnings)


def test_a_lock_of_another_version_is_told_where_it_matters(files: Path) -> None:
    lock, ours = files / "l.yaml", f"version: {onnx_fp16fix.__version__}"
    text = onnx_fp16fix.fix(files / "m.onnx", {"x": X}, tensorrt="off").lock()
    assert ours in text
    old = text.replace(ours, "version: 0.0.9")
    lock.write_text(old, encoding="utf-8")
    assert onnx_fp16fix.apply(files / "m.onnx", lock).run.warnings == []  # the same bytes
    digest = read_lock(lock).result
    lock.write_text(old.replace(digest, "0" * len(digest)), encoding="utf-8")
    other = onnx_fp16fix.apply(files / "m.onnx", lock, tensorrt="off")
    assert any("version 0.0.9 wrote it" in warning for warning in other.run.warnings)
    assert other.verification is not None
    assert other.verification.passed
    unproven = onnx_fp16fix.apply(files / "m.onnx", lock, verify=False).run.warnings
    assert unproven[-1] == "the result was not verified"


def test_a_lock_of_a_later_format_is_refused(files: Path) -> None:
    lock = files / "l.yaml"
    text = onnx_fp16fix.fix(files / "m.onnx", {"x": X}, tensorrt="off").lock()
    later = text.replace("fp16fix-lock/1", "fp16fix-lock/2").replace("plan:", "plane:")
    lock.write_text(later.replace(onnx_fp16fix.__version__, "9.1"), encoding="utf-8")
    with pytest.raises(RuleFileError, match="LOCK-VERSION") as caught:
        onnx_fp16fix.apply(files / "m.onnx", lock)
    assert "use onnx-fp16fix 9.1" in str(caught.value.problems[0].hint)


def test_a_model_that_changed_since_is_told_by_both_hashes(files: Path) -> None:
    lock = files / "l.yaml"
    lock.write_text(onnx_fp16fix.fix(files / "m.onnx", {"x": X}, tensorrt="off").lock(), encoding="utf-8")
    before = hashlib.sha256((files / "m.onnx").read_bytes()).hexdigest()
    changed = onnx.load(files / "m.onnx")
    changed.graph.node[0].name = "renamed"
    onnx.save(changed, files / "m.onnx")
    after = hashlib.sha256((files / "m.onnx").read_bytes()).hexdigest()
    with pytest.raises(RuleFileError, match="LOCK-MODEL") as caught:
        onnx_fp16fix.apply(files / "m.onnx", lock)
    assert f"'m.onnx' with sha256 {before}, and this one has {after}" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new"), [("plan:", "plane:"), ("node: 0", "node: 77"), ("exponents:", "exponents: [")]
)
def test_a_damaged_lock_is_refused(old: str, new: str, files: Path) -> None:
    lock = files / "l.yaml"
    text = onnx_fp16fix.fix(files / "m.onnx", {"x": X}, tensorrt="off").lock()
    assert old in text
    lock.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(RuleFileError, match="LOCK-READ"):
        onnx_fp16fix.apply(files / "m.onnx", lock)


def test_only_fix_locks() -> None:
    proto = model(*MODELS["safe"])
    with pytest.raises(UsageError, match="USAGE-NO-LOCK"):
        onnx_fp16fix.check(proto, {"x": X}).lock()
