"""What a run did, as data: the JSON document ``fp16fix-run/1``.

Other programs read the document, so it only ever gains fields, and every field is always there (null or
empty where it does not apply). JSON has no infinity: a number that is not finite is written as null, and the
counts of non-finite elements beside it say why.
"""

from onnx_fp16fix.document.bisect import BisectEntry, BlamedNode
from onnx_fp16fix.document.check import CheckEntry, WeightEntry, WeightsEntry
from onnx_fp16fix.document.findings import (
    Edit,
    Finding,
    FindingKind,
    FindingStatus,
    Severity,
    many_findings,
)
from onnx_fp16fix.document.rules import MissEntry, RuleEntry
from onnx_fp16fix.document.run import (
    DataEntry,
    ErrorEntry,
    ModelEntry,
    OutputEntry,
    PlanEntry,
    RunDocument,
    RunStatus,
    Tool,
    error_entries,
)
from onnx_fp16fix.document.verification import (
    Fp32Check,
    OrtCheck,
    OutputError,
    SimulationCheck,
    TensorRTCheck,
    VerificationEntry,
    WorstTensor,
)

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
    "many_findings",
]
