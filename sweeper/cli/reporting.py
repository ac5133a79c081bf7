"""The command that writes a report."""

import shlex
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.cli.arguments import (
    MethodName,
    Overrides,
    RunsFolder,
    Source,
    method_of,
    same_cells,
    targets_of,
)
from sweeper.cli.asking import FITS, Options, asks, typed_options, words_of
from sweeper.errors import FitError

if TYPE_CHECKING:
    from sweeper.fits.prediction import LrPrediction
    from sweeper.sources import Asked

MOST_LINES = 60
"""Runs whose training is drawn without being asked for: of more the page would grow by megabytes."""


@asks(*FITS, "sensitivity")
def report(
    asked: "Asked",
    source: Source,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    out: Annotated[
        Path | None, typer.Option("--out", help="File of the page (runs/NAME/report.html, figures/FILE/report.html).")
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", help="Also predict the rate there: tokens=100e9. May be repeated, for one target."),
    ] = None,
    method: MethodName = "linex",
) -> None:
    """Write one HTML page with figures, fits, predictions, runs, provenance and the commands to make it again.

    Example: sweeper report quickstart --at tokens=4e6
    """
    from sweeper.analysis import fit_question, predict_question, suggest_question
    from sweeper.figures import plot_question
    from sweeper.report import Material, figures_for, read_origin, tool_versions, write_report
    from sweeper.series import read_series
    from sweeper.sources import open_source

    found = open_source(source, overrides or [], runs, asked)
    title, by_method = Path(found.title).name, method_of(method)
    answer = fit_question(
        found.table,
        found.question,
        method=by_method,
        lr=asked.lr,
        loss=asked.loss,
        title=title,
        told=found.warnings,
    )
    figured = figures_for(answer, found.question)
    # Metrics are megabytes: of more runs than are drawn unasked, one more is read to know that they are more.
    most = None if "stability" in figured else MOST_LINES + 1
    series = read_series(found.folder, found.specs, most) if found.folder is not None and found.specs else ()
    if 0 < len(series) <= MOST_LINES:
        figured = tuple(dict.fromkeys((*figured, "stability")))
    question = replace(found.question, figures=figured)
    try:
        figures = plot_question(found.table, question, answer, loss=asked.loss, series=series)
    except FitError as error:  # the tables need no figure
        figures, answer = {}, replace(answer, warnings=(*answer.warnings, str(error)))
    target = targets_of(at or [])
    predictions: tuple[LrPrediction, ...] = ()
    if target:
        try:
            predictions = predict_question(
                found.table,
                found.question,
                target,
                specs=found.specs,
                method=by_method,
                lr=asked.lr,
                loss=asked.loss,
            )
        except FitError as error:  # the rest of the page needs no prediction
            answer = replace(answer, warnings=(*answer.warnings, f"no prediction: {error}"))
    suggestions = (
        suggest_question(found.table, found.question, specs=found.specs, lr=answer.rate, loss=asked.loss)
        if answer.optima
        else ()
    )
    same = same_cells(source, overrides, runs) if found.folder else shlex.quote(source)
    columns = typed_options(asked) | ({"--method": method} if method != "linex" else {})
    page = Material(
        title=found.title,
        table=found.table,
        question=question,
        report=answer,
        figures=figures,
        created=datetime.now().astimezone(),
        loss=asked.loss,
        predictions=predictions,
        suggestions=suggestions,
        origin=read_origin(found.sweep, found.specs, found.folder, found.records)
        if found.sweep is not None and found.folder is not None
        else None,
        notes=found.notes,
        commands=_commands(
            same,
            columns,
            fit={"--sensitivity": asked.sensitivity},
            own={"--at": at, "--out": str(out or "")},
            launched=bool(found.specs),
        ),
        tools=tool_versions(),
    )
    default = found.folder.path if found.folder else Path("figures") / Path(source).stem
    typer.echo(f"report: {write_report(page, out or default / 'report.html')}")


def _commands(same: str, columns: Options, *, fit: Options, own: Options, launched: bool) -> tuple[str, ...]:
    """The lines of a shell that make a report again from nothing; `fit` and `own` are what `plot` and `fit` lack."""
    trained = (f"sweeper plan {same}", f"sweeper launch {same}") if launched else ()
    return (
        *trained,
        f"sweeper fit {same}{words_of(columns | fit)}",
        f"sweeper plot {same}{words_of(columns)}",
        f"sweeper report {same}{words_of(columns | fit | own)}",
    )
