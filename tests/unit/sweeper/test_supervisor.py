"""The supervisor of a job's runs, look by look; its processes are stand-ins."""

import errno
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import run_record, run_spec

from model.config import Execution
from sweeper import supervisor
from sweeper.errors import DiskError
from sweeper.records import (
    Beat,
    End,
    JobFile,
    Seat,
    SweepFolder,
    claim_attempt,
    hold_run,
    read_attempts,
    read_record,
    write_beat,
    write_end,
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
    return _Charge(runs=(RUN,), at_work=(RUN,), process=step, starts=1), step


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


@pytest.fixture
def clock(monkeypatch):
    """The time of all clocks, which stands still unless a test moves it."""
    now = [1e9]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


@pytest.fixture
def ended_steps(monkeypatch):
    """The steps that SLURM was told to kill."""
    steps = []
    monkeypatch.setattr(supervisor, "cancel_step", steps.append)
    return steps


def beat(now, stepped, **changes):
    """A heartbeat of a run that may be silent for 900 s."""
    standing = Beat(time=now, run_id=RUN, step=5, steps=9, tokens_per_s=1.0, stepped=stepped, limit_s=900.0)
    return replace(standing, **changes)


def look_on(watch, charge, clock, seconds):
    """Look after a run for so long, every six seconds."""
    for _ in range(int(seconds / 6)):
        clock[0] += 6
        watch.look_after(charge)


def test_a_run_that_was_suspended_for_an_hour_is_not_hung(folder, watch, clock, ended_steps):
    number, (charge, _) = claim_attempt(folder, RUN, SEAT), started()
    write_beat(folder, RUN, number, beat(clock[0], clock[0]))
    look_on(watch, charge, clock, 120)
    clock[0] += 3600  # nothing of the job runs, this process included
    watch.look_after(charge)
    write_beat(folder, RUN, number, beat(clock[0], clock[0] - 3720))  # alive again, and no step done yet
    look_on(watch, charge, clock, 600)
    assert read_attempts(folder, RUN)[0].end is None
    assert ended_steps == []


def test_a_run_without_a_step_for_its_limit_and_a_minute_is_hung_though_its_heart_beats(
    folder, watch, clock, ended_steps
):
    number, (charge, _) = claim_attempt(folder, RUN, SEAT), started()
    stepped = clock[0]
    for _ in range(16):
        write_beat(folder, RUN, number, beat(clock[0], stepped))
        look_on(watch, charge, clock, 60)
    assert ended_steps == []
    look_on(watch, charge, clock, 30)
    assert ended_steps == ["7.0"]
    assert read_attempts(folder, RUN)[0].end.cause == "hung"


def test_a_run_that_may_wait_for_room_like_its_end_gets_its_time_again(folder, watch, clock, ended_steps, monkeypatch):
    number, (charge, _) = claim_attempt(folder, RUN, SEAT), started()
    write_beat(folder, RUN, number, beat(clock[0], clock[0]))
    full = []

    def write_end(*_):
        full.append(clock[0])
        raise DiskError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(supervisor, "write_end", write_end)
        while not full:
            with watch.patience:
                look_on(watch, charge, clock, 6)
    look_on(watch, charge, clock, 600)
    assert ended_steps == []


def test_a_run_that_tells_of_no_steps_is_never_hung(folder, watch, clock, ended_steps):
    number, (charge, _) = claim_attempt(folder, RUN, SEAT), started()
    write_beat(folder, RUN, number, beat(clock[0], clock[0], limit_s=0.0))
    look_on(watch, charge, clock, 9000)
    assert ended_steps == []


# ── runs that are trained together ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def stack(clock, watch, monkeypatch):
    """A charge of three runs, and the runs of each step that is started."""
    steps: list[tuple[tuple[str, ...], Step]] = []

    def start(words, **_):
        steps.append((tuple(words[words.index("sweeper.worker_entry") + 2 :]), Step()))
        return steps[-1][1]

    monkeypatch.setattr(supervisor.subprocess, "Popen", start)
    watch.path.mkdir(parents=True)
    clock[0] = watch.began + 1
    return _Charge(runs=("a", "b", "c")), steps


def begun(folder, runs):
    return {run_id: claim_attempt(folder, run_id, SEAT) for run_id in runs}


def ended(folder, numbers, **end):
    for run_id, number in numbers.items():
        write_end(folder, run_id, number, End(**{"state": "lost", "reason": "r"} | end))


def test_runs_that_failed_together_are_tried_one_by_one(stack, folder, watch):
    charge, steps = stack
    watch.look_after(charge)
    ended(folder, begun(folder, "abc"), cause="stack")
    for run_id in "abc":
        steps[-1][1].returncode = 1
        watch.look_after(charge)
        watch.look_after(charge)
        assert steps[-1][0] == (run_id,)
        begun(folder, run_id)
        write_record(folder, replace(run_record(run_spec()), run_id=run_id))
    steps[-1][1].returncode = 0
    watch.look_after(charge)
    watch.look_after(charge)
    assert charge.done
    assert [runs for runs, _ in steps] == [("a", "b", "c"), ("a",), ("b",), ("c",)]


def test_a_stack_that_was_killed_is_started_again_as_it_was_without_those_that_ended(stack, folder, watch, clock):
    charge, steps = stack
    watch.look_after(charge)
    begun(folder, "abc")
    write_record(folder, replace(run_record(run_spec()), run_id="b"))
    steps[0][1].returncode = 137
    watch.look_after(charge)
    assert [read_attempts(folder, run_id)[-1].end.cause for run_id in "ac"] == ["killed", "killed"]
    clock[0] += 1000
    watch.look_after(charge)
    assert steps[1][0] == ("a", "c")


def test_memory_that_a_stack_lacks_is_no_fault_of_its_runs(stack, folder, watch):
    charge, steps = stack
    watch.look_after(charge)
    begun(folder, "abc")
    charge.output.write_text("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0")
    steps[0][1].returncode = 1
    watch.look_after(charge)
    assert {read_attempts(folder, run_id)[-1].end.cause for run_id in "abc"} == {"stack"}
    watch.look_after(charge)
    assert steps[1][0] == ("a",)


def test_a_member_that_is_cancelled_ends_its_stack_which_goes_on_without_it(stack, folder, watch, clock, monkeypatch):
    monkeypatch.setattr(supervisor, "is_preempted", lambda _: False)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    charge, steps = stack
    watch.look_after(charge)
    numbers = begun(folder, "abc")
    hold_run(folder, "b", "a person")
    clock[0] += 10
    watch.look_after(charge)
    assert steps[0][1].sent
    ended(folder, numbers, state="stopped", cause="signal")
    steps[0][1].returncode = 0
    watch.look_after(charge)
    watch.look_after(charge)
    assert steps[1][0] == ("a", "c")


def test_a_stack_that_hangs_is_ended_whole(stack, folder, watch, clock, ended_steps):
    charge, _ = stack
    watch.look_after(charge)
    numbers = begun(folder, "abc")
    for run_id, number in numbers.items():
        write_beat(folder, run_id, number, beat(clock[0], clock[0], run_id=run_id))
    look_on(watch, charge, clock, 1200)
    assert {read_attempts(folder, run_id)[-1].end.cause for run_id in "abc"} == {"hung"}
    assert ended_steps


def test_processes_that_die_before_they_claim_their_runs_count_each_time(stack, folder, watch, clock):
    charge, steps = stack
    watch.look_after(charge)
    ended(folder, begun(folder, "abc"), cause="stack")
    for _ in range(40):
        steps[-1][1].returncode = 1
        watch.look_after(charge)
        clock[0] += 1000
        watch.look_after(charge)
        if charge.done:
            break
    assert charge.done
    assert len(steps) < 15
    assert {len(read_attempts(folder, run_id)) for run_id in "abc"} == {4}


def test_a_cancelled_member_that_does_not_end_costs_the_others_no_attempt(stack, folder, watch, clock, ended_steps):
    charge, steps = stack
    watch.look_after(charge)
    begun(folder, "abc")
    hold_run(folder, "b", "a person")
    look_on(watch, charge, clock, 330)
    assert steps[0][1].returncode == -9
    assert [read_attempts(folder, run_id)[-1].end.cause for run_id in "ac"] == ["stack", "stack"]
    assert ended_steps == ["7.0"]


def test_of_a_stack_whoever_makes_steps_says_that_it_does_not_hang(stack, folder, watch, clock, ended_steps):
    charge, _ = stack
    watch.look_after(charge)
    numbers = begun(folder, "abc")
    write_beat(folder, "a", numbers["a"], beat(clock[0], clock[0], run_id="a", limit_s=0.0))  # waits for the disk
    for _ in range(40):
        write_beat(folder, "b", numbers["b"], beat(clock[0], clock[0], run_id="b"))
        look_on(watch, charge, clock, 60)
    assert ended_steps == []
