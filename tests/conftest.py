"""What all tests share: golden files, requirements of the markers, and a machine of one thread."""

import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import slurm_cluster
from hypothesis import settings

# Before torch is imported: tests run side by side, and sums over threads depend on their number.
os.environ["OMP_NUM_THREADS"] = "1"

# A busy machine is no failure; CI draws the same examples every time, so that a change is to blame for a failure.
settings.register_profile("sweeper", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("sweeper")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", action="store_true", help="rewrite golden files instead of comparing with them")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)` asserts that a text equals the file `name` beside the test.

    A missing file is a failure; `make golden` writes the files anew, and their difference is reviewed.
    """

    def compare(name: str, text: str) -> None:
        path = request.path.with_name(name)
        if request.config.getoption("--golden"):
            path.write_text(text, encoding="utf-8")
        elif not path.exists():
            pytest.fail(f"{path} does not exist; write it with `make golden`, review and commit it", pytrace=False)
        else:
            assert text == path.read_text(encoding="utf-8")

    return compare


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the folder or the code of the person who runs it."""
    for name in ("SWEEPER_RUNS", "PYTHONPATH", "PYTHONSAFEPATH"):
        monkeypatch.delenv(name, raising=False)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a marked test where its requirement is missing; in CI a missing scheduler is a failure."""
    if item.get_closest_marker("gpu") and not _succeeds("nvidia-smi", "--list-gpus"):
        pytest.skip("nvidia-smi finds no NVIDIA GPU")
    reason = slurm_cluster.missing() if item.get_closest_marker("slurm") else ""
    if reason:
        if "CI" in os.environ:
            pytest.fail(f"{reason}, and CI must not skip it", pytrace=False)
        pytest.skip(reason)


@cache
def _succeeds(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, timeout=60, stdin=subprocess.DEVNULL).returncode == 0


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the checkout."""
    return Path(__file__).resolve().parent.parent
