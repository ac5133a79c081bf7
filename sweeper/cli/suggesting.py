"""The command that says which runs to add, and adds them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.cli.arguments import (
    SCHEMA_VERSION,
    AsJson,
    Overrides,
    RunsFolder,
    Source,
    same_cells,
    say,
)
from sweeper.cli.asking import COLUMNS, asks
from sweeper.errors import SweeperError

if TYPE_CHECKING:
    from sweeper.sources import Asked

TOLERANCE = 0.15
"""As `fits.design.TOLERANCE`, which needs numpy."""


@asks(*COLUMNS)
def suggest(
    asked: "Asked",
    source: Source,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    tolerance: Annotated[
        float, typer.Option(min=0, help="Half the 90 % interval of an optimum, octaves, that is narrow enough.")
    ] = TOLERANCE,
    budget: Annotated[float | None, typer.Option(min=0, help="FLOPs at hand, such as 1e18.")] = None,
    launch: Annotated[bool, typer.Option("--launch", help="Add the runs to the sweep and launch them.")] = False,
    rounds: Annotated[
        int, typer.Option(min=1, help="With --launch on this machine: how often to fit again and go on.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Say which learning rates to run next: extend a grid at its edge, then straddle the optimum until it is known.

    Example: sweeper suggest quickstart --budget 1e13 --launch
    """
    from sweeper.analysis import suggest_question
    from sweeper.cli.running import launch as launch_sweep
    from sweeper.config import load_sweep
    from sweeper.sources import open_source
    from sweeper.suggestions import write_suggestion
    from sweeper.terminal.suggest import print_suggestions
    from sweeper.typed import plain

    if rounds > 1 and not launch:
        raise SweeperError(f"--rounds {rounds}: only with --launch are there rounds; add it, or leave --rounds out")
    spent = 0.0
    for turn in range(rounds):
        found = open_source(source, overrides or [], runs, asked)
        say(found.notes if turn == 0 else ())
        if launch and (found.folder is None or not found.specs):
            raise SweeperError(f"--launch needs a sweep, but {source} is a table; give them to your launcher")
        left = None if budget is None else budget - spent
        rows = suggest_question(
            found.table,
            found.question,
            specs=found.specs,
            tolerance=tolerance,
            budget=left,
            lr=asked.lr,
            loss=asked.loss,
        )
        chosen = [row for row in rows if row.pending]
        cells = [cell for row in chosen for cell in row.cells]
        limits = {"--tolerance": tolerance if tolerance != TOLERANCE else None, "--budget": budget}
        options = [f"{name} {value:g}" for name, value in limits.items() if value is not None]
        again = " ".join([same_cells(source, overrides, runs), *options])
        if as_json and not launch:
            typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, "tolerance": tolerance, "groups": plain(rows)}))
        else:
            print_suggestions(rows, found.title, tolerance, again if found.specs and not launch else "")
        if not launch or not cells or found.folder is None:
            break
        write_suggestion(found.folder, cells)
        spent += sum(row.flops or 0.0 for row in chosen)
        launch_sweep(source, overrides, runs)
        if load_sweep(source, overrides or []).cluster.scheduler == "slurm":
            break
