"""What people see: tables, a progress bar, summaries; the only package that knows rich."""

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from sweeper.spec import Value

console = Console(highlight=False)

STATE_STYLE = {
    "new": "",
    "queued": "blue",
    "running": "cyan",
    "unknown": "yellow",
    "stopped": "yellow",
    "failed": "bold red",
    "cancelled": "dim",
    "done": "green",
    "diverged": "magenta",
}


def table(title: str = "") -> Table:
    """An empty table in our style."""
    return Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)


def show(made: Table) -> None:
    """Print a table at its full width: a long line wraps, a number is never cut, nothing is padded at its end."""
    for column in made.columns:
        column.no_wrap = True
    widest = Measurement.get(console, console.options.update(width=10_000), made).maximum
    wide = Console(width=max(widest, console.width), highlight=False)
    with wide.capture() as captured:
        wide.print(made)
    wide.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def counted(number: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "run"), counted(0, "run")
    ('1 run', '0 runs')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def count(value: float) -> str:
    """A count with the unit that reads best.

    >>> count(131072), count(10.4e9), count(950)
    ('131K', '10.4B', '950')
    """
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def scientific(value: float) -> str:
    """Three digits without a plus sign in the exponent.

    >>> scientific(2.136e19), scientific(0.25)
    ('2.14e19', '0.25')
    """
    return f"{value:.3g}".replace("e+", "e")


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> duration(45), duration(75), duration(7300)
    ('45 s', '1 min 15 s', '2 h 1 min')
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
