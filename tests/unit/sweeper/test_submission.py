"""Submission to a SLURM that answers from files: limits, launches, canaries."""

import os

import pytest
from builders import run_spec, tiny_sweep
from fake_slurm import fake_slurm

from model.config import Execution
from sweeper.errors import LaunchError
from sweeper.records import End, LaunchFile, Seat, SweepFolder, claim_attempt, read_launch, write_end, write_text
from sweeper.scheduler import arrays
from sweeper.scheduler.arrays import LimitError, submit_script
from sweeper.spec import Cluster, Slurm
from sweeper.submission import keeper_name, submit_sweep
from sweeper.tend import tend


@pytest.fixture
def fake(tmp_path, monkeypatch):
    made = fake_slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{made.root / 'bin'}:{os.environ['PATH']}")
    return made


@pytest.fixture
def folder(tmp_path):
    return SweepFolder(tmp_path / "runs", "tiny")


def sweep(**slurm):
    profile = {"gpus_per_node": 0, "cpus_per_process": 1} | slurm
    return tiny_sweep(scheduler="slurm", slurm=Slurm(**profile))


def specs(number):
    return [run_spec(lr=0.01 * (i + 1)) for i in range(number)]


def submit(folder, cells, **options):
    made = options.pop("sweep", None) or sweep()
    return submit_sweep(made, cells, folder, tell=lambda _: None, **options)


def accept_at_most(fake, elements):
    """Let sbatch refuse arrays of more elements, as a submit limit does."""
    fake._write(
        "sbatch",
        f"last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' \"$2\")\n"
        f'if [ "$last" -ge {elements} ]; then echo "QOSMaxSubmitJobPerUserLimit" >&2; exit 1; fi\n'
        f"echo $$",
    )


def test_an_array_beyond_a_submit_limit_is_halved_until_part_of_it_fits(fake, folder):
    accept_at_most(fake, 3)
    made = submit(folder, specs(8))
    assert (made.submitted, made.waiting) == (8, 0)
    jobs = [path for path in folder.jobs.iterdir() if not path.name.startswith(".")]
    assert all((path / "submitted.json").exists() for path in jobs), "a refused intent was left behind"


def test_a_limit_that_lets_nothing_through_leaves_all_waiting_and_nothing_behind(fake, folder):
    accept_at_most(fake, 0)
    made = submit(folder, specs(4))
    assert (made.submitted, made.waiting) == (0, 4)
    assert "QOSMaxSubmitJobPerUserLimit" in made.limit
    assert list(folder.jobs.glob("[!.]*")) == []


def test_a_vague_refusal_of_a_user_without_jobs_is_no_limit_that_passes(fake, folder, tmp_path):
    script = tmp_path / "script.sh"
    write_text(script, "#!/bin/sh\n")
    fake._write("sbatch", "echo 'Job violates accounting/QOS policy' >&2; exit 1")
    with pytest.raises(LaunchError, match="SLURM refuses the job"):
        submit_script(script, "name")
    fake.queue({"other": ("PENDING",)})
    with pytest.raises(LimitError):
        submit_script(script, "name")


SILENT = "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1"


def test_a_job_that_was_taken_without_an_answer_is_found_by_its_name(fake, folder, monkeypatch):
    monkeypatch.setattr(arrays, "LOOKUP_S", (0.0,))
    fake.answer(
        "sbatch", f"""echo "42|0|PENDING|None||0|$(sed -n 's/.*--job-name=//p' $2)" > {fake.root}/queue; {SILENT}"""
    )
    made = submit(folder, specs(1))
    assert (made.jobs, made.submitted) == (("42",), 1)
    assert submit(folder, specs(1)).active == 1


def test_nothing_is_submitted_in_place_of_a_job_of_which_nobody_knows(fake, folder, monkeypatch):
    monkeypatch.setattr(arrays, "LOOKUP_S", (0.0,))
    fake.answer("sbatch", SILENT)
    with pytest.raises(LaunchError, match="nothing is submitted in its place: launch again when SLURM answers"):
        submit(folder, specs(2))
    fake.answer("sbatch", "echo 99")
    made = submit(folder, specs(2))
    assert (made.submitted, made.active) == (0, 2)


def test_an_answer_that_names_the_cluster_too_is_understood(fake, folder):
    fake.answer("sbatch", "echo '123;toy'")
    assert submit(folder, specs(1)).jobs == ("123",)


def test_jobs_of_another_cluster_are_unknown_and_stay_so(fake, folder, monkeypatch):
    monkeypatch.setattr("sweeper.slurm.NEW_S", 0.0)
    submit(folder, specs(1))
    (fake.root / "config").write_text("ClusterName = other\n")
    made = submit(folder, specs(1))
    assert (made.submitted, made.active) == (0, 1)


def test_runs_keep_what_their_own_launch_froze(fake, folder):
    cells = specs(4)
    big = sweep(partition="big", time_min=600)
    submit(folder, cells[:2], sweep=big)
    (job,) = [path.name for path in folder.jobs.iterdir()]
    fake.queue({job: ("PENDING", "PENDING")})
    submit(folder, cells, sweep=sweep(partition="debug", time_min=10))
    found = read_launch(folder).by_run()
    assert [found[spec.run_id].cluster.slurm.partition for spec in cells] == ["big", "big", "debug", "debug"]
    assert set(read_launch(folder).runs) == {spec.run_id for spec in cells}


def test_a_launch_file_without_earlier_launches_covers_all_its_runs():
    launch = LaunchFile(sweep="s", runs=("a", "b"), cluster=Cluster(), execution=Execution(), code="c")
    assert [part.runs for part in launch.launches] == [("a", "b")]


def test_two_folders_have_two_keepers(tmp_path):
    names = {keeper_name(SweepFolder(tmp_path / place, "tiny")) for place in ("here", "there")}
    assert len(names) == 2


def test_jobs_of_another_user_are_unknown_and_stay_open(fake, folder, monkeypatch):
    (spec,) = specs(1)
    submit(folder, [spec])
    (path,) = folder.jobs.iterdir()
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    monkeypatch.setattr("sweeper.slurm.NEW_S", 0.0)
    made = submit(folder, [spec])
    assert (made.submitted, made.active) == (0, 1)
    assert not (path / "ended.json").exists()


def test_others_wait_while_a_canary_is_tried_again_and_are_held_when_it_fails(fake, folder):
    cells = specs(4)
    submit(folder, cells, canary=True)
    launch = read_launch(folder)
    assert len(launch.canaries) == 2
    (first,) = [path.name for path in folder.jobs.iterdir() if launch.canaries[0] in (path / "job.json").read_text()]
    (others,) = [path.name for path in folder.jobs.iterdir() if path.name != first]
    # The canaries could not be requeued, so SLURM cancelled what waited for them.
    fake.queue({first: ("FAILED", "FAILED"), others: ("CANCELLED", "CANCELLED")})
    for canary in launch.canaries:
        number = claim_attempt(folder, canary, Seat(job=first, step="7.0"))
        write_end(folder, canary, number, End(state="stopped", cause="signal", reason="preempted"))
    cycle = tend(folder)
    assert (cycle.submitted, cycle.waiting) == (2, 2)  # the canaries again; the others behind them
    (again,) = {path.name for path in folder.jobs.iterdir()} - {first, others}
    fake.queue({again: ("FAILED", "FAILED"), others: ("CANCELLED", "CANCELLED")})
    canary = launch.canaries[0]
    for _ in range(3):
        number = claim_attempt(folder, canary, Seat(job=again, step="8.0"))
        write_end(folder, canary, number, End(state="error", reason="boom", time=1.0))
    cycle = tend(folder)
    assert any("canary" in sentence for sentence in cycle.said)
    assert cycle.states["cancelled"] == 2


def test_a_folder_whose_name_sbatch_would_expand_is_refused(fake, tmp_path):
    with pytest.raises(LaunchError, match="holds a character that sbatch would expand"):
        submit(SweepFolder(tmp_path / "a%j", "tiny"), specs(1))


def test_names_that_are_no_variables_are_refused():
    with pytest.raises(ValueError, match="no variable's name"):
        Slurm(environment={"A-B;touch x": "1"})


def test_a_variable_of_sbatch_speaks_only_where_the_profile_is_silent(fake, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    monkeypatch.setenv("SBATCH_PARTITION", "mine")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")
    fake._write("sbatch", f"env | grep SBATCH_ | sort > {tmp_path}/seen; echo 5")
    submit(folder, specs(1), sweep=sweep(partition="gpu"))
    assert (tmp_path / "seen").read_text().split() == ["SBATCH_ACCOUNT=mine"]


def test_a_damaged_record_leaves_the_others_alone(fake, folder):
    cells = specs(3)
    path = folder.run(cells[0].run_id) / "record.json"
    write_text(path, "")
    made = submit(folder, cells)
    assert (made.submitted, made.active) == (2, 1)
