"""The command that keeps foreign rows beside a sweep."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.cli.arguments import SCHEMA_VERSION, AsJson, RunsFolder, say
from sweeper.cli.asking import asks
from sweeper.errors import SweeperError

if TYPE_CHECKING:
    from sweeper.sources import Asked


@asks("lr", "loss", "map_", "pattern", "where")
def import_(
    asked: "Asked",
    file: Annotated[str, typer.Argument(metavar="FILE", help="A table of runs, as `fit` reads it.")] = "",
    to: Annotated[str, typer.Option("--to", metavar="NAME", help="The sweep, or a new name for the rows.")] = "",
    runs: RunsFolder = Path("runs"),
    list_: Annotated[str, typer.Option("--list", metavar="NAME", help="Show what was imported to a sweep.")] = "",
    remove: Annotated[int, typer.Option("--remove", metavar="K", help="Forget import K of --to NAME.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Add runs from a file to those of a sweep: `fit`, `predict` and `plot` use both.

    Example: sweeper import wandb.csv --to quickstart --lr learning_rate --loss val/loss --map tokens=D
    """
    from dataclasses import asdict

    from sweeper.sources import forget_import, import_file, list_imports
    from sweeper.terminal.importing import print_import, print_imports

    if list_:
        known = list_imports(list_, runs)
        if as_json:
            shown = [asdict(found) for found in known]
            typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, "imports": shown}))
        else:
            print_imports(known, list_)
        return
    if not to:
        raise SweeperError("no name: say which sweep the rows belong to, such as --to quickstart")
    if remove:
        found = forget_import(to, runs, remove)
        typer.echo(f"removed import {found.number} of {to}: {found.rows} rows of {found.source}")
        return
    if not file:
        raise SweeperError("no file: name a table of runs, such as runs.csv")
    kept, new, read = import_file(file, to, runs, asked)
    say((*read.notes, *read.warnings))
    if as_json:
        typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, "import": asdict(kept), "new": new}))
    else:
        print_import(kept, to, new)
