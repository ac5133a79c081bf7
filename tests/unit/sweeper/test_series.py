import json
import math

import pytest
from builders import run_spec

from sweeper.errors import DiskError
from sweeper.records import SweepFolder
from sweeper.series import read_series

SPEC = run_spec(0.05)


@pytest.fixture
def folder(tmp_path):
    return SweepFolder(tmp_path, "tiny")


def write(folder, number, lines):
    home = folder.attempt(SPEC.run_id, number)
    home.mkdir(parents=True, exist_ok=True)
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (home / "metrics.jsonl").write_text(text)


def test_a_run_that_reported_nothing_has_no_series(folder):
    assert read_series(folder, [SPEC]) == ()
    write(folder, 1, [])
    assert read_series(folder, [SPEC]) == ()


def test_of_overlapping_attempts_the_later_wins_per_step(folder):
    write(folder, 2, [{"step": 20, "loss": 2.5}, {"step": 30, "loss": 2.0}])
    write(folder, 1, [{"step": 10, "loss": 4.0}, {"step": 20, "loss": 3.0}])
    (series,) = read_series(folder, [SPEC])
    assert (series.step.tolist(), series.metrics["loss"].tolist()) == ([10, 20, 30], [4.0, 2.5, 2.0])


def test_attempts_are_ordered_by_number_not_by_name(folder):
    for number in (1, 2, 10):
        write(folder, number, [{"step": 1, "loss": float(number)}])
    (series,) = read_series(folder, [SPEC])
    assert series.metrics["loss"].tolist() == [10.0]


def test_metrics_of_layers_are_averaged_and_missing_ones_are_gaps(folder):
    write(folder, 1, [{"step": 1, "stability/maxvio/0": 1.0, "stability/maxvio/1": 3.0}, {"step": 2, "val/loss": 2.0}])
    (series,) = read_series(folder, [SPEC])
    assert series.metrics["stability/maxvio"][0] == 2.0
    assert math.isnan(series.metrics["stability/maxvio"][1])
    assert math.isnan(series.metrics["val/loss"][0])


def test_numbers_that_are_none_are_gaps(folder):
    write(folder, 1, ['{"step": 1, "loss": NaN, "grad_norm": null}', {"step": 2, "loss": 2.0, "grad_norm": 1.0}])
    (series,) = read_series(folder, [SPEC])
    assert math.isnan(series.metrics["loss"][0])
    assert math.isnan(series.metrics["grad_norm"][0])


def test_damaged_lines_are_counted_but_for_the_last_that_a_killed_run_leaves(folder):
    write(folder, 1, [{"step": 1, "loss": 4.0}, "\0\0\0", "[1]", {"step": 2, "loss": 3.0}, '{"step": 3, "lo'])
    (series,) = read_series(folder, [SPEC])
    assert (series.step.tolist(), series.damaged) == ([1, 2], 2)


def test_a_run_carries_what_sets_it_apart(folder):
    write(folder, 1, [{"step": 1, "loss": 4.0}])
    (series,) = read_series(folder, [SPEC])
    assert (series.labels["lr_peak"], series.labels["tokens"]) == (SPEC.lr_peak, SPEC.train.tokens)


def test_no_more_runs_are_read_than_are_asked_for(tmp_path):
    folder, specs = SweepFolder(tmp_path, "tiny"), [run_spec(lr) for lr in (0.01, 0.02, 0.04)]
    for spec in specs[:2]:
        (folder.attempt(spec.run_id, 1)).mkdir(parents=True)
        (folder.attempt(spec.run_id, 1) / "metrics.jsonl").write_text('{"step": 1, "loss": 4.0}\n')
    (folder.attempt(specs[2].run_id, 1) / "metrics.jsonl").mkdir(parents=True)
    assert [series.run_id for series in read_series(folder, specs, 2)] == [spec.run_id for spec in specs[:2]]
    with pytest.raises(DiskError):
        read_series(folder, specs)
