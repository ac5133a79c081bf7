"""The command that writes a report."""

import shlex
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from sweeper.cli.arguments import (
    Baseline,
    By,
    Curves,
    Irreducible,
    Joint,
    Laws,
    Loss,
    Lr,
    Map,
    MethodName,
    Overrides,
    Pattern,
    Per,
    ReferenceName,
    RunsFolder,
    SensitivityTo,
    Source,
    Surfaces,
    Where,
    asked_of,
    method_of,
    same_cells,
    targets_of,
)
from sweeper.errors import FitError

Options = dict[str, str | list[str] | bool | None]
MOST_LINES = 60
"""Runs whose training is drawn without being asked for: of more the page would grow by megabytes."""
USUAL = ("loss", "linex")
"""Values of --loss and --method that need not be typed."""


def report(
    source: Source,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    out: Annotated[
        Path | None, typer.Option("--out", help="File of the page (runs/NAME/report.html, figures/FILE/report.html).")
    ] = None,
    lr: Lr = "",
    loss: Loss = "loss",
    map_: Map = None,
    pattern: Pattern = None,
    by: By = "",
    per: Per = "",
    law: Laws = None,
    curve: Curves = None,
    surface: Surfaces = None,
    joint: Joint = "",
    irreducible: Irreducible = False,
    sensitivity: SensitivityTo = False,
    baseline: Baseline = "",
    reference: ReferenceName = "",
    where: Where = "",
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
    from sweeper.sources import open_source, open_sweep

    asked = asked_of(
        lr=lr,
        loss=loss,
        map_=map_,
        pattern=pattern,
        by=by,
        per=per,
        where=where,
        law=law,
        curve=curve,
        surface=surface,
        joint=joint,
        irreducible=irreducible,
        sensitivity=sensitivity,
        baseline=baseline,
        reference=reference,
    )
    found = open_source(source, overrides or [], runs, asked)
    title, by_method = Path(found.title).name, method_of(method)
    answer = fit_question(
        found.table, found.question, method=by_method, lr=lr, loss=loss, title=title, told=found.warnings
    )
    figured = figures_for(answer, found.question)
    series = read_series(found.folder, found.specs) if found.folder is not None and found.specs else ()
    if 0 < len(series) <= MOST_LINES:
        figured = tuple(dict.fromkeys((*figured, "stability")))
    question = replace(found.question, figures=figured)
    try:
        figures = plot_question(found.table, question, answer, loss=loss, series=series)
    except FitError as error:  # the tables need no figure
        figures, answer = {}, replace(answer, warnings=(*answer.warnings, str(error)))
    target = targets_of(at or [])
    predictions = (
        predict_question(found.table, found.question, target, specs=found.specs, method=by_method, lr=lr, loss=loss)
        if target
        else ()
    )
    suggestions = (
        suggest_question(found.table, found.question, specs=found.specs, lr=answer.rate, loss=loss)
        if answer.optima
        else ()
    )
    same = same_cells(source, overrides, runs) if found.folder else shlex.quote(source)
    columns: Options = {"--lr": lr, "--map": map_, "--pattern": pattern, "--by": by, "--per": per, "--law": law}
    columns |= {"--curve": curve, "--surface": surface, "--joint": joint, "--irreducible": irreducible}
    columns |= {"--baseline": baseline, "--reference": reference, "--where": where}
    columns |= {name: value for name, value in (("--loss", loss), ("--method", method)) if value not in USUAL}
    page = Material(
        title=found.title,
        table=found.table,
        question=question,
        report=answer,
        figures=figures,
        created=datetime.now().astimezone(),
        loss=loss,
        predictions=predictions,
        suggestions=suggestions,
        origin=read_origin(*open_sweep(source, overrides or [], runs)) if found.specs else None,
        notes=found.notes,
        commands=_commands(
            same,
            columns,
            fit={"--sensitivity": sensitivity},
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
        f"sweeper fit {same}{_words(columns | fit)}",
        f"sweeper plot {same}{_words(columns)}",
        f"sweeper report {same}{_words(columns | fit | own)}",
    )


def _words(given: Options) -> str:
    """Options as they were typed, each with a space before it; those that were not are left out."""
    words: list[str] = []
    for name, values in given.items():
        if values is True:
            words.append(name)
        else:
            each = [values] if isinstance(values, str) else values or []
            words += [word for value in each if value for word in (name, value)]
    return f" {shlex.join(words)}" if words else ""
