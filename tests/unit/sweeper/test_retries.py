"""Whether a run is tried again, told by how its attempts ended and how far they got."""

import pytest
from builders import living_owner

from sweeper.records import Attempt, Beat, End, Seat
from sweeper.retries import MOST_DISPLACEMENTS, halvings, is_tried_alone, next_attempt
from sweeper.spec import Cluster

CLUSTER = Cluster(scheduler="slurm", attempts=3, backoff_s=(30.0, 120.0))


def tried(*ends):
    """Attempts given as (state, cause, first step, last step)."""
    made = []
    for number, (state, cause, first, last) in enumerate(ends, 1):
        end = End(state=state, cause=cause, reason="r", time=1000.0 * number)
        beat = Beat(time=0.0, run_id="r", step=last, steps=10_000, tokens_per_s=1.0, first_step=first)
        made.append((Attempt(number=number, owner=living_owner(), seat=Seat(job="j"), end=end), beat))
    return made


CRASH = ("error", "", 0, 5)


def test_a_run_without_attempts_is_tried():
    assert next_attempt([], CLUSTER).action == "try"


def test_crashes_in_a_row_wait_longer_each_time_and_come_to_an_end():
    found = [next_attempt(tried(*[CRASH] * n), CLUSTER) for n in (1, 2, 3)]
    assert [verdict.action for verdict in found] == ["try", "try", "give up"]
    assert [found[0].at - 1000, found[1].at - 2000] == [30.0, 120.0]
    assert "3 attempts in a row" in found[2].reason


def test_a_crash_that_got_further_starts_the_count_again():
    assert next_attempt(tried(CRASH, CRASH, ("error", "", 5, 50)), CLUSTER).failures == 1


def test_forty_preemptions_that_advanced_are_free():
    stops = [("stopped", "signal", 10 * n, 10 * n + 9) for n in range(40)]
    assert next_attempt(tried(*stops), CLUSTER).failures == 0


def test_attempts_that_advance_from_an_older_checkpoint_are_free_though_a_killed_one_was_further():
    # The killed one had reached 1000, but its checkpoint was of step 900.
    found = tried(("lost", "killed", 0, 1000), ("stopped", "signal", 900, 950), ("stopped", "time", 950, 990))
    assert next_attempt(found, CLUSTER).action == "try"


def test_attempts_that_are_stopped_and_begin_at_the_same_step_again_come_to_an_end():
    # A command that writes no checkpoint in time, job after job.
    found = tried(("stopped", "time", 0, 13), ("stopped", "time", 0, 8), ("stopped", "time", 0, 14))
    assert next_attempt(found, CLUSTER).action == "try"  # the last may have left one
    assert next_attempt([*found, *tried(("stopped", "time", 0, 9))], CLUSTER).action == "give up"


def test_what_displaces_a_run_before_its_first_step_is_not_its_fault_but_has_a_limit():
    lost = ("lost", "node", 0, 0)
    assert next_attempt(tried(*[lost] * 5), CLUSTER).action == "try"
    assert next_attempt(tried(*[lost] * MOST_DISPLACEMENTS), CLUSTER).action == "give up"


def test_jobs_that_end_before_they_begin_wait_and_count():
    unstarted = ("error", "node", 0, 0)
    assert next_attempt(tried(unstarted), CLUSTER).at == 1030.0
    assert next_attempt(tried(*[unstarted] * 3), CLUSTER).action == "give up"


def test_a_time_limit_too_short_for_a_step_comes_to_an_end():
    assert next_attempt(tried(*[("stopped", "time", 0, 0)] * 3), CLUSTER).action == "give up"


def test_memory_is_met_at_once_and_more_often_than_crashes():
    found = tried(*[("error", "memory", 0, 0)] * 5)
    assert next_attempt(found, CLUSTER).action == "try"
    assert next_attempt(found, CLUSTER).at == 5000.0
    assert halvings(found) == 5
    assert next_attempt(tried(*[("error", "memory", 0, 0)] * 8), CLUSTER).action == "give up"


@pytest.mark.parametrize("cause", ["superseded", "cancelled", "stack", "turn"])
def test_some_ends_say_nothing_about_the_run(cause):
    assert next_attempt(tried(*[("stopped", cause, 0, 0)] * 9), CLUSTER).failures == 0


def test_runs_that_failed_together_are_tried_alone_and_that_was_no_attempt_of_theirs():
    failed = tried(("lost", "stack", 0, 5))
    assert is_tried_alone(failed, CLUSTER)
    assert next_attempt(failed, CLUSTER).failures == 0
    assert is_tried_alone(tried(("lost", "stack", 0, 5), ("stopped", "time", 0, 50)), CLUSTER)


def test_a_stack_that_is_killed_goes_on_as_it_was_but_for_the_last_attempt():
    killed = ("lost", "killed", 0, 0)
    assert [is_tried_alone(tried(*[killed] * count), CLUSTER) for count in (0, 1, 2)] == [False, False, True]
    once = Cluster(scheduler="slurm", attempts=1)
    assert not is_tried_alone([], once)
    assert not is_tried_alone(tried(("stopped", "time", 0, 50)), CLUSTER)
