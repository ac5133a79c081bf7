"""Commands that fit results and predict from them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.cli.arguments import (
    SCHEMA_VERSION,
    AsJson,
    MethodName,
    Overrides,
    RunsFolder,
    Source,
    method_of,
    say,
    targets_of,
)
from sweeper.cli.asking import COLUMNS, FITS, asks
from sweeper.errors import DiskError, SweeperError

if TYPE_CHECKING:
    from sweeper.sources import Asked


@asks(*FITS, "sensitivity")
def fit(
    asked: "Asked",
    source: Source,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    method: MethodName = "linex",
    as_json: AsJson = False,
) -> None:
    """Fit learning-rate optima, their power laws and loss curves to a sweep or to any table of runs.

    Example: sweeper fit runs.csv --lr learning_rate --map tokens=D --by tokens
    """
    from sweeper.analysis import fit_question
    from sweeper.records import write_json
    from sweeper.sources import Asked, open_source
    from sweeper.typed import plain

    found = open_source(source, overrides or [], runs, asked)
    say(found.notes)
    report = fit_question(
        found.table,
        found.question,
        method=method_of(method),
        lr=asked.lr,
        loss=asked.loss,
        title=Path(found.title).name,
        told=found.warnings,
    )
    # The file answers the sweep's own question; any other answer is only printed.
    bare = not overrides and asked == Asked() and method == "linex"
    if found.folder is not None and bare:
        try:
            write_json(found.folder.fits / "fit.json", report)
        except DiskError as error:  # the answer itself needs no disk
            typer.echo(f"warning: the fit is not stored: {error}", err=True)
    if as_json:
        typer.echo(json.dumps(plain(report)))
        return
    from sweeper.terminal.fit import print_fit

    print_fit(report, found.title, found.question.note)


@asks(*COLUMNS, "law")
def predict(
    asked: "Asked",
    source: Source,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    tokens: Annotated[float | None, typer.Option(help="Training tokens of the target run, such as 100e9.")] = None,
    depth: Annotated[int | None, typer.Option(help="Its depth.")] = None,
    width: Annotated[int | None, typer.Option(help="Its width.")] = None,
    batch_tokens: Annotated[float | None, typer.Option(help="Its batch, tokens.")] = None,
    params: Annotated[
        float | None,
        typer.Option(help="Its parameters, for a law along them (a sweep knows those of --width, --depth)."),
    ] = None,
    at: Annotated[
        list[str] | None, typer.Option("--at", help="Any other column of the target: top_k=4. May be repeated.")
    ] = None,
    method: MethodName = "linex",
    as_json: AsJson = False,
) -> None:
    """Predict the peak learning rate of a run that was never made, with its interval and how far it extrapolates.

    Example: sweeper predict quickstart --tokens 4e6 --depth 4
    """
    from sweeper.analysis import predict_question
    from sweeper.sources import open_source
    from sweeper.typed import plain

    found = open_source(source, overrides or [], runs, asked)
    say((*found.notes, *found.warnings))
    given = {"tokens": tokens, "depth": depth, "width": width, "batch_tokens": batch_tokens, "params": params}
    target = {name: float(value) for name, value in given.items() if value is not None}
    beside = targets_of(at or [])
    for name in target.keys() & beside.keys():
        flag = name.replace("_", "-")
        raise SweeperError(f"--at {name}={beside[name]:g} and --{flag} {target[name]:g} name one target; keep one")
    target |= beside
    if not target:
        raise SweeperError("no target: say where to predict, such as --tokens 100e9 or --at top_k=4")
    predictions = predict_question(
        found.table, found.question, target, specs=found.specs, method=method_of(method), lr=asked.lr, loss=asked.loss
    )
    if as_json:
        typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, "predictions": plain(predictions)}))
        return
    from sweeper.terminal.prediction import print_predictions

    print_predictions(predictions)
