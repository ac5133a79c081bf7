"""The command that draws figures."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sweeper.cli.arguments import (
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
    names,
)
from sweeper.errors import SweeperError


def plot(
    source: Source,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    figure: Annotated[
        str, typer.Option("--figure", help="Figures, by commas: lr, law, flops (those of the sweep's question).")
    ] = "",
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the figures (runs/NAME/figures).")] = None,
    formats: Annotated[str, typer.Option("--format", help="File formats, by commas.")] = "png,pdf",
    lr: Lr = "",
    loss: Loss = "loss",
    map_: Map = None,
    by: By = "",
    per: Per = "",
    law: Laws = None,
    curve: Curves = None,
    where: Where = "",
    reference: Annotated[
        str, typer.Option("--reference", help="Published laws to draw behind ours: hyperp (those of the question).")
    ] = "",
    method: MethodName = "linex",
) -> None:
    """Draw loss against learning rate, the optimum against tokens, and loss against FLOPs.

    Example: sweeper plot quickstart --format png,svg
    """
    from sweeper.analysis import fit_question
    from sweeper.figures import FIGURES, plot_question, save_figure
    from sweeper.sources import open_source
    from sweeper.spec import Reference
    from sweeper.terminal.fit import print_figures
    from sweeper.typed import convert, did_you_mean

    asked = asked_of(lr=lr, map_=map_, by=by, per=per, where=where, law=law, curve=curve)
    found = open_source(source, overrides or [], runs, asked)
    question = replace(found.question, figures=names(figure)) if figure else found.question
    for name in question.figures:
        if name not in FIGURES:
            raise SweeperError(f"--figure {name!r}: no such figure; {did_you_mean(name, FIGURES)}")
    if reference:
        question = replace(question, reference=convert(Reference, reference, "--reference"))
    report = fit_question(found.table, question, method=method_of(method), lr=lr, loss=loss)
    folder = out or (found.folder.figures if found.folder else Path("figures") / Path(source).stem)
    drawn = plot_question(found.table, question, report, loss=loss)
    for name in (name for name in question.figures if name not in drawn):
        typer.echo(f"no data for the figure {name!r}: left out", err=True)
    print_figures(path for name, made in drawn.items() for path in save_figure(made, folder, name, names(formats)))
