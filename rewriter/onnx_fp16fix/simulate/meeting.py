"""Two runs of one sample side by side, each in a thread: a tensor of one waits until the other has made it too.

Both runs show their tensors in about the same order. What one shows is kept until the other shows the same key for the
same time; who is too far ahead waits, so that memory stays flat however often a body runs.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping

from onnx_fp16fix.runtime import Array

__all__ = ["Meeting", "Stopped", "run_together"]

AHEAD_BYTES = 16 << 20
"""What one side may keep before it waits for the other."""

Met = Callable[[str, int, Mapping[int, Array]], None]
"""Called with a key, the number of the time it was shown, and the arrays by side."""


class Stopped(Exception):
    """The other side has failed."""


class Meeting:
    """Where sides 0 and 1 meet. ``met`` is called by whoever comes second, one call at a time."""

    def __init__(self, met: Met) -> None:
        self._met = met
        self._changed = threading.Condition()
        self._kept: tuple[dict[tuple[str, int], Array], ...] = ({}, {})
        self._bytes = [0, 0]
        self._waiting = [False, False]
        self._left = [False, False]
        self._stopped = False
        self.shown: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        """How often each side has shown each key."""

    def show(self, side: int, key: str, values: Array) -> None:
        """Raises Stopped where the other side has failed."""
        other = 1 - side
        with self._changed:
            place = (key, self.shown[side][key])
            self.shown[side][key] += 1
            partner = self._kept[other].pop(place, None)
            if partner is not None:
                self._bytes[other] -= partner.nbytes
                self._changed.notify_all()
                self._met(*place, {side: values, other: partner})
            elif not self._left[other]:
                self._kept[side][place] = values
                self._bytes[side] += values.nbytes
                self._wait(side)
            if self._stopped:
                raise Stopped

    def _wait(self, side: int) -> None:
        """Until the other side has caught up. Never both: what one keeps, the other may never make."""
        other = 1 - side
        self._waiting[side] = True
        self._changed.notify_all()
        while self._is_ahead(side) and not (self._left[other] or self._stopped):
            if self._waiting[other] and self._is_ahead(other):
                break
            self._changed.wait()
        self._waiting[side] = False

    def _is_ahead(self, side: int) -> bool:
        return self._bytes[side] > AHEAD_BYTES

    def leave(self, side: int, *, failed: bool = False) -> None:
        """The side shows nothing more."""
        with self._changed:
            self._left[side] = True
            self._stopped |= failed
            self._changed.notify_all()


def run_together(meeting: Meeting, first: Callable[[], object], second: Callable[[], object]) -> None:
    """Run both sides to their ends, ``second`` in this thread. Raises what either of them raised."""
    failures: list[BaseException] = []

    def attend(side: int, run: Callable[[], object]) -> None:
        failed = True
        try:
            run()
            failed = False
        except Stopped:
            pass
        except BaseException as error:
            failures.append(error)
        finally:
            meeting.leave(side, failed=failed)

    thread = threading.Thread(target=attend, args=(0, first), name="fp16fix-reference", daemon=True)
    thread.start()
    attend(1, second)
    thread.join()
    if failures:
        raise failures[0]
