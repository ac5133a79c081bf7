"""What steering did, in sentences."""

import time

from sweeper.steering import Cancelled, Exclusion, Retried
from sweeper.tend import Cycle
from sweeper.terminal import console, counted, duration, show, table


def print_cancelled(done: Cancelled, cells: str) -> None:
    """What became of cancelled runs.

    Args:
        cells: The words of a command that mean these cells.
    """
    already = f", {done.already} {'was' if done.already == 1 else 'were'} already" if done.already else ""
    console.print(f"{counted(done.runs, 'run')} cancelled{already}", soft_wrap=True)
    notes = [
        (done.tasks, f"{counted(done.tasks, 'job')} of SLURM ended"),
        (done.shared, f"{done.shared} share a job with others: their own processes end within seconds"),
        (done.stopped, f"{done.stopped} wrote a checkpoint and stopped on this machine"),
        (done.stopping, f"{done.stopping} were asked to stop on this machine and have not ended yet"),
        (done.finished, f"{done.finished} had a result already and keep it"),
    ]
    for number, sentence in notes:
        if number:
            console.print(f"  {sentence}", soft_wrap=True)
    for place in done.elsewhere:
        console.print(
            f"  what runs on {place} cannot be ended from here: cancel there too", style="yellow", soft_wrap=True
        )
    if done.runs:
        console.print(f"taken up again by: sweeper retry {cells}", soft_wrap=True, markup=False)


def print_retried(done: Retried, cells: str) -> None:
    """What became of runs that were asked for again."""
    if done.left:
        console.print(f"{counted(done.left, 'run')} left alone: at work, or with a result", soft_wrap=True)
    if not done.renewed:
        console.print("nothing to take up again", soft_wrap=True)
        return
    sent = done.sent
    if sent is None:
        console.print(f"{counted(done.renewed, 'run')} may be started again", soft_wrap=True)
        console.print(f"next: sweeper launch {cells}", soft_wrap=True, markup=False)
        return
    if sent.submitted:
        console.print(f"{counted(sent.submitted, 'run')} submitted again (jobs {', '.join(sent.jobs)})", soft_wrap=True)
    if sent.waiting:
        console.print(
            f"{counted(sent.waiting, 'run')} kept back by a limit of SLURM ({sent.limit}); "
            "`sweeper tend` submits them later",
            style="yellow",
            soft_wrap=True,
        )
    if done.unknown:
        console.print(f"{counted(done.unknown, 'run')} never launched here: sweeper launch {cells}", soft_wrap=True)
    console.print(f"next: sweeper watch {cells}", soft_wrap=True, markup=False)


def print_exclusion(done: Exclusion, *, cleared: bool) -> None:
    """The nodes that a sweep avoids now, and those that were excluded or cleared."""
    if done.nodes:
        made = table()
        for name in ("node", "since", "why"):
            made.add_column(name)
        for node in done.nodes:
            made.add_row(node.node, time.strftime("%Y-%m-%d %H:%M", time.localtime(node.time)), node.reason)
        show(made)
    else:
        console.print("no node is excluded")
    if done.changed:
        verb = "cleared" if cleared else "excluded"
        told = f"; {counted(done.told, 'waiting job')} told" if done.told else ""
        console.print(f"{verb}: {', '.join(done.changed)}{told}", soft_wrap=True)
    if done.error:
        console.print(
            f"warning: SLURM did not change all waiting jobs ({done.error}); what is submitted from now on is right",
            style="yellow",
            soft_wrap=True,
            markup=False,
        )


def print_cycle(sweep: str, cycle: Cycle, before: str = "") -> str:
    """What one cycle of tending did, and where the sweep stands after it, which is returned.

    Args:
        before: Where it stood after the last cycle; the same is not printed twice.
    """
    clock = time.strftime("%H:%M:%S")
    for sentence in cycle.said:
        console.print(f"{clock} {sentence}", soft_wrap=True, markup=False)
    states = ", ".join(f"{number} {state}" for state, number in cycle.states.items())
    waits = f", {cycle.waiting} wait" if cycle.waiting else ""
    again = f" (the first for {duration(max(0.0, cycle.next_at - time.time()))})" if cycle.next_at else ""
    over = "; nothing is left to tend" if cycle.over else ""
    now = f"{sweep}: {states}{waits}{over}"
    if now != before:
        console.print(f"{clock} {sweep}: {states}{waits}{again}{over}", soft_wrap=True, markup=False)
    return now
