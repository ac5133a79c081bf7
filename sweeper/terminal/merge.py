"""A merge: how many runs came over, and by name those that did not and why."""

from collections.abc import Mapping

from sweeper.merge import Merge, Outcome
from sweeper.terminal import console

SAYS: Mapping[Outcome, str] = {
    "brought": "finished runs brought",
    "continued": "stopped runs brought with their checkpoint; do not launch them there again",
    "kept": "finished on both sides, ours kept",
    "differs": "finished on both sides with different results, ours kept",
    "at_work_here": "finished there while they are at work here, left",
    "at_work_there": "left, since a job there lives or cannot be asked after from here",
    "unfinished": "unfinished there and left (--checkpoints brings those that are stopped)",
    "other_sweep": "of another sweep, refused",
    "damaged": "damaged, left",
}
NAMED: tuple[Outcome, ...] = ("differs", "other_sweep", "damaged")
"""Outcomes whose every run is named."""


def print_merge(done: Merge) -> None:
    """What a merge did, or would do."""
    would = " (nothing is changed)" if done.dry_run else ""
    console.print(f"{done.source} into {done.folder}{would}", soft_wrap=True, markup=False)
    for outcome, number in done.counts.items():
        style = "yellow" if outcome in NAMED else ""
        console.print(f"  {number} {SAYS[outcome]}", style=style, soft_wrap=True, markup=False)
    if not done.runs:
        console.print("  it holds no runs", soft_wrap=True)
    for run in done.runs:
        if run.outcome in NAMED:
            console.print(f"  {run.run_id}: {run.detail}", style="yellow", markup=False, soft_wrap=True)
    for path in done.left_out:
        console.print(f"  too large, left: {path}", style="yellow", soft_wrap=True, markup=False)
    if done.counts.get("brought") and not done.dry_run:
        console.print(f"next: sweeper collect {done.sweep}", soft_wrap=True, markup=False)
