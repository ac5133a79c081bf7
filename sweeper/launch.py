"""Bring a sweep to its end on this machine: freeze it, start what is left, follow it, take up what died."""

import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from model.config import DataConfig
from model.corpus import check_corpus, read_corpus
from sweeper import scheduler
from sweeper.errors import DataError, LaunchError
from sweeper.plan import Plan, make_plan, plan_json
from sweeper.records import (
    Beat,
    JobFile,
    Owner,
    SweepFolder,
    is_lost,
    launcher_lock,
    live_jobs,
    read_attempts,
    read_beat,
    read_evidence,
    write_job,
    write_json,
    write_spec,
    write_text,
)
from sweeper.snapshot import take_snapshot
from sweeper.spec import RunSpec, Sweep
from sweeper.status import FINISHED, State, states

POLL_S = 0.2
HEARTBEAT_S = 1.0
STOP_TIMEOUT_S = 60.0
"""How long workers may take to write their last checkpoint before they are killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a launch stands, for a progress bar."""

    finished: int
    runs: int
    tokens_done: int
    tokens: int
    tokens_per_s: float
    """Of the runs in progress, added up."""
    running: tuple[Beat, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A run that ended without a result, and why."""

    run_id: str
    reason: str
    log: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchResult:
    """What a launch did."""

    started: int
    """Runs that this launch started (each counted once, however many attempts it took)."""
    found: int
    """Runs that already had a result."""
    states: Mapping[State, int]
    failures: tuple[Failure, ...]
    wall_time_s: float
    interrupted: bool


def plan_sweep(sweep: Sweep, specs: Sequence[RunSpec], folder: SweepFolder) -> Plan:
    """The plan of a sweep as the disk shows it now."""
    found = states(read_evidence(folder, [spec.run_id for spec in specs]))
    return make_plan(sweep.name, specs, found, sweep.cluster, sweep.execution)


def check_data(specs: Sequence[RunSpec]) -> tuple[str, ...]:
    """Read every source of a sweep once and refuse what cannot be trained on; returns notes on repeated data.

    Raises:
        DataError: A source cannot be read, its tokens do not fit the model, or it holds too little text.
    """
    notes = []
    for (data, vocab), members in _by_source(specs).items():
        needs = {(spec.train.model.context, spec.train.evaluation.sequences) for spec in members}
        try:
            corpus = read_corpus(data, vocab)
            for context, sequences in needs:
                check_corpus(corpus, vocab=vocab, context=context, evaluation_sequences=sequences)
        except ValueError as error:
            raise DataError(str(error)) from error
        largest = max(spec.train.tokens for spec in members)
        epochs = corpus.epochs(largest)
        if epochs > 1:
            notes.append(
                f"data={data.source} holds {corpus.train_tokens:,} training tokens: "
                f"the largest budget ({largest:,} tokens) reads them {epochs:.2g} times"
            )
    return tuple(notes)


def _by_source(specs: Sequence[RunSpec]) -> dict[tuple[DataConfig, int], list[RunSpec]]:
    found: dict[tuple[DataConfig, int], list[RunSpec]] = {}
    for spec in specs:
        found.setdefault((spec.train.data, spec.train.model.vocab), []).append(spec)
    return found


def launch(
    sweep: Sweep, specs: Sequence[RunSpec], folder: SweepFolder, follow: Callable[[Standing], None]
) -> LaunchResult:
    """Run every cell without a result, a bounded number at a time, and return when none is left.

    Runs with a result are not run again; runs that another launcher's workers still train are waited for; runs whose
    worker was killed resume from their checkpoint, up to `cluster.attempts` times. Ctrl-C lets every worker write a
    checkpoint first, so that the next launch resumes.

    Args:
        follow: Called several times a second with the standing.

    Raises:
        DataError: The data cannot be read or do not fit; nothing is started.
        LaunchError: Another launch of this sweep is alive, torch is missing, or the folder cannot be written.
    """
    if find_spec("torch") is None:
        raise LaunchError("training needs torch and none is installed here; pip install 'sweeper-lm[train]'")
    check_data(specs)
    with launcher_lock(folder):
        began = time.monotonic()
        plan = plan_sweep(sweep, specs, folder)
        code = _freeze(sweep, plan, folder)
        following = _Following(sweep=sweep, folder=folder, code=code, plan=plan, specs={s.run_id: s for s in specs})
        interrupted = False
        try:
            with _terminated_like_interrupted():
                while following.step():
                    follow(following.standing())
                    time.sleep(POLL_S)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            following.stop()
            follow(following.standing())
        final = plan_sweep(sweep, specs, folder)
        write_json(folder.path / "plan.json", plan_json(final))
        return LaunchResult(
            started=len(following.started),
            found=sum(run.state in FINISHED for run in plan.runs),
            states=final.totals.states,
            failures=tuple(following.failures),
            wall_time_s=time.monotonic() - began,
            interrupted=interrupted,
        )


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends a launch as Ctrl-C does: workers first write their checkpoints."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _freeze(sweep: Sweep, plan: Plan, folder: SweepFolder) -> str:
    """Write down what was asked for, then copy the code; returns the code's hash."""
    write_text(folder.path / "sweep.yaml", sweep.resolved)
    write_json(folder.path / "plan.json", plan_json(plan))
    return take_snapshot(folder.code)


@dataclass(slots=True, kw_only=True)
class _Active:
    owner: Owner
    runs: tuple[str, ...]
    slot: scheduler.Slot | None
    """None for a job of an earlier launcher that found no slot free any more."""


@dataclass(slots=True, kw_only=True)
class _Following:
    """The moving parts of one launch: what waits, what runs, what was seen to end."""

    sweep: Sweep
    folder: SweepFolder
    code: str
    plan: Plan
    specs: Mapping[str, RunSpec]
    waiting: deque[RunSpec] = field(init=False)
    free: list[scheduler.Slot] = field(init=False)
    active: dict[str, _Active] = field(init=False, default_factory=dict)
    """By job id."""
    ended: dict[str, State] = field(init=False)
    lost: Counter[str] = field(init=False, default_factory=Counter)
    """How often the worker of a run died without a word."""
    started: set[str] = field(init=False, default_factory=set)
    failures: list[Failure] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.waiting = deque(spec for job in self.plan.jobs for spec in job.runs)
        self.ended = {run.run_id: run.state for run in self.plan.runs if run.state in FINISHED}
        self.free = list(reversed(scheduler.slots(self.sweep.cluster, self.sweep.execution)))
        for job, (file, owner) in live_jobs(self.folder).items():
            self._adopt(job, owner, file.runs)
        for run in self.plan.runs:
            if run.state == "running":
                self._adopt_holder(run.run_id)

    def _adopt(self, job: str, owner: Owner, runs: tuple[str, ...]) -> None:
        """Wait for a job that an earlier launcher started; it takes a slot like our own."""
        if any(run_id in self.specs for run_id in runs):
            self.active[job] = _Active(owner=owner, runs=runs, slot=self.free.pop() if self.free else None)

    def _adopt_holder(self, run_id: str) -> None:
        """Wait for the living process that holds a run, whichever job it belongs to."""
        attempts = read_attempts(self.folder, run_id)
        if attempts and attempts[-1].job not in self.active:
            self._adopt(attempts[-1].job, attempts[-1].owner, (run_id,))

    def step(self) -> bool:
        """Take up what ended, start what fits; False when nothing is left to wait for."""
        for job in [job for job, active in self.active.items() if self._gone(job, active)]:
            self._take_up(job)
        while self.waiting and self.free:
            self._start(self.waiting.popleft(), self.free.pop())
        return bool(self.active or self.waiting)

    def _gone(self, job: str, active: _Active) -> bool:
        if active.owner.here:
            return not active.owner.alive
        beat = read_beat(self.folder, job)
        return is_lost(active.owner, beat.time if beat else 0.0)

    def _start(self, spec: RunSpec, slot: scheduler.Slot) -> None:
        write_spec(self.folder, spec)
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{spec.run_id}-{os.getpid()}-{self.lost[spec.run_id]}"
        job = JobFile(
            job=name,
            runs=(spec.run_id,),
            code=self.code,
            processes=self.sweep.cluster.processes,
            heartbeat_s=HEARTBEAT_S,
            execution=self.sweep.execution,
        )
        path = write_job(self.folder, job).resolve()
        owner = scheduler.submit(path, self.sweep.cluster, slot, _environment(self.folder, job))
        self.active[name] = _Active(owner=owner, runs=job.runs, slot=slot)
        self.started.add(spec.run_id)

    def _take_up(self, job: str) -> None:
        active = self.active.pop(job)
        if active.slot is not None:
            self.free.append(active.slot)
        found = states(read_evidence(self.folder, active.runs))
        for run_id, state in found.items():
            if state in FINISHED:
                self.ended[run_id] = state
            elif state == "failed":
                self.ended[run_id] = state
                self.failures.append(self._failure(run_id, job))
            elif state == "running":
                self._adopt_holder(run_id)
            elif run_id in self.specs:
                self._again(run_id, job)

    def _again(self, run_id: str, job: str) -> None:
        """A worker died without a word: its run waits for another attempt, unless that happened too often."""
        self.lost[run_id] += 1
        if self.lost[run_id] < self.sweep.cluster.attempts:
            self.waiting.appendleft(self.specs[run_id])
        else:
            self.ended[run_id] = "failed"
            self.failures.append(self._failure(run_id, job))

    def _failure(self, run_id: str, job: str) -> Failure:
        attempts = read_attempts(self.folder, run_id)
        last = attempts[-1] if attempts and attempts[-1].job == job else None
        if last is not None and last.end is not None and last.end.state == "error":
            return Failure(run_id=run_id, reason=last.end.reason, log=self.folder.attempt(run_id, last.number) / "log")
        lines = scheduler.log_tail(self.folder.jobs / job, lines=1)
        reason = f"its worker died {self.lost[run_id]} times without a record" + (f" ({lines})" if lines else "")
        return Failure(run_id=run_id, reason=reason, log=self.folder.jobs / job / "submitit")

    def standing(self) -> Standing:
        """Tokens done and the speed of what runs, from the heartbeats."""
        planned = {run.run_id: run for run in self.plan.runs}
        beats = [read_beat(self.folder, job) for job in self.active]
        running = tuple(beat for beat in beats if beat is not None and beat.run_id in planned)
        partial = sum(planned[b.run_id].tokens * b.step / max(1, b.steps) for b in running)
        return Standing(
            finished=len(self.ended),
            runs=len(self.plan.runs),
            tokens_done=int(sum(planned[r].tokens for r in self.ended if r in planned) + partial),
            tokens=self.plan.totals.tokens,
            tokens_per_s=sum(beat.tokens_per_s for beat in running),
            running=running,
        )

    def stop(self) -> None:
        """Ask what still runs to write a checkpoint and end; kill what does not."""
        for active in self.active.values():
            if active.owner.here:
                scheduler.terminate(active.owner)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while any(a.owner.here and a.owner.alive for a in self.active.values()) and time.monotonic() < deadline:
            time.sleep(POLL_S / 4)
        for active in self.active.values():
            if active.owner.here:
                scheduler.kill(active.owner)


def _environment(folder: SweepFolder, job: JobFile) -> dict[str, str]:
    """What a job's processes see: the frozen code first, one pool of threads of the size asked for."""
    threads = str(job.execution.threads)
    return {
        "PYTHONPATH": str((folder.code / job.code).resolve()),
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
    }
