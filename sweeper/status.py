"""The state of a run, derived from records, attempts and live jobs, never stored; pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from sweeper.records import Evidence

State = Literal["new", "queued", "running", "unknown", "stopped", "failed", "cancelled", "done", "diverged"]
"""`done` and `diverged` are results and stay; `new`, `stopped` and `failed` are run by the next launch.

A `queued` run waits in SLURM. `running` covers runs whose job has started but not yet claimed them. An `unknown` one
was handed to a scheduler that cannot be asked now, or has a file that cannot be read. A `stopped` run was interrupted
(signal, kill, power, a lost process) and resumes from its checkpoint; a `failed` one ended in an error of its own, or
too often in other ways; a `cancelled` one waits until a person asks for it again.
"""

STATES: tuple[State, ...] = (
    "new",
    "queued",
    "running",
    "unknown",
    "stopped",
    "failed",
    "cancelled",
    "done",
    "diverged",
)
FINISHED: frozenset[State] = frozenset({"done", "diverged"})
ACTIVE: frozenset[State] = frozenset({"queued", "running", "unknown"})
"""Somebody may be at work: nobody else begins."""


STARTABLE: frozenset[State] = frozenset({"new", "stopped", "failed"})
"""What a launch starts."""


def state_of(evidence: Evidence) -> State:
    """The state that the evidence supports; a record outweighs everything, unknown is not dead."""
    if evidence.record is not None:
        return evidence.record.state
    if evidence.damaged:
        return "unknown"
    last = evidence.attempts[-1] if evidence.attempts else None
    if evidence.holder == "alive" or evidence.job == "alive":
        return "running"
    if evidence.job == "queued":
        return "queued"
    if evidence.holder == "unknown" or evidence.job == "unknown":
        return "unknown"
    if evidence.held:
        return "cancelled"
    if last is None:
        return "new"
    return "failed" if last.end is not None and last.end.state == "error" else "stopped"


def states(evidence: Mapping[str, Evidence]) -> dict[str, State]:
    """The state of every run by run_id."""
    return {run_id: state_of(seen) for run_id, seen in evidence.items()}


def count_states(found: Iterable[State]) -> dict[State, int]:
    """How many runs are in each state that occurs, in the order of a run's life."""
    seen: Sequence[State] = tuple(found)
    return {state: seen.count(state) for state in STATES if state in seen}
