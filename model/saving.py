"""When a run that trains saves itself: by the clock, one checkpoint at a time, while its steps go on."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from model.checkpoint import Found, write_checkpoint, write_final
from model.config import CheckpointConfig, TrainConfig
from model.faults import fault


class Saver:
    """Writes the checkpoints of one run in a thread, for the one thread of rank 0 that trains and calls it.

    Serialising, hashing and writing leave the interpreter to the steps but for microseconds a tensor. A checkpoint
    that cannot be written (no space, no permission, no memory) is told through `note` when its end is next looked at:
    the ones before it are kept, and the next is tried when it is due. Other errors are raised then.
    """

    def __init__(
        self, folder: Path, config: TrainConfig, policy: CheckpointConfig, found: Found, note: Callable[[str], None]
    ) -> None:
        self.folder, self.config, self.policy, self.note = folder, config, policy, note
        self.safe_step = found.step
        """Steps done at the newest whole checkpoint; 0: there is none."""
        self._damaged = tuple(found.damaged)
        self._due_at = time.monotonic() + policy.every_s
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._under_way: tuple[int, Future[Path]] | None = None
        self._late = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the one under way: what ends a run does not end its checkpoint, and nothing is written after."""
        self.settle(wait=True)
        self._pool.shutdown()

    def wants(self, now: float) -> bool:
        """Whether one is due at `now`, by `time.monotonic`; one that is still under way puts it off, which is noted."""
        self.settle()
        if now < self._due_at or self._under_way is None:
            return now >= self._due_at
        if not self._late:
            self._late = True
            self.note(
                f"writing the checkpoint of step {self._under_way[0]} takes longer than execution.checkpoint.every_s = "
                f"{self.policy.every_s:g} s: the next one waits for it; raise every_s, or look at the disk"
            )
        return False

    def save(self, state: Mapping[str, Any], step: int, *, wait: bool) -> str:
        """Write `state`, which nobody changes any more, after what is under way; why it is not safe, or empty.

        Without `wait`, and with `execution.checkpoint.background`, it returns at once: an error is noted later.
        """
        self.settle(wait=True)
        written = self._pool.submit(
            write_checkpoint, self.folder, state, config=self.config, step=step, damaged=self._damaged
        )
        self._under_way, self._late = (step, written), False
        why = self.settle(wait=True) if wait or not self.policy.background else ""
        self._due_at = time.monotonic() + self.policy.every_s
        return why

    def settle(self, *, wait: bool = False) -> str:
        """Learn how the one under way ended, if it has or once it has; why it is not safe, or empty."""
        if self._under_way is None or not (wait or self._under_way[1].done()):
            return ""
        (step, written), self._under_way = self._under_way, None
        error = written.exception()
        if error is None:
            self.safe_step, self._damaged = step, ()
            return ""
        why = _reason(error)
        left = f"the newest one is of step {self.safe_step}" if self.safe_step else "there is none yet"
        self.note(f"the checkpoint of step {step} could not be written to {self.folder} ({why}); {left}")
        return why

    def save_final(self, weights: Mapping[str, Tensor]) -> None:
        """Write the weights of the finished run; that they cannot be kept is noted."""
        try:
            write_final(self.folder, weights, config=self.config)
        except (OSError, MemoryError, RuntimeError) as error:
            self.note(f"the final weights could not be written to {self.folder} ({_reason(error)})")


def _reason(error: BaseException) -> str:
    """What keeps a checkpoint from being written, in a few words; raises what no other disk or memory would mend."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if fault(error) == "memory":
        return "no memory"
    raise error
