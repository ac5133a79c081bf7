"""Notices, in the process of a run, that its steps have ceased: a rank that waits for ever, a disk that is gone."""

import threading
import time
from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Self

HUNG_STEPS = 20
"""A run hangs when it was silent for so many of its steps."""
STARTUP = 4
"""A run may take so many times the least limit to its first step."""
TICK_S = 1.0


def silence_limit(step_s: float, *, minimum_s: float, startup_s: float) -> float:
    """Seconds of silence after which a run hangs: max(minimum_s, 20 · step_s), and startup_s before its first step.

    `step_s` is its median step, 0 while it has done none. Validations need no limit of their own: each of their
    batches is a sign of life.

    >>> [silence_limit(step_s, minimum_s=900, startup_s=3600) for step_s in (0, 2.5, 60)]
    [3600, 900, 1200]
    """
    return max(minimum_s, HUNG_STEPS * step_s) if step_s else startup_s


class Pace:
    """The median time of a step over the last hundred signs of life that followed at least one step."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.last: tuple[float, int] | None = None
        self.recent: deque[float] = deque(maxlen=100)

    def at(self, steps: int) -> None:
        """Note that `steps` steps are done; repeated in a validation, whose time is no step's."""
        now = self.clock()
        if self.last is not None and steps > self.last[1]:
            self.recent.append((now - self.last[0]) / (steps - self.last[1]))
        self.last = now, steps

    @property
    def step_s(self) -> float:
        """The median, 0 before the first step."""
        return median(self.recent) if self.recent else 0.0


class Watchdog:
    """A thread that calls `on_hang(silent_s)`, in itself, when no `beat` came for `limit()` seconds: once per silence.

    The time in which the whole process stood still (SIGSTOP, as of a suspended job) counts as no silence. A main thread
    that hangs without giving up the interpreter's lock silences the watchdog too: that takes someone outside.

        pace = Pace()
        limit = lambda: silence_limit(pace.step_s, minimum_s=900, startup_s=3600)
        with Watchdog(limit, on_hang) as watchdog:
            ...  # pace.at(steps) and watchdog.beat() at every sign of life
    """

    def __init__(
        self,
        limit: Callable[[], float],
        on_hang: Callable[[float], None],
        *,
        tick_s: float = TICK_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit, self.on_hang, self.tick_s, self.clock = limit, on_hang, tick_s, clock
        self._beats = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def beat(self) -> None:
        """A sign of life, from any thread."""
        self._beats += 1

    def _watch(self) -> None:
        seen, silent_s, told = self._beats, 0.0, False
        before = self.clock()
        while not self._ended.wait(self.tick_s):
            now = self.clock()
            asleep_s, before = now - before, now
            if seen != self._beats:
                seen, silent_s, told = self._beats, 0.0, False
                continue
            # Of a tick that took far longer than asked for, this thread slept through the rest like all others.
            silent_s += min(asleep_s, 2 * self.tick_s)
            if silent_s > self.limit() and not told:
                told = True
                self.on_hang(silent_s)
