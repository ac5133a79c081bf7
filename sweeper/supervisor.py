"""In the batch step of a SLURM job: start the processes of its runs, retry what crashed, requeue what ran out of time.

Each of its places (a GPU, say) trains a run, or several as a stack (`model.fusing`), by one step of SLURM at a time.

`python -m sweeper.supervisor JOB` takes the place of the batch script's shell, so that all signals of SLURM reach it:
SIGUSR2 (and SIGUSR1) say that the time limit is near, after which the job requeues itself; SIGTERM says that the job is
ended by someone else, who decides what comes next. What it knows lies on the disk: an attempt without an end whose
processes are gone is given one here, and `retries.next_attempt` judges them. A disk that takes nothing is waited for.
"""

import errno
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from sweeper.errors import DiskError
from sweeper.records import (
    Attempt,
    Beat,
    End,
    JobFile,
    Seat,
    SweepFolder,
    claim_attempt,
    counted_attempts,
    is_closed,
    is_held,
    read_attempts,
    read_beat,
    read_job,
    read_rank_end,
    read_record,
    requeued_end,
    write_end,
)
from sweeper.retries import Tried, is_tried_alone, next_attempt
from sweeper.slurm import SlurmError, cancel_step, is_preempted, requeue
from sweeper.watchdog import STARTUP

T = TypeVar("T")

POLL_S = 0.25
PASSED_ON: Mapping[int, signal.Signals] = {
    signal.SIGTERM: signal.SIGUSR1,  # a SIGTERM srun keeps to itself, and kills its processes at once
    signal.SIGUSR1: signal.SIGUSR2,
    signal.SIGUSR2: signal.SIGUSR2,
}
"""What srun is sent for what came from SLURM: SIGUSR2 where the job will be requeued."""
LOOK_S = 5.0
"""Between looks at the disk for what became of a run that goes on."""
HELD_GRACE_S = 300.0
"""What a cancelled run gets to write its checkpoint."""
HUNG_GRACE_S = 60.0
"""What a hung run gets beyond its limit to end by itself, by the watchdogs of its processes."""
REQUEUE_S = 60.0
"""How long SLURM may take to end a job that it requeues."""
DISK_S = 5.0
"""Between tries to write to a disk that takes nothing."""
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS})
DISK_WORDS = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))
TAIL_LINES = 20
MEMORY_WORDS = ("oom-kill", "oom_kill", "out of memory", "out_of_memory")
"""How SLURM says in a step's output that the kernel took its memory back, and torch that a GPU has no more."""


class Signals:
    """Counts what SLURM sends; nothing else happens in a signal handler."""

    ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self) -> None:
        self.received: list[int] = []
        for number in self.ASKING:
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: Any) -> None:
        self.received.append(number)

    @property
    def stops(self) -> bool:
        return bool(self.received)

    @property
    def requeues(self) -> bool:
        """Whether the job is to run again: its time was up, and nobody ended it."""
        return self.stops and signal.SIGTERM not in self.received


@dataclass(slots=True, kw_only=True)
class _Charge:
    """A run of this job, or several that are trained together."""

    runs: tuple[str, ...]
    """Those that are left to this place."""
    slot: int = 0
    """The first of its processes' places among those of a node."""
    process: subprocess.Popen[bytes] | None = None
    at_work: tuple[str, ...] = ()
    """The runs of these processes."""
    output: Path | None = None
    starts: int = 0
    started: float = 0.0
    """When they were, seconds since the epoch."""
    looked: float = 0.0
    told: int = 0
    """Signals passed on to its processes."""
    held_since: float = 0.0
    """When one of them was first seen to be cancelled, seconds since the epoch."""
    seen: tuple[str, int, float] | None = None
    """A run at work, its attempt and when that last got further, as of the last look."""
    silent_s: float = 0.0
    """How long this process has seen no other."""
    stopped: bool = False
    """Whether its processes were asked to end by somebody who did not ask this one."""

    @property
    def done(self) -> bool:
        return not self.runs

    def leave(self, run_id: str) -> None:
        """Nothing more is to be done about a run here."""
        self.runs = tuple(other for other in self.runs if other != run_id)


def main(job_folder: str) -> int:
    """Carry out this element of the job; the exit code is 0 when each of its runs has a result."""
    path = Path(job_folder)
    signals = Signals()
    if is_closed(path):
        say(f"{path.name} was given up before it started: nothing to do")
        return 0
    folder = SweepFolder(path.parent.parent.parent, path.parent.parent.name)
    job = read_job(path)
    env = os.environ
    seat = Seat(
        job=job.job,
        task=int(env.get("SLURM_ARRAY_TASK_ID", "0")),
        restarts=int(env.get("SLURM_RESTART_COUNT", "0")),
        node=env.get("SLURMD_NODENAME", ""),
        step=f"{env['SLURM_JOB_ID']}.batch",
    )
    charges = [_Charge(runs=runs, slot=i * job.processes) for i, runs in enumerate(job.loads(seat.task))]
    patience, packed = _Patience(), len(charges) > 1
    watch = _Watch(folder=folder, job=job, path=path, seat=seat, signals=signals, patience=patience, packed=packed)
    while not all(charge.done for charge in charges):
        for charge in charges:
            if not charge.done:
                with patience:
                    watch.look_after(charge)
        time.sleep(patience.wait_s)
    left = patience.with_(lambda: [r for r in job.tasks[seat.task] if read_record(folder, r) is None])
    if left and signals.requeues and not patience.with_(lambda: all(is_held(folder, run_id) for run_id in left)):
        return _requeue(signals)
    return 1 if left else 0


def _requeue(signals: Signals) -> int:
    me = own_job(os.environ)
    say(f"time is up: requeueing {me}")
    try:
        requeue(me)
    except SlurmError as error:
        say(f"this cluster does not requeue ({error}); `sweeper tend` or the next launch resubmits")
        return 1
    until = time.monotonic() + REQUEUE_S
    while signal.SIGTERM not in signals.received and time.monotonic() < until:
        time.sleep(POLL_S)  # SLURM ends this job now
    return 1


def own_job(environment: Mapping[str, str]) -> str:
    """This job as scontrol takes it.

    >>> own_job({"SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"})
    '7_0'
    """
    array = environment.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{environment['SLURM_ARRAY_TASK_ID']}" if array else environment["SLURM_JOB_ID"]


def say(sentence: str) -> None:
    """A line in the job's output, if that can be written."""
    with suppress(OSError):
        print(f"{time.strftime('%F %T')} {sentence}", flush=True)


class _Patience:
    """Goes on after errors of a disk that is full or away: what they kept from being done is done at a later look."""

    def __init__(self) -> None:
        self.wait_s = POLL_S

    @property
    def tried(self) -> bool:
        """Whether the disk failed at the look before this one."""
        return self.wait_s > POLL_S

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> bool:
        passes = isinstance(error, DiskError) or (isinstance(error, OSError) and error.errno in DISK_ERRORS)
        if passes and not self.tried:
            say(f"waiting for the disk: {error}")
        self.wait_s = DISK_S if passes else POLL_S
        return passes

    def with_(self, ask: Callable[[], T]) -> T:
        """The answer to a question that the disk answers sooner or later."""
        while True:
            with self:
                return ask()
            time.sleep(self.wait_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watch:
    """What looking after runs needs at hand."""

    folder: SweepFolder
    job: JobFile
    path: Path
    seat: Seat
    signals: Signals
    patience: _Patience
    packed: bool
    began: float = field(default_factory=time.time)

    def look_after(self, charge: _Charge) -> None:
        """Start, watch or give up runs: one small step of it."""
        if charge.process is None:
            self._decide(charge)
            return
        self._pass_signals_on(charge, charge.process)
        if charge.process.poll() is not None:
            self._settle(charge, charge.process.returncode)
            charge.process = None
        elif (since_s := time.time() - charge.looked) > LOOK_S:
            charge.looked = time.time()
            if any(is_held(self.folder, run_id) for run_id in self._open(charge)):
                self._end_held(charge, charge.process)
            else:
                # A suspended job stands still with its supervisor: all but a look of that is no silence.
                self._end_if_hung(charge, charge.process, min(since_s, 2 * LOOK_S))

    def _decide(self, charge: _Charge) -> None:
        """Which runs need another start, now or later."""
        folder = self.folder
        for run_id in charge.runs:
            if self.signals.stops or read_record(folder, run_id) is not None or is_held(folder, run_id):
                charge.leave(run_id)
        if charge.done or (charge.stopped and self._is_preempted(charge)):
            return
        together: dict[str, float] = {}
        alone: dict[str, float] = {}
        for run_id in charge.runs:
            if charge.starts == 0:
                end_before(folder, run_id, self.seat)
            tried = tries(folder, run_id)
            verdict = next_attempt(tried, self.job.profile)
            last = tried[-1][0] if tried else None
            if verdict.action == "give up":
                give_up(folder, run_id, tried, verdict.reason)
                charge.leave(run_id)
            elif last is not None and last.end is None and charge.starts and not self._ours(last):
                charge.leave(run_id)  # another job works on it
            elif is_tried_alone(tried, self.job.profile):
                alone[run_id] = verdict.at
            else:
                together[run_id] = verdict.at
        now = time.time()
        if together and max(together.values()) <= now:
            self._start(charge, tuple(together))
        elif ready := [run_id for run_id, at in alone.items() if at <= now]:
            self._start(charge, (ready[0],))

    def _is_preempted(self, charge: _Charge) -> bool:
        """Whether the processes ended because the job will: its steps learn of that earlier than the job itself.

        What started now would be killed in the midst of it. SLURM is asked every few seconds.
        """
        if time.time() - charge.looked > LOOK_S:
            charge.looked = time.time()
            charge.stopped = is_preempted(os.environ["SLURM_JOB_ID"])
        return charge.stopped

    def _start(self, charge: _Charge, runs: tuple[str, ...]) -> None:
        seat = self.seat
        turn = f"-{seat.task}-{seat.restarts}-{charge.starts}"
        charge.output = self.path / "output" / f"{runs[0]}{turn}.out"
        charge.output.parent.mkdir(exist_ok=True)
        charge.at_work = runs
        charge.starts += 1
        charge.started = charge.looked = time.time()
        charge.held_since = 0.0
        words = [*step_words(self.job, packed=self.packed), "sweeper.worker_entry", str(self.path), *runs]
        # Where SLURM knows of no GPUs to hand out, a run takes those of its place on the node.
        slot = str(charge.slot) if self.packed and self.job.profile.slurm.gpu_request == "none" else ""
        environment = {**step_environment(self.job), "SWEEPER_TURN": turn, "SWEEPER_SLOT": slot}
        with charge.output.open("ab") as output:
            charge.process = subprocess.Popen(
                words, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )

    def _pass_signals_on(self, charge: _Charge, srun: "subprocess.Popen[bytes]") -> None:
        """srun hands these signals to its processes, which write a checkpoint and end."""
        for number in self.signals.received[charge.told :]:
            srun.send_signal(PASSED_ON[number])
            charge.told += 1

    def _ours(self, attempt: Attempt) -> bool:
        ours = self.seat
        return (attempt.seat.job, attempt.seat.task, attempt.seat.restarts) == (ours.job, ours.task, ours.restarts)

    def _settle(self, charge: _Charge, code: int) -> None:
        """The processes are gone: see to it that the attempts they made have an end."""
        left = self._at_work(charge)
        made = {run_id: last for run_id in left if (last := self._made(charge, run_id)) is not None}
        said = tail(charge.output)
        for run_id, last in made.items():
            if last.end is None:
                self._end_silent(charge, run_id, last, code, said)
        if made:
            asked = any(last.end is not None and last.end.cause == "signal" for last in made.values())
            charge.stopped = asked and not self.signals.stops
            charge.looked = 0.0
        elif not self.signals.stops:
            for run_id in left:
                self._settle_unclaimed(charge, run_id, code, said)

    def _made(self, charge: _Charge, run_id: str) -> Attempt | None:
        """The last attempt at a run, if the processes that were started last made it."""
        attempts = counted_attempts(self.folder, run_id)
        last = attempts[-1] if attempts else None
        since = max(self.began, charge.started)
        return last if last is not None and self._ours(last) and last.owner.time >= since else None

    def _end_silent(self, charge: _Charge, run_id: str, last: Attempt, code: int, said: str) -> None:
        # A rank that fails takes the others along, and rank 0 may come to say nothing.
        end = read_rank_end(self.folder, run_id, last.number) or silent_end(code, said, full=self.patience.tried)
        if end.cause == "memory" and len(charge.at_work) > 1:
            end = replace(end, cause="stack")  # what a stack lacked none of its runs need lack by itself
        write_end(self.folder, run_id, last.number, end)
        if code < 0:  # srun itself was killed: its processes may live on, and keep their CPUs and GPUs
            with suppress(SlurmError):
                cancel_step(last.seat.step)

    def _settle_unclaimed(self, charge: _Charge, run_id: str, code: int, said: str) -> None:
        """No attempt was claimed: the container, the interpreter or an import failed, or another job holds the run."""
        number = claim_attempt(self.folder, run_id, self.seat) if code else None
        if number is not None:
            reason = f"its processes did not start ({described(code)})" + (f": {said.splitlines()[-1]}" if said else "")
            write_end(self.folder, run_id, number, End(state="error", reason=reason, detail=said))
        else:
            charge.leave(run_id)

    def _open(self, charge: _Charge) -> dict[str, Attempt]:
        """The attempts of a charge's processes that go on."""
        tried = {run_id: counted_attempts(self.folder, run_id) for run_id in self._at_work(charge)}
        return {r: made[-1] for r, made in tried.items() if made and made[-1].end is None and self._ours(made[-1])}

    def _at_work(self, charge: _Charge) -> list[str]:
        """The runs of a charge's processes that have no result yet."""
        return [run_id for run_id in charge.at_work if read_record(self.folder, run_id) is None]

    def _end_held(self, charge: _Charge, srun: "subprocess.Popen[bytes]") -> None:
        """Let a run that a person cancelled write a checkpoint and end; kill it if it does not come to that.

        Those that are trained together with it do so too, and go on without it.
        """
        charge.held_since = charge.held_since or time.time()
        if time.time() - charge.held_since < HELD_GRACE_S:
            srun.send_signal(PASSED_ON[signal.SIGTERM])
            return
        for run_id, attempt in self._open(charge).items():
            if not is_held(self.folder, run_id):
                reason = "a run that was trained together with it was cancelled and did not end"
                write_end(self.folder, run_id, attempt.number, End(state="lost", cause="stack", reason=reason))
        srun.kill()

    def _end_if_hung(self, charge: _Charge, srun: "subprocess.Popen[bytes]", since_s: float) -> None:
        """Kill the step of runs that make no step any more and whose processes do not see it themselves.

        `since_s` went by since the last look.
        """
        open_ = self._open(charge)
        if not open_:
            return
        beats = {run_id: read_beat(self.folder, run_id, attempt.number) for run_id, attempt in open_.items()}
        # Of a stack one that is at work: others may wait for their turn, or for the disk to take their results.
        run_id = max(open_, key=lambda r: (beat.limit_s > 0, beat.stepped) if (beat := beats[r]) else (False, 0.0))
        last, beat = open_[run_id], beats[run_id]
        seen = run_id, last.number, beat.stepped if beat else 0.0
        silent_s = charge.silent_s + since_s if seen == charge.seen else 0.0
        charge.seen, charge.silent_s = seen, silent_s
        if silent_s > hang_limit(beat, self.job.profile.hang_s):
            charge.silent_s = 0.0  # a disk that takes no end may be what the run waits for too: it gets the time again
            reason = f"no step for {silent_s:.0f} s on {last.seat.node}"
            for run_id, attempt in open_.items():
                write_end(self.folder, run_id, attempt.number, End(state="lost", cause="hung", reason=reason))
            try:
                cancel_step(last.seat.step)
            except SlurmError as error:
                say(f"the step {last.seat.step} cannot be killed: {error}")
                srun.kill()


def step_words(job: JobFile, *, packed: bool = False) -> list[str]:
    """How the processes of a run are started from the batch step, up to `python -u -m`."""
    slurm = job.profile.slurm
    words = ["srun", "--unbuffered", "--kill-on-bad-exit=1", f"--nodes={job.nodes}"]
    words += [f"--ntasks={job.processes}", f"--ntasks-per-node={job.processes // job.nodes}", "--distribution=block"]
    words += _share_of_node(job) if packed else []
    words += [*slurm.extra_srun, *shlex.split(slurm.container)]
    return [*words, *(shlex.split(slurm.python) or [sys.executable]), "-u", "-m"]


def _share_of_node(job: JobFile) -> list[str]:
    """What one run takes of a node that several share: CPUs and GPUs of its own, and memory that none reserves.

    Steps that merely overlap all get the first CPUs of the job, and every GPU.
    """
    slurm, words = job.profile.slurm, ["--exact", "--mem=0"]
    if slurm.gpus_per_node == 0 or slurm.gpu_request == "none":
        return words
    each = job.processes // job.nodes
    return [*words, f"--gres=gpu:{each}" if slurm.gpu_request == "gres" else f"--gpus-per-node={each}"]


def step_environment(job: JobFile) -> dict[str, str]:
    """The environment of these processes; this is the first node of the allocation, where rank 0 will be."""
    return {
        **os.environ,
        "SRUN_CPUS_PER_TASK": str(job.profile.slurm.cpus_per_process),  # since 22.05 srun does not inherit it
        "MASTER_ADDR": socket.gethostname(),
        "MASTER_PORT": str(free_port()),
    }


def hang_limit(beat: Beat | None, hang_s: float, grace_s: float = HUNG_GRACE_S) -> float:
    """How long a run may make no step, seconds, before it is ended from outside; infinite for one that tells of none.

    Its own processes notice first, at `hang_s` or 20 median steps; what they cannot end is ended `grace_s` later.
    """
    if beat is not None and beat.limit_s == 0:
        return math.inf
    return (beat.limit_s if beat else STARTUP * hang_s) + min(grace_s, hang_s)


def hung_for(
    attempt: Attempt, beat: Beat | None, hang_s: float, grace_s: float = HUNG_GRACE_S, *, resumed: float = 0.0
) -> float:
    """Seconds since the last step of a run that hangs, by the clocks of its node and this one; 0 if it does not.

    `resumed` is when its job last went on after it was suspended, seconds since the epoch: silence begins there again.
    """
    silent_s = time.time() - max(attempt.owner.time, beat.stepped if beat else 0.0, resumed)
    return silent_s if silent_s > hang_limit(beat, hang_s, grace_s) else 0.0


def tries(folder: SweepFolder, run_id: str) -> Tried:
    """The attempts that count, each with its last heartbeat."""
    return [(a, read_beat(folder, run_id, a.number)) for a in counted_attempts(folder, run_id)]


def end_before(folder: SweepFolder, run_id: str, seat: Seat) -> None:
    """Give an end to what this job attempted before its supervisor began, if it left none.

    SLURM puts a job back into the queue when its node dies, say; and a controller that died before it had saved its
    state starts jobs again that it forgot to have started.
    """
    attempts = read_attempts(folder, run_id)
    last = attempts[-1] if attempts else None
    if last is not None and last.end is None and (last.seat.job, last.seat.task) == (seat.job, seat.task):
        write_end(folder, run_id, last.number, requeued_end(last))


def give_up(folder: SweepFolder, run_id: str, tried: Tried, reason: str) -> None:
    """Make the last end of a run that is not tried again an error, so that it counts as failed."""
    last, _ = tried[-1]
    if last.end is not None and last.end.state != "error":
        write_end(folder, run_id, last.number, replace(last.end, state="error", reason=f"given up: {reason}"))


def silent_end(code: int, said: str, *, full: bool = False) -> End:
    """The end of an attempt whose processes ended without writing one; `full`: the disk took nothing at that time."""
    if full or any(word in said for word in DISK_WORDS):
        return End(state="lost", cause="disk", reason="it ended when its disk took no more", detail=said)
    if any(word in said.lower() for word in MEMORY_WORDS):
        return End(state="lost", cause="memory", reason="it ran out of memory", detail=said)
    return End(state="lost", cause="killed", reason=f"it ended without a word ({described(code)})", detail=said)


def described(code: int) -> str:
    """An exit code in words.

    >>> described(1), described(-9), described(137)
    ('exit code 1', 'killed by SIGKILL', 'killed by SIGKILL')
    """
    number = -code if code < 0 else code - 128
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"exit code {code}"


def tail(path: Path | None, lines: int = TAIL_LINES) -> str:
    """The last lines of a file."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path else ""
    except OSError:
        return ""


def free_port() -> int:
    """A port of this machine that nobody listens on now; one made from the job's number may meet another's."""
    with socket.socket() as found:
        found.bind(("", 0))
        return int(found.getsockname()[1])


def run(arguments: Sequence[str]) -> None:
    """The command line of the batch script."""
    sys.exit(main(arguments[0]))


if __name__ == "__main__":
    run(sys.argv[1:])
