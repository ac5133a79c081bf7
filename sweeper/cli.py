"""The command line: each command reads its arguments, calls the library and prints."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import sweeper
from sweeper.errors import SweeperError

if TYPE_CHECKING:
    from sweeper.records import SweepFolder
    from sweeper.spec import RunSpec, Sweep

app = typer.Typer(
    name="sweeper",
    help="Learning-rate sweeps for language-model pre-training: plan, launch, collect, fit, predict, plot.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Prepare token files.", no_args_is_help=True)
app.add_typer(data_app, name="data")

SweepName = Annotated[str, typer.Argument(help="A sweep: the name of a file in sweeps/ or the path of one.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Hydra overrides such as model.depth=4, scale=tiny or 'axes.lr=geom(5e-3,0.16,6)'."),
]
RunsFolder = Annotated[
    Path, typer.Option("--runs", envvar="SWEEPER_RUNS", help="Folder that holds the results of all sweeps.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]

EXIT_OVER_BUDGET = 4
EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command line; what a user can mend is one sentence on stderr and its exit code."""
    try:
        check_packages()
        app()
    except SweeperError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `sweeper plan … | head`
        sys.stderr.close()
        sys.exit(0)


def check_packages() -> None:
    """Assert that `model` and `kernels`, which other distributions also install, are ours."""
    home = Path(sweeper.__file__).resolve().parent.parent
    for name in ("model", "kernels"):
        found = importlib.util.find_spec(name)
        origin = Path(found.origin).resolve().parent.parent if found and found.origin else None
        if origin != home:
            raise SweeperError(
                f"the package {name!r} is imported from {origin} but sweeper's own lies in {home}; "
                f"uninstall the other distribution or use an environment of sweeper's own"
            )


def open_sweep(name: str, overrides: list[str] | None, runs: Path) -> "tuple[Sweep, tuple[RunSpec, ...], SweepFolder]":
    """A sweep with its cells and its folder."""
    from sweeper.config import load_sweep
    from sweeper.grid import expand
    from sweeper.records import SweepFolder

    sweep = load_sweep(name, overrides or [])
    return sweep, expand(sweep), SweepFolder(runs, sweep.name)


@app.command()
def plan(
    name: SweepName,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
    budget: Annotated[
        float | None, typer.Option(help="GPU-hours at hand; exit code 4 if more are left to run.")
    ] = None,
    rows: Annotated[int, typer.Option(help="Rows of the table; 0 prints all.")] = 60,
) -> None:
    """Show the runs of a sweep, what they cost and which are done.

    Example: sweeper plan quickstart model.depth=4 'axes.lr=geom(5e-3,0.16,6)'
    """
    from sweeper.launch import check_data, plan_sweep
    from sweeper.plan import plan_json
    from sweeper.terminal import print_plan

    sweep, specs, folder = open_sweep(name, overrides, runs)
    planned = plan_sweep(sweep, specs, folder)
    if as_json:
        typer.echo(json.dumps(plan_json(planned)))
    else:
        print_plan(planned, sweep.title, check_data(specs), rows=rows)
    if budget is not None and planned.totals.gpu_hours_left > budget:
        typer.echo(
            f"over budget: {planned.totals.gpu_hours_left:.4g} {planned.device}-hours left to run, {budget:g} at hand",
            err=True,
        )
        raise typer.Exit(EXIT_OVER_BUDGET)


@app.command()
def launch(
    name: SweepName,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run; start nothing.")] = False,
    budget: Annotated[float | None, typer.Option(help="GPU-hours at hand; start nothing if more are left.")] = None,
) -> None:
    """Train every run of a sweep that has no result yet; again after Ctrl-C, a crash or a wider grid.

    Example: sweeper launch quickstart
    """
    from sweeper.launch import launch as launch_sweep
    from sweeper.terminal import Progress, print_launch

    if dry_run or budget is not None:
        plan(name, overrides, runs, budget=budget)
    if dry_run:
        return
    sweep, specs, folder = open_sweep(name, overrides, runs)
    with Progress(sweep.name) as progress:
        result = launch_sweep(sweep, specs, folder, progress.show)
    collected = collect_sweep(specs, folder)
    print_launch(result, collected, sweep.name)
    if result.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if result.failures:
        raise typer.Exit(3)


def collect_sweep(specs: "tuple[RunSpec, ...]", folder: "SweepFolder") -> Path:
    """Write `results.csv` and `results.parquet` of the cells that have a record; returns the CSV's path."""
    from sweeper.records import read_records
    from sweeper.table import results, write_results

    return write_results(results(read_records(folder).values(), specs), folder.path)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(sweeper.__version__)
