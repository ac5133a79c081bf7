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
    from sweeper.sources import Asked

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
Lr = Annotated[str, typer.Option("--lr", help="Column of the learning rate (lr_peak, else lr).")]
Loss = Annotated[str, typer.Option("--loss", help="Column of the loss.")]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map", help="Our name for a column of the file or for what it gives: tokens=D*1e9. May be repeated."
    ),
]
Pattern = Annotated[
    list[str] | None,
    typer.Option(
        "--pattern",
        help="A column of text and a regular expression; its named groups become columns: "
        "'run_name=lr(?P<lr>[0-9.e-]+)'. May be repeated.",
    ),
]
By = Annotated[str, typer.Option("--by", help="Columns, by commas, whose every combination has one optimum.")]
Per = Annotated[str, typer.Option("--per", help="Columns, by commas, that separate laws and curves, such as arm.")]
Laws = Annotated[list[str] | None, typer.Option("--law", help='A power law: "lr_peak ~ tokens". May be repeated.')]
Curves = Annotated[list[str] | None, typer.Option("--curve", help='A loss curve: "loss ~ flops". May be repeated.')]
Surfaces = Annotated[
    list[str] | None,
    typer.Option("--surface", help='A loss over size and data: "loss ~ params + tokens". May be repeated.'),
]
Joint = Annotated[
    str, typer.Option("--joint", help="Columns, by commas, along which loss and rate are fitted at once.")
]
Irreducible = Annotated[
    bool, typer.Option("--irreducible", help="Laws a·x^b + c as well, where leave-one-out prefers them.")
]
SensitivityTo = Annotated[
    bool, typer.Option("--sensitivity", help="How far optima move with fewer learning rates (HyperP E11).")
]
Baseline = Annotated[str, typer.Option("--baseline", help="The arm that leverage and losses are measured against.")]
ReferenceName = Annotated[
    str, typer.Option("--reference", help="Published values to compare with: hyperp (those of the question).")
]
At = Annotated[list[str] | None, typer.Option("--at", help="Any other column of the target: top_k=4. May be repeated.")]
Where = Annotated[str, typer.Option("--where", help="Rows to use: \"depth == 16 and state != 'failed'\".")]
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


def asked_of(
    *,
    lr: str,
    map_: list[str] | None,
    by: str,
    per: str,
    where: str,
    law: list[str] | None = None,
    curve: list[str] | None = None,
    baseline: str = "",
    loss: str = "loss",
    pattern: list[str] | None = None,
    surface: list[str] | None = None,
    joint: str = "",
    irreducible: bool = False,
    sensitivity: bool = False,
    reference: str = "",
) -> "Asked":
    """The options about columns and fits as the library takes them."""
    from sweeper.sources import Asked
    from sweeper.spec import Reference
    from sweeper.typed import convert

    return Asked(
        lr=lr,
        loss=loss,
        mapping=tuple(map_ or ()),
        patterns=tuple(pattern or ()),
        by=names(by),
        per=names(per),
        laws=tuple(law or ()),
        curves=tuple(curve or ()),
        surfaces=tuple(surface or ()),
        joint=names(joint),
        irreducible=irreducible,
        sensitivity=sensitivity,
        baseline=baseline,
        reference=convert(Reference, reference, "--reference"),
        where=where,
    )


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
