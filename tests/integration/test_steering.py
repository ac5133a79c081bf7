"""Commands that show and steer a sweep, as a person meets them; SLURM is a set of commands that answer from files."""

import json
import os
import re
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from builders import run_record
from fake_slurm import fake_slurm, path_with

import sweeper as package
from sweeper.cli import main
from sweeper.config import load_sweep
from sweeper.grid import expand
from sweeper.records import (
    End,
    JobFile,
    LaunchFile,
    Seat,
    Submitted,
    SweepFolder,
    close_job,
    owner_of,
    read_jobs,
    write_end,
    write_job,
    write_json,
    write_launch,
    write_record,
    write_spec,
    write_submitted,
)
from sweeper.tend import Cycle
from sweeper.terminal.steering import print_cycle

SWEEP = """
defaults: [{model: tiny}, {optimizer: muonh}, {transfer: none}, {data: synthetic}, {cluster: local},
           {schedule: linear}, {evaluation: quick}, _self_]
lr: 0.1
tokens: 4096
batch_tokens: 1024
axes:
  lr: [0.1, 0.2, 0.4]
cluster:
  scheduler: slurm
  slurm: {gpus_per_node: 0}
"""
JOB = "toy-1"


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """A launched sweep of three runs: the first done, the second failed, the third queued."""
    slurm = fake_slurm(tmp_path / "slurm")
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "toy.yaml").write_text(SWEEP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", path_with(slurm))
    sweep = load_sweep("toy")
    specs, folder = expand(sweep), SweepFolder(tmp_path / "runs", "toy")
    for spec in specs:
        write_spec(folder, spec)
    write_record(folder, run_record(specs[0]))
    failed = specs[1].run_id
    seat = Seat(job=JOB, task=1, node="n1", step="7.0")
    write_json(folder.attempt(failed, 1) / "owner.json", {"owner": owner_of(os.getpid()), "seat": seat})
    (folder.attempt(failed, 1) / "log").write_text("first line\nValueError: boom\n")
    write_end(folder, failed, 1, End(state="error", reason="ValueError: boom", detail="Traceback:\nValueError: boom"))
    runs = tuple(spec.run_id for spec in specs)
    launched = LaunchFile(sweep="toy", runs=runs, cluster=sweep.cluster, execution=sweep.execution, code="c")
    write_launch(folder, launched)
    job = JobFile(
        job=JOB,
        tasks=tuple((run_id,) for run_id in runs),
        code="c",
        processes=1,
        heartbeat_s=60,
        execution=sweep.execution,
        cluster=sweep.cluster,
    )
    write_submitted(write_job(folder, job), Submitted(cluster="toy", job_id="7", time=time.time() - 1000))
    slurm.queue({JOB: ("COMPLETED", "FAILED", "PENDING")}, reason="Resources")
    return slurm


@dataclass(frozen=True, slots=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def sweeper(scene, monkeypatch, capsys):
    """Run a command in this process: what is imported stays imported."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["sweeper", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return Done(int(end.value.code or 0), *capsys.readouterr())

    return run


def test_status_shows_what_matters_and_exits_with_3_if_runs_failed(scene, sweeper):
    done = sweeper("status", "toy")
    assert done.returncode == 3, done.stderr
    assert "3 runs (1 queued, 1 failed, 1 done)" in done.stdout
    assert "ValueError: boom" in done.stdout
    assert "Resources" in done.stdout
    assert done.stdout.splitlines()[-1] == "next: sweeper watch toy"


def test_status_prints_one_object_for_programs(scene, sweeper):
    found = json.loads(sweeper("status", "toy", "--json").stdout)
    assert found["states"] == {"queued": 1, "failed": 1, "done": 1}
    assert [row["state"] for row in found["runs"]] == ["failed", "queued", "done"]
    assert found["next"] == "sweeper watch toy"


def test_the_lines_of_a_status_have_no_padding_and_no_long_reasons(scene, sweeper):
    failed = expand(load_sweep("toy"))[1].run_id
    end = End(state="error", reason=f"the command ended with 1: {'b' + 'o' * 90}m; see /a/long/path", time=time.time())
    write_end(SweepFolder(Path("runs"), "toy"), failed, 1, end)
    lines = sweeper("status", "toy").stdout.splitlines()
    assert all(line == line.rstrip() for line in lines)
    (row,) = [line for line in lines if line.startswith(failed[:8])]
    assert re.search(r"again in \d+ s: the command ended with 1: bo+…$", row)
    assert lines[2].endswith("why")


def test_a_condition_that_nothing_satisfies_is_no_finished_sweep(scene, sweeper):
    done = sweeper("status", "toy", "--where", "state == 'running'")
    assert done.returncode == 0
    assert done.stdout.startswith("toy: none of the 3 runs satisfies \"state == 'running'\": state is ")
    assert "next:" not in done.stdout


def test_what_to_type_next_is_about_the_whole_sweep(scene, sweeper):
    done = sweeper("status", "toy", "--where", "state == 'done'")
    assert done.stdout.splitlines()[-1] == "next: sweeper watch toy"


def test_a_folder_of_runs_that_is_not_there_is_told(scene, sweeper):
    done = sweeper("status", "toy", "--runs", "elsewhere")
    assert "nothing was launched below elsewhere/toy; launch it, or name the folder of its --runs" in done.stdout


def test_a_condition_with_one_equals_sign_names_no_run(scene, sweeper):
    done = sweeper("why", "toy", "state='failed'")
    assert (done.returncode, "a condition is written with ==" in done.stderr) == (2, True)


def test_the_readme_names_every_field_for_programs(scene, sweeper):
    readme = (Path(package.__file__).parents[1] / "README.md").read_text()
    lines = {line.split("`")[1]: line for line in readme.splitlines() if line.startswith("| `")}
    for words in (("status", "toy"), ("why", "toy", "lr == 0.2"), ("plan", "toy")):
        printed = json.loads(sweeper(*words, "--json").stdout)
        runs = printed.get("runs")
        assert {*printed, *(runs[0] if runs else ())} - {"lr"} <= set(re.findall(r"\w+", lines[words[0]])), words


def test_why_is_one_sentence_and_the_tracebacks_last_lines(scene, sweeper):
    done = sweeper("why", "toy", "lr == 0.2")
    assert "attempt 1 on n1 failed: ValueError: boom" in done.stdout
    assert done.stdout.endswith("Traceback:\nValueError: boom\n")


def test_why_shows_a_job_that_ended_before_it_made_an_attempt(scene, sweeper):
    folder, failed = SweepFolder(Path("runs"), "toy"), expand(load_sweep("toy"))[1].run_id
    job = replace(read_jobs(folder)[JOB][0], job="toy-2", tasks=((failed,),))
    path = write_job(folder, job)
    write_submitted(path, Submitted(cluster="toy", job_id="8", time=time.time()))
    (path / "8_0.out").write_text("first\nbash: module: command not found\n")
    close_job(path)
    done = sweeper("why", "toy", failed)
    assert f"{failed}: job 8_0 ended before the run's processes began; before it, attempt 1 on n1 failed" in done.stdout
    assert done.stdout.endswith("bash: module: command not found\n")


def test_logs_are_those_of_the_last_attempt(scene, sweeper):
    assert sweeper("logs", "toy", "lr == 0.2").stdout == "first line\nValueError: boom\n"


def test_a_run_without_a_log_says_so(scene, sweeper):
    done = sweeper("logs", "toy", "lr == 0.4")
    assert done.returncode == 2
    assert "has not printed anything yet" in done.stderr


def test_cancel_wants_to_know_which_runs(scene, sweeper):
    done = sweeper("cancel", "toy")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--where CONDITION" in done.stderr


@pytest.mark.parametrize("words", [("--where", "state == 'queued'"), ("lr == 0.4",)])
def test_a_condition_and_all_runs_contradict_each_other(scene, sweeper, words):
    done = sweeper("cancel", "toy", *words, "--all", "--yes")
    assert (done.returncode, scene.calls("scancel")) == (2, [])
    assert "--all means every run, but" in done.stderr


def test_several_runs_are_not_cancelled_unasked(scene, sweeper):
    done = sweeper("cancel", "toy", "--all")
    assert (done.returncode, scene.calls("scancel")) == (2, [])
    assert "whether to cancel 2 runs (1 queued, 1 failed); say so with --yes" in done.stderr
    assert "2 runs cancelled" in sweeper("cancel", "toy", "--all", "--yes").stdout


def test_runs_that_were_cancelled_before_are_counted_aside(scene, sweeper):
    sweeper("cancel", "toy", "lr == 0.4")
    scene.queue({JOB: ("COMPLETED", "FAILED", "CANCELLED")})
    assert "1 run cancelled, 1 was already" in sweeper("cancel", "toy", "--all").stdout


def test_what_was_cancelled_is_taken_up_again_by_retry(scene, sweeper):
    assert "1 run cancelled" in sweeper("cancel", "toy", "--where", "state == 'queued'").stdout
    assert scene.calls("scancel") == ["7_2"]
    scene.queue({JOB: ("COMPLETED", "FAILED", "CANCELLED")})
    assert "cancelled by" in sweeper("status", "toy").stdout
    done = sweeper("retry", "toy")
    assert "2 runs submitted again (jobs 99)" in done.stdout, done.stderr


def test_retry_does_not_take_silence_for_nothing_to_do(scene, sweeper):
    scene.fall_silent()
    done = sweeper("retry", "toy")
    assert (done.returncode, done.stdout) == (2, "")
    assert "SLURM does not answer" in done.stderr


def test_tend_and_exclude_pass_over_the_overrides_of_the_launch(scene, sweeper):
    assert sweeper("tend", "toy", "cluster=h100").returncode == 3
    done = sweeper("exclude", "toy", "cluster=h100", "n2")
    assert (done.returncode, "excluded: n2" in done.stdout) == (0, True), done.stderr


def test_tending_prints_where_the_sweep_stands_only_as_that_changes(capsys):
    cycle = Cycle(states={"queued": 1}, submitted=0, waiting=0, next_at=0.0, excluded=(), said=())
    before = print_cycle("toy", cycle)
    print_cycle("toy", cycle, before)
    print_cycle("toy", replace(cycle, states={"running": 1}), before)
    printed = [line.partition(" ")[2] for line in capsys.readouterr().out.splitlines()]
    assert printed == ["toy: 1 queued", "toy: 1 running"]


def test_a_cycle_of_tending_says_where_the_sweep_stands(scene, sweeper):
    done = sweeper("tend", "toy")
    assert done.returncode == 3, done.stderr
    assert "toy: 1 queued, 1 failed, 1 done, 1 wait (the first for" in done.stdout


def test_watching_ends_when_nobody_is_at_work(scene, sweeper):
    scene.queue({JOB: ("COMPLETED", "FAILED", "FAILED")})
    done = sweeper("watch", "toy", "--every", "0.5")
    assert done.returncode == 3, done.stderr
    assert "toy: 1 new, 1 failed, 1 done" in done.stdout


def test_a_controller_that_is_silent_is_a_warning_of_status_and_an_error_of_tend(scene, sweeper):
    scene.fall_silent()
    done = sweeper("status", "toy")
    assert "2 unknown, 1 done" in done.stdout
    assert "none is taken for dead" in done.stdout
    done = sweeper("tend", "toy")
    assert (done.returncode, "SLURM does not answer" in done.stderr) == (2, True)
