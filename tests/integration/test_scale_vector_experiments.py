"""What removing scale vectors costs, at tiny scale, as a user runs it: two minutes on two cores."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(840)]
COMMAND = Path(sys.executable).with_name("sweeper")


def test_removing_scale_vectors_costs_loss(tmp_path):
    def sweeper(*arguments):
        environment = {**os.environ, "SWEEPER_RUNS": str(tmp_path)}
        done = subprocess.run([COMMAND, *arguments], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    sweeper("launch", "scale_vectors/removal", "scale=tiny")
    found = json.loads(sweeper("fit", "scale_vectors/removal", "--json"))
    assert [optimum["status"] for optimum in found["optima"]] == ["ok", "ok"]
    (pairs,) = found["seeds"]
    assert pairs["tuned"]["pairs"] == 3
    # Measured: 0.028 (0.004 to 0.052) at one rate and 0.030 (0.007 to 0.054) tuned; arXiv 2605.26895: 0.028 and 0.015.
    assert pairs["at_lr"]["difference"] > 0
    assert pairs["tuned"]["difference"] > 0
    figures = tmp_path / "scale_vectors" / "removal" / "figures"
    sweeper("plot", "scale_vectors/removal")
    assert sorted(path.name for path in figures.glob("*.png")) == ["arms.png", "lr.png"]
