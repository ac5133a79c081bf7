from pathlib import Path

import pytest

from sweeper.cli.arguments import same_cells


@pytest.mark.parametrize(
    ("name", "overrides", "runs", "words"),
    [
        ("quickstart", None, Path("runs"), "quickstart"),
        ("shape", ["derive.lr=around(0.1, 2, 3)"], Path("runs"), "shape 'derive.lr=around(0.1, 2, 3)'"),
        ("my söló sweep", [], Path("/big disk/runs"), "'my söló sweep' --runs '/big disk/runs'"),
    ],
)
def test_the_next_command_means_thesame_cells_in_the_same_folder(name, overrides, runs, words):
    assert same_cells(name, overrides, runs) == words


def test_a_folder_that_the_environment_names_needs_no_word(monkeypatch):
    monkeypatch.setenv("SWEEPER_RUNS", "/results")
    assert same_cells("quickstart", [], Path("/results")) == "quickstart"
