"""Runs that are trained together on a real cluster: what becomes of them when something happens to one or all."""

from dataclasses import replace

import pytest
from builders import run_spec, tiny_sweep
from slurm_sweeps import (
    ends,
    slurm_sweep,
    submit,
    undisturbed,
    wait_for_records,
    wait_for_silence,
    wait_for_step,
    workers,
)

from sweeper.launch import launch
from sweeper.logs import find_logs
from sweeper.records import SweepFolder, hold_run, read_attempts, read_jobs, read_record, read_records
from sweeper.spec import Launch

pytestmark = pytest.mark.slurm

RATES = (0.02, 0.05, 0.1)


def fused(fuse=8, **changes):
    return replace(slurm_sweep(**changes), launch=Launch(fuse=fuse))


def rates(**changes):
    return [run_spec(lr=lr, **changes) for lr in RATES]


def test_runs_that_differ_in_their_rate_are_trained_together(cluster, folder):
    specs = [*rates(), run_spec(steps=9)]
    sent = submit(fused(), specs, folder)
    assert (sent.submitted, len(sent.jobs)) == (4, 2)
    assert sorted(job.tasks for job, _ in read_jobs(folder).values()) == sorted(
        [(tuple(spec.run_id for spec in specs[:3]),), ((specs[3].run_id,),)]
    )
    made = wait_for_records(folder, specs)
    assert [record.stack for record in made] == [3, 3, 3, 1]
    assert [record.loss for record in made] == pytest.approx([undisturbed(spec) for spec in specs], rel=1e-5)
    for spec in specs:
        assert any("done" in log.path.read_text() for log in find_logs(folder, spec.run_id))
    wait_for_silence(cluster)
    again = submit(fused(), specs, folder)
    assert (again.submitted, again.found) == (0, 4)


def test_what_pays_is_tried_on_the_node(cluster, folder):
    specs = rates()
    submit(fused("auto"), specs, folder)
    made = wait_for_records(folder, specs)
    (line,) = {
        line.partition("INFO ")[2]
        for line in folder.attempt(specs[0].run_id, 1).joinpath("log").read_text().splitlines()
        if "times as fast" in line
    }
    together = line.endswith("so they are trained together")
    assert [record.stack for record in made] == [3 if together else 1] * 3


def test_a_stack_whose_process_is_killed_goes_on_as_the_same_stack(cluster, folder, tmp_path):
    specs, calm = rates(steps=600), SweepFolder(tmp_path / "calm", "tiny")
    submit(fused(every_s=0.5), specs, folder)
    wait_for_step(folder, specs[0], 60)
    (process,) = workers(cluster)
    process.kill()
    made = wait_for_records(folder, specs)
    assert [ends(folder, spec) for spec in specs] == [["lost killed"]] * 3
    assert [(record.stack, record.attempts) for record in made] == [(3, 2)] * 3
    launch(tiny_sweep(fuse=3), specs, calm, follow=lambda _: None, tell=lambda _: None)
    assert {record.run_id: record.loss for record in made} == {r: one.loss for r, one in read_records(calm).items()}


def test_a_member_that_is_cancelled_leaves_the_others_to_end_without_it(cluster, folder):
    specs = rates(steps=1000)
    submit(fused(every_s=0.5), specs, folder)
    wait_for_step(folder, specs[0], 60)
    hold_run(folder, specs[1].run_id, "a person")
    made = wait_for_records(folder, [specs[0], specs[2]])
    assert [record.stack for record in made] == [2, 2]
    wait_for_silence(cluster)
    assert read_record(folder, specs[1].run_id) is None
    assert ends(folder, specs[1]) == ["stopped signal"]


def test_a_stack_that_lacks_memory_is_trained_run_by_run(cluster, folder):
    # The process itself takes 0.7 GB of addresses, 4096 sequences of one run half another, of three three times that.
    specs = []
    for spec in rates(steps=2):
        large = replace(spec.train, batch_tokens=4096 * 32, tokens=2 * 4096 * 32)
        specs.append(replace(spec, train=large, run_id=spec.run_id[:-1] + "e"))
    limit = {"setup": ("ulimit -v 1500000",), "environment": {"MALLOC_ARENA_MAX": "1"}}
    submit(fused(slurm=limit, attempts=1), specs, folder)
    made = wait_for_records(folder, specs)
    assert [ends(folder, spec) for spec in specs] == [["lost stack"]] * 3
    assert [(record.stack, record.attempts) for record in made] == [(1, 2)] * 3
    assert len({read_attempts(folder, spec.run_id)[-1].seat.step for spec in specs}) == 3
