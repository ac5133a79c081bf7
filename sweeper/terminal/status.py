"""Where a sweep stands, as tables; live while it goes on; why a run stands there."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweeper.explanation import Explanation
from sweeper.overview import Overview, Row, goes_on
from sweeper.status import FINISHED, State
from sweeper.terminal import STATE_STYLE, axis_value, console, count, counted, duration, show, table

BY_DEFAULT: tuple[State, ...] = ("failed", "unknown", "running", "stopped", "queued", "cancelled")
"""States whose runs are shown one by one where not all are."""
MOST_WAIT_S = 120.0
"""Between two looks at a controller that does not answer."""
REASON_WIDTH = 80
"""Characters of a reason in a table; `why` has all of it."""
PATIENCE = 10.0
"""How much longer a watcher waits than its last look took: a slow controller is not asked more than it can bear."""


def print_status(seen: Overview, next_: str, *, rows: int, everything: bool) -> None:
    """The sums, the runs that are of interest now, the jobs, what a person should know and what to type next.

    Args:
        next_: A command.
        rows: How many runs are shown; 0 for all.
        everything: Whether finished and new runs are shown too.
    """
    console.print(headline(seen), soft_wrap=True)
    chosen = chosen_rows(seen, everything)
    if chosen:
        show(rows_table(chosen[: rows or None], seen.time))
        if rows and len(chosen) > rows:
            console.print(f"… and {counted(len(chosen) - rows, 'more run')} (--rows 0 shows all)", style="dim")
    for line in _job_lines(seen):
        console.print(line, soft_wrap=True)
    for warning in seen.warnings:
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True, markup=False)
    if seen.others and not everything:
        console.print(
            f"not counted: {counted(seen.others, 'run')} of other grids of this sweep (--all shows them)", style="dim"
        )
    console.print(f"next: {next_}", soft_wrap=True, markup=False)


def headline(seen: Overview) -> str:
    """The sums in two lines."""
    states = ", ".join(
        f"[{STATE_STYLE[state]}]{number} {state}[/]" if STATE_STYLE[state] else f"{number} {state}"
        for state, number in seen.states.items()
    )
    share = seen.tokens_done / seen.tokens if seen.tokens else 0.0
    parts = [f"{share:.1%} of {count(seen.tokens)} tokens"]
    if seen.tokens_per_s:
        parts.append(f"{count(seen.tokens_per_s)} tokens/s")
    parts += _time_left(seen)
    runs = counted(seen.total, "run") + (f" ({states})" if states else "")
    return f"[bold]{seen.sweep}[/]: {runs}\n{' · '.join(parts)}"


def _time_left(seen: Overview) -> list[str]:
    if seen.left_s is not None:
        running = seen.states.get("running", 0)
        return [f"about {duration(seen.left_s)} left with {running} at a time"]
    if seen.unmeasured and seen.active:
        return [f"time left not known: the speed of {counted(seen.unmeasured, 'run')} has not been measured"]
    return []


def chosen_rows(seen: Overview, everything: bool) -> tuple[Row, ...]:
    """The rows to show."""
    return seen.runs if everything else tuple(row for row in seen.runs if row.state in BY_DEFAULT)


def rows_table(rows: Sequence[Row], now: float) -> Table:
    """One line per run; columns that say nothing of any of them are left out."""
    names = list(dict.fromkeys(name for row in rows for name in row.axes))
    made = table()
    shown = {
        "arm": any(row.arm for row in rows) and len({row.arm for row in rows}) > 1,
        "node": any(row.node for row in rows),
        "job": any(row.job for row in rows),
        "tokens/s": any(row.tokens_per_s for row in rows),
        "loss": any(row.loss is not None for row in rows),
        "seen": any(row.seen for row in rows),
        "why": any(row.reason or row.next_at for row in rows),
    }
    labels = ["run", "state", "arm", *names, "step", "tokens/s", "loss", "try", "node", "job", "seen", "why"]
    labels = [label for label in labels if shown.get(label, True)]
    left = {"run", "state", "arm", "node", "job", "why"}
    for label in labels:
        made.add_column(label, justify="left" if label in left else "right")
    for row in rows:
        cells: dict[str, RenderableType] = {
            **{name: axis_value(row.axes[name]) if name in row.axes else "–" for name in names},
            "run": row.run_id[:8],
            "state": Text(row.state, style=STATE_STYLE[row.state]),
            "arm": row.arm,
            "step": f"{row.step}/{row.steps}",
            "tokens/s": count(row.tokens_per_s) if row.tokens_per_s else "",
            "loss": "" if row.loss is None else f"{row.loss:.4f}",
            "try": str(row.attempts or ""),
            "node": row.node,
            "job": row.job,
            "seen": _ago(row, now),
            "why": Text(_remark(row, now)),
        }
        made.add_row(*(cells[label] for label in labels))
    return made


def _ago(row: Row, now: float) -> str:
    return f"{duration(max(0.0, now - row.seen))} ago" if row.seen and row.state not in FINISHED else ""


def _remark(row: Row, now: float) -> str:
    again = f"again in {duration(row.next_at - now)}" if row.next_at else ""
    reason = row.reason.partition("; see /")[0]
    short = reason if len(reason) <= REASON_WIDTH else reason[: REASON_WIDTH - 1] + "…"
    return ": ".join(part for part in (again, short) if part)


def _job_lines(seen: Overview) -> list[str]:
    lines = []
    if seen.jobs:
        numbers = ", ".join(
            f"{job.job_id or job.name} ({', '.join(f'{n} {state.lower()}' for state, n in job.tasks.items())})"
            for job in seen.jobs[:10]
        )
        more = f" and {len(seen.jobs) - 10} more" if len(seen.jobs) > 10 else ""
        lines.append(f"jobs: {numbers}{more}")
    if seen.keeper:
        lines.append(f"job {seen.keeper} tends the sweep")
    return lines


def print_explanation(explained: Explanation) -> None:
    """One sentence, then what the run last said."""
    style = STATE_STYLE[explained.state]
    console.print(f"{explained.run_id}: {explained.sentence}", style=style or None, soft_wrap=True, markup=False)
    if explained.detail:
        console.print(explained.detail, markup=False, soft_wrap=True)


def watch_status(
    look: Callable[[], Overview], *, every_s: float, rows: int, sleep: Callable[[float], None] = time.sleep
) -> Overview:
    """Show a sweep until nobody is at work on it and nobody tends it; the last of what was seen.

    Without a terminal a line is printed for each change of the counts. A controller that is slow or silent is asked
    less often.
    """
    with live_if_terminal() as live:
        said, wait = "", every_s
        while True:
            began = time.monotonic()
            seen = look()
            took_s = time.monotonic() - began
            if live is not None:
                live.update(_picture(seen, rows), refresh=True)
            elif (line := _line(seen)) != said:
                said = line
                console.print(f"{time.strftime('%H:%M:%S')} {line}", soft_wrap=True, markup=False)
            if not goes_on(seen):
                return seen
            wait = next_wait(wait, every_s, took_s, silent="unknown" in seen.states)
            sleep(wait)


@contextmanager
def live_if_terminal() -> Iterator[Live | None]:
    """A picture that is drawn over itself, where there is a terminal to draw on."""
    if not console.is_terminal:
        yield None
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        yield live


def next_wait(wait_s: float, every_s: float, took_s: float, *, silent: bool) -> float:
    """Seconds until the next look.

    >>> [next_wait(5.0, 5.0, took_s, silent=took_s == 60) for took_s in (0.1, 2.0, 60)]
    [5.0, 20.0, 10.0]
    """
    if silent:
        return min(MOST_WAIT_S, 2 * wait_s)
    return min(MOST_WAIT_S, max(every_s, PATIENCE * took_s))


def _line(seen: Overview) -> str:
    states = ", ".join(f"{number} {state}" for state, number in seen.states.items())
    return f"{seen.sweep}: {states}"


def _picture(seen: Overview, rows: int) -> RenderableType:
    chosen = chosen_rows(seen, everything=False)
    fitting = max(1, min(rows or len(chosen), console.height - 8 - len(seen.warnings)))
    bar = Table.grid()
    bar.add_row(ProgressBar(total=max(1, seen.tokens), completed=seen.tokens_done, width=60))
    parts: list[RenderableType] = [Text.from_markup(headline(seen)), bar]
    if chosen:
        parts.append(rows_table(chosen[:fitting], seen.time))
    if len(chosen) > fitting:
        parts.append(Text(f"… and {counted(len(chosen) - fitting, 'more run')}", style="dim"))
    parts += [Text(line) for line in _job_lines(seen)]
    parts += [Text(f"warning: {warning}", style="yellow") for warning in seen.warnings]
    parts.append(Text(f"{time.strftime('%H:%M:%S', time.localtime(seen.time))}, Ctrl-C leaves", style="dim"))
    return Group(*parts)
