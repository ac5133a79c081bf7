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
    Per,
    RunsFolder,
    Source,
    Where,
    asked_of,
    method_of,
    same_cells,
)
from sweeper.errors import FitError


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
    from sweeper.report import Material, read_origin, tool_versions, write_report
    from sweeper.sources import open_source, open_sweep

    asked = asked_of(lr=lr, map_=map_, by=by, per=per, where=where, law=law, curve=curve, baseline=baseline)
    found = open_source(source, overrides or [], runs, asked)
    fitted = fit_question(
        found.table, found.question, method=method_of(method), lr=lr, loss=loss, title=Path(found.title).name
    )
    figures = {}
    try:
        figures = plot_question(found.table, found.question, fitted, loss=loss)
    except FitError as error:  # the tables need no figure
        fitted = replace(fitted, warnings=(*fitted.warnings, str(error)))
    origin = None
    if found.folder is not None:
        sweep, specs, folder = open_sweep(source, overrides or [], runs)
        origin = read_origin(sweep, specs, folder)
    columns = _options(
        {"--lr": lr, "--map": map_, "--by": by, "--per": per, "--law": law, "--curve": curve, "--where": where}
        | {"--loss": "" if loss == "loss" else loss, "--method": "" if method == "linex" else method}
    )
    arms = _options({"--baseline": baseline})
    same = same_cells(source, overrides, runs) if found.folder else shlex.quote(source)
    again = [f"sweeper fit {same}{columns}{arms}", f"sweeper plot {same}{columns}"]
    again += [f"sweeper report {same}{columns}{arms}" + (f" --out {shlex.quote(str(out))}" if out else "")]
    if found.folder is not None:
        again = [f"sweeper plan {same}", f"sweeper launch {same}", *again]
    default = found.folder.path if found.folder else Path("figures") / Path(source).stem
    path = write_report(
        Material(
            title=found.title,
            table=found.table,
            question=found.question,
            report=fitted,
            figures=figures,
            created=datetime.now().astimezone(),
            loss=loss,
            origin=origin,
            commands=again,
            tools=tool_versions(),
        ),
        out or default / "report.html",
    )
    typer.echo(f"report: {path}")


def _options(given: dict[str, str | list[str] | None]) -> str:
    """Options as they were typed, each with a space before it; those that were not are left out."""
    words = [
        word
        for name, values in given.items()
        for value in ([values] if isinstance(values, str) else values or [])
        if value
        for word in (name, value)
    ]
    return f" {shlex.join(words)}" if words else ""
