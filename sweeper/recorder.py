"""What a run tells while it trains: metrics, heartbeats, and why it ended where no step comes any more."""

import faulthandler
import json
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TextIO

from sweeper.records import (
    Beat,
    End,
    JobFile,
    SweepFolder,
    is_superseded,
    write_beat,
    write_end,
    write_rank_end,
)
from sweeper.watchdog import STARTUP, Pace, Watchdog, silence_limit
from sweeper.worker_entry import Stop

LAST_WORDS_S = 30.0
"""What a hung process gets to write down why it ends: its disk may be what it hangs on."""
EXIT_HUNG = 75

log = logging.getLogger("sweeper.recorder")


class Recorder:
    """Writes metrics of the runs that are trained together, and their heartbeats from a thread of its own."""

    def __init__(
        self,
        folder: SweepFolder,
        job: JobFile,
        members: Sequence[tuple[str, int, TextIO]],
        stop: Stop,
        *,
        rank: int,
        by_command: bool,
    ) -> None:
        self.folder, self.members, self.leads, self.stop = folder, members, rank == 0, stop
        self.by_command = by_command
        self.heartbeat_s = job.heartbeat_s
        self.standing: dict[int, Beat] = {}
        self.pace = Pace()
        self.stepped = 0.0
        self.rank = rank
        self.hang_s = job.cluster.hang_s if job.cluster else math.inf
        self.watchdog = Watchdog(self._limit_s, self._give_up)
        self.ended = threading.Event()
        self.writing = threading.Lock()
        self.thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)
        self.full = self.finished = False

    def _limit_s(self) -> float:
        """How long there may be no step. A command that never told of one may take for ever."""
        startup_s = math.inf if self.by_command else STARTUP * self.hang_s
        return silence_limit(self.pace.step_s, minimum_s=self.hang_s, startup_s=startup_s)

    def __enter__(self) -> "Recorder":
        if self.leads:
            self.thread.start()
        self.watchdog.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.watchdog.__exit__()
        self.ended.set()
        if self.leads:
            self.thread.join()
            if not self.finished:
                self._beat()  # how far it came, for whoever decides about another attempt

    def finish(self) -> None:
        """No more steps come, and that is no silence: what is left is to write down the outcome, in whatever time."""
        self.watchdog.__exit__()
        for member, standing in tuple(self.standing.items()):
            self.standing[member] = replace(standing, limit_s=0.0)
        if self.leads:
            self._beat()  # how far it came, for whoever decides about another attempt
        self.finished = True

    def leave(self, member: int) -> None:
        """A member that makes no steps any more, while others do: its last sign of life, and no silence after it."""
        if member in self.standing:
            self.standing[member] = replace(self.standing[member], limit_s=0.0)
        self._beat()
        self.standing.pop(member, None)

    def metrics(self, member: int, row: Mapping[str, float]) -> None:
        """One line of metrics.jsonl; what is not a number becomes null. A full disk costs lines, not the run."""
        *_, file = self.members[member]
        try:
            file.write(json.dumps({key: finite(value) for key, value in row.items()}) + "\n")
            file.flush()
            self.full = False
        except OSError as error:
            if not self.full:
                log.warning("metrics cannot be written (%s); training goes on without them", error.strerror)
            self.full = True

    def progress(self, member: int, step: int, steps: int, tokens_per_s: float) -> None:
        """Where a member stands; the heartbeat carries it on."""
        run_id, *_ = self.members[member]
        before = self.standing.get(member)
        now = time.time()
        if self.by_command and (before is None or step > before.step):
            self.alive(step)
        limit_s = self._limit_s()
        self.standing[member] = Beat(
            time=now,
            run_id=run_id,
            step=step,
            steps=steps,
            tokens_per_s=tokens_per_s,
            first_step=before.first_step
            if before and not (self.by_command and before.step == 0)
            else self._began(step),
            stepped=self.stepped or now,
            step_s=self.pace.step_s,
            limit_s=limit_s if limit_s < math.inf else 0.0,
        )
        if before is None:
            self._beat()

    def _began(self, step: int) -> int:
        """Where this attempt began; a command's is known only from the first step that it tells of."""
        return max(0, step - 1) if self.by_command else step

    def note(self, member: int, text: str) -> None:
        """Trouble that training outlives."""
        run_id, *_ = self.members[member]
        log.warning("%s", f"{run_id}: {text}" if len(self.members) > 1 else text)

    def alive(self, steps: int) -> None:
        """Told on every rank at every look."""
        self.stepped = time.time()
        self.pace.at(steps)
        self.watchdog.beat()

    def _give_up(self, silent_s: float) -> None:
        """End this process: no step for so long, and nothing in it can be asked to stop; least of all its disk."""
        impatient = threading.Timer(LAST_WORDS_S, os._exit, (EXIT_HUNG,))
        impatient.daemon = True
        impatient.start()
        try:
            self._say_why(f"no step for {silent_s:.0f} s")
        finally:
            os._exit(EXIT_HUNG)

    def _say_why(self, reason: str) -> None:
        log.error("%s: giving up; the stacks of all threads follow", reason)
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.FileHandler) and handler.stream is not None:
                faulthandler.dump_traceback(handler.stream)
        end = End(state="lost", cause="hung", reason=reason)
        for run_id, number, _ in self.members:
            if is_taken_over(self.folder, run_id, number):
                continue
            if self.leads:
                write_end(self.folder, run_id, number, end)
            else:
                write_rank_end(self.folder, run_id, number, self.rank, end)

    def _beat_on(self) -> None:
        while not self.ended.wait(self.heartbeat_s):
            self._beat()

    def _beat(self) -> None:
        """A sign of life on the disk; one that the disk does not take is made up for by the next."""
        with self.writing:
            self._beat_once()

    def _beat_once(self) -> None:
        now, found = time.time(), tuple(self.standing.items())
        latest = max((standing.stepped for _, standing in found), default=0.0)
        for member, standing in found:
            run_id, number, _ = self.members[member]
            if standing.stepped < latest:  # it waits while others make their steps, for as long as they take
                standing = replace(standing, limit_s=0.0)
            try:
                if is_superseded(self.folder, run_id, number):
                    if len(self.members) > 1:  # it leaves the others when it would write next
                        continue
                    if not self.finished:  # else by the end that it wrote itself, say
                        self.stop.received = self.stop.received or signal.SIGTERM
                    return
                write_beat(self.folder, run_id, number, replace(standing, time=now))
            except OSError as error:
                log.warning("the heartbeat cannot be written (%s)", error.strerror)


def is_taken_over(folder: SweepFolder, run_id: str, number: int) -> bool:
    """Whether this attempt is known to be no longer the one: a disk that cannot be asked has taken nothing over."""
    try:
        return is_superseded(folder, run_id, number)
    except OSError as error:
        log.warning("whether another attempt took over is not known (%s)", error.strerror)
        return False


def finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
