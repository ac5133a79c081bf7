"""The command that says which runs to add, and adds them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.cli.arguments import (
    EXIT_RUNS_FAILED,
    SCHEMA_VERSION,
    AsJson,
    Overrides,
    RunsFolder,
    Source,
    same_cells,
    say,
)
from sweeper.cli.asking import COLUMNS, asks, typed_options, words_of
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
    from sweeper.analysis import mixed_groups, suggest_question
    from sweeper.cli.running import launch as launch_sweep
    from sweeper.config import load_sweep
    from sweeper.sources import open_source
    from sweeper.suggestions import write_suggestion
    from sweeper.terminal.suggest import print_suggestions
    from sweeper.typed import plain

    if rounds > 1 and not launch:
        raise SweeperError(f"--rounds {rounds}: only with --launch are there rounds; add it, or leave --rounds out")
    spent, code = 0.0, 0
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
        doubts = mixed_groups(found.table, found.question, asked.lr, asked.loss)
        if doubts and launch:
            raise SweeperError(f"{doubts[0]}; runs for such groups would tell nothing, so none are launched")
        for doubt in doubts:
            typer.echo(f"warning: {doubt}", err=True)
        chosen = [row for row in rows if row.pending]
        cells = [cell for row in chosen for cell in row.cells]
        limits = {"--tolerance": tolerance if tolerance != TOLERANCE else None, "--budget": budget}
        options = [f"{name} {value:g}" for name, value in limits.items() if value is not None]
        again = " ".join([same_cells(source, overrides, runs), *options]) + words_of(typed_options(asked))
        if as_json and not launch:
            typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, "tolerance": tolerance, "groups": plain(rows)}))
        else:
            print_suggestions(rows, found.title, tolerance, again if cells and not launch else "")
        if not launch or not cells or found.folder is None:
            break
        write_suggestion(found.folder, cells)
        spent += sum(row.flops or 0.0 for row in chosen)
        try:
            launch_sweep(source, overrides, runs)
        except typer.Exit as end:  # what fails keeps no other group from going on
            if end.exit_code != EXIT_RUNS_FAILED:
                raise
            code = end.exit_code
        if load_sweep(source, overrides or []).cluster.scheduler == "slurm":
            break
    if code:
        raise typer.Exit(code)
