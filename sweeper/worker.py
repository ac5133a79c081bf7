"""On the node: RunSpec → `model.train` → RunRecord; signals set a flag, the loop stops at a step boundary."""

import importlib.metadata
import json
import logging
import os
import platform
import socket
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from model import corpus
from model.checkpoint import delete_checkpoints
from model.distributed import PeerLost
from model.shape import model_shape
from model.train import Member, Outcome, train
from sweeper.records import (
    Beat,
    End,
    JobFile,
    RunRecord,
    SweepFolder,
    claim_attempt,
    read_job,
    read_json,
    read_record,
    read_spec,
    write_beat,
    write_end,
    write_json,
    write_record,
)
from sweeper.snapshot import read_snapshot, verify_snapshot
from sweeper.spec import RunSpec
from sweeper.worker_entry import Stop

TRACEBACK_LINES = 20
TURN_TIMEOUT_S = 600.0

log = logging.getLogger("sweeper.worker")


def run(job_folder: str, stop: Stop) -> None:
    """Carry out a job: each of its runs to a record, or to an attempt's end. Safe to call twice.

    A run that is finished, or that a living process holds, is left alone.
    """
    path = Path(job_folder)
    folder = SweepFolder(path.parent.parent.parent, path.parent.parent.name)
    job = read_job(path)
    verify_snapshot(folder.code, job.code)
    place = _take_place()
    for run_id in job.runs:
        number = _take_turn(folder, job, path, place, run_id, stop)
        if number is not None:
            _attempt(folder, job, place, run_id, number, stop)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """This process among those of its job."""

    rank: int
    world_size: int


def _take_place() -> Place:
    """Read rank and world size from submitit's environment and pass them on to `model.distributed`.

    What the launcher itself may have inherited from another group of processes is none of ours.
    """
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    rank = int(os.environ.get("SUBMITIT_LOCAL_GLOBALID", "0"))
    world_size = int(os.environ.get("SUBMITIT_LOCAL_NTASKS", "1"))
    if world_size > 1:
        os.environ.update(
            RANK=str(rank),
            WORLD_SIZE=str(world_size),
            LOCAL_RANK=os.environ.get("SUBMITIT_LOCAL_LOCALID", "0"),
        )
    return Place(rank=rank, world_size=world_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    attempt: int | None


def _take_turn(folder: SweepFolder, job: JobFile, path: Path, place: Place, run_id: str, stop: Stop) -> int | None:
    """The attempt to make at a run, or None to leave it; rank 0 decides and the others read its decision."""
    decision = path / "turns" / f"{run_id}.json"
    if place.rank == 0:
        number = None
        try:
            if read_record(folder, run_id) is None and not stop():
                number = claim_attempt(folder, run_id, job.job)
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


def _attempt(folder: SweepFolder, job: JobFile, place: Place, run_id: str, number: int, stop: Stop) -> None:
    """One attempt: it ends in a record, or in an end that says why not."""
    home = folder.attempt(run_id, number)
    leads = place.rank == 0
    handler = logging.FileHandler(home / ("log" if leads else f"log.{place.rank}"))
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    try:
        spec = read_spec(folder, run_id)
        log.info("attempt %d at %s: %s", number, run_id, dict(spec.axes))
        if leads:
            write_json(home / "provenance.json", provenance(folder, job, spec, place))
        corpus.check_fingerprint(spec.train.data, spec.train.model.vocab)
        with (home / "metrics.jsonl" if leads else Path(os.devnull)).open("a", encoding="utf-8") as metrics:
            os.environ["SWEEPER_INIT_METHOD"] = f"file://{(home / 'rendezvous').resolve()}"
            observer = _Recorder(folder.jobs / job.job, job.heartbeat_s, ((run_id, metrics),))
            member = Member(config=spec.train, checkpoints=folder.run(run_id) / "checkpoint")
            (outcome,) = train([member], job.execution, observer, stop)
        if leads:
            _finish(folder, spec, outcome, number, place)
    except PeerLost as error:
        log.exception("attempt %d at %s lost a process", number, run_id)
        if leads:
            write_end(folder, run_id, number, End(state="lost", reason=f"another process of the run died: {error}"))
        raise
    except Exception as error:
        log.exception("attempt %d at %s failed", number, run_id)
        if leads:
            detail = "".join(traceback.format_exc().splitlines(keepends=True)[-TRACEBACK_LINES:])
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            write_end(folder, run_id, number, End(state="error", reason=reason, detail=detail))
        if place.world_size > 1:
            raise  # ends this process, so that the launcher ends the others that wait for it
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


class _Recorder:
    """Writes metrics and heartbeats of the members that are trained together."""

    def __init__(self, job: Path, heartbeat_s: float, members: Sequence[tuple[str, TextIO]]) -> None:
        self.job, self.heartbeat_s, self.members = job, heartbeat_s, members
        self.next_beat = 0.0

    def metrics(self, member: int, row: Mapping[str, float]) -> None:
        """One line of metrics.jsonl; what is not a number becomes null."""
        _, file = self.members[member]
        file.write(json.dumps({key: _finite(value) for key, value in row.items()}) + "\n")
        file.flush()

    def progress(self, member: int, step: int, steps: int, tokens_per_s: float) -> None:
        """A heartbeat, at most one per period."""
        now = time.time()
        if now >= self.next_beat:
            self.next_beat = now + self.heartbeat_s
            run_id, _ = self.members[member]
            write_beat(self.job, Beat(time=now, run_id=run_id, step=step, steps=steps, tokens_per_s=tokens_per_s))


def _finish(folder: SweepFolder, spec: RunSpec, outcome: Outcome, number: int, place: Place) -> None:
    if outcome.state == "stopped":
        reason = outcome.reason or f"stopped at step {outcome.steps}"
        write_end(folder, spec.run_id, number, End(state="stopped", reason=reason))
        return
    train, shape = spec.train, model_shape(spec.train.model)
    record = RunRecord(
        run_id=spec.run_id,
        state=outcome.state,
        arm=spec.arm,
        loss=_finite(outcome.loss),
        train_loss=_finite(outcome.train_loss),
        lr=spec.lr,
        lr_peak=spec.lr_peak,
        tokens=train.tokens,
        steps=outcome.steps,
        params=shape.params,
        params_total=shape.params_total,
        flops=shape.flops_per_token * train.tokens,
        batch_tokens=train.batch_tokens,
        seed=train.seed.data,
        wall_time_s=outcome.wall_time_s,
        tokens_per_s=outcome.tokens_per_s,
        attempts=number,
        world_size=place.world_size,
        device=outcome.device,
        fingerprint=train.data.fingerprint,
        axes=dict(spec.axes),
        reason=outcome.reason if outcome.state == "diverged" else "",
    )
    write_record(folder, record)
    delete_checkpoints(folder.run(spec.run_id) / "checkpoint")
    log.info("%s: loss %s after %d steps %s", outcome.state, outcome.loss, outcome.steps, outcome.reason)


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def provenance(folder: SweepFolder, job: JobFile, spec: RunSpec, place: Place) -> dict[str, Any]:
    """Where and with what a run is carried out: enough to repeat it; no environment, no secrets."""
    packages = ("torch", "numpy", "triton", "submitit", "hydra-core")
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job": job.job,
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
