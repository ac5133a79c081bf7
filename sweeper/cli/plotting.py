"""The command that draws figures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.cli.arguments import (
    MethodName,
    Overrides,
    RunsFolder,
    Source,
    method_of,
    names,
    say,
)
from sweeper.cli.asking import FITS, asks
from sweeper.errors import SweeperError

if TYPE_CHECKING:
    from sweeper.sources import Asked


@asks(*FITS)
def plot(
    asked: "Asked",
    source: Source,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    figure: Annotated[
        str,
        typer.Option(
            "--figure",
            help="Figures, by commas: lr, law, flops, heat, sensitivity, arms, surface, joint, stability "
            "(those of the sweep's question).",
        ),
    ] = "",
    style: Annotated[str, typer.Option("--style", help="paper (columns of 3.25 in, 8 pt) or slides (16:9).")] = "paper",
    formats: Annotated[str, typer.Option("--format", help="File formats, by commas: png, pdf, svg.")] = "png,pdf",
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the figures (runs/NAME/figures).")] = None,
    x: Annotated[
        str, typer.Option("--x", help="Columns, by commas, that `law` draws the optimum against (those of the laws).")
    ] = "",
    heat: Annotated[
        str, typer.Option("--heat", help="Columns across and up of `heat`: lr,tokens (the rate, the last of --by).")
    ] = "",
    colour: Annotated[
        str, typer.Option("--colour", help="What colours the lines of `stability`: lr_peak, arm, or an axis.")
    ] = "",
    method: MethodName = "linex",
) -> None:
    """Draw losses, optima and their laws, curves and leverage, heat maps, arms, surfaces and training metrics.

    Example: sweeper plot quickstart --figure lr,law,stability --format png,svg
    """
    from sweeper.analysis import fit_question
    from sweeper.figures import FIGURES, NEEDS, asked_by, plot_question, save_figure, style_of
    from sweeper.series import read_series
    from sweeper.sources import open_source
    from sweeper.terminal.plot import print_figures
    from sweeper.typed import did_you_mean

    style_of(style)
    across_and_up = names(heat)
    if heat and len(set(across_and_up)) != 2:
        raise SweeperError(f"--heat {heat!r}: expected two columns, across and up, such as lr,tokens")
    for name in names(figure):
        if name not in FIGURES:
            raise SweeperError(f"--figure {name!r}: no such figure; {did_you_mean(name, FIGURES)}")
    found = open_source(source, overrides or [], runs, asked)
    say(found.notes)
    question = asked_by(found.question, found.table, names(figure) or found.question.figures)
    report = fit_question(
        found.table, question, method=method_of(method), lr=asked.lr, loss=asked.loss, told=found.warnings
    )
    wanted = found.folder is not None and "stability" in question.figures
    series = read_series(found.folder, found.specs) if found.folder is not None and wanted else ()
    drawn = plot_question(
        found.table,
        question,
        report,
        loss=asked.loss,
        style=style,
        x=names(x),
        heat=(across_and_up[0], across_and_up[1]) if across_and_up else None,
        series=series,
        colour=colour,
    )
    folder = out or (found.folder.figures if found.folder else Path("figures") / Path(source).stem)
    damaged = sum(item.damaged for item in series)
    if damaged:
        typer.echo(f"warning: {damaged} damaged lines of metrics.jsonl are left out", err=True)
    for name in (name for name in question.figures if name not in drawn):
        typer.echo(f"no data for the figure {name!r}: left out; it needs {NEEDS[name]}", err=True)
    pairs = list(dict.fromkeys(f"{curve.y} ~ {curve.x}" for curve in report.curves))
    if "flops" in drawn and len(pairs) > 1:
        typer.echo(f"the figure 'flops' shows {pairs[0]}; draw {' and '.join(pairs[1:])} with --curve", err=True)
    print_figures(path for name, made in drawn.items() for path in save_figure(made, folder, name, names(formats)))
