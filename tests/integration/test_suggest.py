"""`sweeper suggest --launch` as a person types it: a program whose best rate lies off its grid."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SWEEP = """
defaults: [{trainer: command}, {cluster: local}, _self_]
lr: 0.1
batch_tokens: 10
trainer:
  argv: ["{python}", train.py, "{lr_peak}", "{steps}"]
axes: {tokens: [200, 800]}
derive: {lr: "around(0.02, 2, 3)"}
question: {by: [tokens], laws: [lr_peak ~ tokens], curves: [], figures: [lr]}
"""
TRAINER = """
import json, math, os, sys
lr, steps = float(sys.argv[1]), int(sys.argv[2])
loss = 2 + 3 / steps ** 0.5 + 0.1 * math.log(lr / (0.5 * steps ** -0.3)) ** 2
json.dump({"loss": loss, "flops": 1e6 * steps}, open(os.environ["SWEEPER_RESULT"], "w"))
"""


@pytest.fixture
def type_it(tmp_path, monkeypatch):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "own.yaml").write_text(SWEEP)
    (tmp_path / "train.py").write_text(TRAINER)
    monkeypatch.chdir(tmp_path)

    def typed(*words: str) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).with_name("sweeper")
        environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "200"}
        return subprocess.run(
            [program, *words], env=environment, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL
        )

    return typed


@pytest.mark.slow
def test_following_the_suggestions_finds_optima_beyond_the_grid(type_it):
    assert type_it("launch", "own").returncode == 0
    before = json.loads(type_it("fit", "own", "--json").stdout)
    assert {optimum["status"] for optimum in before["optima"]} == {"edge_high"}
    asked = json.loads(type_it("suggest", "own", "--json").stdout)
    assert [group["suggestion"]["why"] for group in asked["groups"]] == ["extend", "extend"]
    done = type_it("suggest", "own", "--launch", "--rounds", "8", "--tolerance", "0.3")
    assert done.returncode == 0, done.stderr
    assert "every optimum is known to ±0.3 octaves" in done.stdout
    after = json.loads(type_it("fit", "own", "--json").stdout)
    assert [optimum["status"] for optimum in after["optima"]] == ["ok", "ok"]
    found = [optimum["lr"] for optimum in after["optima"]]
    assert found == pytest.approx([0.5 * steps**-0.3 for steps in (20, 80)], rel=0.15)
    plan = json.loads(type_it("plan", "own", "--json").stdout)
    assert {run["state"] for run in plan["runs"]} == {"done"}
    assert len(plan["runs"]) > 6


def test_bad_words_are_one_sentence(type_it):
    for words, part in (
        (("suggest", "own", "--rounds", "2"), "only with --launch"),
        (("suggest", "own"), "holds no results"),
        (("suggest", "table.csv", "--launch"), "no such file"),
    ):
        done = type_it(*words)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert part in done.stderr
