"""The supervisor of a job's runs, look by look; its processes are stand-ins."""

import errno
from pathlib import Path
from typing import Any

import pytest
from builders import run_record, run_spec

from model.config import Execution
from sweeper import supervisor
from sweeper.records import (
    End,
    JobFile,
    Seat,
    SweepFolder,
    claim_attempt,
    read_attempts,
    read_record,
    write_rank_end,
    write_record,
)
from sweeper.spec import Cluster
from sweeper.supervisor import Signals, _Charge, _Patience, _Watch, silent_end

RUN = "r"
SEAT = Seat(job="j", node="n1", step="7.0")


class Step:
    """What stands in for the srun of a run's processes."""

    def __init__(self) -> None:
        self.returncode: int | None = None
        self.sent: list[int] = []

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        self.sent.append(number)

    def kill(self) -> None:
        self.returncode = -9


@pytest.fixture
def folder(tmp_path):
    return SweepFolder(tmp_path, "tiny")


@pytest.fixture
def watch(folder, monkeypatch):
    """What looks after `RUN`; no signal reaches it."""
    monkeypatch.setattr(supervisor.signal, "signal", lambda *_: None)
    cluster = Cluster(scheduler="slurm", hang_s=900.0)
    job = JobFile(
        job="j", tasks=((RUN,),), code="c", processes=2, heartbeat_s=60.0, execution=Execution(), cluster=cluster
    )
    return _Watch(
        folder=folder,
        job=job,
        path=folder.jobs / "j",
        seat=SEAT,
        signals=Signals(),
        patience=_Patience(),
        packed=False,
    )


def started() -> tuple[Any, Step]:
    """A run whose processes were started, and those."""
    step: Any = Step()
    return _Charge(run_id=RUN, process=step, starts=1), step


def test_a_rank_that_ran_out_of_memory_says_so_for_the_others_it_took_along(folder, watch):
    number = claim_attempt(folder, RUN, SEAT)
    write_rank_end(folder, RUN, number, 1, End(state="error", cause="peer", reason="lost rank 3", time=1.0))
    write_rank_end(folder, RUN, number, 2, End(state="error", reason="RuntimeError: NCCL error", time=3.0))
    write_rank_end(folder, RUN, number, 3, End(state="error", cause="memory", reason="CUDA out of memory", time=2.0))
    charge, step = started()
    step.returncode = 1
    watch.look_after(charge)
    (attempt,) = read_attempts(folder, RUN)
    assert (attempt.end.cause, attempt.end.reason) == ("memory", "rank 3: CUDA out of memory")


@pytest.mark.parametrize("said", ["slurmstepd: error: Detected 1 oom_kill event", "CUDA out of memory. Tried to"])
def test_memory_that_ran_out_is_known_by_the_last_words_of_the_step(said):
    assert silent_end(1, said).cause == "memory"


def test_a_disk_that_is_away_for_a_moment_ends_no_job(folder, monkeypatch):
    spec = run_spec()
    write_record(folder, run_record(spec))
    given = Path.read_text
    errors = [errno.EIO, errno.ESTALE, errno.EACCES]

    def read_text(path, **how):
        if errors:
            raise OSError(errors.pop(), "away")
        return given(path, **how)

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(supervisor, "DISK_S", 0.01)
    assert _Patience().with_(lambda: read_record(folder, spec.run_id)).run_id == spec.run_id
    assert not errors
