import pytest
from builders import living_owner, run_record, run_spec

from sweeper.records import Attempt, End, Evidence, Seat
from sweeper.status import count_states, state_of, states


def attempt(end=None):
    return Attempt(number=1, owner=living_owner(), seat=Seat(job="j"), end=end)


@pytest.mark.parametrize(
    ("evidence", "state"),
    [
        (Evidence(), "new"),
        (Evidence(job="alive"), "running"),
        (Evidence(attempts=(attempt(),), holder="alive"), "running"),
        (Evidence(attempts=(attempt(),), holder="none"), "stopped"),
        (Evidence(job="queued"), "queued"),
        (Evidence(attempts=(attempt(),), job="queued"), "queued"),
        (Evidence(attempts=(attempt(),), holder="alive", job="queued"), "running"),
        (Evidence(job="unknown"), "unknown"),
        (Evidence(attempts=(attempt(),), holder="unknown"), "unknown"),
        (Evidence(held=True), "cancelled"),
        (Evidence(held=True, job="queued"), "queued"),
        (Evidence(attempts=(attempt(End(state="stopped", reason="signal")),)), "stopped"),
        (Evidence(attempts=(attempt(End(state="error", reason="boom")),)), "failed"),
        (Evidence(attempts=(attempt(End(state="error", reason="boom")), attempt()), holder="alive"), "running"),
    ],
)
def test_a_state_follows_from_the_evidence(evidence, state):
    assert state_of(evidence) == state


@pytest.mark.parametrize("state", ["done", "diverged"])
def test_a_record_outweighs_everything_else(state):
    record = run_record(run_spec(), state=state)
    assert state_of(Evidence(record=record, attempts=(attempt(),), holder="alive", job="alive")) == state


def test_states_are_counted_in_the_order_of_a_runs_life():
    found = states({"a": Evidence(job="alive"), "b": Evidence(), "c": Evidence()})
    assert list(count_states(found.values()).items()) == [("new", 2), ("running", 1)]
