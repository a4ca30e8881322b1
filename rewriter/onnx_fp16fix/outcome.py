"""What the library gives back: the new model with the document of the run that made it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from onnx_fp16fix.document import Finding, ModelEntry, OutputEntry, PlanEntry, RunDocument, VerificationEntry
from onnx_fp16fix.errors import Problem, UsageError, VerificationError
from onnx_fp16fix.model import Model, load_model, save_model, with_weights
from onnx_fp16fix.model.save import external_locations
from onnx_fp16fix.wording import spelled

__all__ = ["Outcome", "describe_model"]


@dataclass
class Outcome:
    """A finished run. ``result`` is the new model, None when the command makes none (``check``, ``verify``)."""

    run: RunDocument
    result: Model | None = None
    sidecars: Mapping[str, str] = field(default_factory=dict)
    """Files that tell engines which layers of an FP32 model stay in FP32: text by the ending of the file's name."""
    make_lock: Callable[[], str] | None = None
    """Makes the text of the lock file (``fix`` only)."""

    @property
    def model(self) -> onnx.ModelProto | None:
        """The new model, with its weights; external ones stay on disk (``save`` brings them along)."""
        return with_weights(self.result) if self.result else None

    @property
    def findings(self) -> list[Finding]:
        return self.run.findings

    @property
    def plan(self) -> PlanEntry | None:
        return self.run.plan

    @property
    def verification(self) -> VerificationEntry | None:
        return self.run.verification

    @property
    def warnings(self) -> list[str]:
        return self.run.warnings

    def require_accepted(self) -> Model:
        """The new model; VerificationError when it was rejected, UsageError when there is none."""
        if self.run.status == "rejected":
            problem = Problem("VERIFY-FAILED", "the model failed verification and is not written")
            raise VerificationError(problem)
        if self.result is None:
            raise UsageError(Problem("USAGE-NO-MODEL", f"'{self.run.command}' makes no model to save"))
        return self.result

    def lock(self) -> str:
        """The lock file's text: ``apply`` of it to the same model gives this result again, without data.

        Raises UsageError for a run that decided nothing (all but ``fix``).
        """
        if self.make_lock is None:
            raise UsageError(Problem("USAGE-NO-LOCK", f"'{self.run.command}' has no lock file"))
        return self.make_lock()

    def keep_lock(self) -> None:
        """Make the lock file's text now: for when the input is about to be replaced or to go."""
        if self.make_lock is not None:
            text = self.make_lock()
            self.make_lock = lambda: text

    def save(self, path: str | Path, *, in_place: bool = False) -> None:
        """Write the model, whole or not at all, and note the file in ``run.output``.

        Raises VerificationError when verification rejected the model, UsageError when there is none or when
        ``path`` is the input and ``in_place`` is not set, ModelError when the folder cannot be written.
        """
        path = Path(path)
        result = self.require_accepted()
        source = self.run.model.path if self.run.model else None
        if source and not in_place and path.exists() and path.samefile(source):
            hint = f"write elsewhere, or ask for it: {spelled('in_place', True)}"
            raise UsageError(Problem("USAGE-IN-PLACE", "this is the input model", file=str(path), hint=hint))
        if in_place:
            self.keep_lock()
        save_model(result, path)
        if in_place and result.path is not None and result.path.samefile(path):
            self.result = load_model(path)
        self.run.output = _describe_output(result, path)


def describe_model(model: Model) -> ModelEntry:
    """The ``model`` section: nodes of all scopes counted; the hash is the file's, or that of the parts in memory."""
    return ModelEntry(
        path=str(model.path) if model.path else None,
        sha256=_hash_file(model.path) if model.path else _hash_parts(model.proto),
        opset=model.opset,
        ir_version=model.proto.ir_version,
        nodes=_count_nodes(model),
        initializer_bytes=model.weight_bytes,
    )


def _describe_output(model: Model, path: Path) -> OutputEntry:
    size = path.stat().st_size + sum(path.with_name(name).stat().st_size for name in external_locations(path))
    return OutputEntry(path=str(path), sha256=_hash_file(path), nodes=_count_nodes(model), bytes=size)


def _count_nodes(model: Model) -> int:
    return sum(len(scope.graph.node) for scope in model.scopes())


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _hash_parts(proto: onnx.ModelProto) -> str:
    # part by part: a proto of 2 GiB cannot be serialised in one go
    digest = hashlib.sha256()
    graph = proto.graph
    for part in (
        *proto.opset_import,
        *proto.functions,
        *graph.input,
        *graph.output,
        *graph.node,
        *graph.initializer,
    ):
        digest.update(part.SerializeToString(deterministic=True))
    return digest.hexdigest()
