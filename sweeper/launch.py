"""Bring a sweep to its end on this machine: freeze it, start what is left, follow it, take up what died."""

import math
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from model.config import AUX_TOKENS, DataConfig
from model.corpus import check_corpus, is_on_hub, read_corpus
from model.devices import machine_memory, why_not_compiled
from model.shape import MEMORY_SHARE
from sweeper.calibration import fits, read_calibration
from sweeper.errors import ConfigError, DataError, LaunchError
from sweeper.loads import Load, loads
from sweeper.plan import Plan, PlannedRun, Speeds, make_plan, plan_json
from sweeper.records import (
    Beat,
    Evidence,
    JobFile,
    Owner,
    Submitted,
    SweepFolder,
    close_job,
    is_held,
    is_recorded,
    launcher_lock,
    local_jobs,
    read_attempts,
    read_beat,
    read_evidence,
    read_jobs,
    read_json,
    write_job,
    write_json,
    write_spec,
    write_submitted,
    write_text,
)
from sweeper.scheduler import local
from sweeper.slurm import Queue, Settings, ask_queue
from sweeper.snapshot import take_snapshot
from sweeper.spec import Cluster, RunSpec, Sweep
from sweeper.status import ACTIVE, FINISHED, State, state_of, states

POLL_S = 0.1
HEARTBEAT_S = 1.0
RENEW_S = 20.0
"""Between renewals of the launcher's lock."""
STOP_TIMEOUT_S = 60.0
"""How long workers may take to write their last checkpoint before they are killed."""
ASK_AGAIN_S = 1.0
"""Between two requests to stop: a worker that is still importing misses the first."""
BROKEN_S = 30.0
"""How long the processes of a job may outlive one of them."""


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
    stacked: int
    """Those of them that have a result and were trained together with others, as a stack."""
    found: int
    """Runs that already had a result."""
    states: Mapping[State, int]
    failures: tuple[Failure, ...]
    wall_time_s: float
    interrupted: bool


def plan_sweep(sweep: Sweep, specs: Sequence[RunSpec], folder: SweepFolder) -> Plan:
    """The plan of a sweep as the disk, this machine and SLURM show it now.

    On cores of this machine each run may take the whole memory: how many are trained at a time follows from it. Those
    that share a GPU take a part of its memory each.
    """
    evidence = read_evidence(folder, [spec.run_id for spec in specs], ask_about(folder))
    cluster, execution = sweep.cluster, sweep.execution
    at_once = cluster.parallel or local.cores() if cluster.scheduler == "local" else 0
    if cluster.scheduler == "local" and fits("cpu", cluster):
        has_gib = machine_memory() / local.GIB / cluster.processes
        cluster = replace(cluster, gpu=replace(cluster.gpu, memory_gib=has_gib))
    elif cluster.scheduler == "local" and cluster.parallel > 1 and execution.device != "cpu":
        sharing = math.ceil(cluster.parallel / max(1, len(local.visible_gpus())))
        cluster = replace(cluster, gpu=replace(cluster.gpu, memory_gib=cluster.gpu.memory_gib / sharing))
    return make_plan(
        sweep.name,
        specs,
        states(evidence),
        cluster,
        execution,
        measured(evidence),
        at_once=at_once,
        calibrated=read_calibration(folder, cluster),
        fuse=sweep.launch.together,
    )


def ask_about(folder: SweepFolder) -> Queue | None:
    """What SLURM says of the jobs of a sweep; None where it has none there."""
    jobs = [job for job, _ in read_jobs(folder).values() if job.cluster is not None]
    return ask_about_jobs(jobs) if jobs else None


def ask_about_jobs(jobs: Sequence[JobFile], settings: Settings | None = None) -> Queue:
    """What SLURM says of these jobs, and of all others of this user."""
    sizes = {job.job: len(job.tasks) for job in jobs}
    return ask_queue(sizes, settings=settings, since=min((job.time for job in jobs), default=None))


def measured(evidence: Mapping[str, Evidence]) -> Speeds:
    """The slowest tokens per second of finished runs, by parameters and number of processes."""
    speeds: dict[tuple[int, int], float] = {}
    for record in (seen.record for seen in evidence.values()):
        # What a member of a stack does says little of a run by itself.
        if record is not None and record.state == "done" and record.stack == 1:
            shape = (record.params_total, record.world_size)
            speeds[shape] = min(record.tokens_per_s, speeds.get(shape, record.tokens_per_s))
    return speeds


def check_runs(specs: Sequence[RunSpec], cluster: Cluster, *, online: bool = True) -> tuple[str, ...]:
    """Refuse what could only fail in a worker; returns notes on data that are read more than once.

    Every source is read once; unless `online`, a dataset of the Hugging Face hub is not.

    Raises:
        ConfigError: A batch cannot be shared out over the processes.
        DataError: A source cannot be read, its tokens do not fit the model, or it holds too little text.
    """
    ours = [spec for spec in specs if spec.trainer.kind == "builtin"]
    for sequences in {spec.train.batch_sequences for spec in ours}:
        if cluster.processes and sequences % cluster.processes:
            raise ConfigError(
                f"a batch of {sequences} sequences cannot be shared out over cluster.processes {cluster.processes}; "
                "choose a divisor, or another batch_tokens"
            )
    notes = []
    # A command reads what it likes, unless the sweep chose data for it.
    reading = [spec for spec in specs if spec.trainer.kind == "builtin" or spec.train.data.fingerprint]
    for (data, vocab), members in _by_source(reading).items():
        if is_on_hub(data) and not online:
            continue
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
    return (*notes, *_small_parts(ours))


def _small_parts(specs: Sequence[RunSpec]) -> list[str]:
    """What to know of batches that fall into much smaller equal parts than a load should be balanced over."""
    small = {}
    for spec in specs:
        train = spec.train
        wanted = min(train.batch_sequences, max(1, AUX_TOKENS // train.model.context))
        if train.balances and not train.model.aux_batch_tokens and 2 * train.aux_sequences < wanted:
            small[train.batch_sequences] = (train.aux_sequences, wanted)
    return [
        f"a batch of {batch} sequences falls into equal parts of {part} (at most {wanted} are wanted): experts are "
        "balanced over each part; choose another batch_tokens, or model.aux_batch_tokens"
        for batch, (part, wanted) in small.items()
    ]


def _by_source(specs: Sequence[RunSpec]) -> dict[tuple[DataConfig, int], list[RunSpec]]:
    found: dict[tuple[DataConfig, int], list[RunSpec]] = {}
    for spec in specs:
        found.setdefault((spec.train.data, spec.train.model.vocab), []).append(spec)
    return found


def launch(
    sweep: Sweep,
    specs: Sequence[RunSpec],
    folder: SweepFolder,
    *,
    follow: Callable[[Standing], None],
    tell: Callable[[str], None],
) -> LaunchResult:
    """Run every cell without a result, a bounded number at a time, and return when none is left.

    Runs with a result are not run again; runs that another launcher's workers still train are waited for; runs whose
    worker was killed resume from their checkpoint, up to `cluster.attempts` times. Ctrl-C, SIGTERM or a closed terminal
    let every worker write a checkpoint first, so that the next launch resumes; a second Ctrl-C kills them.

    Args:
        follow: Called several times a second with the standing.
        tell: Called with each note before anything is started.

    Raises:
        ConfigError: The runs do not fit this machine; nothing is started.
        DataError: The data cannot be read or do not fit; nothing is started.
        DiskError: The folder cannot be written.
        LaunchError: Another launch of this sweep is alive, or torch or Triton is missing.
    """
    if any(spec.trainer.kind == "builtin" for spec in specs) and find_spec("torch") is None:
        raise LaunchError("training needs torch and none is installed here; pip install 'sweeper-lm[train]'")
    if sweep.execution.triton and find_spec("triton") is None:
        raise LaunchError(
            "execution.triton needs Triton and none is installed here; pip install 'sweeper-lm[gpu]' or set it to false"
        )
    for note in (*sweep.notes, *check_runs(specs, sweep.cluster)):
        tell(note)
    with launcher_lock(folder) as renew, _Interrupts() as interrupts:
        began = time.monotonic()
        plan = plan_sweep(sweep, specs, folder)
        code = _freeze(sweep, plan, folder)
        following = _Following(sweep=sweep, folder=folder, code=code, plan=plan, specs={s.run_id: s for s in specs})
        renewed = began
        try:
            while not interrupts.count and following.step():
                follow(following.standing())
                if time.monotonic() - renewed > RENEW_S:
                    renew()
                    renewed = time.monotonic()
                time.sleep(POLL_S)
        finally:
            following.stop(interrupts)
            follow(following.standing())
        records = [seen.record for seen in read_evidence(folder, following.started, jobs=False).values()]
        final = plan_sweep(sweep, specs, folder)
        write_json(folder.path / "plan.json", plan_json(final))
        return LaunchResult(
            started=sum(bool(read_attempts(folder, run_id)) for run_id in following.started),
            stacked=sum(record is not None and record.stack > 1 for record in records),
            found=sum(state in FINISHED for state in {run.run_id: run.state for run in plan.runs}.values()),
            states=final.totals.states,
            failures=tuple(following.failures),
            wall_time_s=time.monotonic() - began,
            interrupted=interrupts.count > 0,
        )


class _Interrupts:
    """Counts Ctrl-C, SIGTERM and SIGHUP while it is open; the launch looks at the count between its steps."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> "_Interrupts":
        # Outside the main thread Python installs no handlers: there the caller's own rule. A signal that is ignored
        # (nohup, a job in the background of a script) stays ignored.
        main = threading.current_thread() is threading.main_thread()
        taken = [n for n in self.SIGNALS if main and signal.getsignal(n) not in (signal.SIG_IGN, None)]
        self.before = {number: signal.signal(number, self._note) for number in taken}
        return self

    def _note(self, _number: int, _frame: Any) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def _freeze(sweep: Sweep, plan: Plan, folder: SweepFolder) -> str:
    """Write down what was asked for, then copy the code; returns the code's hash."""
    write_text(folder.path / "sweep.yaml", sweep.resolved)
    write_json(folder.path / "plan.json", plan_json(plan))
    return take_snapshot(folder.code)


@dataclass(slots=True, kw_only=True)
class _Active:
    owner: Owner
    runs: tuple[str, ...]
    stacked: bool
    """Whether it trains them all at once; else one after another."""
    job: JobFile | None = None
    """Of one that takes further runs; `runs` is the one that it was given last."""
    earlier: int = 0
    """Runs that it was given before that, which have a result."""
    processes: int
    slots: tuple[local.Slot, ...]
    """What it keeps others from; nothing for a job of an earlier launcher that found no slot free any more."""
    broken_since: float | None = None
    """When some of its processes were first seen missing, by the monotonic clock."""


@dataclass(slots=True, kw_only=True)
class _Following:
    """The moving parts of one launch: what waits, what runs, what was seen to end."""

    sweep: Sweep
    folder: SweepFolder
    code: str
    plan: Plan
    specs: Mapping[str, RunSpec]
    planned: dict[str, PlannedRun] = field(init=False)
    waiting: deque[Load] = field(init=False)
    free: list[local.Slot] = field(init=False)
    per_gpu: int = field(init=False)
    """Jobs that share a GPU; 1 where there is none."""
    active: dict[str, _Active] = field(init=False, default_factory=dict)
    """By job id."""
    ended: dict[str, State] = field(init=False)
    lost: Counter[str] = field(init=False, default_factory=Counter)
    """How often the worker of a run died without a word."""
    started: set[str] = field(init=False, default_factory=set)
    failures: list[Failure] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.planned = {run.run_id: run for run in self.plan.runs}
        self.ended = {run_id: run.state for run_id, run in self.planned.items() if run.state in FINISHED}
        memory_gib = max((run.memory_gib for run in self.plan.runs), default=0.0)
        cluster, execution = self.sweep.cluster, self.sweep.execution
        slots = local.slots(cluster, execution, memory_gib)
        builtin = any(spec.trainer.kind == "builtin" for spec in self.specs.values())
        why = why_not_compiled("cuda" if any(slots) else "cpu")
        if execution.compile == "on" and builtin and why:
            raise ConfigError(f"execution.compile=on cannot be: {why}; set it to off")
        self.free = list(reversed(slots))
        self.per_gpu = math.ceil(len(slots) / len(set(slots))) if any(slots) else 1
        for job, (file, owner) in local_jobs(self.folder).items():
            self._adopt(job, owner, file.runs, file.processes, file.gpus, stacked=bool(file.together))
        for run_id, run in self.planned.items():
            if run.state == "running":
                self._adopt_holder(run_id)
        self.waiting = deque(self._loads(slots))
        held = {run_id for active in self.active.values() for run_id in active.runs}
        # What was running when the plan was made and is held by nobody now died in between.
        gone = [r for r, run in self.planned.items() if run.state == "running" and r not in held]
        now = states(read_evidence(self.folder, gone))
        self.waiting.extend(Load(runs=(self.specs[r],)) for r in gone if now[r] not in FINISHED | ACTIVE)

    def _loads(self, slots: Sequence[local.Slot]) -> list[Load]:
        """The runs of the plan, shared out over processes."""
        cluster, execution = self.sweep.cluster, self.sweep.execution
        runs = [spec for job in self.plan.jobs for spec in job.runs]
        if cluster.processes > 1:
            return [Load(runs=(spec,)) for spec in runs]
        gpu = any(slots)
        per_slot = self.per_gpu if gpu else len(slots)
        room_gib = cluster.gpu.memory_gib * MEMORY_SHARE if gpu else local.free_memory() / local.GIB
        seconds = {spec.run_id: 3600 * self.planned[spec.run_id].gpu_hours for spec in runs}
        return loads(
            runs,
            seconds,
            self.sweep.launch.together,
            execution,
            longest_s=sum(seconds.values()) / len(slots),  # a fair share: no core is left without work
            gpu=gpu,
            budget_gib=room_gib / per_slot - local.PROCESS_GIB,
            memory_gib={spec.run_id: self.planned[spec.run_id].memory_gib for spec in runs},
        )

    def _adopt(
        self,
        job: str,
        owner: Owner,
        runs: tuple[str, ...],
        processes: int,
        gpus: local.Slot | None,
        *,
        stacked: bool = False,
    ) -> None:
        """Wait for a job that an earlier launcher started; on this machine it keeps its GPUs, or a core."""
        if not any(run_id in self.specs for run_id in runs):
            return
        taken: tuple[local.Slot, ...] = ()
        if owner.here and gpus:
            taken = tuple(slot for slot in self.free if set(slot) & set(gpus))
        elif owner.here and gpus is not None:
            taken = tuple(self.free[-1:])
        for slot in taken:
            self.free.remove(slot)
        self.active[job] = _Active(owner=owner, runs=runs, stacked=stacked, processes=processes, slots=taken)

    def _adopt_holder(self, run_id: str) -> None:
        """Wait for the living process that holds a run, whichever job it belongs to, or whichever machine."""
        attempts = read_attempts(self.folder, run_id)
        if not attempts:
            return
        job = attempts[-1].job
        file = read_json(self.folder.jobs / job / "job.json", JobFile)
        if job not in self.active:
            gpus, stacked = (file.gpus, bool(file.together)) if file else (None, False)
            self._adopt(job, attempts[-1].owner, (run_id,), processes=1, gpus=gpus, stacked=stacked)
        elif run_id not in self.active[job].runs:
            self.active[job].runs = (*self.active[job].runs, run_id)

    def step(self) -> bool:
        """Take up what ended, start what fits; False when nothing is left to wait for."""
        for job, active in tuple(self.active.items()):
            if not active.owner.alive if active.owner.here else self._ended_elsewhere(active):
                self._take_up(job)
            elif active.processes > 1 and active.owner.here:
                self._end_if_broken(active)
            elif active.job is not None and is_recorded(self.folder, active.runs[-1]):
                self._hand_over(active, active.job)
        while self.waiting and self.free:
            load = self.waiting.popleft()
            held = {spec.run_id for spec in load.runs if is_held(self.folder, spec.run_id)}
            self.ended |= dict.fromkeys(held, "cancelled")
            if left := tuple(spec for spec in load.runs if spec.run_id not in held):
                self._start(replace(load, runs=left), self.free.pop())
        return bool(self.active or self.waiting)

    def _ended_elsewhere(self, active: _Active) -> bool:
        """Whether another machine's job left a record or an end, or is silent: its process cannot be asked."""
        found = read_evidence(self.folder, active.runs, jobs=False)
        return all(seen.record or seen.holder == "none" for seen in found.values())

    def _end_if_broken(self, active: _Active) -> None:
        """Kill what waits for a process that died: the controller of a job waits for all of them."""
        if not local.is_broken(active.owner, active.processes):
            active.broken_since = None
        elif active.broken_since is None:
            active.broken_since = time.monotonic()
        elif time.monotonic() - active.broken_since > BROKEN_S:
            local.kill(active.owner)

    def _hand_over(self, active: _Active, job: JobFile) -> None:
        """Give a process that has nothing left to train the next run, which saves the start of another; or let it end.

        On GPUs each run has a process of its own: what it leaves there goes with it.
        """
        while self.waiting and is_held(self.folder, self.waiting[0].runs[0].run_id) and not self.waiting[0].stacked:
            self.ended[self.waiting.popleft().runs[0].run_id] = "cancelled"
        following = self.waiting[0] if self.waiting else None
        if following is not None and _in_turn(following):
            self.ended |= states(read_evidence(self.folder, active.runs, jobs=False))
            (spec,) = self.waiting.popleft().runs
            write_spec(self.folder, spec)
            active.job = replace(job, tasks=((*job.runs, spec.run_id),))
            active.runs, active.earlier = (spec.run_id,), active.earlier + 1
            write_job(self.folder, active.job)
            self.started.add(spec.run_id)
        else:
            write_job(self.folder, replace(job, open=False))
            self.free.extend(active.slots)  # the next one need not wait for its end
            active.job, active.slots = None, ()

    def _start(self, load: Load, slot: local.Slot) -> None:
        for spec in load.runs:
            write_spec(self.folder, spec)
        first = load.runs[0].run_id
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{first}-{os.getpid()}-{self.lost[first]}"
        tries: Literal["auto", "always"] = "auto" if self.sweep.launch.fuse == "auto" else "always"
        job = JobFile(
            job=name,
            tasks=(tuple(spec.run_id for spec in load.runs),),
            together=tries if load.stacked else "",
            open=_in_turn(load) and not slot and self.sweep.cluster.processes == 1,
            code=self.code,
            processes=self.sweep.cluster.processes,
            heartbeat_s=HEARTBEAT_S,
            execution=self.sweep.execution,
            gpus=slot,
            sharing=self.per_gpu,
            time=time.time(),
        )
        path = write_job(self.folder, job).resolve()
        owner = local.submit(path, self.sweep.cluster, _environment(self.folder, job))
        # Known here first: should the note below fail, `stop` still ends the process.
        self.active[name] = _Active(
            owner=owner,
            runs=job.runs,
            stacked=load.stacked,
            job=job if job.open else None,
            processes=job.processes,
            slots=(slot,),
        )
        self.started |= set(job.runs)
        write_submitted(path, Submitted(owner=owner, time=time.time()))

    def _take_up(self, job: str) -> None:
        """What became of the runs of a job that ended."""
        active = self.active.pop(job)
        close_job(self.folder.jobs / job)
        self.free.extend(active.slots)
        again: list[RunSpec] = []
        begun = {r for r in active.runs if any(attempt.job == job for attempt in read_attempts(self.folder, r))}
        # A process that began no run at all died of something: its first run is to blame for it.
        blamed = bool(begun) or active.earlier > 0
        ours = [run_id for run_id in active.runs if run_id in self.planned]  # an adopted job may hold others too
        for run_id, seen in read_evidence(self.folder, ours).items():
            state = state_of(seen)
            if state in FINISHED or state == "cancelled":
                self.ended[run_id] = state
            elif state == "failed" and seen.attempts[-1].job == job:
                self.ended[run_id] = state
                self.failures.append(self._failure(run_id, job))
            elif state == "running":
                self._adopt_holder(run_id)
            elif run_id in self.specs:
                last = seen.attempts[-1] if seen.attempts else None
                end = last.end if last is not None and run_id in begun else None
                advanced = any((self.folder.run(run_id) / "checkpoint").glob("*"))
                free = end is not None and end.state == "stopped" and (advanced or end.cause == "turn")
                if free or (blamed and run_id not in begun):
                    again.append(self.specs[run_id])
                elif active.stacked and end is not None and end.state == "lost":
                    # They failed together, whoever's fault it was: each is tried by itself, and that counts.
                    self.waiting.appendleft(Load(runs=(self.specs[run_id],)))
                elif active.stacked and end is None and not self.lost[run_id] and self.sweep.cluster.attempts > 1:
                    self.lost[run_id] = 1  # the machine may have killed it: the stack goes on as it was
                    again.append(self.specs[run_id])
                else:
                    blamed = not active.stacked
                    self._again(run_id, job)
        if again:
            found = [Load(runs=tuple(again))] if active.stacked else [Load(runs=(spec,)) for spec in again]
            self.waiting.extendleft(reversed(found))

    def _again(self, run_id: str, job: str) -> None:
        """A run whose worker ended without a result waits for another, unless workers die of it too often.

        It is trained by itself then: what its worker died of, others of its stack need not die of again.
        """
        self.lost[run_id] += 1
        if self.lost[run_id] < self.sweep.cluster.attempts:
            self.waiting.appendleft(Load(runs=(self.specs[run_id],)))
        else:
            self.ended[run_id] = "failed"
            self.failures.append(self._failure(run_id, job))

    def _failure(self, run_id: str, job: str) -> Failure:
        attempts = read_attempts(self.folder, run_id)
        last = attempts[-1] if attempts and attempts[-1].job == job else None
        if last is not None and last.end is not None and last.end.state != "stopped":
            return Failure(run_id=run_id, reason=last.end.reason, log=self.folder.attempt(run_id, last.number) / "log")
        lines = local.log_tail(self.folder.jobs / job, lines=1)
        reason = f"its worker died {self.lost[run_id]} times without a record" + (f" ({lines})" if lines else "")
        return Failure(run_id=run_id, reason=reason, log=self.folder.jobs / job / "submitit")

    def standing(self) -> Standing:
        """Tokens done and the speed of what runs, from the heartbeats."""
        held = {
            (run_id, job) for job, active in self.active.items() for run_id in active.runs if run_id in self.planned
        }
        finished = self.ended.keys() | {run_id for run_id, _ in held if is_recorded(self.folder, run_id)}
        beats = [self._beat(run_id, job) for run_id, job in sorted(held) if run_id not in finished]
        running = tuple(beat for beat in beats if beat is not None)
        partial = sum(self.planned[b.run_id].tokens * b.step / max(1, b.steps) for b in running)
        return Standing(
            finished=len(finished),
            runs=len(self.planned),
            tokens_done=int(sum(self.planned[run_id].tokens for run_id in finished) + partial),
            tokens=self.plan.totals.tokens,
            tokens_per_s=sum(beat.tokens_per_s for beat in running),
            running=running,
        )

    def _beat(self, run_id: str, job: str) -> Beat | None:
        """The last sign of life of a run that a job is at work on; None of one that waits for its turn."""
        attempts = read_attempts(self.folder, run_id)
        last = attempts[-1] if attempts else None
        if last is None or last.job != job or last.end is not None:
            return None
        return read_beat(self.folder, run_id, last.number)

    def stop(self, interrupts: _Interrupts) -> None:
        """Ask what still runs to write a checkpoint and end; kill what does not, or at a second Ctrl-C."""
        ours = [active.owner for active in self.active.values() if active.owner.here]
        deadline, asked = time.monotonic() + STOP_TIMEOUT_S, -ASK_AGAIN_S
        while any(owner.alive for owner in ours) and time.monotonic() < deadline and interrupts.count < 2:
            if time.monotonic() - asked > ASK_AGAIN_S:
                asked = time.monotonic()
                for owner in ours:
                    local.terminate(owner)
            time.sleep(POLL_S / 4)
        for owner in ours:
            local.kill(owner)


def _in_turn(load: Load) -> bool:
    """Whether a process that trained another run may train this: a command starts processes of its own in any case."""
    return not load.stacked and load.runs[0].trainer.kind == "builtin"


def _environment(folder: SweepFolder, job: JobFile) -> dict[str, str]:
    """What a job's processes see: the frozen code first, one pool of threads of the size asked for."""
    threads = str(job.execution.threads)
    code = str((folder.code / job.code).resolve())
    return {
        "PYTHONPATH": os.pathsep.join(part for part in (code, os.environ.get("PYTHONPATH")) if part),
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        # glibc would give every step's buffers back to the kernel and fault them in again: a tenth of a small step.
        "MALLOC_TRIM_THRESHOLD_": "1000000000",
        "MALLOC_MMAP_THRESHOLD_": "1000000000",
    }
