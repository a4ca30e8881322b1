"""One op of a pattern against the readings of a value: op, attributes, inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from onnx_fp16fix.language.bindings import Binding, State
from onnx_fp16fix.language.compare import literal
from onnx_fp16fix.language.expression import Expr, Name
from onnx_fp16fix.language.operations import default_attributes
from onnx_fp16fix.language.pattern import Operation, Wild
from onnx_fp16fix.language.terms import Reading, Term
from onnx_fp16fix.wording import counted

if TYPE_CHECKING:
    from onnx_fp16fix.language.match import Matcher

__all__ = ["Operations"]


class Operations:
    """Matches ``Operation`` patterns for a matcher."""

    def __init__(self, matcher: Matcher) -> None:
        self.matcher, self.canonical = matcher, matcher.canonical

    def match(self, pattern: Operation, term: Term, state: State) -> Iterator[State]:
        """Every way the operation is a reading of the value."""
        found = False
        for reading in self.canonical.readings(term):
            if reading.op != pattern.op or reading.domain != pattern.domain:
                continue
            if pattern.literal and not reading.direct:
                continue
            found = True
            started = self._attributes(pattern, reading, state)
            if started is not None:
                yield from self._arguments(pattern, reading, 0, started.inside(reading.nodes).deeper())
        trace = self.matcher.trace
        if not found and trace is not None:
            trace.note(state, lambda: f"match: expected {pattern.op}, found {self.matcher.label(term)}")

    def _arguments(self, pattern: Operation, reading: Reading, slot: int, state: State) -> Iterator[State]:
        trace = self.matcher.trace
        if slot == len(pattern.args):
            rest = reading.args[slot:]
            if pattern.star is not None:
                tensors = tuple(term.tensor if term is not None else None for term in rest)
                yield state.bind(pattern.star, Binding(value=tensors))
            elif not rest:
                yield state
            elif trace is not None:
                trace.note(
                    state, lambda: f"match: {self._at(reading)} has {counted(len(rest), 'more input')}"
                )
            return
        term = reading.args[slot] if slot < len(reading.args) else None
        if term is None:
            if isinstance(pattern.args[slot], Wild):
                yield from self._arguments(pattern, reading, slot + 1, state)
            elif trace is not None:
                trace.note(state, lambda: f"match: {self._at(reading)} has no input {slot}")
            return
        for found in self.matcher.match(pattern.args[slot], term, state):
            yield from self._arguments(pattern, reading, slot + 1, found)

    def _at(self, reading: Reading) -> str:
        if not reading.nodes:
            return reading.op
        return f"{reading.op} '{self.matcher.scope.nodes[reading.nodes[0]].label}'"

    def _attributes(self, pattern: Operation, reading: Reading, state: State) -> State | None:
        mentioned = set()
        for key, wanted in pattern.attributes:
            mentioned.add(key)
            found = reading.attributes.get(key)
            if isinstance(wanted, Name):
                if wanted.id == "_":
                    continue
                bound = state.bindings.get(wanted.id)
                if found is None or (bound is not None and bound.value != found):
                    self._differs(reading, state, key, found, None if bound is None else bound.value)
                    return None
                state = state.bind(wanted.id, Binding(value=found))
            elif not self._equals(found, wanted, reading):
                self._differs(reading, state, key, found, literal(wanted))
                return None
        others = {key: value for key, value in reading.attributes.items() if key not in mentioned}
        if pattern.stars is not None:
            return state.bind(pattern.stars, Binding(value=others))
        defaults = default_attributes(reading.op, self.canonical.opset) if not reading.domain else {}
        for key, value in others.items():
            if defaults.get(key) != value:
                self._differs(reading, state, key, value, defaults.get(key, "no such attribute"))
                return None
        return state

    def _differs(self, reading: Reading, state: State, key: str, found: Any, wanted: Any) -> None:
        trace = self.matcher.trace
        if trace is not None:
            expected = "a value" if wanted is None else _show(wanted)
            trace.note(
                state.inside(reading.nodes),
                lambda: f"match: {self._at(reading)} has {key}={_show(found)}, expected {expected}",
            )

    def _equals(self, found: Any, wanted: Expr, reading: Reading) -> bool:
        value = literal(wanted)
        if isinstance(found, bytes) and isinstance(value, str):
            return found == value.encode()
        if isinstance(value, str) or found is None or isinstance(found, bytes):
            return False
        have = list(found) if isinstance(found, list | tuple) else [found]
        want = value if isinstance(value, list) else [value]
        shape = (
            self.canonical.shape(reading.args[0]) if reading.args and reading.args[0] is not None else None
        )
        counted = reading.op.startswith("Reduce") or reading.op in ("Softmax", "LogSoftmax")
        if shape is not None and counted and all(isinstance(item, int) for item in have):
            want = [item + len(shape) if item < 0 else item for item in want]
        return len(have) == len(want) and all(a == b for a, b in zip(sorted(have), sorted(want), strict=True))


def _show(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_show(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
