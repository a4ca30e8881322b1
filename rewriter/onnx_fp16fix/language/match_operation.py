"""One op of a pattern against the readings of a value: op, attributes, inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from onnx_fp16fix.language.bindings import Binding, State
from onnx_fp16fix.language.compare import close, literal
from onnx_fp16fix.language.expression import Name
from onnx_fp16fix.language.operations import default_attributes, has_any_outputs
from onnx_fp16fix.language.pattern import Absent, Operation, Wild
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
            if (
                reading.op != pattern.op
                or reading.domain != pattern.domain
                or reading.output != pattern.output
            ):
                continue
            if pattern.literal and not reading.direct:
                continue
            found = True
            started = self._attributes(pattern, reading, state)
            if started is not None and pattern.group:
                started = self._of_one_node(pattern, reading, started)
            if started is not None:
                yield from self._arguments(pattern, reading, 0, started.inside(reading.nodes).deeper())
        trace = self.matcher.trace
        if not found and trace is not None:
            trace.note(state, lambda: f"match: expected {pattern.op}, found {self.matcher.label(term)}")

    def _of_one_node(self, pattern: Operation, reading: Reading, state: State) -> State | None:
        """The outputs that one step of the pattern names are those of one node; of a Split, all of them."""
        node = self.matcher.scope.nodes[reading.nodes[0]]
        if has_any_outputs(pattern.op) and len(node.outputs) != pattern.outputs:
            self._differs(reading, state, "outputs", len(node.outputs), pattern.outputs)
            return None
        bound = state.bindings.get(pattern.group)
        if bound is None:
            return state.bind(pattern.group, Binding(value=node.index))
        return state if bound.value == node.index else None

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
            if isinstance(pattern.args[slot], Wild | Absent):
                yield from self._arguments(pattern, reading, slot + 1, state)
            elif trace is not None:
                trace.note(state, lambda: f"match: {self._at(reading)} has no input {slot}")
            return
        if isinstance(pattern.args[slot], Absent) and trace is not None:
            trace.note(state, lambda: f"match: {self._at(reading)} has an input {slot}")
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
                places = () if bound is None else bound.attributes
                if reading.direct:
                    places = (*places, (reading.nodes[0], key))
                state = state.bind(wanted.id, Binding(value=found, attributes=places))
            elif not self._equals(key, found, literal(wanted), reading):
                self._differs(reading, state, key, found, literal(wanted))
                return None
        others = {key: value for key, value in reading.attributes.items() if key not in mentioned}
        if pattern.stars is not None:
            return state.bind(pattern.stars, Binding(value=others))
        defaults = default_attributes(reading.op, self.canonical.opset) if not reading.domain else {}
        for key, value in others.items():
            if key not in defaults or not self._equals(key, value, defaults[key], reading):
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

    def _equals(self, key: str, found: Any, value: Any, reading: Reading) -> bool:
        if isinstance(found, bytes) and isinstance(value, str | bytes):
            return found == (value.encode() if isinstance(value, str) else value)
        if isinstance(value, str | bytes) or found is None or isinstance(found, bytes):
            return False
        have = list(found) if isinstance(found, list | tuple) else [found]
        want = list(value) if isinstance(value, list | tuple) else [value]
        if len(have) == len(want) and all(map(_alike, have, want)):
            return True
        if key not in ("axis", "axes") or not all(isinstance(item, int) for item in have):
            return False
        rank = self._rank(reading, len(have))
        return None not in want and sorted(_upwards(have, rank)) == sorted(_upwards(want, rank))

    def _rank(self, reading: Reading, axes: int) -> int:
        """What negative axes count from, 0 where it is not known."""
        if reading.domain or reading.op in ("OneHot", "ConcatFromSequence") or not reading.args:
            return 0
        shape = None if reading.args[0] is None else self.canonical.shape(reading.args[0])
        return 0 if shape is None else len(shape) + (axes if reading.op == "Unsqueeze" else 0)


def _alike(found: Any, wanted: Any) -> bool:
    """Floats of attributes are float32."""
    return bool(
        close(found, wanted) if isinstance(found, float) and isinstance(wanted, float) else found == wanted
    )


def _upwards(axes: list[Any], rank: int) -> list[Any]:
    """Axes counted from the first one, where the rank is known."""
    return [axis + rank if axis < 0 else axis for axis in axes]


def _show(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_show(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
