"""``keep-fp32``: named nodes stay in FP32, and nothing else is planned for them: what ``bisect`` writes.

It names nodes instead of matching a pattern, so its rule has no ``match``; a name that the model does not have is an
error, for a rule that silently keeps nothing would be worse.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from onnx_fp16fix.calibrate.ranges import tensor_key
from onnx_fp16fix.errors import RuleFileError
from onnx_fp16fix.graph import GraphView
from onnx_fp16fix.language.operations import closest
from onnx_fp16fix.language.registry import Call, ModelSite
from onnx_fp16fix.language.request import PlanRequest
from onnx_fp16fix.model import ScopePath
from onnx_fp16fix.wording import counted

__all__ = ["KeepFp32", "KeepParameters"]


class KeepParameters(BaseModel):
    """``nodes``: names of nodes, or of an output where a node has no name of its own; those in a body as range tables
    write them, ``4:body:0::name``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    nodes: tuple[str, ...] = Field(min_length=1)


class KeepFp32:
    """Runs once per model."""

    name = "keep-fp32"
    parameters: type[BaseModel] = KeepParameters
    guards: tuple[str, ...] = ()

    def request_model(self, site: ModelSite, call: Call) -> PlanRequest:
        """A request for exactly these nodes. Raises RuleFileError (RULE-NODE) for names that no node has."""
        known = _index(site.view)
        wanted = call.parameters.nodes
        problems = [
            site.place.problem("RULE-NODE", f"no node of the model is called '{name}'", closest(name, known))
            for name in wanted
            if name not in known
        ]
        if problems:
            raise RuleFileError(problems)
        nodes = tuple(known[name] for name in dict.fromkeys(wanted))
        return PlanRequest(site.rule, nodes, (), f"kept in FP32: {counted(len(nodes), 'named node')}")


def _index(view: GraphView) -> dict[str, tuple[ScopePath, int]]:
    """Nodes by name, outputs first: a node that is named after another's output is not meant by it."""
    known: dict[str, tuple[ScopePath, int]] = {}
    for scope in (view.main, *view.main.inside()):
        places = {node.name: node.index for node in reversed(scope.nodes) if node.name}
        places.update({name: node.index for node in scope.nodes for name in node.proto.output if name})
        known.update({tensor_key(scope.path, name): (scope.path, index) for name, index in places.items()})
    return known
