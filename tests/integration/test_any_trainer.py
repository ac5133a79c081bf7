"""A Hugging Face `Trainer` carried out as the worker carries out a command."""

import json
import math
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from builders import run_spec

from sweeper.command import CommandOutcome, run_command
from sweeper.records import SweepFolder, write_spec
from sweeper.spec import RunSpec, Trainer

ROOT = Path(__file__).resolve().parents[2]
CHILD = ROOT / "tests/unit/sweeper/command_child.py"
SCRIPT = (
    str(ROOT / "tests/integration/hf_trainer.py"),
    "--lr",
    "{lr_peak}",
    "--steps",
    "{steps}",
    "--layers",
    "{layers}",
)
STEPS = 12

pytestmark = pytest.mark.slow


class Silent:
    def metrics(self, member, row):
        pass

    def progress(self, member, step, steps, tokens_per_s):
        pass


def spec_of(*argv: str, **trainer: str) -> RunSpec:
    made = Trainer(kind="command", argv=(*argv, *SCRIPT), values=(("layers", 1),), grace_s=120, **trainer)
    return replace(run_spec(lr=0.01, steps=STEPS), trainer=made)


def attempt(runs: Path, number: int, stop=lambda _: False) -> CommandOutcome:
    """An attempt at the run by one process; `stop` is given the path of what the command has reported."""
    folder, spec = SweepFolder(runs, "s"), spec_of("{python}")
    write_spec(folder, spec)
    home = folder.attempt(spec.run_id, number)
    home.mkdir(parents=True)
    return run_command(
        spec,
        home=home,
        run_folder=folder.run(spec.run_id),
        attempt=number,
        rank=0,
        world_size=1,
        observer=Silent(),
        stop=lambda: stop(home / "command.jsonl"),
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    pytest.importorskip("transformers")
    return attempt(tmp_path_factory.mktemp("undisturbed"), 1)


def test_one_that_was_stopped_resumes_and_ends_as_if_undisturbed(undisturbed, tmp_path):
    stopped = attempt(tmp_path, 1, stop=Path.exists)
    assert stopped.state == "stopped"
    assert 1 <= stopped.steps < STEPS
    done = attempt(tmp_path, 2)
    assert done.state == undisturbed.state == "done"
    assert done.loss == pytest.approx(undisturbed.loss, rel=1e-5)
    assert done.loss < math.log(32)
    assert done.params == undisturbed.params
    assert done.extra["perplexity"] == pytest.approx(math.exp(done.loss))


@pytest.mark.parametrize(
    ("argv", "per"),
    [(("{python}",), "task"), (("{python}", "-m", "torch.distributed.run"), "job")],
    ids=["task", "torchrun"],
)
def test_two_processes_have_the_loss_of_one(undisturbed, tmp_path, argv, per):
    folder, spec = SweepFolder(tmp_path, "s"), spec_of(*argv, per=per)
    write_spec(folder, spec)
    folder.attempt(spec.run_id, 1).mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [sys.executable, CHILD, folder.run(spec.run_id), str(rank), "2"],
            env={**os.environ, **places, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    first, _ = (json.loads(rank.communicate(timeout=240)[0]) for rank in ranks)
    assert first["state"] == "done"
    assert first["loss"] == pytest.approx(undisturbed.loss, rel=1e-4)
