"""A launch as it goes: the progress bar, and what it did in the end."""

import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from sweeper.launch import LaunchResult, Standing
from sweeper.terminal import console, count, duration


def print_launch(result: LaunchResult, table: Path, name: str, cells: str) -> None:
    """What a launch did, what failed and what to type next.

    Args:
        cells: The words of a command that mean these cells again.
    """
    for failure in result.failures:
        console.print(
            f"failed {failure.run_id}: {failure.reason}\n  log: {failure.log}",
            style="red",
            soft_wrap=True,
            markup=False,
        )
    states = ", ".join(f"{number} {state}" for state, number in result.states.items())
    stacked = f" ({result.stacked} of them together with others)" if result.stacked else ""
    console.print(
        f"{name}: {states} · {result.started} run now{stacked}, {result.found} found · {duration(result.wall_time_s)}",
        soft_wrap=True,
        markup=False,
    )
    console.print(f"results: {table}", soft_wrap=True, markup=False)
    if result.interrupted:
        console.print(f"stopped; resume with: sweeper launch {cells}", style="yellow", soft_wrap=True, markup=False)
    elif result.failures:
        console.print(
            f"run the failed ones again with: sweeper launch {cells}", style="yellow", soft_wrap=True, markup=False
        )
    else:
        console.print(f"next: sweeper fit {cells}", soft_wrap=True, markup=False)


class Progress:
    """A bar over the tokens of a sweep, with speed and time left."""

    def __init__(self, name: str) -> None:
        # On stderr: a reader of stdout that leaves (`| head`) ends no training.
        self.console = Console(stderr=True, highlight=False)
        self.bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[runs]}"),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            refresh_per_second=4,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task(name, total=None, runs="", speed="", left="")
        self.began: tuple[float, int] | None = None
        self.last_line = 0.0

    def __enter__(self) -> "Progress":
        return self  # the bar appears with the first standing: what is refused before leaves one sentence alone

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.bar.stop()

    def note(self, text: str) -> None:
        """Print a sentence above the bar."""
        self.console.print(text, style="yellow", soft_wrap=True)

    def show(self, standing: Standing) -> None:
        """Draw the standing; without a terminal, print a line every half minute."""
        now = time.monotonic()
        if self.began is None:
            self.bar.start()
            self.began = (now, standing.tokens_done)
        left = _time_left(standing, *self.began, now)
        runs = f"{standing.finished}/{standing.runs} runs"
        speed = f"{count(standing.tokens_per_s)} tokens/s" if standing.tokens_per_s else "starting"
        remaining = f"about {duration(left)} left" if left is not None else ""
        self.bar.update(
            self.task,
            total=standing.tokens,
            completed=standing.tokens_done,
            runs=runs,
            speed=speed if standing.finished < standing.runs else "",
            left=remaining if standing.finished < standing.runs else "",
        )
        if not self.console.is_terminal and standing.finished < standing.runs and now - self.last_line > 30:
            self.last_line = now
            self.console.print(f"{runs}, {speed}{', ' + remaining if remaining else ''}")


def _time_left(standing: Standing, began: float, tokens_before: int, now: float) -> float | None:
    """By the pace since the start, starts of processes included; None before there is one."""
    done = standing.tokens_done - tokens_before
    if done <= 0 or now - began < 3:
        return None
    return (standing.tokens - standing.tokens_done) * (now - began) / done
