"""The operands of a case, each with the way to put another in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from onnx_fp16fix.language.expression import Binary, Call, Expr, Name, Output, Suite, Unary

__all__ = ["places"]


def places(suite: Suite) -> Iterator[tuple[Expr, Callable[[Expr], Suite]]]:
    """Every operand of the suite with the function that puts another in its place."""
    several: set[Call] = set()
    for index, (name, expr) in enumerate(suite.steps):

        def put(new: Expr, index: int = index, name: Name = name) -> Suite:
            steps = [*suite.steps]
            steps[index] = (name, new)
            return Suite(tuple(steps), suite.result)

        if not isinstance(expr, Output):
            yield from _inside(expr, put)
        elif expr.call not in several:  # once for all the names of its outputs
            several.add(expr.call)
            yield from (
                (part, other)
                for part, other in _inside(expr.call, _putter(suite, expr.call))
                if part is not expr.call
            )
    yield from _inside(suite.result, lambda new: Suite(suite.steps, new))


def _putter(suite: Suite, call: Call) -> Callable[[Expr], Suite]:
    """Puts another call into all steps that name outputs of this one."""

    def put(new: Expr) -> Suite:
        assert isinstance(new, Call)
        steps = tuple(
            (name, replace(expr, call=new) if isinstance(expr, Output) and expr.call == call else expr)
            for name, expr in suite.steps
        )
        return Suite(steps, suite.result)

    return put


def _inside(expr: Expr, put: Callable[[Expr], Suite]) -> Iterator[tuple[Expr, Callable[[Expr], Suite]]]:
    """The expression and every operand below it (attributes are none)."""
    yield expr, put
    if isinstance(expr, Unary):
        yield from _inside(expr.operand, lambda new: put(replace(expr, operand=new)))
    elif isinstance(expr, Binary):
        yield from _inside(expr.left, lambda new: put(replace(expr, left=new)))
        yield from _inside(expr.right, lambda new: put(replace(expr, right=new)))
    elif isinstance(expr, Call):
        for slot, argument in enumerate(expr.args):

            def swap(new: Expr, slot: int = slot) -> Suite:
                return put(replace(expr, args=(*expr.args[:slot], new, *expr.args[slot + 1 :])))

            yield from _inside(argument, swap)
