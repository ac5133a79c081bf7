"""Programs of others on the cluster: a Hugging Face `Trainer` that is put back goes on from its own checkpoint."""

from dataclasses import replace
from pathlib import Path

import pytest
from builders import run_spec
from slurm_sweeps import ends, job_ids, slurm_sweep, submit, wait_for_records, wait_for_step

from sweeper.records import read_beat
from sweeper.spec import Trainer, run_id

pytestmark = pytest.mark.slurm

SCRIPT = str(Path(__file__).resolve().parents[1] / "hf_trainer.py")
WORDS = ("{python}", SCRIPT, "--lr", "{lr_peak}", "--steps", "{steps}", "--layers", "{layers}")
STEPS = 400


def test_a_hugging_face_trainer_that_is_put_back_in_the_middle_resumes_and_ends(cluster, folder):
    trainer = Trainer(kind="command", argv=WORDS, values=(("layers", 1),), grace_s=60)
    spec = run_spec(lr=0.01, steps=STEPS)
    spec = replace(spec, trainer=trainer, run_id=run_id(spec.lr, spec.train, trainer))
    submit(slurm_sweep(attempts=1), [spec], folder)
    wait_for_step(folder, spec, 20, timeout_s=120)
    (job,) = job_ids(cluster)
    cluster.run("scancel", "--batch", "--signal=USR2", job)  # what `--signal=B:USR2@…` has SLURM do
    (record,) = wait_for_records(folder, [spec], timeout_s=180)
    assert ends(folder, spec) == ["stopped time"]
    assert (record.state, record.attempts, record.steps) == ("done", 2, STEPS)
    assert read_beat(folder, spec.run_id, 2).first_step >= 20
    assert 0 < record.loss < 3.5
