"""Runs of several processes, and several runs on one node, on a real cluster: who computes where, and that the losses
do not depend on it.
"""

import json
from dataclasses import replace

import pytest
from builders import run_spec
from slurm_sweeps import (
    slurm_sweep,
    submit,
    toy_spec,
    undisturbed,
    wait_for_end,
    wait_for_records,
    wait_for_silence,
    wait_for_step,
)

from sweeper.records import read_beat
from sweeper.spec import Trainer

pytestmark = pytest.mark.slurm

TELL = """
import json, os, time
names = "CUDA_VISIBLE_DEVICES RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR SLURMD_NODENAME".split()
place = {name: os.environ.get(name, "") for name in names}
with open(os.environ["SWEEPER_CHECKPOINTS"] + "/place." + os.environ["SWEEPER_TASK"], "w") as file:
    json.dump(place, file)
began = time.time()
time.sleep(1)
json.dump({"loss": 1.0, "began": began, "ended": time.time()} | place, open(os.environ["SWEEPER_RESULT"], "w"))
"""


def telling(lr):
    """A run that records where it was carried out."""
    argv = ("{python}", "-c", TELL.replace("{", "{{").replace("}", "}}"))
    return replace(toy_spec(lr), trainer=Trainer(kind="command", argv=argv))


@pytest.mark.parametrize("request_of", ["gres", "gpus_per_node", "none"])
def test_runs_that_share_a_whole_node_run_at_once_on_gpus_of_their_own(cluster, folder, request_of):
    specs = [telling(0.01 * i) for i in range(1, 6)]
    profile = {"exclusive": True, "gpus_per_node": 4, "gpu_request": request_of, "mem_gib": 1}
    submission = submit(slurm_sweep(slurm=profile), specs, folder)
    assert submission.submitted == 5
    told = [record.extra for record in wait_for_records(folder, specs)]
    by_node = {}
    for place in told:
        by_node.setdefault(place["SLURMD_NODENAME"], []).append(place)
    assert sorted(len(places) for places in by_node.values()) == [1, 4]
    (full,) = [places for places in by_node.values() if len(places) == 4]
    assert sorted(place["CUDA_VISIBLE_DEVICES"] for place in full) == ["0", "1", "2", "3"]
    assert max(place["began"] for place in full) < min(place["ended"] for place in full)


def test_two_jobs_on_one_node_get_different_gpus(cluster, folder):
    specs = [telling(0.1), telling(0.2)]
    profile = {"gpus_per_node": 4, "extra_sbatch": {"nodelist": "n1"}}
    submit(slurm_sweep(slurm=profile, processes=2), specs, folder)
    told = [record.extra for record in wait_for_records(folder, specs)]
    assert sorted(place["CUDA_VISIBLE_DEVICES"] for place in told) == ["0,1", "2,3"]
    assert max(place["began"] for place in told) < min(place["ended"] for place in told)


def test_each_process_of_a_run_over_two_nodes_knows_its_place(cluster, folder):
    spec = telling(0.3)
    submit(slurm_sweep(slurm={"gpus_per_node": 2, "nodes": 2}, processes=4), [spec], folder)
    wait_for_records(folder, [spec])
    files = sorted((folder.run(spec.run_id) / "checkpoint").glob("place.*"))
    places = [json.loads(file.read_text()) for file in files]
    assert [place["RANK"] for place in places] == ["0", "1", "2", "3"]
    assert [place["LOCAL_RANK"] for place in places] == ["0", "1", "0", "1"]
    assert [place["SLURMD_NODENAME"] for place in places] == ["n1", "n1", "n2", "n2"]
    assert {place["WORLD_SIZE"] for place in places} == {"4"}
    assert {place["MASTER_ADDR"] for place in places} == {"n1"}
    assert {place["CUDA_VISIBLE_DEVICES"] for place in places} == {"0,1"}


def test_two_nodes_of_two_processes_train_to_the_loss_of_one(cluster, folder):
    spec = run_spec(steps=20)
    submit(slurm_sweep(slurm={"slots_per_node": 2, "nodes": 2}, processes=4), [spec], folder)
    (record,) = wait_for_records(folder, [spec])
    assert record.world_size == 4
    assert record.loss == pytest.approx(undisturbed(spec), rel=1e-5)


def test_a_run_goes_on_with_fewer_processes_than_it_began_with(cluster, folder):
    # float64 with float64 Newton–Schulz: rounding does not grow over the steps.
    short = run_spec(steps=120)
    exact = replace(short.train, precision="float64", optimizer=replace(short.train.optimizer, ns_dtype="float64"))
    spec = replace(short, train=exact, run_id="f" * 16)
    profile = {"slots_per_node": 4}
    submit(slurm_sweep(slurm=profile, processes=4), [spec], folder)
    wait_for_step(folder, spec, 10)
    cluster.run("scancel", "--batch", "--signal=TERM", "--name", only_job(folder))
    first = wait_for_end(folder, spec)
    wait_for_silence(cluster)
    assert first.end.state == "stopped"
    submit(slurm_sweep(slurm=profile, processes=2), [spec], folder)
    (record,) = wait_for_records(folder, [spec])
    assert (record.world_size, record.attempts) == (2, 2)
    assert record.loss == pytest.approx(undisturbed(spec), rel=1e-8)
    assert 10 <= resumed_at(folder, spec, 2) < 120


def resumed_at(folder, spec, number):
    return read_beat(folder, spec.run_id, number).first_step


def only_job(folder):
    (job,) = [path.name for path in folder.jobs.iterdir()]
    return job
