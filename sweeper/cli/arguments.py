"""Arguments and options that several commands share, each with its help; the exit codes; nothing heavy."""

import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.errors import SweeperError

if TYPE_CHECKING:
    from sweeper.fits.optimum import Method

SweepName = Annotated[str, typer.Argument(help="A sweep: the name of a file in sweeps/ or the path of one.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Hydra overrides such as model.depth=4, scale=tiny or 'axes.lr=geom(5e-3,0.16,6)'."),
]
RunsFolder = Annotated[
    Path, typer.Option("--runs", envvar="SWEEPER_RUNS", help="Folder that holds the results of all sweeps.")
]
Source = Annotated[
    str,
    typer.Argument(
        metavar="NAME|FILE", help="A sweep, or a .csv, .tsv, .json, .jsonl or .parquet file, a row per run."
    ),
]
At = Annotated[list[str] | None, typer.Option("--at", help="Any other column of the target: top_k=4. May be repeated.")]
MethodName = Annotated[str, typer.Option("--method", help="Estimator of the optimum: linex, parabola or argmin.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]

EXIT_RUNS_FAILED = 3
EXIT_OVER_BUDGET = 4
EXIT_INTERRUPTED = 130


SCHEMA_VERSION = 1


def same_cells(name: str, overrides: list[str] | None, runs: Path) -> str:
    """The words after a command's name that mean the same cells in the same folder, as a shell takes them."""
    elsewhere = ["--runs", str(runs)] if runs != Path(os.environ.get("SWEEPER_RUNS", "runs")) else []
    return shlex.join([name, *(overrides or []), *elsewhere])


def say(notes: Iterable[str]) -> None:
    """Notes on stderr, apart from the answer itself."""
    for note in notes:
        typer.echo(f"note: {note}", err=True)


def names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def method_of(name: str) -> "Method":
    from sweeper.fits.optimum import Method
    from sweeper.typed import convert

    method: Method = convert(Method, name, "--method")
    return method


def targets_of(pairs: list[str]) -> dict[str, float]:
    """A target of --at: columns with their values."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not (name.strip() and equals):
            raise SweeperError(f"--at {pair!r}: expected a column, an equals sign and a number, such as params=1e9")
    return found
