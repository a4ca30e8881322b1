"""Reading a model, and saying in one message why it cannot be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from onnx_fp16fix.errors import ModelError, Problem, UsageError, require_file
from onnx_fp16fix.model.contrib import admit_contrib, is_contrib
from onnx_fp16fix.model.declared import wrong_types
from onnx_fp16fix.model.infer import agreed_types, light_copy
from onnx_fp16fix.model.lean import read_lean
from onnx_fp16fix.model.model import Model
from onnx_fp16fix.model.tensors import external_file, is_external, open_links, stored_wrong

__all__ = ["load_model", "wrap_model"]


def load_model(source: str | Path | onnx.ModelProto, *, lean: bool = False) -> Model:
    """Read a model from a file, or take a ModelProto as it is (it is never changed).

    External data stay on disk. ``lean`` leaves the weights inside the file there too (``read_lean``), which must stay
    as it is until the model is saved. Raises ModelError for a missing, truncated or non-ONNX file, for external data
    that are missing or lie outside the model's folder, and for a graph that the ONNX checker refuses.
    """
    if isinstance(source, onnx.ModelProto):
        return wrap_model(source)
    if not isinstance(source, (str, os.PathLike)):
        found = f"a model is a path or a ModelProto, not {type(source).__name__}"
        raise UsageError(Problem("USAGE-MODEL", found))
    path = Path(source)
    light = read_lean(path) if lean else None
    model = Model(_parse(path) if light is None else _complete(light, path), path.parent, path, pristine=True)
    return _validated(model)


def wrap_model(proto: onnx.ModelProto, base_dir: Path | None = None) -> Model:
    """A model from memory; ``base_dir`` is needed when it has external data."""
    return _validated(Model(proto, base_dir))


def _parse(path: Path) -> onnx.ModelProto:
    require_file(path)
    if not path.is_file():  # it would be read up, and is read several times
        found = "this is a pipe or a device, not an ONNX file"
        raise ModelError(Problem("MODEL-READ", found, file=str(path), hint="write it to a file first"))
    try:
        proto = onnx.load(str(path), format="protobuf", load_external_data=False)
    except OSError as error:
        raise ModelError(
            Problem("MODEL-READ", f"cannot be read: {error.strerror}", file=str(path))
        ) from error
    except (DecodeError, UnicodeDecodeError, ValueError) as error:
        raise _not_onnx(path, "is not an ONNX model, or is truncated") from error
    return _complete(proto, path)


def _complete(proto: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    if not proto.HasField("graph") or not proto.opset_import or not proto.ir_version:
        raise _not_onnx(path, "has no graph, IR version or operator set: not an ONNX model, or truncated")
    return proto


def _validated(model: Model) -> Model:
    """The model with its types, as far as checking them gave them."""
    place = str(model.path) if model.path else None
    problems = []
    if model.path is not None:
        open_links(model.path, model.proto.graph.initializer)
    for tensor in model.proto.graph.initializer:
        if is_external(tensor):
            try:
                external_file(tensor, model.base_dir)
            except ModelError as error:
                raise ModelError([replace(problem, file=place) for problem in error.problems]) from error
        elif (damage := stored_wrong(tensor)) is not None:
            message = f"initializer '{tensor.name}' {damage}"
            problems.append(
                Problem("MODEL-READ", message, file=place, tensor=tensor.name, hint="the file is damaged")
            )
    problems += _external_in_bodies(model, place)
    if problems:
        raise ModelError(problems)
    light = light_copy(model.proto, keep=0)
    for info in (*light.graph.input, *light.graph.output, *light.graph.value_info):
        kind = info.type
        if kind.HasField("tensor_type"):  # the checker wants a shape; runtimes take outputs of unknown rank
            kind.tensor_type.shape.SetInParent()
    if any(is_contrib(*op, model.opset) for op in model.ops):
        admit_contrib(light)
    try:
        onnx.checker.check_model(light)
    except onnx.checker.ValidationError as error:
        reason = str(error).split("\n\n")[0].strip()
        raise ModelError(
            Problem("MODEL-INVALID", f"the ONNX checker refuses it: {reason}", file=place)
        ) from error
    types = agreed_types(model)
    if types is None and (problems := list(wrong_types(model, place))):
        raise ModelError(problems)
    return replace(model, types=types)


def _external_in_bodies(model: Model, place: str | None) -> Iterator[Problem]:
    """Saving streams the main graph's weights only; these would be lost."""
    for scope in model.scopes():
        if scope.path and isinstance(scope.graph, onnx.GraphProto):
            for tensor in filter(is_external, scope.graph.initializer):
                yield Problem(
                    "MODEL-EXTERNAL",
                    f"initializer '{tensor.name}' of a subgraph lies in another file, which is not supported",
                    file=place,
                    tensor=tensor.name,
                    hint="save the model with that weight inside, or as an initializer of the main graph",
                )


def _not_onnx(path: Path, message: str) -> ModelError:
    return ModelError(
        Problem("MODEL-READ", message, file=str(path), hint="was the download or export completed?")
    )
