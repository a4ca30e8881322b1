"""Calibrated ranges as a JSON file, ``"schema": "fp16fix-ranges/1"``.

A file belongs to one model, by the hash of its file. The format only gains fields: a reader ignores those it does not
know, and a missing one has its default. JSON has no infinity: a statistic that is not finite (``smallest`` of an
all-zero tensor, the bounds of one that never had a finite element) is null. ``exact_sum`` is a hexadecimal float with
all its digits, more than a float64 holds.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, Final

from onnx_fp16fix.calibrate.ranges import SUM_SCALE, RangeTable, TensorRange
from onnx_fp16fix.errors import DataError, Problem
from onnx_fp16fix.staging import staged

__all__ = ["load_ranges", "write_ranges"]

_SCHEMA = "fp16fix-ranges/1"


def write_ranges(table: RangeTable, path: Path, *, model_sha256: str) -> None:
    """Write the table whole or not at all; raises DataError when the place cannot be written."""
    document = {
        "schema": _SCHEMA,
        "model_sha256": model_sha256,
        "source": table.source,
        "samples": table.samples,
        "random": table.random,
        "complete": table.complete,
        "tensors": {name: _plain(entry) for name, entry in table.tensors.items()},
        "constants": {name: _plain(entry) for name, entry in table.constants.items()},
    }
    try:
        with staged(path) as temporary:
            temporary.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise _error("DATA-WRITE", f"cannot be written: {error.strerror}", path) from error


def _plain(entry: TensorRange) -> dict[str, Any]:
    values = asdict(entry)
    values["exact_sum"] = None if entry.exact_sum is None else _hexadecimal(entry.exact_sum)
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def _hexadecimal(total: int) -> str:
    """An integer in units of 2**-1074 as ``0x<digits>p<exponent>``, without trailing zero bits."""
    zeros = (total & -total).bit_length() - 1 if total else SUM_SCALE
    return f"{total >> zeros:#x}p{zeros - SUM_SCALE}"


def load_ranges(path: str | Path, model_sha256: str) -> RangeTable:
    """The table in a file that ``write_ranges`` made for the model with this hash.

    Raises DataError: RANGES-READ for a file that cannot be read or is no JSON, RANGES-FORMAT for one that is no range
    table of this version or holds impossible values, RANGES-MODEL for another model's table.
    """
    path = Path(path)
    document = _read(path)
    if not isinstance(document, dict) or document.get("schema") != _SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise _error("RANGES-FORMAT", f"is no range table: schema {found!r}, expected '{_SCHEMA}'", path)
    try:
        table = _table(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
        raise _error("RANGES-FORMAT", f"is a damaged range table: {reason}", path) from None
    if document.get("model_sha256") != model_sha256:
        raise _error(
            "RANGES-MODEL",
            f"belongs to another model (sha256 {str(document.get('model_sha256'))[:12]}..., "
            f"this one has {model_sha256[:12]}...)",
            path,
            "calibrate this model",
        )
    return table


def _read(path: Path) -> Any:
    def constant(name: str) -> float:
        raise ValueError(f"{name} is no JSON")

    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=constant)
    except OSError as error:
        raise _error("RANGES-READ", f"cannot be read: {error.strerror}", path, "check the path") from None
    except (ValueError, RecursionError) as error:
        raise _error(
            "RANGES-READ", f"is no JSON document: {error}", path, "write it with 'calibrate'"
        ) from None


def _table(document: Mapping[str, Any]) -> RangeTable:
    kinds: Mapping[str, type] = {"random": bool, "complete": bool, "source": str}
    for name in kinds.keys() & document.keys():
        if not isinstance(document[name], kinds[name]):
            raise ValueError(f"'{name}' is {document[name]!r}")
    return RangeTable(
        {name: _entry(name, entry) for name, entry in document["tensors"].items()},
        _count(document["samples"]),
        document["random"],
        {name: _entry(name, entry) for name, entry in document.get("constants", {}).items()},
        document.get("source", ""),
        document.get("complete", True),
    )


def _entry(tensor: str, values: Mapping[str, Any]) -> TensorRange:
    known = {}
    for item in fields(TensorRange):
        if item.name not in values:
            if item.default is MISSING:
                raise ValueError(f"tensor '{tensor}' has no '{item.name}'")
            continue
        read: Callable[[Any], Any] = _READERS.get(item.name, _count)
        try:
            known[item.name] = read(values[item.name])
        except (TypeError, ValueError, AttributeError):
            raise ValueError(f"'{item.name}' of tensor '{tensor}' is {values[item.name]!r}") from None
    for name, infinite in _INFINITE.items():
        known[name] = infinite if known.get(name) is None else known[name]
    return TensorRange(**known)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(value)
    return value


def _sample(value: Any) -> int:
    return -1 if value == -1 else _count(value)


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(value)
    return float(value)


def _mean(value: Any) -> float:
    if (number := _number(value)) is None or number < 0:
        raise ValueError(value)
    return number


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(_count(size) for size in value)


def _histogram(value: Any) -> dict[int, int] | None:
    return None if value is None else {int(exponent): _count(count) for exponent, count in value.items()}


def _sum(value: Any) -> int | None:
    if value is None:
        return None
    found = re.fullmatch(r"(0x[0-9a-f]+)p(-?\d{1,4})", value)
    if found is None or int(found[2]) < -SUM_SCALE:
        raise ValueError(value)
    return int(found[1], 16) << (int(found[2]) + SUM_SCALE)


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "minimum": _number,
    "maximum": _number,
    "smallest": _number,
    "mean_abs": _mean,
    "shape": _shape,
    "minimum_sample": _sample,
    "maximum_sample": _sample,
    "nonfinite_sample": _sample,
    "histogram": _histogram,
    "exact_sum": _sum,
    "calmest": _number,
}
_INFINITE: Final[Mapping[str, float]] = {
    "minimum": math.inf, "maximum": -math.inf, "smallest": math.inf, "calmest": math.inf
}  # fmt: skip
"""What null stands for."""


def _error(code: str, message: str, path: Path, hint: str | None = None) -> DataError:
    return DataError(Problem(code, message, file=str(path), hint=hint))
