"""Runs that fail by themselves, or are killed, on a real cluster: which of them are tried again, and how often."""

import contextlib
import signal
import time
from dataclasses import replace

import psutil
import pytest
from builders import run_spec
from slurm_cluster import wait_until
from slurm_sweeps import (
    ends,
    slurm_sweep,
    submit,
    tend_until,
    toy_spec,
    undisturbed,
    wait_for_records,
    wait_for_silence,
    wait_for_step,
    workers,
)

from sweeper.records import SweepFolder, read_attempts, read_beat, read_evidence, read_record
from sweeper.slurm import ask_queue
from sweeper.spec import Trainer
from sweeper.status import state_of

pytestmark = pytest.mark.slurm


def state(folder, spec):
    return state_of(read_evidence(folder, [spec.run_id], ask_queue())[spec.run_id])


def test_each_trouble_of_its_own_ends_a_run_as_it_should(cluster, folder):
    argv = ("{python}", "-c", "import sys; print('something went wrong'); sys.exit(7)")
    crashing = replace(toy_spec(0.1), trainer=Trainer(kind="command", argv=argv))
    once, killed = toy_spec(0.2, "--trouble", "crash"), toy_spec(0.3, "--trouble", "kill")
    silent = toy_spec(0.4, "--trouble", "silent")
    diverging = toy_spec(0.5, "--trouble", "nan")
    specs = [crashing, once, killed, silent, diverging]
    submit(slurm_sweep(attempts=2), specs, folder)
    wait_for_silence(cluster)
    assert state(folder, crashing) == "failed"
    assert ends(folder, crashing) == ["error", "error"]
    last = read_attempts(folder, crashing.run_id)[-1].end
    assert "exited with code 7, last saying 'something went wrong'" in last.reason
    assert ends(folder, once) == ["error"]
    assert read_record(folder, once.run_id).attempts == 2
    assert ends(folder, killed) == ["lost killed"]
    assert read_record(folder, killed.run_id).attempts == 2
    assert state(folder, silent) == "failed"
    assert "without a result" in read_attempts(folder, silent.run_id)[-1].end.reason
    record = read_record(folder, diverging.run_id)
    assert (record.state, record.attempts) == ("diverged", 1)


def test_whatever_process_of_a_job_is_killed_its_run_ends_with_the_same_loss(cluster, folder):
    # A step takes some 2 ms: each run must have seconds left when its turn comes, on a busy machine too.
    worker, step, srun, supervisor = specs = [run_spec(lr=lr, steps=800) for lr in (0.02, 0.03, 0.04, 0.05)]

    def of_run(spec):
        (process,) = workers(cluster, spec.run_id)
        return process

    def sruns(spec):
        return cluster.processes("srun", spec.run_id)

    def supervisors(spec):
        return [p.parent() for p in sruns(spec) if "sweeper.supervisor" in " ".join(p.parent().cmdline())]

    victims = {
        worker: lambda: [of_run(worker)],
        step: lambda: [of_run(step).parent()],
        srun: lambda: sruns(srun),
        supervisor: lambda: supervisors(supervisor),
    }
    submit(slurm_sweep(every_s=0.5), specs, folder)

    def killed():
        for spec in list(victims):
            beat = read_beat(folder, spec.run_id, 1)
            if beat is not None and beat.step >= 60:
                found = victims.pop(spec)()
                assert found
                for process in found:
                    with contextlib.suppress(psutil.NoSuchProcess):  # of two sruns one goes with the other
                        process.kill()
        return not victims

    wait_until(killed, "the first sixty steps of each run", 60)
    tend_until(folder, lambda cycle: cycle.over)
    made = wait_for_records(folder, specs)
    assert [record.loss for record in made] == [undisturbed(spec) for spec in specs]
    for record, spec in zip(made, specs, strict=True):
        if spec != step:  # what SLURM's own daemon leaves behind may live to the end of the run
            assert record.attempts == 2
            assert read_beat(folder, spec.run_id, 2).first_step > 0


def test_a_rank_that_hangs_is_noticed_and_the_run_starts_again(cluster, folder):
    spec = run_spec(steps=300)
    submit(slurm_sweep(processes=2, hang_s=4.0, every_s=0.5, attempts=2), [spec], folder)
    wait_for_step(folder, spec, 40)
    workers(cluster, spec.run_id)[-1].send_signal(signal.SIGSTOP)
    (record,) = wait_for_records(folder, [spec])
    assert ends(folder, spec) == ["lost hung"]
    assert record.attempts == 2
    assert record.loss == pytest.approx(undisturbed(spec), rel=1e-5)


def test_a_run_that_lacks_memory_gets_a_smaller_micro_batch_and_the_same_loss(cluster, folder):
    # The process itself takes 0.7 GB of addresses, 8192 sequences at once another, 2048 a quarter of that.
    spec = run_spec(steps=2)
    large = replace(spec.train, batch_tokens=8192 * 32, tokens=2 * 8192 * 32)
    spec = replace(spec, train=large, run_id="e" * 16)
    limit = {"setup": ("ulimit -v 1300000",), "environment": {"MALLOC_ARENA_MAX": "1"}}
    submit(slurm_sweep(slurm=limit, attempts=1), [spec], folder)
    (record,) = wait_for_records(folder, [spec])
    assert set(ends(folder, spec)) == {"error memory"}
    assert "micro-batch" in (folder.attempt(spec.run_id, record.attempts) / "log").read_text()
    assert record.loss == pytest.approx(undisturbed(spec), rel=1e-5)


def test_a_full_disk_loses_nothing(cluster):
    folder = SweepFolder(cluster.disk, "tiny")
    trained, toy = run_spec(steps=250), toy_spec(steps=200)
    submit(slurm_sweep(every_s=0.5), [trained, toy], folder)
    wait_for_step(folder, trained, 20)
    wait_for_step(folder, toy, 5)
    filling = cluster.disk / "filling"
    with filling.open("wb") as file:
        while True:
            try:
                file.write(bytes(1 << 16))
                file.flush()
            except OSError:
                break
    time.sleep(6)
    filling.unlink()
    made = wait_for_records(folder, [trained, toy])
    assert made[0].loss == undisturbed(trained)
    # Training went on without its metrics and checkpoints, and its result waited for room.
    assert made[0].attempts == 1
    assert ends(folder, toy) == ["lost disk"]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(cluster, folder):
    spec = run_spec(steps=300)
    submit(slurm_sweep(every_s=0.5), [spec], folder)
    kept = folder.run(spec.run_id) / "checkpoint"
    wait_until(lambda: len(list(kept.glob("step-*.pt"))) == 2, "two checkpoints")
    for process in workers(cluster, spec.run_id):
        process.send_signal(signal.SIGSTOP)
    before, newest = sorted(kept.glob("step-*.pt"))
    newest.write_bytes(newest.read_bytes()[:-100])
    for process in workers(cluster, spec.run_id):
        process.kill()
    (record,) = wait_for_records(folder, [spec])
    assert ends(folder, spec) == ["lost killed"]
    assert read_beat(folder, spec.run_id, 2).first_step == int(before.name.split("-")[1])
    assert record.loss == undisturbed(spec)
