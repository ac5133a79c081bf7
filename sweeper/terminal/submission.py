"""A launch on a cluster: what was submitted, and what to type next."""

from collections.abc import Iterable

from rich.console import Console

from sweeper.spec import Sweep
from sweeper.submission import Submission
from sweeper.terminal import console

EVERY_WAIT = "`sweeper tend` submits them later, so does the next launch; `launch --keeper` leaves someone to do it"


def tell(note: str) -> None:
    """A note before anything is submitted."""
    Console(stderr=True, highlight=False).print(note, style="yellow", soft_wrap=True, markup=False)


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
    _say(
        f"{sweep.name}: {made.submitted} {'run' if made.submitted == 1 else 'runs'} submitted to {sweep.cluster.name}"
        f"{numbers} · {made.active} waiting or running already · {made.found} with a result"
    )
    if made.canaries:
        _say(
            f"{made.canaries} canaries go first; {made.submitted - made.canaries} others wait until these have a result"
        )
    if made.cancelled:
        again = "put back with: sweeper retry"
        console.print(
            f"{made.cancelled} cancelled runs are left alone; {again} {cells}",
            style="yellow",
            soft_wrap=True,
            markup=False,
        )
    if made.waiting:
        console.print(
            f"{made.waiting} runs wait for a limit of SLURM ({made.limit}); {EVERY_WAIT}",
            style="yellow",
            soft_wrap=True,
            markup=False,
        )
    if keeper:
        _say(f"job {keeper} tends the sweep")
    _say(f"next: sweeper status {cells}")


def _say(text: str) -> None:
    """A line that a user may copy: nothing in it is markup."""
    console.print(text, soft_wrap=True, markup=False)
