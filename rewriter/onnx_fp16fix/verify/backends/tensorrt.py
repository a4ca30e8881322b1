"""TensorRT's verdict on a model: does it parse, does it build, and is it FP16 at all.

One adapter serves ``tensorrt`` 10 and 11 and ``tensorrt_rtx``: it asks what a package offers, never which version
it is. ``tensorrt_rtx`` builds on a machine without a GPU; ``tensorrt`` needs one, and counts as not available
otherwise. ``build`` works in this process, which a crash of the builder ends: see ``tensorrt_apart``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from onnx_fp16fix.verify.backends.tensorrt_log import MessageLog, parser_errors, shorten

__all__ = ["TensorRTReport", "build", "why_not_available"]

_PACKAGES = ("tensorrt", "tensorrt_rtx")
_HALF_TYPES = frozenset({"HALF", "BF16"})
_FLOAT_TYPES = _HALF_TYPES | {"FLOAT"}


@dataclass(frozen=True, slots=True)
class TensorRTReport:
    """What TensorRT said.

    ``half_layer_share`` is the share, between 0 and 1, of ``layers`` (computing layers with a floating-point
    output) that put out FP16 or BF16. It is None when the model was not parsed, has no such layer, or when the builder
    itself was left to choose the types.
    """

    package: str
    version: str
    parsed: bool
    built: bool
    half_layer_share: float | None
    layers: int
    warnings: tuple[str, ...]
    errors: tuple[str, ...]


def build(
    model: str | Path | bytes,
    *,
    base_dir: Path | None = None,
    typed: bool,
    shapes: Mapping[str, Sequence[int]] | None = None,
    shape_values: Mapping[str, Sequence[int]] | None = None,
    note: Callable[[TensorRTReport], None] = lambda known: None,
) -> TensorRTReport | None:
    """Parse and build a model; None when no usable TensorRT is installed (see ``why_not_available``).

    ``model`` is a file, or a serialized ModelProto whose external data lie in ``base_dir``. ``typed`` says that
    the ONNX types decide; otherwise the builder is asked for FP16 where the package still has that switch.
    ``shapes`` gives the shape of each input (those of the calibration feeds; an unknown dimension becomes 1) and
    ``shape_values`` the values of inputs that hold a shape. What TensorRT refuses is in ``errors``, never raised.
    ``note`` is told what is known before each step.
    """
    for package in _PACKAGES:
        trt, builder, log = _open(package)
        if trt is not None and builder is not None:
            job = _Build(trt, builder, log, typed)
            return job.run(model, base_dir, shapes or {}, shape_values or {}, note)
    return None


def why_not_available() -> str | None:
    """One sentence for the user, or None when ``build`` will work."""
    installed = []
    for package in _PACKAGES:
        trt, builder, log = _open(package)
        if builder is not None:
            return None
        if trt is not None or log.errors:
            installed.append(f"{package}: {log.errors[0] if log.errors else 'no builder, is there a GPU?'}")
    if installed:
        return f"TensorRT is installed but not usable here ({'; '.join(installed)})"
    return "TensorRT is not installed (pip install tensorrt-rtx builds without a GPU)"


def _open(package: str) -> tuple[ModuleType | None, Any, MessageLog]:
    """The module, a builder, and its log; None for what could not be had, with the reason in the log."""
    log = MessageLog()
    try:
        trt = import_module(package)
    except ModuleNotFoundError:
        return None, None, log
    except Exception as error:  # a package whose libraries are missing raises whatever its loader raises
        log.errors.append(shorten(str(error)))
        return None, None, log
    if not hasattr(trt, "Builder"):  # a folder of that name on the path is not TensorRT
        return None, None, log
    try:
        return trt, trt.Builder(log.logger(trt)), log
    except Exception as error:  # without a GPU the factory of `tensorrt` returns null, a TypeError here
        log.errors.append(shorten(str(error)))
        return trt, None, log


class _Build:
    """One parse and build. TensorRT's objects refer to each other, so one object keeps them all alive."""

    def __init__(self, trt: ModuleType, builder: Any, log: MessageLog, typed: bool) -> None:
        self.trt, self.builder, self.log = trt, builder, log
        fp16 = getattr(trt.BuilderFlag, "FP16", None)
        self.fp16 = None if typed else fp16
        self.network = builder.create_network(self._network_flags())
        self.parser = trt.OnnxParser(self.network, log.logger(trt))

    def run(
        self,
        model: str | Path | bytes,
        base_dir: Path | None,
        shapes: Mapping[str, Sequence[int]],
        values: Mapping[str, Sequence[int]],
        note: Callable[[TensorRTReport], None],
    ) -> TensorRTReport:
        version = str(getattr(self.trt, "__version__", "unknown"))
        report = TensorRTReport(self.trt.__name__, version, False, False, None, 0, (), ())
        note(report)
        if self._parse(model, base_dir):
            types = list(self._layer_types())
            halves = sum(bool(names & _HALF_TYPES) for names in types)
            share = halves / len(types) if types and self.fp16 is None else None
            report = replace(report, parsed=True, half_layer_share=share, layers=len(types))
            note(report)
            report = replace(report, built=self._build(shapes, values))
        warnings = tuple(dict.fromkeys(self.log.warnings))
        return replace(report, warnings=warnings, errors=() if report.built else self._errors())

    def _network_flags(self) -> int:
        flags = self.trt.NetworkDefinitionCreationFlag
        # up to TensorRT 9 a network without EXPLICIT_BATCH cannot hold an ONNX model; later it is a no-op or gone
        wanted = ["EXPLICIT_BATCH"] if self.fp16 is not None else ["EXPLICIT_BATCH", "STRONGLY_TYPED"]
        return sum(1 << int(getattr(flags, name)) for name in wanted if hasattr(flags, name))

    def _parse(self, model: str | Path | bytes, base_dir: Path | None) -> bool:
        try:
            if not isinstance(model, bytes):
                return bool(self.parser.parse_from_file(str(model)))
            if base_dir is None:
                return bool(self.parser.parse(model))
            # only the folder of this path is used, to find external data
            return bool(self.parser.parse(model, str(base_dir / "model.onnx")))
        except Exception as error:  # bindings turn a C++ exception into a RuntimeError
            self.log.errors.append(shorten(str(error)))
            return False

    def _build(self, shapes: Mapping[str, Sequence[int]], values: Mapping[str, Sequence[int]]) -> bool:
        try:
            config = self.builder.create_builder_config()
            if self.fp16 is not None:
                config.set_flag(self.fp16)
            self._add_profile(config, shapes, values)
            return self.builder.build_serialized_network(self.network, config) is not None
        except Exception as error:
            self.log.errors.append(shorten(str(error)))
            return False

    def _add_profile(
        self, config: Any, shapes: Mapping[str, Sequence[int]], values: Mapping[str, Sequence[int]]
    ) -> None:
        """Fix every open dimension to what the data showed: any wider range could be one the model never had."""
        profile = self.builder.create_optimization_profile()
        needed = False
        for tensor in map(self.network.get_input, range(self.network.num_inputs)):
            if tensor.is_shape_tensor:
                given = tuple(values.get(tensor.name, ())) or (1,) * max(1, *tensor.shape)
                profile.set_shape_input(tensor.name, given, given, given)
                needed = True
            elif any(size < 0 for size in tensor.shape):
                shape = _closed(tuple(tensor.shape), shapes.get(tensor.name))
                profile.set_shape(tensor.name, shape, shape, shape)
                needed = True
        if needed:
            config.add_optimization_profile(profile)

    def _layer_types(self) -> Iterator[set[str]]:
        """Types of the outputs of each layer that computes a float; constants only feed layers."""
        for layer in map(self.network.get_layer, range(self.network.num_layers)):
            outputs = (layer.get_output(index) for index in range(layer.num_outputs))
            names = {tensor.dtype.name for tensor in outputs if tensor is not None}
            if layer.type.name != "CONSTANT" and names & _FLOAT_TYPES:
                yield names

    def _errors(self) -> tuple[str, ...]:
        found = parser_errors(self.parser) or self.log.errors
        return tuple(dict.fromkeys(found)) or ("TensorRT gave no engine and no reason",)


def _closed(declared: Sequence[int], seen: Sequence[int] | None) -> tuple[int, ...]:
    if seen is None or len(seen) != len(declared):
        seen = (1,) * len(declared)
    return tuple(int(s) if d < 0 else int(d) for d, s in zip(declared, seen, strict=True))
