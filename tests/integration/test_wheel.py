"""The wheel as a login node gets it: built, installed into an environment without torch, used from any folder."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

PARTS = ("sweeper", "model", "kernels", "conf", "sweeps")

OWN_SWEEP = """
defaults: [{model: tiny}, {optimizer: muonh}, {transfer: none}, {data: python_source}, {cluster: local},
           {schedule: linear}, {evaluation: quick}, _self_]
lr: 0.01
tokens: 4096
batch_tokens: 1024
axes:
  lr: [0.01, 0.02]
"""


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, root, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """The `bin` of an environment that holds the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    run(folder / "bin" / "pip", "install", "--quiet", "--no-compile", wheel, cwd=folder)
    return folder / "bin"


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(root, wheel):
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", *PARTS, cwd=root).split()
    existing = (name for name in listed if (root / name).exists())
    expected = {f"sweeper/{name}" if name.startswith(("conf/", "sweeps/")) else name for name in existing}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == expected


def test_the_wheel_asks_for_no_torch(environment, tmp_path):
    run(environment / "python", "-c", "import sweeper, model, kernels", cwd=tmp_path)
    assert "torch" not in run(environment / "pip", "list", cwd=tmp_path)


def test_the_wheel_plans_the_quickstart_from_an_empty_folder(environment, tmp_path):
    assert "lr" in run(environment / "sweeper", "plan", "quickstart", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_wheel_plans_what_the_checkout_plans(environment, root, tmp_path):
    ours, theirs = (
        json.loads(run(program, "plan", "quickstart", "--json", "--runs", tmp_path / "runs", cwd=cwd))
        for program, cwd in ((Path(sys.executable).parent / "sweeper", root), (environment / "sweeper", tmp_path))
    )
    assert ours == theirs


def test_a_sweep_of_the_users_own_comes_first(environment, tmp_path):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "quickstart.yaml").write_text(OWN_SWEEP)
    planned = json.loads(run(environment / "sweeper", "plan", "quickstart", "--json", cwd=tmp_path))
    assert [planned_run["lr"] for planned_run in planned["runs"]] == [0.01, 0.02]


def test_a_launch_without_torch_says_what_to_install(environment, tmp_path):
    command = [environment / "sweeper", "launch", "quickstart", "scale=tiny"]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "torch" in done.stderr
