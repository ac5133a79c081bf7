"""The place of a worker among those of its run, as SLURM's environment tells it; what it does when its disk fails."""

import errno
import io
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from builders import run_spec

from model.config import Execution
from sweeper import command, records, worker
from sweeper.command import CommandOutcome
from sweeper.errors import DiskError
from sweeper.recorder import EXIT_HUNG, Recorder
from sweeper.records import (
    End,
    JobFile,
    Seat,
    SweepFolder,
    claim_attempt,
    is_superseded,
    read_attempts,
    read_beat,
    read_record,
    write_end,
)
from sweeper.spec import Cluster, Slurm, Trainer
from sweeper.worker import Place, _memory, _take_place

STEP = {
    "SLURM_PROCID": "0",
    "SLURM_NTASKS": "1",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "3",
    "SLURMD_NODENAME": "n1",
    "SWEEPER_TURN": "-0-0-0",
}


def place(monkeypatch, processes=1, nodes=1, gpus=4, **environment):
    """The place, and what the worker's environment became."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "CUDA_VISIBLE_DEVICES", "SWEEPER_SLOT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (STEP | environment).items():
        monkeypatch.setenv(name, value)
    cluster = Cluster(scheduler="slurm", slurm=Slurm(gpus_per_node=gpus, nodes=nodes))
    job = JobFile(
        job="j",
        tasks=(("r",),),
        code="c",
        processes=processes,
        heartbeat_s=1.0,
        execution=Execution(),
        cluster=cluster,
        nodes=nodes,
    )
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")  # so that what the worker sets is undone afterwards
    return _take_place(job), dict(os.environ)


def test_a_task_of_several_knows_its_rank_and_that_of_its_node(monkeypatch):
    ranks = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_ARRAY_TASK_ID": "2"}
    found, environment = place(monkeypatch, 8, 2, CUDA_VISIBLE_DEVICES="0,1,2,3", SLURM_RESTART_COUNT="3", **ranks)
    assert (found.rank, found.world_size) == (5, 8)
    assert (found.seat.task, found.seat.restarts, found.seat.step, found.seat.node) == (2, 3, "7.3", "n1")
    expected = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert expected.items() <= environment.items()
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"


def test_a_task_that_slurm_bound_to_one_gpu_takes_that(monkeypatch):
    ranks = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1"}
    found, environment = place(monkeypatch, 2, CUDA_VISIBLE_DEVICES="1", **ranks)
    assert environment["LOCAL_RANK"] == "0"
    assert found.local_rank == 1  # and is not the first of its node for that


@pytest.mark.parametrize(
    ("seen", "slot", "processes", "taken"),
    [("0,1,2,3", "2", 1, "2"), ("4,5,6,7", "2", 2, "6,7"), ("", "1", 1, "1"), ("GPU-a,GPU-b", "1", 1, "GPU-b")],
)
def test_runs_that_share_a_node_take_a_gpu_each(monkeypatch, seen, slot, processes, taken):
    _, environment = place(monkeypatch, processes, CUDA_VISIBLE_DEVICES=seen, SWEEPER_SLOT=slot)
    assert environment["CUDA_VISIBLE_DEVICES"] == taken


def test_a_task_alone_starts_no_group(monkeypatch):
    found, environment = place(monkeypatch)
    assert (found.rank, found.world_size) == (0, 1)
    assert "WORLD_SIZE" not in environment


class NeverAsked:
    """A stop that nobody asks for."""

    received = 0

    def __call__(self):
        return self.received != 0


@pytest.fixture
def folder(tmp_path):
    return SweepFolder(tmp_path, "tiny")


SEAT = Seat(job="j", node="n1", step="7.0")
PLACE = Place(rank=0, world_size=1, seat=SEAT)
JOB = JobFile(
    job="j",
    tasks=(("r",),),
    code="c",
    processes=1,
    heartbeat_s=0.1,
    execution=Execution(),
    cluster=Cluster(scheduler="slurm"),
)


@pytest.fixture
def recorder(folder):
    """Of the only process of attempt 1 at run `r`, with ten heartbeats a second."""
    assert claim_attempt(folder, "r", SEAT) == 1
    return Recorder(folder, JOB, (("r", 1, io.StringIO()),), NeverAsked(), rank=PLACE.rank, by_command=False)


def test_heartbeats_go_on_when_the_disk_was_away_for_a_moment(folder, recorder, monkeypatch):
    exists, away = Path.exists, threading.Event()

    def ask(path):
        if away.is_set():
            raise OSError(errno.ESTALE, "Stale file handle")
        return exists(path)

    monkeypatch.setattr(Path, "exists", ask)
    with recorder:
        recorder.progress(0, 1, 10, 5.0)
        away.set()
        time.sleep(0.3)
        away.clear()
        back = time.time()
        deadline = back + 10
        while read_beat(folder, "r", 1).time < back and time.time() < deadline:
            time.sleep(0.02)
        assert read_beat(folder, "r", 1).time >= back


def test_a_hung_process_ends_though_its_disk_takes_no_word(recorder, monkeypatch):
    def away(*_):
        raise OSError(errno.EIO, "Input/output error")

    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr("sweeper.recorder.write_end", away)
    with pytest.raises(OSError, match="Input/output error"):
        recorder._give_up(900.0)
    assert ended == [EXIT_HUNG]


def test_a_hung_process_ends_though_its_disk_never_answers(recorder, monkeypatch):
    answers, ended = threading.Event(), threading.Event()
    monkeypatch.setattr(os, "_exit", lambda _code: ended.set())
    monkeypatch.setattr("sweeper.recorder.LAST_WORDS_S", 0.05)
    monkeypatch.setattr("sweeper.recorder.write_end", lambda *_: answers.wait(10))
    hanging = threading.Thread(target=recorder._give_up, args=(900.0,))
    hanging.start()
    assert ended.wait(5)
    assert hanging.is_alive()
    answers.set()
    hanging.join()


def test_a_hung_process_says_why_it_ends_though_it_cannot_learn_whether_it_was_taken_over(
    folder, recorder, monkeypatch
):
    def away(*_):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(os, "_exit", lambda _code: None)
    monkeypatch.setattr("sweeper.recorder.is_superseded", away)
    recorder._give_up(900.0)
    (attempt,) = read_attempts(folder, "r")
    assert (attempt.end.state, attempt.end.cause) == ("lost", "hung")


@pytest.fixture
def finished(folder, monkeypatch):
    """A run of a command that is done as soon as it begins, and what its record meets on the way to the disk."""
    spec = replace(run_spec(), run_id="r", trainer=Trainer(kind="command", argv=("train",)))
    outcome = CommandOutcome(
        state="done", loss=2.5, train_loss=2.5, steps=8, tokens=2048, wall_time_s=1.0, tokens_per_s=2048.0
    )

    def run_command(_spec, *, observer, **_):
        observer.progress(0, 4, 8, 5.0)
        time.sleep(0.01)
        observer.progress(0, 8, 8, 5.0)
        return outcome

    met = []

    def write_record(folder, record):
        if met:
            met.pop()()
            raise DiskError("no room")
        records.write_record(folder, record)

    monkeypatch.setattr(command, "run_command", run_command)
    monkeypatch.setattr(worker, "write_record", write_record)
    monkeypatch.setattr(time, "sleep", lambda _s, sleep=time.sleep: sleep(0.01))
    assert claim_attempt(folder, "r", SEAT) == 1
    return spec, met


def test_a_finished_run_that_waits_for_room_lives_and_is_not_hung(folder, finished):
    spec, met = finished
    beats = []

    def look():
        first = read_beat(folder, "r", 1)
        deadline = time.monotonic() + 10
        while read_beat(folder, "r", 1).time == first.time and time.monotonic() < deadline:
            time.sleep(0)
        beats.extend([first, read_beat(folder, "r", 1)])

    met.append(look)
    worker._train(folder, JOB, PLACE, spec, 1, NeverAsked())
    assert read_record(folder, "r").loss == 2.5
    assert beats[1].time > beats[0].time
    assert [(beat.step, beat.limit_s) for beat in beats] == [(8, 0.0), (8, 0.0)]


def test_a_result_that_waited_for_room_is_not_written_once_the_attempt_was_declared_over(folder, finished):
    spec, met = finished
    met.append(lambda: write_end(folder, "r", 1, End(state="lost", cause="hung", reason="silent")))
    worker._train(folder, JOB, PLACE, spec, 1, NeverAsked())
    assert read_record(folder, "r") is None


def test_a_result_waits_for_a_disk_that_cannot_be_asked_either(folder, finished, monkeypatch):
    spec, _ = finished
    errors = [OSError(errno.ESTALE, "Stale file handle")]

    def ask(*asked):
        if errors:
            raise errors.pop()
        return is_superseded(*asked)

    monkeypatch.setattr(Recorder, "_beat", lambda _self: None)
    monkeypatch.setattr(worker, "is_superseded", ask)
    worker._train(folder, JOB, PLACE, spec, 1, NeverAsked())
    assert read_record(folder, "r").loss == 2.5


class Never:
    received = 0

    def __call__(self):
        return False


def beats_of(tmp_path, steps, by_command):
    """The last heartbeat of an attempt that tells of these steps."""
    folder = SweepFolder(tmp_path, "tiny")
    seat = Seat(job="j")
    number = claim_attempt(folder, "r", seat)
    job = JobFile(job="j", tasks=(("r",),), code="c", processes=1, heartbeat_s=60.0, execution=Execution())
    members = (("r", number, io.StringIO()),)
    with Recorder(folder, job, members, Never(), rank=0, by_command=by_command) as recorder:
        for step in steps:
            recorder.progress(0, step, 100, 1.0)
    return read_beat(folder, "r", number)


def test_a_command_began_where_its_first_step_says_and_our_own_trainer_where_it_stood(tmp_path):
    command = beats_of(tmp_path / "command", (0, 0, 21, 22), by_command=True)
    assert (command.first_step, command.step) == (20, 22)
    ours = beats_of(tmp_path / "ours", (20, 21, 22), by_command=False)
    assert (ours.first_step, ours.step) == (20, 22)


def test_a_worker_tells_training_what_slurm_gives_a_process_and_how_often_that_was_too_little(folder):
    spec = run_spec()
    for _ in range(2):
        number = claim_attempt(folder, spec.run_id, Seat(job="j"))
        write_end(folder, spec.run_id, number, End(state="error", cause="memory", reason="out of memory"))
    local = JobFile(job="j", tasks=(), code="c", processes=1, heartbeat_s=1.0, execution=Execution(), sharing=3)
    gpus = replace(local, sharing=1, cluster=Cluster(scheduler="slurm", slurm=Slurm(gpus_per_node=4, mem_gib=2.0)))
    cores = replace(gpus, cluster=Cluster(scheduler="slurm", slurm=Slurm(gpus_per_node=0, mem_gib=2.0)))
    assert _memory(folder, local, spec) == {"memory": 0.0, "sharing": 3, "halved": 2}
    assert _memory(folder, gpus, spec) == {"memory": 0.0, "sharing": 1, "halved": 2}
    assert _memory(folder, cores, spec) == {"memory": 2.0 * 2**30, "sharing": 1, "halved": 2}


def test_members_that_wait_or_have_ended_are_never_silent_for_too_long(folder):
    numbers = {run_id: claim_attempt(folder, run_id, SEAT) for run_id in "abc"}
    members = [(run_id, number, io.StringIO()) for run_id, number in numbers.items()]
    with Recorder(folder, JOB, members, NeverAsked(), rank=PLACE.rank, by_command=False) as recorder:
        for member in range(3):
            recorder.progress(member, 0, 100, 1.0)
        time.sleep(0.01)
        recorder.alive(5)
        recorder.progress(0, 5, 100, 1.0)  # the first by itself, while the others wait for their turn
        recorder._beat()
        limits = [read_beat(folder, run_id, number).limit_s for run_id, number in numbers.items()]
        assert limits[0] > 0
        assert limits[1:] == [0.0, 0.0]
        recorder.leave(0)  # its result waits for the disk, say
        assert read_beat(folder, "a", numbers["a"]).limit_s == 0.0
        recorder.alive(6)
        recorder.progress(1, 1, 100, 1.0)
        recorder._beat()
        assert read_beat(folder, "b", numbers["b"]).limit_s > 0
