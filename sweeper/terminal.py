"""What people see: tables, a progress bar, summaries; the only module that knows rich."""

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from sweeper.launch import LaunchResult, Standing
from sweeper.plan import Plan, PlannedRun
from sweeper.spec import Value

console = Console()

STATE_STYLE = {
    "new": "",
    "running": "cyan",
    "stopped": "yellow",
    "failed": "bold red",
    "done": "green",
    "diverged": "magenta",
}


def count(value: float) -> str:
    """A count with the unit that reads best.

    >>> count(131072), count(10.4e9), count(950)
    ('131K', '10.4B', '950')
    """
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> duration(45), duration(75), duration(7300)
    ('45 s', '1 min 15 s', '2 h 2 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def axis_value(value: Value) -> str:
    """An axis value as a person writes it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return count(value) if isinstance(value, int) and abs(value) >= 100_000 else str(value)


def print_plan(plan: Plan, title: str, notes: Sequence[str], rows: int) -> None:
    """The plan as a table, one line per run, and its totals."""
    shown = plan.runs if rows == 0 else plan.runs[:rows]
    arms = len({run.arm for run in plan.runs}) > 1
    names = [name for name, _ in plan.runs[0].axes] if plan.runs else []
    heading = f"{plan.sweep}: {title}" if title else plan.sweep
    table = Table(title=heading, title_justify="left", header_style="bold", box=None, pad_edge=False)
    table.add_column("run")
    table.add_column("state")
    if arms:
        table.add_column("arm")
    for name in [n for n in names if n != "lr"]:
        table.add_column(name, justify="right")
    for label in ("lr", "lr peak", "params", "tokens", "steps", "FLOPs", "GiB", "hours"):
        if label.replace(" ", "_") not in names or label == "lr":
            table.add_column(label, justify="right")
    for run in shown:
        table.add_row(*_plan_cells(run, arms, names))
    console.print(table)
    if len(shown) < len(plan.runs):
        console.print(f"… and {len(plan.runs) - len(shown)} more runs (--rows 0 shows all)", style="dim")
    totals = plan.totals
    states = ", ".join(f"{number} {state}" for state, number in totals.states.items())
    console.print(
        f"{totals.runs} runs ({states}) · {count(totals.tokens)} tokens · {totals.flops:.3g} FLOPs · "
        f"{_hours(totals.gpu_hours, plan.device)}, of which {_hours(totals.gpu_hours_left, plan.device)} are left",
        highlight=False,
    )
    for note in notes:
        console.print(note, style="yellow", highlight=False)


def _plan_cells(run: PlannedRun, arms: bool, names: list[str]) -> list[str]:
    axes = dict(run.axes)
    style = STATE_STYLE[run.state]
    cells = [run.run_id[:8], f"[{style}]{run.state}[/]" if style else run.state]
    cells += [run.arm] if arms else []
    cells += [axis_value(axes[name]) for name in names if name != "lr"]
    rest = {
        "lr": f"{run.lr:.4g}",
        "lr_peak": f"{run.lr_peak:.4g}",
        "params": count(run.params),
        "tokens": count(run.tokens),
        "steps": str(run.steps),
        "FLOPs": f"{run.flops:.3g}",
        "GiB": f"{run.memory_gib:.2g}",
        "hours": f"{run.gpu_hours:.3g}",
    }
    return cells + [text for key, text in rest.items() if key not in names or key == "lr"]


def _hours(hours: float, device: str) -> str:
    return f"{hours:.3g} {device}-hours" if hours >= 0.1 else f"{hours * 60:.2g} {device}-minutes"


def print_launch(result: LaunchResult, table: Path, name: str) -> None:
    """What a launch did, what failed and what to type next."""
    for failure in result.failures:
        console.print(f"failed {failure.run_id}: {failure.reason}\n  log: {failure.log}", style="red", highlight=False)
    states = ", ".join(f"{number} {state}" for state, number in result.states.items())
    console.print(
        f"{name}: {states} · {result.started} run now, {result.found} found · {duration(result.wall_time_s)}",
        highlight=False,
    )
    console.print(f"results: {table}", highlight=False)
    if result.interrupted:
        console.print(f"stopped; resume with: sweeper launch {name}", style="yellow", highlight=False)
    elif result.failures:
        console.print(f"run the failed ones again with: sweeper launch {name}", style="yellow", highlight=False)
    else:
        console.print(f"next: sweeper fit {name}", highlight=False)


class Progress:
    """A bar over the tokens of a sweep, with speed and time left."""

    def __init__(self, name: str) -> None:
        self.bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[runs]}"),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            refresh_per_second=4,
        )
        self.task = self.bar.add_task(name, total=None, runs="", speed="", left="")
        self.began: tuple[float, int] | None = None
        self.last_line = 0.0

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.bar.stop()

    def show(self, standing: Standing) -> None:
        """Draw the standing; without a terminal, print a line every half minute."""
        now = time.monotonic()
        if self.began is None:
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
        if not console.is_terminal and now - self.last_line > 30:
            self.last_line = now
            console.print(f"{runs}, {speed}{', ' + remaining if remaining else ''}", highlight=False)


def _time_left(standing: Standing, began: float, tokens_before: int, now: float) -> float | None:
    """By the pace since the start, starts of processes included; None before there is one."""
    done = standing.tokens_done - tokens_before
    if done <= 0 or now - began < 3:
        return None
    return (standing.tokens - standing.tokens_done) * (now - began) / done
