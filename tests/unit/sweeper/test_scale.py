"""What a command does for each run of a large sweep, counted rather than timed."""

import os
import sys
from collections import Counter
from contextlib import contextmanager

import pytest
from builders import run_record

from sweeper.cli.running import collect
from sweeper.config import load_sweep
from sweeper.grid import expand
from sweeper.overview import overview, take_look
from sweeper.records import Beat, End, Seat, SweepFolder, claim_attempt, write_beat, write_end, write_record

OVERRIDES = ("data=synthetic", "axes.tokens=[16384, 32768]", "derive.lr=around(predicted_lr, 1.1, 10)")
RECORDING: list[list[str]] = []
"""Where what is opened is noted down; empty outside of these tests."""


def _note(event, arguments):
    if RECORDING and event in ("open", "os.scandir") and isinstance(arguments[0], str | os.PathLike):
        RECORDING[-1].append(os.fspath(arguments[0]) + ("/" if event == "os.scandir" else ""))


@pytest.fixture(scope="module", autouse=True)
def _hook():
    sys.addaudithook(_note)  # for good: there is no way to take one away


@contextmanager
def opened(folder):
    """How often each file, or folder (with a slash behind it), of a sweep's runs is opened meanwhile, by its path."""
    found, home = Counter(), f"{folder.path}/runs/"
    RECORDING.append([])
    try:
        yield found
    finally:
        found.update(path.removeprefix(home) for path in RECORDING.pop() if path.startswith(home) and path != home)


@pytest.fixture
def specs():
    return expand(load_sweep("quickstart", OVERRIDES))


def test_status_opens_the_record_of_a_finished_run_once_and_nothing_else_of_it(tmp_path, specs):
    folder = SweepFolder(tmp_path, "quickstart")
    for spec in specs:
        claim_attempt(folder, spec.run_id, Seat(job="j"))
        write_record(folder, run_record(spec))
    with opened(folder) as found:
        overview("quickstart", specs, take_look(folder, [spec.run_id for spec in specs]))
    assert found == {f"{spec.run_id}/record.json": 1 for spec in specs}


def test_status_looks_at_a_run_without_a_result_a_few_times_whatever_the_number_of_runs(tmp_path, specs):
    folder = SweepFolder(tmp_path, "quickstart")
    for spec in specs:
        number = claim_attempt(folder, spec.run_id, Seat(job="j"))
        write_beat(folder, spec.run_id, number, Beat(time=1.0, run_id=spec.run_id, step=1, steps=8, tokens_per_s=1.0))
        write_end(folder, spec.run_id, number, End(state="stopped", reason="a signal"))
    with opened(folder) as found:
        overview("quickstart", specs, take_look(folder, [spec.run_id for spec in specs]))
    # Its record, its attempts, and the owner, end and heartbeat of the last.
    assert Counter(path.split("/")[0] for path in found.elements()) == {spec.run_id: 5 for spec in specs}


def test_collect_opens_each_record_once(tmp_path, specs, capsys):
    folder = SweepFolder(tmp_path, "quickstart")
    for spec in specs:
        write_record(folder, run_record(spec))
    with opened(folder) as found:
        collect("quickstart", list(OVERRIDES), tmp_path)
    assert f"{len(specs)} done" in capsys.readouterr().out
    assert found == {f"{spec.run_id}/record.json": 1 for spec in specs}
