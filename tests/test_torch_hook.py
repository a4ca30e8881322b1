"""The export hook around a repair that only leaves a mark: what reaches the user is the repaired model."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from onnx_fp16fix import UsageError, VerificationError, pipeline  # noqa: E402
from onnx_fp16fix import torch as hooks  # noqa: E402
from onnx_fp16fix.document import RunDocument  # noqa: E402
from onnx_fp16fix.errors import Problem  # noqa: E402
from onnx_fp16fix.model import load_model  # noqa: E402
from onnx_fp16fix.outcome import Outcome, describe_model  # noqa: E402

MARK = "repaired"
# what PyTorch says about its own exporters and about exporting in training mode
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:Exporting a model while it is in training mode"),
]


class Recorder:
    """Plays ``pipeline.fix``: marks the model, keeps its arguments."""

    def __init__(self) -> None:
        self.data: list[Any] = []
        self.options: list[dict[str, Any]] = []
        self.status: Any = "ok"

    def __call__(self, model: Any, data: Any = None, rules: Any = None, **options: Any) -> Outcome:
        self.data.append(data)
        self.options.append(options)
        loaded = load_model(model)
        proto = onnx.ModelProto()
        proto.CopyFrom(loaded.proto)
        proto.doc_string = MARK
        run = RunDocument(command="fix", status=self.status, model=describe_model(loaded))
        return Outcome(run, loaded.with_proto(proto))


@pytest.fixture
def fix(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(pipeline, "fix", recorder)
    return recorder


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 4)

    def forward(self, x: Any, scale: Any = None) -> Any:
        y = torch.relu(self.linear(x))
        return y if scale is None else y * scale


EXAMPLE = torch.ones(2, 8)
DYNAMO = pytest.mark.parametrize("dynamo", [False, True])


@pytest.fixture
def real_export() -> Iterator[Any]:
    before = torch.onnx.export
    yield before
    assert torch.onnx.export is before


@DYNAMO
def test_a_file_is_repaired(fix: Recorder, real_export: Any, tmp_path: Path, dynamo: bool) -> None:
    path = tmp_path / "net.onnx"
    with hooks.export_hook() as hook:
        torch.onnx.export(Net(), (EXAMPLE,), str(path), dynamo=dynamo)
    assert onnx.load(path).doc_string == MARK  # with its weights, wherever they lie
    assert all(file.name.startswith("net.onnx") for file in tmp_path.iterdir())
    (outcome,) = hook.outcomes
    assert outcome.run.model is not None
    assert outcome.run.model.path == str(path)
    assert outcome.run.output is not None
    assert outcome.model is not None


@DYNAMO
def test_a_stream_is_repaired(fix: Recorder, real_export: Any, dynamo: bool) -> None:
    stream = io.BytesIO()
    with hooks.export_hook():
        torch.onnx.export(Net(), (EXAMPLE,), stream, dynamo=dynamo)
    assert onnx.load_model_from_string(stream.getvalue()).doc_string == MARK


def test_the_returned_program_is_repaired_and_saves_itself_later(
    fix: Recorder, real_export: Any, tmp_path: Path
) -> None:
    with hooks.export_hook():
        program = torch.onnx.export(Net(), (EXAMPLE,), dynamo=True)
    assert program.model_proto.doc_string == MARK
    program.save(tmp_path / "later.onnx")
    assert onnx.load(tmp_path / "later.onnx").doc_string == MARK


def test_the_program_of_a_file_export_is_repaired_too(
    fix: Recorder, real_export: Any, tmp_path: Path
) -> None:
    with hooks.export_hook():
        program = torch.onnx.export(Net(), (EXAMPLE,), tmp_path / "net.onnx", dynamo=True)
    assert program.model_proto.doc_string == MARK


@DYNAMO
def test_example_arguments_are_the_data(
    fix: Recorder, real_export: Any, tmp_path: Path, dynamo: bool
) -> None:
    scale = torch.full((4,), 3.0)
    with hooks.export_hook():
        torch.onnx.export(
            Net(),
            (EXAMPLE,),
            tmp_path / "net.onnx",
            kwargs={"scale": scale},
            input_names=["x", "scale"],
            dynamo=dynamo,
        )
    (feed,) = fix.data
    assert set(feed) == {"x", "scale"}
    np.testing.assert_array_equal(feed["x"], EXAMPLE.numpy())
    np.testing.assert_array_equal(feed["scale"], scale.numpy())


def test_given_data_and_options_go_through(fix: Recorder, real_export: Any, tmp_path: Path) -> None:
    with hooks.export_hook(data="d.npz", margin=4.0):
        torch.onnx.export(Net(), (EXAMPLE,), tmp_path / "net.onnx", dynamo=False)
    assert fix.data == ["d.npz"]
    assert fix.options[0]["margin"] == 4.0


def test_arguments_that_do_not_map_give_a_warning_and_random_data(
    fix: Recorder, real_export: Any, tmp_path: Path
) -> None:
    class Progress:
        warnings: list[str] = []  # noqa: RUF012

        def warn(self, message: str) -> None:
            self.warnings.append(message)

    example = (EXAMPLE.to(torch.bfloat16),)  # a type numpy does not have
    with hooks.export_hook(progress=Progress()):
        torch.onnx.export(torch.nn.ReLU(), example, tmp_path / "net.onnx", dynamo=True)
    assert fix.data == [None]
    assert Progress.warnings == [
        "the export's example arguments do not map to the graph inputs; using random data"
    ]


@DYNAMO
def test_an_error_of_the_exporter_passes_through(
    fix: Recorder, real_export: Any, tmp_path: Path, dynamo: bool
) -> None:
    class Broken(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            raise ZeroDivisionError("in the model")

    with hooks.export_hook() as hook, pytest.raises(Exception, match="in the model"):
        torch.onnx.export(Broken(), (EXAMPLE,), tmp_path / "net.onnx", dynamo=dynamo)
    assert hook.outcomes == []
    assert list(tmp_path.glob("*.onnx")) == []


def test_a_rejected_model_raises_and_writes_nothing(fix: Recorder, real_export: Any, tmp_path: Path) -> None:
    fix.status = "rejected"
    with hooks.export_hook() as hook, pytest.raises(VerificationError):
        torch.onnx.export(Net(), (EXAMPLE,), tmp_path / "net.onnx", dynamo=False)
    assert len(hook.outcomes) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_hook_closes_on_an_error_and_opens_again(fix: Recorder, real_export: Any) -> None:
    hook = hooks.export_hook()
    with pytest.raises(KeyError), hook:
        raise KeyError
    assert torch.onnx.export is real_export
    with hook:
        assert torch.onnx.export is not real_export


def test_only_the_innermost_hook_repairs(fix: Recorder, real_export: Any, tmp_path: Path) -> None:
    with hooks.export_hook() as outer:
        with hooks.export_hook() as inner:
            torch.onnx.export(Net(), (EXAMPLE,), tmp_path / "a.onnx", dynamo=False)
        torch.onnx.export(Net(), (EXAMPLE,), tmp_path / "b.onnx", dynamo=False)
    assert (len(inner.outcomes), len(outer.outcomes)) == (1, 1)
    assert len(fix.data) == 2


def test_an_unknown_option_is_told_at_once() -> None:
    with pytest.raises(TypeError, match="marginn"):
        hooks.export_hook(marginn=3)
    with pytest.raises(UsageError, match="margin is 'x'; it must be a number"):
        hooks.export_hook(margin="x")


def test_without_pytorch_the_hook_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, fix: Recorder
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(hooks, "import_module", missing)
    with pytest.raises(UsageError, match=r"onnx-fp16fix\[torch\]"):
        hooks.export_hook().__enter__()


def test_fix_file_repairs_in_place_or_beside(fix: Recorder, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    torch.onnx.export(Net(), (EXAMPLE,), path, dynamo=False)
    hooks.fix_file(path, tmp_path / "other.onnx")
    assert onnx.load(path).doc_string != MARK
    hooks.fix_file(path)
    assert onnx.load(path).doc_string == MARK


def test_an_export_whose_repair_failed_was_an_export(
    real_export: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Outcome:
        raise UsageError(Problem("USAGE", "no"))

    opened = hooks.export_hook()
    monkeypatch.setattr(pipeline, "fix", refuse)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with opened, contextlib.suppress(UsageError):
            torch.onnx.export(Net().eval(), (EXAMPLE,), tmp_path / "net.onnx", dynamo=False)
        assert not [w for w in told if "nothing was exported" in str(w.message)]
        with opened:
            pass
    assert [w for w in told if "nothing was exported" in str(w.message)]
