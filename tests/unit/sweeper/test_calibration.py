from dataclasses import replace

import pytest
from builders import TINY, run_spec

from model.config import Execution, OptimizerConfig, Seeds
from sweeper.calibration import Calibrated, read_calibration, step_key, write_calibration
from sweeper.errors import SweeperError
from sweeper.plan import make_plan
from sweeper.records import SweepFolder
from sweeper.spec import Cluster, Gpu, Slurm, Trainer

CPU = Cluster(gpu=Gpu(name="cpu-core", peak_flops=1e9, mfu=0.5))
GPU = Cluster(gpu=Gpu(name="h100"))


def calibrated(spec, tokens_per_s=1e4, device="cpu", execution=None):
    key = step_key(spec.train, execution or Execution())
    return Calibrated(key=key, device=device, tokens_per_s=tokens_per_s, step_s=0.1, steps=50, time=1.0, torch="2.13.0")


def test_what_costs_the_same_has_one_key():
    key = step_key(run_spec().train, Execution())
    for same in (run_spec(lr=0.7), run_spec(steps=99), run_spec(seed=Seeds(init=4, data=5))):
        assert step_key(same.train, Execution()) == key
    for other in (
        run_spec(model=replace(TINY, depth=2)),
        run_spec(optimizer=OptimizerConfig(name="adamw")),
        run_spec(batch_tokens=512),
        run_spec(precision="bfloat16"),
    ):
        assert step_key(other.train, Execution()) != key
    for execution in (Execution(micro_batch=1), Execution(threads=2), Execution(triton=True)):
        assert step_key(run_spec().train, execution) != key
    assert step_key(run_spec().train, Execution(log_every=7, device="cpu")) == key


def test_a_later_measurement_takes_the_place_of_an_earlier_one(tmp_path):
    folder = SweepFolder(tmp_path, "tiny")
    spec, other = run_spec(), run_spec(model=replace(TINY, depth=2))
    assert read_calibration(folder, CPU) == {}
    write_calibration(folder, [calibrated(spec, 1.0), calibrated(other, 2.0)])
    write_calibration(folder, [calibrated(spec, 3.0), calibrated(spec, 9.0, device="NVIDIA H100 80GB HBM3")])
    assert sorted(read_calibration(folder, CPU).values()) == [2.0, 3.0]
    assert list(read_calibration(folder, GPU).values()) == [9.0]


def test_a_file_that_is_no_calibration_is_one_sentence(tmp_path):
    folder = SweepFolder(tmp_path, "tiny")
    folder.path.mkdir()
    (folder.path / "calibration.json").write_text('{"found": [{"key": 1}]}')
    with pytest.raises(SweeperError, match=r"calibration\.json"):
        read_calibration(folder, CPU)


def test_a_plan_goes_by_what_was_measured():
    spec, other = run_spec(steps=10), run_spec(model=replace(TINY, depth=2))
    known = {step_key(spec.train, Execution()): 1000.0}
    measured, guessed = make_plan("tiny", [spec, other], {}, CPU, Execution(), calibrated=known).runs
    assert measured.gpu_hours == pytest.approx(spec.train.tokens / 1000 / 3600)
    assert (measured.calibrated, guessed.calibrated) == (True, False)
    assert guessed == make_plan("tiny", [other], {}, CPU, Execution()).runs[0]


def test_the_time_limit_of_a_job_goes_by_what_was_measured_until_runs_have_ended():
    cluster = Cluster(scheduler="slurm", gpu=CPU.gpu, slurm=Slurm(time_min=600))
    spec = run_spec(steps=1000)
    known = {step_key(spec.train, Execution()): spec.train.tokens / 3600}
    (run,) = make_plan("tiny", [spec], {}, cluster, Execution(), calibrated=known).runs
    assert run.time_min == 60 * 1.5 + 10
    speeds = {(run.params_total, 1): spec.train.tokens / 600}
    (run,) = make_plan("tiny", [spec], {}, cluster, Execution(), speeds, calibrated=known).runs
    assert run.time_min == 10 * 1.5 + 10


def test_a_command_is_not_calibrated():
    spec = run_spec()
    known = {step_key(spec.train, Execution()): 1000.0}
    command = replace(spec, trainer=Trainer(kind="command", argv=("python", "train.py")))
    (run,) = make_plan("tiny", [command], {}, CPU, Execution(), calibrated=known).runs
    assert not run.calibrated
