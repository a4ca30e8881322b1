"""What users ask of a plan by name: nodes to keep in FP32 or in FP16, ranges to assume, which rules may be used."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches

from onnx_fp16fix.calibrate import RangeTable, TensorRange
from onnx_fp16fix.calibrate.ranges import LimitedRange, tensor_key
from onnx_fp16fix.errors import Problem, UsageError
from onnx_fp16fix.graph import GraphView, ScopeView
from onnx_fp16fix.language import EQUAL
from onnx_fp16fix.language.operations import closest, is_known, similar_ops
from onnx_fp16fix.plan import Place
from onnx_fp16fix.wording import spelled

__all__ = ["Names", "Targets", "Wishes", "gather_wishes"]

_SCOPE = re.compile(r"^(\d+:\w+:\d+/)*\d+:\w+:\d+::")
Names = str | Sequence[str]
"""One regular expression or op type, or several."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Nodes that are to stay in FP32 and those that are to run in FP16, each with the wish in words."""

    keep: Mapping[Place, str] = field(default_factory=dict)
    half: Mapping[Place, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wishes:
    """Checked wishes. Regular expressions match from the start of a name (``re.match``), as AutoCast's do.

    ``limits``: largest magnitude to assume of the tensors that a regular expression names. ``max_fp32_flops``: share
    of the model's FLOPs. ``allow``: equality classes of rules, None for all. ``force``: obey what cannot go well.
    """

    keep_fp32: tuple[str, ...] = ()
    keep_fp32_ops: tuple[str, ...] = ()
    force_fp16: tuple[str, ...] = ()
    force_fp16_ops: tuple[str, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    max_fp32_flops: float | None = None
    allow: frozenset[str] | None = None
    force: bool = False

    def name_nodes(self) -> bool:
        """Whether any wish is about nodes."""
        return any((self.keep_fp32, self.keep_fp32_ops, self.force_fp16, self.force_fp16_ops))

    def targets(self, view: GraphView) -> Targets:
        """The nodes meant. Raises UsageError for a wish that no node answers and for nodes wanted both ways."""
        problems: list[Problem] = []
        found = [node for scope in _scopes(view) for node in scope.nodes if node.op != "Constant"]
        nodes = {(node.scope, node.index): node.label for node in found}
        ops = {(node.scope, node.index): node.op for node in found}
        keep = {
            **_by_op(ops, self.keep_fp32_ops, spelled("keep_fp32_ops"), problems),
            **_by_name(nodes, self.keep_fp32, spelled("keep_fp32"), problems),
        }
        half = {
            **_by_op(ops, self.force_fp16_ops, spelled("force_fp16_ops"), problems),
            **_by_name(nodes, self.force_fp16, spelled("force_fp16"), problems),
        }
        both = [index for index in keep if index in half]
        if both and not self.force:
            hint = f"make one of them narrower; {spelled('force', True)} lets FP16 win"
            problems += [_contradiction(nodes[i], f"{keep[i]}, but {half[i]}", hint) for i in both]
        if problems:
            raise UsageError(problems)
        return Targets({index: why for index, why in keep.items() if index not in half}, half)

    def limited(self, ranges: RangeTable, view: GraphView, *, strict: bool = True) -> RangeTable:
        """The table with the limits in place of what was measured. ``strict``: raise UsageError where none is meant."""
        if not self.limits:
            return ranges
        names = [
            tensor_key(scope.path, name)
            for scope in _scopes(view)
            for node in scope.nodes
            for name in dict.fromkeys(t.name for t in (*node.inputs, *node.outputs) if t.name)
            if name in scope.tensors
        ]
        known = list(dict.fromkeys([*ranges.tensors, *names]))
        found = dict(ranges.tensors)
        problems = []
        for pattern, limit in self.limits.items():
            meant = [key for key in known if _is_called(pattern, key)]
            found.update((name, _bounded(found.get(name), limit)) for name in meant)
            if not meant:
                problems.append(
                    _nothing(f"{spelled('limits')}: no tensor is called '{pattern}'", pattern, known)
                )
        if problems and strict:
            raise UsageError(problems)
        return replace(ranges, tensors=found)


def gather_wishes(
    *,
    keep_fp32: Names = (),
    keep_fp32_ops: Names = (),
    force_fp16: Names = (),
    force_fp16_ops: Names = (),
    limits: Mapping[str, float] | None = None,
    max_fp32_flops: float | None = None,
    allow: Names | None = None,
    force: bool = False,
) -> Wishes:
    """Check the values as users give them; raises UsageError naming every one that makes no sense."""
    problems: list[Problem] = []
    limits = dict(limits or {})
    patterns = {"keep_fp32": _several(keep_fp32), "force_fp16": _several(force_fp16), "limits": tuple(limits)}
    for option, pattern in ((option, entry) for option, entries in patterns.items() for entry in entries):
        if not pattern:
            found = f"{spelled(option)}: an empty pattern fits every name"
            problems.append(Problem("USAGE-VALUE", found, hint="write .* if all are meant"))
        try:
            re.compile(pattern)
        except re.error as error:
            found = f"{spelled(option)}: '{pattern}' is no regular expression: {error}"
            problems.append(
                Problem("USAGE-VALUE", found, hint="put a \\ before . * + ? ( ) [ ] that you mean")
            )
    for pattern, limit in limits.items():
        if not 0 < limit < math.inf:
            found = f"{spelled('limits')}: '{pattern}' is {limit!r}; it must be positive"
            problems.append(Problem("USAGE-VALUE", found))
    if max_fp32_flops is not None and not 0 <= max_fp32_flops <= 1:
        found = f"{spelled('max_fp32_flops')} is {max_fp32_flops!r}; it must be a share between 0 and 1"
        problems.append(Problem("USAGE-VALUE", found))
    allowed = None if allow is None else frozenset(_several(allow))
    for name in sorted((allowed or frozenset()) - set(EQUAL)):
        expected = ", ".join(EQUAL)
        problems.append(
            Problem(
                "USAGE-VALUE",
                f"{spelled('allow')}: '{name}' is none of {expected}",
                hint=closest(name, EQUAL),
            )
        )
    if problems:
        raise UsageError(problems)
    return Wishes(
        patterns["keep_fp32"],
        _several(keep_fp32_ops),
        patterns["force_fp16"],
        _several(force_fp16_ops),
        limits,
        max_fp32_flops,
        allowed,
        force,
    )


def _several(value: Names) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _scopes(view: GraphView) -> Iterator[ScopeView]:
    yield view.main
    yield from view.main.inside()


def _is_called(pattern: str, key: str) -> bool:
    """Whether the pattern matches a name, alone or with the scope before it (``4:body:0::h``)."""
    return any(re.match(pattern, name) for name in (key, _SCOPE.sub("", key)))


def _by_name(
    nodes: Mapping[Place, str], patterns: Iterable[str], option: str, problems: list[Problem]
) -> dict[Place, str]:
    found: dict[Place, str] = {}
    for pattern in patterns:
        meant = [place for place, label in nodes.items() if _is_called(pattern, tensor_key(place[0], label))]
        found.update(dict.fromkeys(meant, f"{option} asks for '{pattern}'"))
        if not meant:
            message = f"{option}: no node is called '{pattern}'"
            problems.append(_nothing(message, pattern, nodes.values()))
    return found


def _by_op(
    ops: Mapping[Place, str], wanted: Iterable[str], option: str, problems: list[Problem]
) -> dict[Place, str]:
    """Op types of ONNX that the model does not have are no mistake: lists of them serve many models."""
    present = set(ops.values())
    for name in wanted:
        if name not in present and not is_known(name):
            similar = closest(name, present) or (
                f"did you mean '{op}'?" if (op := similar_ops(name)) else None
            )
            problems.append(Problem("USAGE-WISH", f"{option}: there is no op type '{name}'", hint=similar))
    return {index: f"{option} asks for {op}" for index, op in ops.items() if op in set(wanted)}


def _nothing(message: str, pattern: str, known: Iterable[str]) -> Problem:
    names = list(dict.fromkeys(known))
    plain = re.sub(r"[\\^$*+?()\[\]{}|]", "", pattern).strip(".")
    inside = [name for name in names if plain and plain in name][:3]
    near = inside or get_close_matches(plain, names, 3, 0.5)
    hint = f"it must match from the start of a name; closest: {', '.join(map(repr, near))}" if near else None
    return Problem("USAGE-WISH", message, hint=hint)


def _contradiction(label: str, reason: str, hint: str) -> Problem:
    return Problem("USAGE-CONTRADICTION", reason, node=label, hint=hint)


def _bounded(entry: TensorRange | None, limit: float) -> LimitedRange:
    """The range stretched or cut so that its largest magnitude is ``limit``; signs seen stay what they were."""
    if entry is None or entry.minimum > entry.maximum or not entry.absmax:
        return LimitedRange(-limit, limit, shape=() if entry is None else entry.shape)
    changed = {
        "minimum": -limit if entry.minimum < 0 else min(entry.minimum, limit),
        "maximum": limit if entry.maximum > 0 else max(entry.maximum, -limit),
        "smallest": min(entry.smallest, limit),
        "mean_abs": min(entry.mean_abs, limit),
        "exact_sum": None,
    }
    return LimitedRange(**{item.name: getattr(entry, item.name) for item in fields(entry)} | changed)
