"""Whether and when a run is tried again, by how its attempts ended and how far they got; pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sweeper.records import Attempt, Beat, End
from sweeper.spec import Cluster

Tried = Sequence[tuple[Attempt, Beat | None]]
"""Attempts that count, in their order, each with its last heartbeat."""

BLAMELESS = frozenset({"superseded", "cancelled", "stack", "turn"})
"""Ends that say nothing about the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is to be done about a run without a result."""

    action: Literal["try", "give up"]
    at: float = 0.0
    """When to try, seconds since the epoch; in the past for at once."""
    failures: int = 0
    """Attempts in a row that ended badly without getting further than those before them."""
    reason: str = ""
    """Why to give up, in a clause."""


def next_attempt(tried: Tried, cluster: Cluster) -> Verdict:
    """The verdict on a run.

    Attempts that were stopped (time limit, preemption) and left a checkpoint beyond where they began are free. What
    displaced a run before that (preemption at its start, a lost node) has a limit of its own. Every other end counts,
    until an attempt gets further than all before it; crashes wait longer each time. A lack of memory is met by a
    smaller micro-batch at once.
    """
    failures, displacements, best, last = 0, 0, -1, None
    for number, (attempt, beat) in enumerate(tried):
        end = attempt.end
        if end is None or end.cause in BLAMELESS:
            continue
        began, reached = (beat.first_step, beat.step) if beat else (0, 0)
        # Where the next attempt began tells whether a checkpoint was written; of the last nobody knows yet.
        left_at = next((later.first_step for _, later in tried[number + 1 :] if later is not None), None)
        if end.state == "stopped" and left_at is None and reached > began:
            last = end
            continue
        advanced = left_at > began if end.state == "stopped" and left_at is not None else reached > max(best, began)
        best = max(best, reached)
        last = end
        free = end.state == "stopped" and advanced
        displaced = is_displaced(end)
        failures = (0 if advanced else failures) + (not free and not displaced)
        displacements = 0 if advanced else displacements + displaced
    if last is None:
        return Verdict(action="try")
    if displacements >= MOST_DISPLACEMENTS:
        reason = f"{displacements} attempts in a row were displaced before they got further; the last: {last.reason}"
        return Verdict(action="give up", failures=displacements, reason=reason)
    if failures >= cluster.attempts and not (last.cause == "memory" and can_halve(tried)):
        reason = f"{failures} attempts in a row ended badly" if failures > 1 else "its attempt ended badly"
        return Verdict(action="give up", failures=failures, reason=f"{reason}; the last: {last.reason}")
    wait = 0.0
    if failures and last.cause != "memory" and last.state != "stopped" and not is_displaced(last):
        wait = cluster.backoff_s[min(failures, len(cluster.backoff_s)) - 1]
    return Verdict(action="try", at=last.time + wait, failures=failures)


def is_tried_alone(tried: Tried, cluster: Cluster) -> bool:
    """Whether a run is no longer trained together with others.

    Whose error it was that ended them all is not known, so each is tried by itself. A kill may have been the node's
    doing: the stack goes on as it was, but for the last attempt that each of its members has.
    """
    if any(attempt.end is not None and attempt.end.cause == "stack" for attempt, _ in tried):
        return True
    failures = next_attempt(tried, cluster).failures
    return failures > 0 and failures >= cluster.attempts - 1


MOST_DISPLACEMENTS = 20
"""So many nodes lost, or preemptions at the start, in a row are no chance any more."""


def is_displaced(end: End) -> bool:
    """Whether an attempt ended by what its run has no part in: a preemption, a node that went."""
    return end.cause == "signal" or (end.state == "lost" and end.cause == "node")


MOST_HALVINGS = 8
"""A micro-batch 256 times smaller than it began is no longer what lacks memory."""


def halvings(tried: Tried) -> int:
    """How often memory ran out, and so how often the micro-batch is to be halved."""
    return min(MOST_HALVINGS, sum(a.end is not None and a.end.cause == "memory" for a, _ in tried))


def can_halve(tried: Tried) -> bool:
    """Whether a smaller micro-batch may still help."""
    return sum(a.end is not None and a.end.cause == "memory" for a, _ in tried) < MOST_HALVINGS
