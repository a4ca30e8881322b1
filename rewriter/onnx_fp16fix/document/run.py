"""The run document as a whole: its head, and a section per stage."""

from __future__ import annotations

import json
import math
from datetime import datetime, timezone
from typing import Any, Literal

from pydantic import Field, JsonValue
from pydantic_core import PydanticSerializationError

from onnx_fp16fix import __version__
from onnx_fp16fix.document.bisect import BisectEntry
from onnx_fp16fix.document.check import CheckEntry
from onnx_fp16fix.document.findings import Finding
from onnx_fp16fix.document.rules import MissEntry, RuleEntry
from onnx_fp16fix.document.section import Section
from onnx_fp16fix.document.verification import VerificationEntry
from onnx_fp16fix.errors import UserError

__all__ = [
    "DataEntry",
    "ErrorEntry",
    "ModelEntry",
    "OutputEntry",
    "PlanEntry",
    "RunDocument",
    "RunStatus",
    "Tool",
    "error_entries",
]

RunStatus = Literal["ok", "findings", "rejected", "error"]


class Tool(Section):
    name: str = "onnx-fp16fix"
    version: str = __version__


class ModelEntry(Section):
    """The model as given; ``path`` is null for one that came from memory. Bytes are as stored in the model."""

    path: str | None = None
    sha256: str
    opset: int
    ir_version: int
    nodes: int
    initializer_bytes: int


class OutputEntry(Section):
    """The file written; ``bytes`` includes a data file beside it. ``lock`` and ``sidecars`` are the files
    written with it."""

    path: str
    sha256: str
    nodes: int
    bytes: int
    lock: str | None = None
    sidecars: list[str] = Field(default_factory=list)


class DataEntry(Section):
    """Where the samples came from; ``random`` means seeded noise, not data."""

    source: str | None = None
    samples: int = 0
    random: bool = False


class PlanEntry(Section):
    """What the planner chose; ``fp32_flops_share`` is between 0 and 1, null when shapes are unknown. ``precision``:
    the type of the model made from it."""

    precision: Literal["fp16", "bf16", "fp32"] = "fp16"
    rescaled_tensors: int = 0
    inserted_muls: int = 0
    fp32_nodes: list[str] = Field(default_factory=list)
    fp32_flops_share: float | None = None
    casts: int = 0


class ErrorEntry(Section):
    """One problem of a user error; ``line`` and ``column`` count from 1."""

    code: str
    message: str
    file: str | None = None
    line: int | None = None
    column: int | None = None
    hint: str | None = None
    node: str | None = None
    tensor: str | None = None


def _now() -> datetime:
    return datetime.now(timezone.utc)


class RunDocument(Section):
    """One run of one command. ``seconds`` is wall time, ``started`` is UTC."""

    schema_: Literal["fp16fix-run/1"] = Field(default="fp16fix-run/1", alias="schema")
    tool: Tool = Field(default_factory=Tool)
    command: str
    started: datetime = Field(default_factory=_now)
    seconds: float = 0.0
    status: RunStatus = "ok"
    exit_code: int = 0
    model: ModelEntry | None = None
    output: OutputEntry | None = None
    data: DataEntry | None = None
    rules: list[RuleEntry] = Field(default_factory=list)
    misses: list[MissEntry] = Field(default_factory=list)
    findings: list[Finding] = Field(default_factory=list)
    plan: PlanEntry | None = None
    verification: VerificationEntry | None = None
    bisect: BisectEntry | None = None
    check: CheckEntry | None = None
    summary: dict[str, JsonValue] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)
    errors: list[ErrorEntry] = Field(default_factory=list)

    def to_json(self) -> str:
        """The document as indented JSON that any reader accepts (no NaN, no infinity)."""
        try:
            return self.model_dump_json(by_alias=True, indent=2)
        except PydanticSerializationError:
            # The name of a file that is no text: Python's escapes for its bytes are valid in JSON too.
            return json.dumps(_plain(self.model_dump(mode="json", by_alias=True)), indent=2, allow_nan=False)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON Schema of the document as written."""
        return cls.model_json_schema(by_alias=True, mode="serialization")


def _plain(value: JsonValue) -> JsonValue:
    """JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def error_entries(error: UserError) -> list[ErrorEntry]:
    """The ``errors`` section of a run that ended in ``error``."""
    names = tuple(ErrorEntry.model_fields)
    return [ErrorEntry(**{name: getattr(problem, name) for name in names}) for problem in error.problems]
