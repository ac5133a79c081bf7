"""Launches on a real cluster: what is handed over, once, and what a launch does when SLURM does not answer."""

import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from slurm_cluster import slurm_cluster, wait_until
from slurm_sweeps import (
    command_line,
    job_ids,
    slurm_sweep,
    submit,
    toy_spec,
    wait_for_end,
    wait_for_records,
    wait_for_silence,
    wait_for_step,
)

import sweeper
from sweeper import submission
from sweeper.errors import LaunchError
from sweeper.records import (
    SweepFolder,
    close_job,
    read_attempts,
    read_job,
    read_jobs,
    read_record,
    write_job,
    write_spec,
)
from sweeper.scheduler import arrays

pytestmark = pytest.mark.slurm

CHILD = Path(__file__).parent / "launch_child.py"


def test_the_quickstart_ends_over_arrays_and_a_second_launch_submits_nothing(use, tmp_path):
    with slurm_cluster(nodes=2, max_array_size=4) as cluster:
        use(cluster)
        profile = ["cluster.scheduler=slurm", "cluster.slurm.gpus_per_node=0", "cluster.slurm.slots_per_node=8"]
        profile += ["cluster.slurm.cpus_per_process=1", "cluster.slurm.time_min=10", "execution.device=cpu"]
        profile += ["launch.fuse=off"]
        words = ["quickstart", "scale=tiny", *profile, "--runs", str(tmp_path / "runs")]
        code, said, error = command_line("launch", *words, cwd=tmp_path)
        assert (code, error) == (0, "")
        assert re.match(r"quickstart: 6 runs submitted to local as jobs \d+, \d+ · 0 waiting or running already", said)
        folder = SweepFolder(tmp_path / "runs", "quickstart")
        assert sorted(len(job.tasks) for job, _ in read_jobs(folder).values()) == [2, 4]
        code, said, error = command_line("launch", *words, cwd=tmp_path)
        assert (code, error) == (0, "")
        assert "0 runs submitted to local · " in said
        wait_until(lambda: len(list((folder.path / "runs").glob("*/record.json"))) == 6, "six records", 150)
        wait_for_silence(cluster)
        code, said, error = command_line("launch", *words, cwd=tmp_path)
        assert "0 runs submitted to local · 0 waiting or running already · 6 with a result" in said
        code, said, error = command_line("fit", *words, "--json", cwd=tmp_path)
        assert code == 0, error
        assert len(json.loads(said)["optima"]) == 2


def test_a_queued_job_runs_the_code_and_the_settings_of_its_launch(use, tmp_path):
    with slurm_cluster(nodes=1) as cluster:
        use(cluster)
        checkout = tmp_path / "checkout"
        home = Path(sweeper.__file__).resolve().parent.parent
        for package in ("sweeper", "model", "kernels", "conf"):
            shutil.copytree(home / package, checkout / package)
        sheet = checkout / "sweeps" / "mine.yaml"
        sheet.parent.mkdir()
        sheet.write_text(SHEET)
        cluster.run("scontrol", "update", "nodename=n1", "state=drain", "reason=test")
        words = ["mine", "--runs", str(tmp_path / "runs")]
        code, said, error = command_line("launch", *words, cwd=checkout, checkout=checkout)
        assert (code, error) == (0, ""), said
        folder = SweepFolder(tmp_path / "runs", "mine")
        sheet.write_text(SHEET.replace("lr: 0.1", "lr: 0.7").replace("'2.0'", "'9.0'"))
        for source in (*(checkout / "sweeper").rglob("*.py"), *(checkout / "model").rglob("*.py")):
            source.write_text("raise SystemExit('edited after the launch')")
        cluster.run("scontrol", "update", "nodename=n1", "state=resume")
        (home_of_run,) = (folder.path / "runs").iterdir()
        wait_until((home_of_run / "record.json").exists, "the record")
        record = read_record(folder, home_of_run.name)
        assert (record.lr, record.loss) == (0.1, 2.0)
        # What was frozen is checked, too.
        (snapshot,) = folder.code.iterdir()
        frozen = snapshot / "sweeper" / "worker.py"
        frozen.write_text(frozen.read_text() + "# changed\n")
        late = toy_spec(0.3)
        write_spec(folder, late)
        (job,) = [job for job, _ in read_jobs(folder).values()]
        write_job(folder, replace(job, tasks=((late.run_id,),), cluster=replace(job.profile, attempts=1)))
        cluster.run("sbatch", str(folder.jobs / job.job / "script.sh"))
        end = wait_for_end(folder, late).end
        assert end.state == "error"
        assert "the frozen code was changed" in end.detail


SHEET = """\
defaults: [{trainer: command}, {cluster: local}, _self_]
lr: 0.1
tokens: 1000
batch_tokens: 100
trainer:
  argv: ["{python}", -c, "import json, sys; json.dump(dict(loss=float(sys.argv[2])), open(sys.argv[1], 'w'))",
         "{result}", '2.0']
cluster:
  scheduler: slurm
  backoff_s: [0.1]
  slurm: {gpus_per_node: 0, slots_per_node: 4, cpus_per_process: 1, time_min: 5}
"""


def test_a_job_that_was_taken_while_sbatch_heard_nothing_is_found_by_its_name(use, folder, monkeypatch):
    with slurm_cluster(nodes=1) as cluster:
        use(cluster)
        call = arrays._run_sbatch

        def unheard(*arguments):
            with cluster.deaf():
                return call(*arguments)

        monkeypatch.setattr(arrays, "_run_sbatch", unheard)
        spec = toy_spec(steps=5)
        made = submit(slurm_sweep(), [spec], folder)
        assert made.submitted == 1
        assert [job.partition("_")[0] for job in job_ids(cluster)] == list(made.jobs)
        (record,) = wait_for_records(folder, [spec])
        assert record.attempts == 1


def test_nothing_is_submitted_beside_a_job_of_which_nobody_knows(use, folder, monkeypatch):
    with slurm_cluster(nodes=1) as cluster:
        use(cluster)
        monkeypatch.setattr(arrays, "LOOKUP_S", (0.1,))
        call = submission.submit_script

        def unheard(*arguments):
            with cluster.deaf():
                return call(*arguments)

        spec = toy_spec(steps=60)
        with monkeypatch.context() as deaf:
            deaf.setattr(submission, "submit_script", unheard)
            with pytest.raises(LaunchError, match="nothing is submitted in its place: launch again"):
                submit(slurm_sweep(), [spec], folder)
        # The controller carries the request out as soon as it listens again.
        wait_for_step(folder, spec, 1)
        again = submit(slurm_sweep(), [spec], folder)
        assert (again.submitted, again.active) == (0, 1)
        (record,) = wait_for_records(folder, [spec])
        assert record.attempts == 1
        assert len(read_attempts(folder, spec.run_id)) == 1


def test_a_job_that_was_given_up_and_comes_after_all_steps_aside(use, folder):
    with slurm_cluster(nodes=1) as cluster:
        use(cluster)
        cluster.run("scontrol", "update", "nodename=n1", "state=drain", "reason=test")
        spec = toy_spec(steps=40)
        submit(slurm_sweep(), [spec], folder)
        (late,) = folder.jobs.iterdir()
        # As a launch leaves it that found no trace of the job.
        (late / "submitted.json").unlink()
        close_job(late, "SLURM no longer has it")
        assert submit(slurm_sweep(), [spec], folder).submitted == 1
        cluster.run("scontrol", "update", "nodename=n1", "state=resume")
        (record,) = wait_for_records(folder, [spec])
        wait_for_silence(cluster)
        (attempt,) = read_attempts(folder, spec.run_id)
        assert attempt.seat.job != late.name
        assert "nothing to do" in next(late.glob("*.out")).read_text()
        assert record.attempts == 1


def test_two_jobs_for_one_run_train_it_once(cluster, folder):
    spec = toy_spec(steps=100)
    submit(slurm_sweep(), [spec], folder)
    (job,) = folder.jobs.iterdir()
    wait_for_step(folder, spec, 1)
    double = write_job(folder, replace(read_job(job), job="double"))
    words = (job / "script.sh").read_text().replace(job.name, "double")
    (double / "script.sh").write_text(words)
    cluster.run("sbatch", str(double / "script.sh"))
    (record,) = wait_for_records(folder, [spec])
    wait_for_silence(cluster)
    assert record.attempts == 1
    assert len(read_attempts(folder, spec.run_id)) == 1


def test_a_launcher_killed_before_it_notes_sbatch_s_answer_leaves_a_job_that_is_known(cluster, folder):
    specs = [toy_spec(lr, steps=60) for lr in (0.1, 0.2)]
    rates = [str(spec.lr) for spec in specs]
    done = subprocess.run([sys.executable, str(CHILD), str(folder.path.parent), *rates], timeout=60)
    assert done.returncode == -signal.SIGKILL
    (name,) = read_jobs(folder)
    assert not (folder.jobs / name / "submitted.json").exists()
    again = submit(slurm_sweep(), specs, folder)
    assert (again.submitted, again.active) == (0, 2)
    wait_for_records(folder, specs)
    assert [len(read_attempts(folder, spec.run_id)) for spec in specs] == [1, 1]


def test_a_launch_without_an_answering_controller_is_one_sentence_and_leaves_nothing(use, tmp_path):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(SHEET)
    with slurm_cluster(nodes=1) as cluster:
        use(cluster)
        cluster.kill("slurmctld")
        code, said, error = command_line("launch", "mine", cwd=tmp_path)
        assert (code, said) == (2, "")
        assert re.fullmatch(
            r"error: SLURM does not answer \(.*\); nothing was submitted: launch again when it does\n", error
        )
        assert [path.name for path in (tmp_path / "runs" / "mine").rglob("*")] == ["launcher.lock"]
