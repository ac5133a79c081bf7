"""The tour of the library runs as it stands, and every public name is where it says."""

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import sweeper
from sweeper import api

ROOT = Path(__file__).resolve().parents[2]


def test_every_step_of_the_tour_gives_what_it_shows():
    done = doctest.testfile(str(ROOT / "TOUR.md"), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert done.attempted > 40
    assert done.failed == 0


def test_every_public_name_is_there():
    for name in api.__all__:
        assert getattr(sweeper, name) is getattr(api, name)
    assert set(api.__all__) <= set(dir(sweeper))
    with pytest.raises(AttributeError, match="no attribute 'fit_valley'"):
        _ = sweeper.fit_valley


def test_importing_the_library_loads_nothing_heavy():
    heavy = {"torch", "scipy", "numpy", "pandas", "matplotlib", "hydra"}
    code = f"import sys; from sweeper import errors, spec; print({heavy!r} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"
