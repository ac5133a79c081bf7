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
    Laws,
    Loss,
    Lr,
    Map,
    MethodName,
    Overrides,
    Pattern,
    Per,
    RunsFolder,
    Source,
    Where,
    asked_of,
    method_of,
    same_cells,
)
from sweeper.errors import FitError

Options = dict[str, str | list[str] | None]
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
    baseline: Baseline = "",
    where: Where = "",
    method: MethodName = "linex",
) -> None:
    """Write one HTML page with figures, fits, runs, provenance and the commands to make it again.

    Example: sweeper report quickstart
    """
    from sweeper.analysis import fit_question
    from sweeper.figures import plot_question
    from sweeper.report import Material, figures_for, read_origin, tool_versions, write_report
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
        baseline=baseline,
    )
    found = open_source(source, overrides or [], runs, asked)
    title = Path(found.title).name
    answer = fit_question(
        found.table, found.question, method=method_of(method), lr=lr, loss=loss, title=title, told=found.warnings
    )
    question = replace(found.question, figures=figures_for(answer, found.question))
    try:
        figures = plot_question(found.table, question, answer, loss=loss)
    except FitError as error:  # the tables need no figure
        figures, answer = {}, replace(answer, warnings=(*answer.warnings, str(error)))
    same = same_cells(source, overrides, runs) if found.folder else shlex.quote(source)
    columns: Options = {"--lr": lr, "--map": map_, "--pattern": pattern, "--by": by, "--per": per, "--law": law}
    columns |= {"--curve": curve, "--where": where}
    columns |= {name: value for name, value in (("--loss", loss), ("--method", method)) if value not in USUAL}
    own: Options = {"--baseline": baseline, "--out": str(out or "")}
    page = Material(
        title=found.title,
        table=found.table,
        question=question,
        report=answer,
        figures=figures,
        created=datetime.now().astimezone(),
        loss=loss,
        origin=read_origin(*open_sweep(source, overrides or [], runs)) if found.specs else None,
        notes=found.notes,
        commands=_commands(same, columns, own, launched=bool(found.specs)),
        tools=tool_versions(),
    )
    default = found.folder.path if found.folder else Path("figures") / Path(source).stem
    typer.echo(f"report: {write_report(page, out or default / 'report.html')}")


def _commands(same: str, columns: Options, own: Options, *, launched: bool) -> tuple[str, ...]:
    """The lines of a shell that make a report again from nothing; `own` options are those that `plot` has not."""
    trained = (f"sweeper plan {same}", f"sweeper launch {same}") if launched else ()
    fit = {name: value for name, value in own.items() if name != "--out"}
    return (
        *trained,
        f"sweeper fit {same}{_words(columns | fit)}",
        f"sweeper plot {same}{_words(columns)}",
        f"sweeper report {same}{_words(columns | own)}",
    )


def _words(given: Options) -> str:
    """Options as they were typed, each with a space before it; those that were not are left out."""
    words = [
        word
        for name, values in given.items()
        for value in ([values] if isinstance(values, str) else values or [])
        if value
        for word in (name, value)
    ]
    return f" {shlex.join(words)}" if words else ""
