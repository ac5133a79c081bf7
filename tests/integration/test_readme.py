"""What the README shows works as it says."""

import math
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from builders import run_record

from model.shape import model_shape
from sweeper.analysis import fit_question
from sweeper.command import run_command
from sweeper.config import load_sweep
from sweeper.figures import plot_question
from sweeper.grid import expand
from sweeper.records import SweepFolder, write_spec
from sweeper.table import results

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
EXAMPLE, CLUSTER, ANY_TRAINER = (text for language, text in BLOCKS if language == "yaml")
(TRAINER,) = (text for language, text in BLOCKS if language == "python")
PLANS = [
    shlex.split(line.removeprefix("$ "), comments=True)[2:]
    for language, text in BLOCKS
    if language == ""
    for line in text.splitlines()
    if line.removeprefix("$ ").startswith("sweeper plan") and "optimzer" not in line
]


class Silent:
    def metrics(self, _member, _row):
        pass

    def progress(self, _member, _step, _steps, _tokens_per_s):
        pass


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the README's sweep in it, as the reader's working directory."""
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "shape.yaml").write_text(EXAMPLE)
    (tmp_path / "conf" / "cluster").mkdir(parents=True)
    (tmp_path / "conf" / "cluster" / "mine.yaml").write_text(CLUSTER)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("words", PLANS, ids=" ".join)
def test_every_plan_of_the_readme_has_runs(words):
    name, *overrides = (word for word in words if not word.startswith("--"))
    assert len(expand(load_sweep(name, overrides))) > 0


def test_the_example_has_the_runs_that_the_readme_counts():
    counted = re.search(r"`sweeper plan shape` shows its (\d+) runs", README)
    assert counted is not None
    assert len(expand(load_sweep("shape"))) == int(counted[1])


def plausible(spec):
    """The record of a run whose loss has a valley in the learning rate and falls with compute."""
    shape = model_shape(spec.train.model)
    best = (4.0 if spec.arm == "muonh" else 0.4) * shape.params**-0.3
    return run_record(
        spec,
        loss=1.5 + 20 * shape.flops_per_token**-0.2 + 0.1 * math.log(spec.lr_peak / best) ** 2,
        params=shape.params,
        params_total=shape.params_total,
        flops=shape.flops_per_token * spec.train.tokens,
    )


def test_the_question_of_the_example_is_answered():
    sweep = load_sweep("shape")
    specs = expand(sweep)
    table = results([plausible(spec) for spec in specs], specs)
    report = fit_question(table, sweep.question)
    assert len(report.optima) == 10
    assert {(law.y, law.x, law.per["arm"]) for law in report.laws} == {
        ("lr_peak", "params", "muonh"),
        ("lr_peak", "params", "adamw"),
    }
    assert set(plot_question(table, sweep.question, report)) == {"lr", "flops"}


def test_the_trainer_of_the_example_gives_its_result_again_when_it_resumes(tmp_path, monkeypatch):
    (tmp_path / "sweeps" / "own.yaml").write_text(ANY_TRAINER)
    (tmp_path / "train.py").write_text(TRAINER)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    specs = expand(load_sweep("own"))
    assert len(specs) == 30
    folder = SweepFolder(tmp_path, "own")

    def attempt(number):
        write_spec(folder, specs[0])
        home = folder.attempt(specs[0].run_id, number)
        home.mkdir(parents=True)
        return run_command(
            specs[0],
            home=home,
            run_folder=folder.run(specs[0].run_id),
            attempt=number,
            rank=0,
            world_size=1,
            observer=Silent(),
            stop=lambda: False,
        )

    first, again = attempt(1), attempt(2)
    assert first.state == "done"
    assert first.extra["perplexity"] == pytest.approx(math.exp(first.loss))
    assert again.loss == first.loss


def test_every_link_to_a_file_leads_somewhere():
    root = Path(__file__).resolve().parents[2]
    assert [name for name in re.findall(r"\]\(([\w./-]+)\)", README) if not (root / name).exists()] == []
