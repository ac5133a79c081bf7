"""`sweeper calibrate` as a program: real steps, and a plan that goes by them."""

import json

import pytest
from commands import sweeper

OWN = """
defaults: [{model: tiny}, {optimizer: muonh}, {transfer: none}, {data: synthetic}, {cluster: local},
           {schedule: linear}, {evaluation: quick}, _self_]
lr: 0.01
tokens: 4096
batch_tokens: 1024
model: {vocab: 16}
axes:
  width: [16, 32]
  lr: [0.01, 0.02]
"""


@pytest.fixture
def here(tmp_path):
    (tmp_path / "own.yaml").write_text(OWN)
    return tmp_path


def test_every_shape_is_measured_once_and_plan_goes_by_it(here):
    guessed = json.loads(sweeper("plan", "own.yaml", "--json", cwd=here).stdout)
    done = sweeper("calibrate", "own.yaml", "--steps", "5", cwd=here)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "width 16",
        "width 32",
        "plan and launch of own go by 2 measured shapes instead of mfu 0.22",
    ]
    assert "tokens per step: " in lines[0]
    assert "% of the peak of a cpu-core" in lines[0]
    planned = json.loads(sweeper("plan", "own.yaml", "--json", cwd=here).stdout)
    assert [run["calibrated"] for run in guessed["runs"]] == [False] * 4
    assert [run["calibrated"] for run in planned["runs"]] == [True] * 4
    file = json.loads((here / "runs/own/calibration.json").read_text())
    speeds = sorted(run["tokens"] / run["gpu_hours"] / 3600 for run in planned["runs"])[::2]
    assert speeds == pytest.approx(sorted(one["tokens_per_s"] for one in file["found"]))
    table = sweeper("plan", "own.yaml", cwd=here).stdout
    assert "time as measured by sweeper calibrate" in table


def test_measurements_for_programs(here):
    done = sweeper("calibrate", "own.yaml", "width=16", "--steps", "3", "--json", cwd=here)
    answer = json.loads(done.stdout)
    (shape,) = answer["shapes"]
    assert (answer["schema_version"], shape["width"], shape["steps"], shape["device"]) == (1, 16, 3, "cpu")
    assert shape["tokens_per_s"] == pytest.approx(1024 / shape["step_s"])


def test_measurements_of_another_device_are_said_to_be_of_no_use(here):
    done = sweeper("calibrate", "own.yaml", "cluster=h100", "execution.device=cpu", "--steps", "3", cwd=here)
    assert "measured on cpu, but own is planned for h100" in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["own.yaml", "execution.device=cuda"], "torch sees no GPU here"),
        (["own.yaml", "data=text", "data.path=missing.txt", "model.vocab=256"], "missing.txt"),
        (["own.yaml", "--steps", "1"], "--steps"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(here, words, expected):
    done = sweeper("calibrate", *words, cwd=here)
    assert done.returncode == 2
    assert expected in done.stderr
    assert not (here / "runs").exists()
