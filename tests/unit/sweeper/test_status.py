import pytest
from builders import living_owner, run_record, run_spec

from sweeper.records import Attempt, End, Evidence
from sweeper.status import count_states, state_of, states


def attempt(end=None):
    return Attempt(number=1, owner=living_owner(), job="j", end=end)


@pytest.mark.parametrize(
    ("evidence", "state"),
    [
        (Evidence(), "new"),
        (Evidence(job_lives=True), "running"),
        (Evidence(attempts=(attempt(),), holder_lives=True), "running"),
        (Evidence(attempts=(attempt(),), holder_lives=False), "stopped"),
        (Evidence(attempts=(attempt(End(state="stopped", reason="signal")),)), "stopped"),
        (Evidence(attempts=(attempt(End(state="error", reason="boom")),)), "failed"),
        (Evidence(attempts=(attempt(End(state="error", reason="boom")), attempt()), holder_lives=True), "running"),
    ],
)
def test_a_state_follows_from_the_evidence(evidence, state):
    assert state_of(evidence) == state


@pytest.mark.parametrize("state", ["done", "diverged"])
def test_a_record_outweighs_everything_else(state):
    record = run_record(run_spec(), state=state)
    assert state_of(Evidence(record=record, attempts=(attempt(),), holder_lives=True, job_lives=True)) == state


def test_states_are_counted_in_the_order_of_a_runs_life():
    found = states({"a": Evidence(job_lives=True), "b": Evidence(), "c": Evidence()})
    assert list(count_states(found.values()).items()) == [("new", 2), ("running", 1)]
