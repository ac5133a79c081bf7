"""A launch on a cluster: what was submitted, and what to type next."""

from collections.abc import Iterable

from rich.console import Console

from sweeper.spec import Sweep
from sweeper.submission import Submission
from sweeper.terminal import console

EVERY_WAIT = "`sweeper tend` submits them later, so does the next launch; `launch --keeper` leaves someone to do it"


def tell(note: str) -> None:
    """A note before anything is submitted."""
    Console(stderr=True, highlight=False).print(note, style="yellow", soft_wrap=True)


def print_scripts(scripts: Iterable[str]) -> None:
    """Scripts as they would be handed to sbatch, to the letter."""
    for script in scripts:
        console.print(script, markup=False, soft_wrap=True)


def print_submission(made: Submission, sweep: Sweep, cells: str, keeper: str | None) -> None:
    """What a launch on a cluster did.

    Args:
        cells: The words of a command that mean these cells again.
        keeper: SLURM's number of the keeper's job, where one was submitted.
    """
    numbers = f" as {'job' if len(made.jobs) == 1 else 'jobs'} {', '.join(made.jobs)}" if made.jobs else ""
    console.print(
        f"{sweep.name}: {made.submitted} runs submitted to {sweep.cluster.name}{numbers}, "
        f"{made.active} at work already, {made.found} found",
        soft_wrap=True,
    )
    if made.cancelled:
        again = "put back with: sweeper retry"
        console.print(
            f"{made.cancelled} cancelled runs are left alone; {again} {cells}", style="yellow", soft_wrap=True
        )
    if made.waiting:
        console.print(
            f"{made.waiting} runs wait for a limit of SLURM ({made.limit}); {EVERY_WAIT}",
            style="yellow",
            soft_wrap=True,
        )
    if keeper:
        console.print(f"job {keeper} tends the sweep", soft_wrap=True)
    console.print(f"next: sweeper status {cells}", soft_wrap=True)
