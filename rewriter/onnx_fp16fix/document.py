"""What a run did, as data: the JSON document ``fp16fix-run/1``.

Other programs read the document, so it only ever gains fields, and every field below is always there (null or
empty where it does not apply). JSON has no infinity: a number that is not finite is written as null, and the
counts of non-finite elements beside it say why.
"""

from __future__ import annotations

import json
import math
from datetime import datetime, timezone
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic_core import PydanticSerializationError

from onnx_fp16fix import __version__
from onnx_fp16fix.errors import UserError

__all__ = [
    "BisectEntry",
    "BlamedNode",
    "CheckEntry",
    "DataEntry",
    "Edit",
    "ErrorEntry",
    "Finding",
    "FindingKind",
    "FindingStatus",
    "Fp32Check",
    "MissEntry",
    "ModelEntry",
    "OrtCheck",
    "OutputEntry",
    "OutputError",
    "PlanEntry",
    "RuleEntry",
    "RunDocument",
    "RunStatus",
    "Severity",
    "SimulationCheck",
    "TensorRTCheck",
    "Tool",
    "VerificationEntry",
    "WeightEntry",
    "WeightsEntry",
    "WorstTensor",
    "error_entries",
]

FindingKind = Literal["overflow", "underflow", "precision", "nan", "structure", "weights"]
FindingStatus = Literal["fixed", "available", "skipped", "left"]
RunStatus = Literal["ok", "findings", "rejected", "error"]
Severity = Literal["error", "warning", "info"]


class _Section(BaseModel):
    # A reader of an older version ignores the fields that came later.
    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class Tool(_Section):
    name: str = "onnx-fp16fix"
    version: str = __version__


class ModelEntry(_Section):
    """The model as given; ``path`` is null for one that came from memory. Bytes are as stored in the model."""

    path: str | None = None
    sha256: str
    opset: int
    ir_version: int
    nodes: int
    initializer_bytes: int


class OutputEntry(_Section):
    """The file written; ``bytes`` includes a data file beside it. ``lock`` and ``sidecars`` are the files
    written with it."""

    path: str
    sha256: str
    nodes: int
    bytes: int
    lock: str | None = None
    sidecars: list[str] = Field(default_factory=list)


class DataEntry(_Section):
    """Where the samples came from; ``random`` means seeded noise, not data."""

    source: str | None = None
    samples: int = 0
    random: bool = False


class RuleEntry(_Section):
    """How often a rule was tried, matched and applied, and the matches it skipped for want of a fact."""

    id: str
    name: str = ""
    tried: int = 0
    matched: int = 0
    applied: int = 0
    skipped: int = 0
    seconds: float = 0.0


class MissEntry(_Section):
    """How close a rule came that changed nothing: ``fitted`` of ``size`` operations of its pattern fitted at ``node``;
    ``clause`` ended it, ``reason`` says how. ``facts`` are those asked for, ``missing`` those not known."""

    rule: str
    name: str = ""
    clause: str
    reason: str
    fitted: int = 0
    size: int = 0
    scope: str = ""
    node: str | None = None
    nodes: list[str] = Field(default_factory=list)
    facts: dict[str, JsonValue] = Field(default_factory=dict)
    missing: list[str] = Field(default_factory=list)


class Edit(_Section):
    """Names of the nodes a repair removed and added."""

    removed: list[str] = Field(default_factory=list)
    added: list[str] = Field(default_factory=list)


class Finding(_Section):
    """One place where FP16 goes wrong, or would without the repair.

    ``rule`` is null for what the planner found; ``scope`` is the path of the subgraph ("" is the main graph);
    ``facts`` are the measured numbers it rests on and ``missing`` the facts a rule wanted and did not get;
    ``repaired_by`` names what would repair it: "plan" and ids of rules. Findings of ``check`` with the same ``cause``
    are one problem seen at several places; it is the place (``scope::name``) where the problem begins.
    """

    rule: str | None = None
    name: str = ""
    kind: FindingKind
    severity: Severity = "warning"
    status: FindingStatus
    message: str
    scope: str = ""
    node: str | None = None
    tensor: str | None = None
    facts: dict[str, JsonValue] = Field(default_factory=dict)
    missing: list[str] = Field(default_factory=list)
    edit: Edit = Field(default_factory=Edit)
    repaired_by: list[str] = Field(default_factory=list)
    cause: str | None = None

    def place(self) -> str:
        """Tensor or node with its scope before it."""
        name = self.tensor or self.node or ""
        return f"{self.scope}::{name}" if self.scope else name


class PlanEntry(_Section):
    """What the planner chose; ``fp32_flops_share`` is between 0 and 1, null when shapes are unknown. ``precision``:
    the type of the model made from it."""

    precision: Literal["fp16", "bf16", "fp32"] = "fp16"
    rescaled_tensors: int = 0
    inserted_muls: int = 0
    fp32_nodes: list[str] = Field(default_factory=list)
    fp32_flops_share: float | None = None
    casts: int = 0


class Fp32Check(_Section):
    """The rewritten FP32 model against the original, worst over outputs and samples; ``rel_l2`` is what is judged."""

    max_abs: float | None
    max_rel: float | None
    rel_l2: float | None = None
    identical: bool


class OutputError(_Section):
    """One graph output in simulated FP16 against FP32, worst over samples; ``rel_l2`` is ||a - b|| / ||b||."""

    name: str
    rel_l2: float | None
    max_abs: float | None
    nonfinite: int = 0


class WorstTensor(_Section):
    name: str
    rel_l2: float | None
    nonfinite: int = 0


class SimulationCheck(_Section):
    """The result in simulation of its 16-bit type, ``type``, whichever that is."""

    type: Literal["fp16", "bf16"] = "fp16"
    outputs: list[OutputError] = Field(default_factory=list)
    worst_tensor: WorstTensor | None = None
    first_nonfinite: str | None = None


class OrtCheck(_Section):
    """Whether ONNX Runtime loads and runs the file; ``message`` is its own when it does not."""

    provider: str
    loads: bool
    runs: bool | None = None
    message: str | None = None


class TensorRTCheck(_Section):
    """TensorRT's verdict; ``half_layer_share`` counts layers with float outputs (null: there is none)."""

    package: str
    version: str
    parsed: bool
    built: bool
    half_layer_share: float | None = None
    layers: int = 0
    warnings: list[str] = Field(default_factory=list)
    errors: list[str] = Field(default_factory=list)


class VerificationEntry(_Section):
    """The checks that ran; a null check did not, and ``not_checked`` says why. Null never means passed."""

    fp32: Fp32Check | None = None
    fp16_sim: SimulationCheck | None = None
    onnxruntime: OrtCheck | None = None
    tensorrt: TensorRTCheck | None = None
    not_checked: list[str] = Field(default_factory=list)
    failures: list[str] = Field(default_factory=list)
    passed: bool


class BlamedNode(_Section):
    """A node with the error of the outputs, null if not finite, when it alone is in FP16 (``alone``) and when it alone
    is in FP32 (``others``, null too where ``others_measured`` is false). ``kept``: it belongs to the minimal set."""

    node: str
    op: str
    alone: float | None = None
    others: float | None = None
    others_measured: bool = False
    kept: bool = False


class BisectEntry(_Section):
    """What a search for the culprits found. Errors are the worst of all outputs, null if not finite.

    ``judge`` is "simulator" or the check command; ``nodes`` counts those that can be FP16; ``ranking`` has the nodes
    that matter, worst first, and ``cleared`` counts the others, which stay below ``negligible`` together with their
    neighbours. ``fp32_nodes`` bring ``error_fp16`` down to ``error``; ``rules`` keeps them, as the text of a rule file.
    """

    judge: str = "simulator"
    tolerance: float
    nodes: int = 0
    error_fp16: float | None = None
    error: float | None = None
    fp32_nodes: list[str] = Field(default_factory=list)
    minimal: bool = False
    ranking: list[BlamedNode] = Field(default_factory=list)
    cleared: int = 0
    negligible: float = 0.0
    trials: int = 0
    recalled: int = 0
    rules: str | None = None
    as_type: Literal["fp16", "bf16"] = "fp16"


class WeightEntry(_Section):
    """A constant and its first reader (``scope`` is that node's): elements beyond FP16, below 2**-14 (bits are lost),
    below 2**-24 (vanishing); in BF16 below 2**-126 and 2**-133."""

    name: str
    node: str
    scope: str = ""
    elements: int
    absmax: float
    beyond: int = 0
    below_normal: int = 0
    vanishing: int = 0


class WeightsEntry(_Section):
    """All float constants of the main graph and the bodies inside; ``worst`` has those that FP16 changes most."""

    constants: int = 0
    elements: int = 0
    beyond: int = 0
    below_normal: int = 0
    vanishing: int = 0
    worst: list[WeightEntry] = Field(default_factory=list)


class CheckEntry(_Section):
    """What plain FP16 (every tensor and weight rounded, nothing repaired) does; null ``naive`` was not simulated.

    ``as_type``: what the model was taken as, also for ``weights``. Tensors inside bodies have the keys of
    range tables (``4:body:0::h``).

    ``first_inaccurate`` is the first tensor, in the order of computation, that is further off than ``tolerance``.
    """

    tolerance: float
    as_type: Literal["fp16", "bf16"] = "fp16"
    naive: SimulationCheck | None = None
    first_inaccurate: str | None = None
    nonfinite_tensors: int = 0
    harmless_overflows: int = 0
    weights: WeightsEntry = Field(default_factory=WeightsEntry)


class ErrorEntry(_Section):
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


class RunDocument(_Section):
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
