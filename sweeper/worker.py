"""On the node: RunSpec → `model.train` → RunRecord; signals set a flag, the loop stops at a step boundary."""

import importlib.metadata
import logging
import math
import os
import platform
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TextIO

from model.shape import model_shape
from sweeper.errors import DiskError
from sweeper.recorder import Recorder, finite, is_taken_over
from sweeper.records import (
    Cause,
    End,
    JobFile,
    RunRecord,
    Seat,
    SweepFolder,
    claim_attempt,
    counted_attempts,
    is_held,
    is_superseded,
    read_attempts,
    read_job,
    read_json,
    read_rank_end,
    read_record,
    read_spec,
    write_end,
    write_json,
    write_rank_end,
    write_record,
)
from sweeper.retries import halvings
from sweeper.snapshot import read_snapshot, verify_snapshot
from sweeper.spec import RunSpec, Value
from sweeper.worker_entry import Stop

# torch, by way of `model.train`, is imported by the runs that need it.

TRACEBACK_LINES = 20
TURN_TIMEOUT_S = 600.0
MORE_S = 3.0
"""How long a worker that has trained its runs waits for its launcher to add one; one that is gone adds none."""
FAULT_WAIT_S = 3.0
"""How long rank 0 waits for the rank that it lost to say why."""
RECORD_PATIENCE_S = 1800.0
"""How long a finished run waits for room to write its record before its result is given up."""

log = logging.getLogger("sweeper.worker")


def run(job_folder: str, stop: Stop, run_ids: tuple[str, ...] = ()) -> None:
    """Carry out a job, or the runs named: each to a record, or to an attempt's end. Safe to call twice.

    A run that is finished, or that a living process holds, is left alone.
    """
    path = Path(job_folder)
    folder = SweepFolder(path.parent.parent.parent, path.parent.parent.name)
    job = read_job(path)
    verify_snapshot(folder.code, job.code)
    place = _take_place(job)
    if job.together and len(run_ids) != 1:
        turns = {run_id: _take_turn(folder, path, place, run_id, stop) for run_id in run_ids or job.runs}
        _attempt_together(folder, job, place, {r: number for r, number in turns.items() if number is not None}, stop)
        return
    for run_id in run_ids or _in_turn(path, job, stop):
        number = _take_turn(folder, path, place, run_id, stop)
        if number is not None and not _attempt(folder, job, place, run_id, number, stop):
            return  # what went wrong may be this process: those after it are begun by another


def _in_turn(path: Path, job: JobFile, stop: Stop) -> Iterator[str]:
    """The runs of a job, and those that its launcher adds to it, for which it is given a moment."""
    done = 0
    while True:
        yield from job.runs[done:]
        done = len(job.runs)
        deadline = time.monotonic() + MORE_S
        while len(job.runs) == done:
            if not job.open or stop() or time.monotonic() > deadline:
                return
            time.sleep(0.02)
            job = read_job(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """This process among those of its run."""

    rank: int
    world_size: int
    seat: Seat
    local_rank: int = 0
    """Among those of its node, whatever GPUs it sees."""
    turn: str = ""
    """Tells one start of these processes from another in the same job."""


def _take_place(job: JobFile) -> Place:
    """Read rank and world size from the scheduler's environment and pass them on as `torchrun` names them.

    What the launcher itself may have inherited from another group of processes is none of ours.
    """
    if job.cluster is not None:
        return _place_in_slurm(job)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    rank = int(os.environ.get("SUBMITIT_LOCAL_GLOBALID", "0"))
    world_size = int(os.environ.get("SUBMITIT_LOCAL_NTASKS", "1"))
    local = int(os.environ.get("SUBMITIT_LOCAL_LOCALID", "0"))
    if world_size > 1:
        os.environ.update(
            RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(local), LOCAL_WORLD_SIZE=str(world_size)
        )
    return Place(rank=rank, world_size=world_size, seat=Seat(job=job.job), local_rank=local)


def _place_in_slurm(job: JobFile) -> Place:
    """The place of a task of srun. MASTER_ADDR and MASTER_PORT are the supervisor's: it runs on the node of rank 0."""
    env = os.environ
    rank, world_size = int(env["SLURM_PROCID"]), int(env["SLURM_NTASKS"])
    local = int(env["SLURM_LOCALID"])
    env.update(WORLD_SIZE=str(world_size), RANK=str(rank), LOCAL_WORLD_SIZE=str(job.processes // job.nodes))
    if env.get("SWEEPER_SLOT") and job.profile.slurm.gpus_per_node:
        # Runs that are packed onto a node all see its GPUs: each takes its own.
        seen = env.get("CUDA_VISIBLE_DEVICES", "") or ",".join(map(str, range(job.profile.slurm.gpus_per_node)))
        first = int(env["SWEEPER_SLOT"])
        env["CUDA_VISIBLE_DEVICES"] = ",".join(seen.split(",")[first : first + job.processes])
    # Where SLURM binds one GPU to each task, every task sees its own as number 0.
    bound = len([gpu for gpu in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]) == 1
    env["LOCAL_RANK"] = "0" if bound else str(local)
    if world_size == 1:
        del env["WORLD_SIZE"]  # alone: no group is started
    seat = Seat(
        job=job.job,
        task=int(env.get("SLURM_ARRAY_TASK_ID", "0")),
        restarts=int(env.get("SLURM_RESTART_COUNT", "0")),
        node=env.get("SLURMD_NODENAME", ""),
        step=f"{env['SLURM_JOB_ID']}.{env.get('SLURM_STEP_ID', '0')}",
    )
    return Place(rank=rank, world_size=world_size, seat=seat, local_rank=local, turn=env["SWEEPER_TURN"])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    attempt: int | None


def _take_turn(folder: SweepFolder, path: Path, place: Place, run_id: str, stop: Stop) -> int | None:
    """The attempt to make at a run, or None to leave it; rank 0 decides and the others read its decision."""
    decision = path / "turns" / f"{run_id}{place.turn}.json"
    if place.rank == 0:
        number = None
        try:
            if read_record(folder, run_id) is None and not stop() and not is_held(folder, run_id):
                number = claim_attempt(folder, run_id, place.seat)
        finally:
            if place.world_size > 1:
                write_json(decision, _Turn(attempt=number))
        return number
    deadline = time.monotonic() + TURN_TIMEOUT_S
    while (turn := read_json(decision, _Turn)) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{decision}: rank 0 took no decision within {TURN_TIMEOUT_S:.0f} s")
        time.sleep(0.05)
    return turn.attempt


def _attempt(folder: SweepFolder, job: JobFile, place: Place, run_id: str, number: int, stop: Stop) -> bool:
    """One attempt: it ends in a record, or in an end that says why not; whether it came without an error so far."""
    home = folder.attempt(run_id, number)
    leads = place.rank == 0
    with _logging(home / ("log" if leads else f"log.{place.rank}")):
        try:
            spec = read_spec(folder, run_id)
            log.info("attempt %d at %s: %s", number, run_id, dict(spec.axes))
            if leads:
                write_json(home / "provenance.json", provenance(folder, job, spec, place))
            _train(folder, job, place, spec, number, stop)
        except Exception as error:
            end = _end_of(error)
            if is_taken_over(folder, run_id, number):
                log.exception("attempt %d at %s was taken over and failed", number, run_id)
            else:
                log.exception("attempt %d at %s failed", number, run_id)
                if leads:
                    write_end(folder, run_id, number, _told_by_others(folder, run_id, number, end))
                else:
                    write_rank_end(folder, run_id, number, place.rank, end)
            if place.world_size > 1:
                raise  # ends this process, so that the launcher ends the others that wait for it
            return False
    return True


def _attempt_together(folder: SweepFolder, job: JobFile, place: Place, numbers: Mapping[str, int], stop: Stop) -> None:
    """One attempt at each of several runs as one stack: each ends in a record, or in an end that says why not."""
    with ExitStack() as logs:
        for run_id, number in numbers.items():
            logs.enter_context(_logging(folder.attempt(run_id, number) / "log"))
        try:
            specs = {run_id: read_spec(folder, run_id) for run_id in numbers}
            for run_id, spec in specs.items():
                log.info("attempt %d at %s: %s", numbers[run_id], run_id, dict(spec.axes))
                provided = provenance(folder, job, spec, place) | {"stack": len(specs)}
                write_json(folder.attempt(run_id, numbers[run_id]) / "provenance.json", provided)
            if specs:
                _train_together(folder, job, place, specs, numbers, stop)
        except Exception as error:
            log.exception("the runs failed together")
            # Whose fault it was is not known, and memory that a stack lacked none of them need lack by itself.
            end = replace(_end_of(error), state="lost", cause="stack")
            for run_id, number in numbers.items():
                attempt = read_attempts(folder, run_id)[-1]
                ended = attempt.end is not None or read_record(folder, run_id) is not None
                if not ended and not is_taken_over(folder, run_id, number):
                    write_end(folder, run_id, number, end)


def _end_of(error: Exception) -> End:
    """An error as the end of an attempt."""
    from sweeper.command import CommandError

    if isinstance(error, CommandError):
        state: Literal["lost", "error"] = "lost" if error.killed else "error"
        return End(state=state, cause="killed" if error.killed else "", reason=str(error), detail=error.detail)
    cause: Cause = ""
    if "torch" in sys.modules:
        from model.faults import fault

        cause = fault(error)
    detail = "".join(traceback.format_exc().splitlines(keepends=True)[-TRACEBACK_LINES:])
    reason = (f"{type(error).__name__}: {error}".splitlines() or [type(error).__name__])[0]
    if cause == "peer":
        return End(state="lost", cause=cause, reason=f"another process of the run died: {error}", detail=detail)
    return End(state="error", cause=cause, reason=reason, detail=detail)


def _told_by_others(folder: SweepFolder, run_id: str, number: int, end: End) -> End:
    """What the rank that was lost said of itself, if it comes to say it, else the end as rank 0 saw it."""
    deadline = time.monotonic() + FAULT_WAIT_S
    while end.cause == "peer" and time.monotonic() < deadline:
        told = read_rank_end(folder, run_id, number)
        if told is not None:
            return told
        time.sleep(0.1)
    return end


@contextmanager
def _logging(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    logging.raiseExceptions = False  # a full disk must not fill the output with tracebacks of the log itself
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


@contextmanager
def _lines(path: Path) -> Iterator[TextIO]:
    """A file to append to; that its last lines find no room when it is closed is no error."""
    file = path.open("a", encoding="utf-8")
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()


def _train(folder: SweepFolder, job: JobFile, place: Place, spec: RunSpec, number: int, stop: Stop) -> None:
    """Train a run to its outcome and write that down."""
    home, leads = folder.attempt(spec.run_id, number), place.rank == 0
    if "MASTER_ADDR" not in os.environ:
        os.environ["SWEEPER_INIT_METHOD"] = f"file://{(home / 'rendezvous').resolve()}"
    by_command = spec.trainer.kind == "command"
    with (
        _lines(home / "metrics.jsonl" if leads else Path(os.devnull)) as metrics,
        Recorder(
            folder, job, ((spec.run_id, number, metrics),), stop, rank=place.rank, by_command=by_command
        ) as recorder,
    ):
        if by_command:
            from sweeper.command import run_command

            outcome: Any = run_command(
                spec,
                home=home,
                run_folder=folder.run(spec.run_id),
                attempt=number,
                rank=place.rank,
                world_size=place.world_size,
                observer=recorder,
                stop=stop,
                local_rank=place.local_rank,
            )
        else:
            outcome = _train_ourselves(folder, job, spec, number, recorder, stop)
        recorder.finish()
        if leads:
            _finish(folder, spec, outcome, number, place, job, stop)


def _train_ourselves(
    folder: SweepFolder, job: JobFile, spec: RunSpec, number: int, recorder: Recorder, stop: Stop
) -> Any:
    from model import corpus
    from model.train import Member, train

    corpus.check_fingerprint(spec.train.data, spec.train.model.vocab)
    (outcome,) = train(
        [Member(config=spec.train, checkpoints=folder.run(spec.run_id) / "checkpoint")],
        job.execution,
        recorder,
        stop,
        may_write=lambda _member: not is_taken_over(folder, spec.run_id, number),
        alive=recorder.alive,
        **_memory(folder, job, spec),
    )
    return outcome


def _train_together(
    folder: SweepFolder,
    job: JobFile,
    place: Place,
    specs: Mapping[str, RunSpec],
    numbers: Mapping[str, int],
    stop: Stop,
) -> None:
    """Train runs as one stack, each to its outcome, and write that down as it ends."""
    from model import corpus
    from model.train import Member, train

    ids = list(specs)
    first = specs[ids[0]]
    corpus.check_fingerprint(first.train.data, first.train.model.vocab)
    with ExitStack() as files:
        members = [
            (
                run_id,
                numbers[run_id],
                files.enter_context(_lines(folder.attempt(run_id, numbers[run_id]) / "metrics.jsonl")),
            )
            for run_id in ids
        ]
        recorder = files.enter_context(Recorder(folder, job, members, stop, rank=place.rank, by_command=False))
        late: dict[str, Any] = {}

        def finish(run_id: str, outcome: Any, *, patient: bool) -> None:
            _finish(folder, specs[run_id], outcome, numbers[run_id], place, job, stop, patient=patient)

        def ended(member: int, outcome: Any) -> None:
            run_id = ids[member]
            recorder.leave(member)
            try:
                finish(run_id, outcome, patient=False)
            except (DiskError, OSError) as error:
                log.warning("the result of %s waits for the disk, and the others go on: %s", run_id, error)
                late[run_id] = outcome

        train(
            [Member(config=specs[r].train, checkpoints=folder.run(r) / "checkpoint") for r in ids],
            job.execution,
            recorder,
            stop,
            may_write=lambda member: not is_taken_over(folder, ids[member], numbers[ids[member]]),
            alive=recorder.alive,
            ended=ended,
            tried=_pays if job.together == "auto" else None,
            **_memory(folder, job, *specs.values()),
        )
        recorder.finish()
        for run_id, outcome in late.items():
            finish(run_id, outcome, patient=True)


GAIN = 1.05
"""What training together must gain to be chosen."""


def _pays(trial: Any) -> bool:
    """Whether the runs are to be trained together, by a `model.trial.Trial`; the log says why."""
    pays: bool = trial.gain >= GAIN
    log.info(
        "a step of %d runs together takes %.4g ms, of one alone %.4g ms: %.2f times as fast, so they are trained %s",
        trial.members,
        1e3 * trial.together_s,
        1e3 * trial.alone_s,
        trial.gain,
        "together" if pays else "one after another",
    )
    return pays


def _memory(folder: SweepFolder, job: JobFile, *specs: RunSpec) -> dict[str, Any]:
    """What training is to know of memory: what a node without GPUs gives, else the device says; earlier lacks of it."""
    tried = ([(attempt, None) for attempt in counted_attempts(folder, spec.run_id)] for spec in specs)
    given = job.cluster is not None and job.cluster.slurm.gpus_per_node == 0
    return {
        "memory": job.profile.memory_gib * 2**30 if given else 0.0,
        "sharing": job.sharing,
        "halved": max(map(halvings, tried)),
    }


def _finish(
    folder: SweepFolder,
    spec: RunSpec,
    outcome: Any,
    number: int,
    place: Place,
    job: JobFile,
    stop: Stop,
    *,
    patient: bool = True,
) -> None:
    """Write down how a run ended: its record, or why it stopped; `patient`: however long the disk takes."""
    if outcome.state == "stopped":
        if is_taken_over(folder, spec.run_id, number):
            log.warning("another attempt took over: nothing more is written")
            return
        cause: Cause = "time" if stop.received == signal.SIGUSR2 else "signal"
        if spec.trainer.kind == "builtin" and not outcome.begun:
            cause = "turn"
        reason = outcome.reason or f"stopped at step {outcome.steps}"
        write_end(folder, spec.run_id, number, End(state="stopped", cause=cause, reason=reason))
        return
    train, shape = spec.train, model_shape(spec.train.model)
    by_command = spec.trainer.kind == "command"
    told = outcome if by_command else _NothingMore()
    described = spec.trainer.models  # a command whose model is not described here has no counts but its own
    record = RunRecord(
        run_id=spec.run_id,
        state=outcome.state,
        arm=spec.arm,
        loss=finite(outcome.loss),
        train_loss=finite(outcome.train_loss),
        lr=spec.lr,
        lr_peak=spec.lr_peak,
        tokens=outcome.tokens if by_command and outcome.state == "done" else train.tokens,
        steps=outcome.steps,
        params=told.params if told.params is not None else shape.params * described,
        params_total=told.params_total if told.params_total is not None else shape.params_total * described,
        flops=told.flops if told.flops is not None else float(shape.flops_per_token) * train.tokens * described,
        batch_tokens=train.batch_tokens,
        seed=train.seed.data,
        wall_time_s=outcome.wall_time_s,
        tokens_per_s=outcome.tokens_per_s,
        attempts=number,
        world_size=place.world_size,
        stack=1 if by_command else outcome.stack,
        device=outcome.device,
        fingerprint=train.data.fingerprint,
        axes=dict(spec.axes),
        reason=outcome.reason if outcome.state == "diverged" else "",
        extra=dict(told.extra) if by_command else {k: v for k, v in outcome.stability.items() if math.isfinite(v)},
    )

    def write() -> bool:
        owned = not is_superseded(folder, spec.run_id, number)
        if owned:
            write_record(folder, record)
        return owned

    if not (_write_patiently(write) if patient else write()):
        log.warning("another attempt took over while the result waited for the disk: it is not written")
        return
    if not by_command:  # a command's own files are its own
        from model.checkpoint import delete_checkpoints

        try:
            delete_checkpoints(folder.run(spec.run_id) / "checkpoint", keep_final=job.execution.checkpoint.keep_final)
        except OSError as error:  # the result is safe
            log.warning("checkpoints of %s are left (%s)", spec.run_id, error.strerror)
    of = f" of {spec.run_id}" if record.stack > 1 else ""
    log.info("%s%s: loss %s after %d steps %s", outcome.state, of, outcome.loss, outcome.steps, outcome.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class _NothingMore:
    """What our own trainer reports beside its outcome: the shape of the model says the rest."""

    params: None = None
    params_total: None = None
    flops: None = None
    extra: Mapping[str, Value] = field(default_factory=dict)


def _write_patiently(write: Callable[[], bool]) -> bool:
    """Write the result of a whole run, waiting for room on a full disk rather than losing it."""
    deadline, wait = time.monotonic() + RECORD_PATIENCE_S, 1.0
    while True:
        try:
            return write()
        except (DiskError, OSError) as error:
            if time.monotonic() > deadline:
                raise
            log.warning("the result waits for the disk: %s", error)
            time.sleep(wait)
            wait = min(30.0, 2 * wait)


def provenance(folder: SweepFolder, job: JobFile, spec: RunSpec, place: Place) -> dict[str, Any]:
    """Where and with what a run is carried out: enough to repeat it; no environment, no secrets."""
    packages = ("torch", "numpy", "triton", "submitit", "hydra-core")
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job": job.job,
        "slurm_step": place.seat.step,
        "node": place.seat.node,
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "code": job.code,
        **read_snapshot(folder.code, job.code),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": job.execution.threads,
        "world_size": place.world_size,
        "packages": {name: _version(name) for name in packages},
        "lr": spec.lr,
        "transfer": spec.transfer.rule,
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
