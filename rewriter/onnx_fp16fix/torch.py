"""The export hook: models that PyTorch exports inside it come out repaired for FP16.

    with onnx_fp16fix.torch.export_hook(data="samples.npz") as hook:
        torch.onnx.export(model, args, "model.onnx")
    print(hook.outcomes[0].findings)

It works for both exporters, to a file, to a BytesIO, or to the ONNXProgram that the dynamo exporter returns. The
hook replaces the attribute ``torch.onnx.export``: code that took a reference to the function before the hook
opened is out of its reach. PyTorch is imported when a hook opens, so ``fix_file`` needs none.
"""

from __future__ import annotations

import inspect
import io
import os
import tempfile
import warnings
from collections.abc import Callable
from functools import update_wrapper
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx

from onnx_fp16fix import pipeline
from onnx_fp16fix.calibrate import open_data
from onnx_fp16fix.calibrate.data import Source
from onnx_fp16fix.calibrate.inputs import model_inputs
from onnx_fp16fix.errors import DataError, Problem, UsageError
from onnx_fp16fix.keywords import check_types
from onnx_fp16fix.model import load_model, with_weights
from onnx_fp16fix.outcome import Outcome
from onnx_fp16fix.progress import Progress, Silent

__all__ = ["ExportHook", "export_hook", "fix_file"]


def export_hook(data: Source = None, rules: Any = None, **options: Any) -> ExportHook:
    """A context manager that repairs what ``torch.onnx.export`` exports inside it.

    Parameters are those of ``onnx_fp16fix.fix``. Without ``data`` the example arguments of each export serve as
    the one sample. The hook's ``outcomes`` has one entry per export. Inside it ``torch.onnx.export`` raises what
    the exporter raises, and VerificationError (or another UserError) when the model cannot be repaired; then no
    file is written. Raises TypeError for an option that ``fix`` does not know, and
    UsageError for one of a wrong type.
    """
    check_types(inspect.signature(pipeline.fix).bind("", data, rules, **options))
    return ExportHook(data, rules, options)


def fix_file(
    path: str | Path, output: str | Path | None = None, data: Source = None, rules: Any = None, **options: Any
) -> Outcome:
    """Repair a file that any other exporter wrote, in place unless ``output`` says otherwise.

    Raises what ``fix`` raises, and VerificationError when the model cannot be repaired; the file then stays.
    """
    outcome = pipeline.fix(path, data, rules, **options)
    outcome.save(output or path, in_place=output is None)
    return outcome


class ExportHook:
    """See ``export_hook``. It can be opened again after it was closed."""

    def __init__(self, data: Source, rules: Any, options: dict[str, Any]) -> None:
        self.outcomes: list[Outcome] = []
        self._data, self._rules, self._options = data, rules, options
        self._progress: Progress = options.get("progress") or Silent()

    def __enter__(self) -> ExportHook:
        self._called = False
        self._gate = _Gate.current()
        self._gate.hooks.append(self)
        return self

    def __exit__(self, *exc: object) -> None:
        self._gate.hooks.remove(self)
        self._gate.close_if_idle()
        if not self._called and exc[0] is None:
            warnings.warn(
                "nothing was exported through torch.onnx.export inside the hook: a reference taken before "
                "('from torch.onnx import export') is out of its reach",
                stacklevel=2,
            )

    def repair(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the real exporter on the caller's arguments and repair its result before anyone sees it."""
        self._called = True
        call = inspect.signature(original).bind(*args, **kwargs)
        destination = call.arguments.get("f")
        if isinstance(destination, (str, os.PathLike)):
            return self._export_file(original, call, Path(os.fspath(destination)))
        if isinstance(destination, io.BytesIO):
            return self._export_stream(original, call, destination)
        program = original(*call.args, **call.kwargs)
        if destination is None and hasattr(program, "model_proto"):
            _replace_model(program, with_weights(self._fix(program.model_proto, call).require_accepted()))
        return program

    def _export_file(self, original: Callable[..., Any], call: inspect.BoundArguments, path: Path) -> Any:
        # beside the target, because weights may be too large for the folder of temporary files
        with tempfile.TemporaryDirectory(prefix=".fp16fix-", dir=path.parent) as folder:
            staged = Path(folder) / path.name
            call.arguments["f"] = str(staged)
            program = original(*call.args, **call.kwargs)
            outcome = self._fix(staged, call)
            outcome.keep_lock()
            outcome.save(path)
        # the staged file is gone: from here on the outcome speaks of the written one
        outcome.result = load_model(path)
        if outcome.run.model is not None:
            outcome.run.model.path = str(path)
        if hasattr(program, "model_proto"):
            _replace_model(program, path)
        return program

    def _export_stream(
        self, original: Callable[..., Any], call: inspect.BoundArguments, stream: io.BytesIO
    ) -> Any:
        buffer = io.BytesIO()
        call.arguments["f"] = buffer
        program = original(*call.args, **call.kwargs)
        outcome = self._fix(onnx.load_model_from_string(buffer.getvalue()), call)
        proto = with_weights(outcome.require_accepted())
        stream.write(proto.SerializeToString())
        if hasattr(program, "model_proto"):
            _replace_model(program, proto)
        return program

    def _fix(self, model: onnx.ModelProto | Path, call: inspect.BoundArguments) -> Outcome:
        data = self._data
        if data is None:
            proto = onnx.load(str(model), load_external_data=False) if isinstance(model, Path) else model
            data = _example_feed(proto, call)
            if data is None:
                self._progress.warn(
                    "the export's example arguments do not map to the graph inputs; using random data"
                )
        outcome = pipeline.fix(model, data, self._rules, **{**self._options, "progress": self._progress})
        self.outcomes.append(outcome)
        outcome.require_accepted()
        return outcome


class _Gate:
    """Stands in for ``torch.onnx.export`` while hooks are open.

    The innermost hook alone repairs, so that nested hooks do not repair twice; an export that runs during another
    (an exporter that calls itself) goes straight through.
    """

    def __init__(self, module: Any) -> None:
        self.hooks: list[ExportHook] = []
        self._module, self._original, self._busy = module, module.export, False
        update_wrapper(self, module.export)

    @classmethod
    def current(cls) -> _Gate:
        """The gate in place, or a new one. Raises UsageError without PyTorch."""
        try:
            # typed as Any: what PyTorch's stubs allow here differs from version to version
            module: Any = import_module("torch.onnx")
        except ModuleNotFoundError as error:
            hint = "pip install 'onnx-fp16fix[torch]'"
            raise UsageError(Problem("USAGE-TORCH", "the export hook needs PyTorch", hint=hint)) from error
        if not isinstance(module.export, cls):
            module.export = cls(module)
        gate: _Gate = module.export
        return gate

    def close_if_idle(self) -> None:
        # whoever patched over the gate keeps it; without hooks it only passes on
        if not self.hooks and self._module.export is self:
            self._module.export = self._original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._busy or not self.hooks:
            return self._original(*args, **kwargs)
        self._busy = True
        try:
            return self.hooks[-1].repair(self._original, *args, **kwargs)
        finally:
            self._busy = False


def _replace_model(program: Any, source: onnx.ModelProto | Path) -> None:
    """Give an ONNXProgram the repaired model, so that saving or calling it later uses that one."""
    ir: Any = import_module("onnxscript.ir")
    program.model = ir.load(source) if isinstance(source, Path) else ir.from_proto(source)
    if hasattr(program, "release"):  # `verify=True` leaves a session of the model as exported
        program.release()


def _example_feed(proto: onnx.ModelProto, call: inspect.BoundArguments) -> dict[str, Any] | None:
    """The example arguments by graph input name, or None where that cannot be told for sure."""
    torch: Any = import_module("torch")
    pytree: Any = import_module("torch.utils._pytree")
    args = call.arguments.get("args", ())
    args = (args,) if isinstance(args, torch.Tensor) else tuple(args)
    named = dict(call.arguments.get("kwargs") or {})
    if args and isinstance(args[-1], dict) and not named:  # how the legacy exporter takes keyword arguments
        named, args = args[-1], args[:-1]
    try:
        names = [item.name for item in model_inputs(proto)]
        feed = {
            name: value for name, value in named.items() if name in names and isinstance(value, torch.Tensor)
        }
        others = {name: value for name, value in named.items() if name not in feed}
        leaves = [leaf for leaf in pytree.tree_leaves((args, others)) if isinstance(leaf, torch.Tensor)]
        rest = [name for name in names if name not in feed]
        feed.update(zip(rest, leaves, strict=True))
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in feed.items()}
        return next(iter(open_data(arrays, proto)))
    except (DataError, TypeError, ValueError):  # another count, shape or type, or a type numpy does not have
        return None
