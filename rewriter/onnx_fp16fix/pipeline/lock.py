"""Lock files, ``schema: fp16fix-lock/1``: what ``fix`` decided, complete enough to do it again without deciding.

A lock belongs to one model, by a digest of what it holds. Nodes are told by their place in the main graph or a body
of that model with local functions inlined; the names beside are for readers. What rules made is protobuf text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import onnx
import yaml
from google.protobuf import text_format
from google.protobuf.message import Message

from onnx_fp16fix import __version__
from onnx_fp16fix.errors import Problem, RuleFileError
from onnx_fp16fix.graph import ScopeView
from onnx_fp16fix.model import Patch
from onnx_fp16fix.plan import Plan
from onnx_fp16fix.plan.channel_scales import ChannelScale

__all__ = ["LOCK", "Lock", "Step", "find_lock", "lock_text", "read_lock"]

_SCHEMA: Final = "fp16fix-lock/"
LOCK: Final = _SCHEMA + "1"
_HEAD = 256
"""Characters in which the schema must show: the first line after comments."""

Step = tuple[Patch, ...] | tuple[ChannelScale, ...]
"""One rewriting of the model: what rules did in one round, or scales per channel."""
AnyMessage = TypeVar("AnyMessage", bound=Message)


@dataclass(frozen=True)
class Lock:
    """``model`` and ``result`` are content digests; ``verified`` tells whether the result was proven when it was made,
    ``status`` how that run ended, ``forced`` whether a wish was obeyed that cannot go well; ``fp16`` and ``fp32`` are
    the tolerances it was held to. ``selecting``: nodes of the main graph that read graph inputs in FP16 although they
    select, because the user asked for it. ``file`` and ``sha256`` tell people which file the model was."""

    model: str
    result: str
    precision: Any
    io: Any
    steps: tuple[Step, ...]
    plan: Plan
    status: Any = "ok"
    verified: bool = False
    fp16: float = 1e-2
    fp32: float = 1e-5
    version: str = __version__
    file: str = ""
    sha256: str = ""
    forced: bool = False
    selecting: tuple[int, ...] = ()

    def origin(self) -> str:
        """``'m.onnx' with sha256 ...``, the model that the lock was made for; empty where the lock does not say."""
        name = f"'{self.file}'" if self.file else "a model"
        return f"{name} with sha256 {self.sha256}" if self.sha256 else ""


def find_lock(rules: object) -> Path | None:
    """The lock file that ``rules`` names; None if it names anything else."""
    if isinstance(rules, Sequence) and not isinstance(rules, str) and len(rules) == 1:
        rules = rules[0]
    if not isinstance(rules, (str, Path)) or not Path(rules).is_file():
        return None
    with Path(rules).open("rb") as stream:
        head = stream.read(_HEAD).decode("utf-8", errors="replace")
    return Path(rules) if f"schema: {_SCHEMA}" in head else None


def lock_text(lock: Lock, scope: ScopeView) -> str:
    """The file's text; ``scope`` is the graph that the plan is of."""
    document = {
        "schema": LOCK,
        "tool": {"name": "onnx-fp16fix", "version": lock.version},
        "model": {"file": lock.file, "sha256": lock.sha256, "digest": lock.model},
        "result": {
            "digest": lock.result, "precision": lock.precision, "io": lock.io, "status": lock.status,
            "verified": lock.verified, "tolerance": lock.fp16, "fp32_tolerance": lock.fp32,
            "forced": lock.forced,
        },
        **({"selecting_fp16": list(lock.selecting)} if lock.selecting else {}),
        "steps": [_step_out(step) for step in lock.steps],
        "plan": _plan_out(lock.plan, scope),
    }  # fmt: skip
    comment = "# Made by `onnx-fp16fix fix`. `onnx-fp16fix apply THIS_FILE MODEL -o OUT` gives the same model again.\n"
    dumper = getattr(
        yaml, "CSafeDumper", yaml.SafeDumper
    )  # libyaml, where it is there, takes a quarter of the time
    text: str = yaml.dump(document, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120)
    return comment + text


def read_lock(path: Path) -> Lock:
    """Raises RuleFileError: LOCK-READ for a file that is damaged, LOCK-VERSION for one of a later format."""
    try:
        document = _loaded(path.read_text(encoding="utf-8"))
        if document["schema"] != LOCK:
            found = f"has the schema {document['schema']!r}, and version {__version__} reads {LOCK!r}"
            hint = f"use onnx-fp16fix {document['tool']['version']}, which wrote it, or run fix again"
            raise RuleFileError(Problem("LOCK-VERSION", found, file=str(path), hint=hint))
        result, plan = document["result"], document["plan"]
        return Lock(
            model=document["model"]["digest"],
            result=result["digest"],
            precision=result["precision"],
            io=result["io"],
            steps=tuple(_step_in(step) for step in document["steps"]),
            plan=_plan_in(plan),
            status=result["status"],
            verified=result["verified"],
            fp16=float(result["tolerance"]),
            fp32=float(result["fp32_tolerance"]),
            version=document["tool"]["version"],
            file=str(document["model"].get("file", "")),
            sha256=str(document["model"].get("sha256", "")),
            forced=bool(result.get("forced", False)),
            selecting=tuple(document.get("selecting_fp16", ())),
        )
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        yaml.YAMLError,
        text_format.ParseError,
    ) as error:
        hint = "run fix again to get a new one"
        found = f"is a damaged lock file: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise RuleFileError(Problem("LOCK-READ", found, file=str(path), hint=hint)) from error


def _loaded(text: str) -> Any:
    """The document; libyaml reads it ten times faster, and Python tells what is wrong with one that is damaged."""
    if yaml.__with_libyaml__:
        try:
            return yaml.load(text, Loader=yaml.CSafeLoader)
        except yaml.YAMLError:
            pass
    return yaml.safe_load(text)


def _plan_out(plan: Plan, scope: ScopeView) -> dict[str, Any]:
    labels = [node.label for node in scope.nodes]

    def slots(values: Iterable[tuple[int, int]]) -> list[dict[str, Any]]:
        return [{"node": index, "name": labels[index], "input": slot} for index, slot in values]

    def by_slot(values: Mapping[tuple[int, int], int]) -> list[dict[str, Any]]:
        return [
            {**entry, "exponent": values[entry["node"], entry["input"]]} for entry in slots(sorted(values))
        ]

    document = {
        "exponents": dict(plan.exponents),
        "entries": dict(plan.entries),
        "results": dict(plan.results),
        "operands": by_slot(plan.operands),
        "muls": [
            {**entry, "why": plan.muls_why.get((entry["node"], entry["input"]), "")} for entry in by_slot(plan.muls)
        ],
        "raised": slots(sorted(plan.raised)),
        "fp32": [{"node": i, "name": labels[i], "why": why} for i, why in plan.fp32.items()],
        "flops": plan.flops,
        "fp32_flops_share": plan.fp32_flops_share,
        "lost_bits": dict(plan.lost_bits),
        "float_borders": dict(plan.float_borders),
        "whole": plan.whole,
    }  # fmt: skip
    inside = {body.path: body for body in scope.inside()}
    document["bodies"] = [
        {"scope": list(path), **_plan_out(part, inside[path])} for path, part in plan.bodies.items()
    ]
    return document


def _plan_in(entry: Mapping[str, Any]) -> Plan:
    def by_slot(name: str, value: str = "exponent") -> dict[tuple[int, int], Any]:
        return {(item["node"], item["input"]): item[value] for item in entry[name]}

    return Plan(
        exponents=entry["exponents"],
        entries=entry["entries"],
        results=entry["results"],
        operands=by_slot("operands"),
        muls=by_slot("muls"),
        muls_why=by_slot("muls", "why"),
        raised=frozenset((item["node"], item["input"]) for item in entry["raised"]),
        fp32={item["node"]: item["why"] for item in entry["fp32"]},
        flops=entry.get("flops", 0.0),
        fp32_flops_share=entry["fp32_flops_share"],
        lost_bits=entry["lost_bits"],
        float_borders=entry.get("float_borders", {}),
        whole=entry.get("whole", False),
        bodies={tuple(item["scope"]): _plan_in(item) for item in entry.get("bodies", ())},
    )


def _step_out(step: Step) -> dict[str, Any]:
    scales = [s for s in step if isinstance(s, ChannelScale)]
    if scales:
        return {"channels": [{"tensor": s.tensor, "exponents": list(s.exponents)} for s in scales]}
    return {"rules": [_patch_out(patch) for patch in step if isinstance(patch, Patch)]}


def _step_in(entry: Mapping[str, Any]) -> Step:
    if "channels" in entry:
        return tuple(ChannelScale(item["tensor"], tuple(item["exponents"])) for item in entry["channels"])
    return tuple(_patch_in(item) for item in entry["rules"])


def _text(message: Message) -> str:
    text: str = text_format.MessageToString(message, as_one_line=True)
    return text


def _parsed(text: str, kind: type[AnyMessage]) -> AnyMessage:
    message: AnyMessage = text_format.Parse(text, kind())
    return message


def _patch_out(patch: Patch) -> dict[str, Any]:
    infos = patch.value_info.items()
    return {
        "scope": list(patch.scope),
        "removed": sorted(patch.removed),
        "inserted": [{"before": at, "node": _text(n)} for at, nodes in patch.inserted.items() for n in nodes],
        "replaced": [{"at": at, "node": _text(node)} for at, node in patch.replaced.items()],
        "initializers": [_text(tensor) for tensor in patch.initializers],
        "replaced_initializers": [_text(tensor) for tensor in patch.replaced_initializers.values()],
        "dropped_initializers": sorted(patch.dropped_initializers),
        "value_info": {name: None if info is None else _text(info) for name, info in infos},
        "border": {name: _text(info) for name, info in patch.border.items()},
    }


def _patch_in(entry: Mapping[str, Any]) -> Patch:
    patch = Patch(tuple(entry["scope"]))
    patch.removed.update(entry["removed"])
    for item in entry["inserted"]:
        patch.insert(item["before"], _parsed(item["node"], onnx.NodeProto))
    patch.replaced = {item["at"]: _parsed(item["node"], onnx.NodeProto) for item in entry["replaced"]}
    patch.initializers = [_parsed(text, onnx.TensorProto) for text in entry["initializers"]]
    tensors = [_parsed(text, onnx.TensorProto) for text in entry["replaced_initializers"]]
    patch.replaced_initializers = {tensor.name: tensor for tensor in tensors}
    patch.dropped_initializers.update(entry["dropped_initializers"])
    patch.value_info = {
        name: None if text is None else _parsed(text, onnx.ValueInfoProto)
        for name, text in entry["value_info"].items()
    }
    patch.border = {name: _parsed(text, onnx.ValueInfoProto) for name, text in entry["border"].items()}
    return patch
