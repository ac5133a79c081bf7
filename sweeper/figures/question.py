"""From a table, a question to it and its answer to the figures: each by its name."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from sweeper.analysis import FitReport, curve_points, optima_along
from sweeper.analysis.question import separate_arms
from sweeper.errors import FitError
from sweeper.figures.arms import plot_arms
from sweeper.figures.flops import plot_flops
from sweeper.figures.heat import plot_heat
from sweeper.figures.joint import plot_joint
from sweeper.figures.law import plot_law
from sweeper.figures.lr import colour_keys, plot_lr_sweep
from sweeper.figures.sensitivity import plot_sensitivity
from sweeper.figures.stability import plot_stability
from sweeper.figures.style import Looks, distinct
from sweeper.figures.surface import plot_surface
from sweeper.figures.text import label
from sweeper.fits.losses import Key, make_losses
from sweeper.fits.optimum import Optimum, fit_lr_optima, members, settings
from sweeper.fits.power_law import PowerLawFit, Space, fit_optimum_law
from sweeper.laws.arrays import FloatArray
from sweeper.laws.published import PAPERS, Paper, PublishedOptima, PublishedSweep
from sweeper.series import Series
from sweeper.spec import Question
from sweeper.table import Table, losses, numbers, split
from sweeper.table import distinct as values_of

FIGURES: Mapping[str, str] = {
    "lr": "loss against learning rate, per group",
    "law": "optimal learning rate against the axis of its law, or any other",
    "flops": "best loss against compute, and leverage over the baseline",
    "heat": "heat map of the loss over two axes",
    "sensitivity": "error of the optimum against the number of learning rates",
    "arms": "arms side by side, and their differences to the baseline",
    "surface": "loss over model size and data, with what its fit misses",
    "joint": "all runs on the reduced coordinates of a joint fit",
    "stability": "what the runs of a sweep measured while they trained",
}
"""What `plot` can draw, by the name that a question uses."""

NEEDS: Mapping[str, str] = {
    "lr": "learning rates and losses of runs",
    "law": "a law of the optimum (--law 'lr_peak ~ tokens') or a column to draw it against (--x)",
    "flops": "a curve through the best runs (--curve 'loss ~ flops') and budgets enough to fit it",
    "heat": "columns that groups are formed by (--by), or its own (--heat lr,tokens)",
    "sensitivity": "a group of four learning rates or more with an optimum",
    "arms": "a column that sets arms apart (--per)",
    "surface": "a surface (--surface 'loss ~ params + tokens') and sizes and data enough to fit it",
    "joint": "a column of data (--joint tokens) with three budgets or more",
    "stability": "a sweep whose runs have written metrics; a file has none",
}
"""What a figure without data lacks."""

SPACES: tuple[Space, ...] = ("linear", "log")


def plot_question(
    table: Table,
    question: Question,
    report: FitReport,
    *,
    loss: str = "loss",
    style: str = "paper",
    x: Sequence[str] = (),
    heat: tuple[str, str] | None = None,
    series: Sequence[Series] = (),
    colour: str = "",
) -> dict[str, Figure]:
    """The figures that a question names, by their names in `FIGURES`; those without data for them are left out.

    An arm and a group look the same in all of them.

    Args:
        table: One row per run.
        question: Names the figures and a reference.
        report: The answer of `fit_question` to the same question.
        loss: Column of the loss.
        style: `paper` or `slides`.
        x: Columns that the optimum is drawn against in `law`; those of the question's laws when empty.
        heat: Columns across and up of `heat`; when None the learning rate and the last column of groups, with a panel
            per value of the others.
        series: What the runs measured while they trained, for `stability`.
        colour: Label that sets the colours of `stability`.

    Raises:
        FitError: None of them has anything to show, or one that was asked for in its own words cannot be drawn.
    """
    question = separate_arms(table, question)
    drawn: dict[str, Figure] = {}
    paper = PAPERS.get(question.reference)
    looks = _looks(question, report)
    for name in question.figures:
        figure = _draw(name, table, question, report, looks, paper, loss, style, tuple(x), heat, series, colour)
        if figure is not None:
            drawn[name] = figure
    if not drawn:
        lacking = "; ".join(f"{name} needs {NEEDS.get(name, 'another name')}" for name in question.figures)
        raise FitError(f"no data for the figures {', '.join(question.figures)}: {lacking}")
    return drawn


def asked_by(question: Question, table: Table, figures: Sequence[str]) -> Question:
    """The question with these figures and the fits that they show: sensitivities, a surface, a joint fit."""
    named = replace(question, figures=tuple(figures))
    if "sensitivity" in figures:
        named = replace(named, sensitivity=True)
    if "surface" in figures and not question.surfaces and {"loss", "params", "tokens"} <= set(table.columns):
        named = replace(named, surfaces=("loss ~ params + tokens",))
    if "joint" in figures and not question.joint and "tokens" in table.columns:
        named = replace(named, joint=("tokens",))
    return named


def _draw(
    name: str,
    table: Table,
    question: Question,
    report: FitReport,
    looks: Looks,
    paper: Paper | None,
    loss: str,
    style: str,
    x: tuple[str, ...],
    heat: tuple[str, str] | None,
    series: Sequence[Series],
    colour: str,
) -> Figure | None:
    per, rate, optima = question.per, report.rate, report.optima
    if name == "lr" and optima:
        return plot_lr_sweep(
            losses(table, tuple(optima[0].group), lr=rate, loss=loss),
            optima,
            per=per,
            lr_name=rate,
            loss_name=loss,
            published=_sweeps(table, question, rate, paper),
            looks=looks,
            style=style,
        )
    if name == "law":
        made = _law(table, question, report, looks, paper, style, x) if optima else None
        return made or _column_law(table, report, looks, paper, style)
    if name == "flops" and report.curves:
        first = report.curves[0]
        same = tuple(curve for curve in report.curves if (curve.x, curve.y) == (first.x, first.y))
        return plot_flops(
            curve_points(table, first.x, first.y, tuple(first.per), optima),
            same,
            runs=(numbers(table, first.x), numbers(table, first.y)),
            leverage=report.leverage,
            baseline=question.baseline,
            reference=paper.curves if paper and (first.x, first.y) == ("flops", "loss") else (),
            looks=looks,
            style=style,
        )
    if name == "heat" and (optima or heat):
        return _heat(table, question, rate or "lr_peak", heat, loss, style)
    if name == "sensitivity" and any(row.lr_error is not None for row in report.sensitivity):
        published = paper.sensitivity if paper else ()
        return plot_sensitivity(report.sensitivity, per=per, reference=published, style=style)
    if name == "arms" and per and any(o.lr is not None and o.loss is not None for o in optima):
        return plot_arms(
            optima,
            report.comparisons,
            per=per,
            baseline=question.baseline,
            lr_name=rate,
            loss_name=loss,
            looks=looks,
            style=style,
        )
    if name == "surface" and report.surfaces:
        rows = [(fit, _lowest(table, fit.per, (fit.N, fit.D), fit.y)) for fit in report.surfaces]
        return plot_surface(rows, style=style)
    if name == "joint" and report.joint:
        return plot_joint([(fit, _runs(table, fit.per, fit.x, fit.rate, fit.y)) for fit in report.joint], style=style)
    if name == "stability" and series:
        return plot_stability(series, colour=colour, style=style)
    return None


def _looks(question: Question, report: FitReport) -> Looks:
    """One colour per arm and one per group, whatever the figure."""
    arms = [*settings(report.optima, question.per)] if report.optima else []
    arms += [curve.per for curve in report.curves] + [law.per for law in report.laws]
    return Looks(arms=distinct(arms or [{}]), groups=colour_keys(report.optima, question.per))


def _law(
    table: Table,
    question: Question,
    report: FitReport,
    looks: Looks,
    paper: Paper | None,
    style: str,
    x: tuple[str, ...],
) -> Figure | None:
    laws = tuple(law for law in report.laws if law.y == report.rate)
    columns = x or tuple(dict.fromkeys(law.x for law in laws))
    if not columns:
        return None
    placed = [dict(optimum.group) for optimum in report.optima]
    for column in columns:
        for arm in settings(report.optima, question.per):
            # Without a law an axis that the runs of a group do not share says nothing of this arm.
            if column in x or any(law.x == column and law.per == arm for law in laws):
                own = [i for i, o in enumerate(report.optima) if members((o,), arm)]
                for i, optimum in zip(own, _along(table, report.optima, own, column), strict=True):
                    placed[i] |= {column: optimum.group[column]}
    optima = [replace(o, group=group) for o, group in zip(report.optima, placed, strict=True)]
    if x:
        rest = [n for n in question.by if n not in x and set(x) <= set(question.by) and n not in question.per]
        laws = tuple(law for column in x for law in _laws_along(optima, column, (*question.per, *rest), report.rate))
        if rest and laws:
            looks = Looks(arms=distinct(law.per for law in laws))
    reference = paper.optima if paper else ()
    return plot_law(
        optima,
        laws,
        x=columns,
        lr_name=report.rate,
        reference=_published(table, report.rate, paper, reference),
        looks=looks,
        style=style,
    )


def _column_law(table: Table, report: FitReport, looks: Looks, paper: Paper | None, style: str) -> Figure | None:
    """Laws between two columns, such as those of a table of finished optima: each row is a point."""
    laws = [law for law in report.laws if law.y != report.rate and law.y in table.columns]
    laws = [law for law in laws if law.y == laws[0].y]
    if not laws:
        return None
    points: list[Optimum] = []
    for column, setting in dict.fromkeys((law.x, tuple(law.per.items())) for law in laws):
        rows = _rows(table, dict(setting))
        pairs = zip(numbers(rows, column), numbers(rows, laws[0].y), strict=True)
        points += [_point({**dict(setting), column: float(at)}, float(y)) for at, y in pairs if at > 0 and y > 0]
    reference = paper.optima if paper else ()
    published = _published(table, laws[0].y, paper, reference) if laws[0].y.startswith("lr") else ()
    return plot_law(points, laws, y_label=label(laws[0].y), reference=published, looks=looks, style=style)


def _point(group: dict[str, Key], value: float) -> Optimum:
    """A number of a table as an optimum without an interval."""
    return Optimum(
        group=group,
        lr=value,
        lr_low=None,
        lr_high=None,
        loss=None,
        method="argmin",
        status="ok",
        points=1,
        excluded=0,
    )


def _along(table: Table, optima: Sequence[Optimum], own: Sequence[int], column: str) -> tuple[Optimum, ...]:
    return optima_along(table, tuple(optima[i] for i in own), column)


def _laws_along(optima: Sequence[Optimum], x: str, per: tuple[str, ...], rate: str) -> tuple[PowerLawFit, ...]:
    """The laws of the optima along any column, apart for each combination of the others: they may move it too."""
    made: list[PowerLawFit] = []
    for setting in settings(optima, per):
        own = members(optima, setting)
        try:
            made += [fit_optimum_law(own, x=x, space=space, y_name=rate, per=setting) for space in SPACES]
        except FitError:
            continue  # its points are drawn, without a line
    return tuple(made)


def _peak(table: Table, rate: str) -> bool:
    """Whether a column holds peak rates, which publications report, rather than base rates of a transfer rule."""
    return not (rate == "lr" and "lr_peak" in table.columns)


def _published(
    table: Table, rate: str, paper: Paper | None, optima: tuple[PublishedOptima, ...]
) -> tuple[PublishedOptima, ...]:
    if paper is None or not _peak(table, rate):
        return ()
    return (*optima, *_vertices(paper.sweeps))


def _vertices(sweeps: Sequence[PublishedSweep]) -> tuple[PublishedOptima, ...]:
    """The optima of published sweeps along their axis, by the papers' rule (parabola, or the best rate)."""
    found = []
    for title, setting, axis in dict.fromkeys((sweep.title, sweep.setting, sweep.axis) for sweep in sweeps):
        own = [sweep for sweep in sweeps if (sweep.title, sweep.setting) == (title, setting)]
        runs = make_losses(
            np.concatenate([sweep.lr for sweep in own]),
            np.concatenate([sweep.loss for sweep in own]),
            covariates={axis: np.repeat([sweep.x for sweep in own], [len(sweep.lr) for sweep in own])},
        )
        optima = fit_lr_optima(runs, (axis,), "parabola")
        found.append(
            PublishedOptima(
                title=title,
                setting=f"{setting}; parabola, or best rate",
                axis=axis,
                x=tuple(float(o.group[axis]) for o in optima),
                lr=tuple(o.lr for o in optima if o.lr is not None),
                loss=tuple(o.loss for o in optima if o.loss is not None),
            )
        )
    return tuple(found)


def _sweeps(table: Table, question: Question, rate: str, paper: Paper | None) -> tuple[PublishedSweep, ...]:
    """Published sweeps along an axis that alone sets our groups apart."""
    if paper is None or not _peak(table, rate):
        return ()
    own = [name for name in question.by if name not in question.per]
    return tuple(sweep for sweep in paper.sweeps if own == [sweep.axis])


def _heat(
    table: Table, question: Question, rate: str, heat: tuple[str, str] | None, loss: str, style: str
) -> Figure | None:
    by = tuple(dict.fromkeys((*question.per, *question.by)))
    own = [name for name in question.by if name not in question.per]
    if heat is None and not own:
        return None
    # By default a panel per group but for the last column, as in `lr`; what was typed shows the lowest over the others.
    x, y = heat or (rate, own[-1])
    x, y = (rate if name in ("lr", "lr_peak") and name not in table.columns else name for name in (x, y))
    per = tuple(name for name in (question.per if heat else by) if name not in (x, y))
    others = [n for n in (rate, *question.by) if n not in (x, y, *per) and len(values_of(table, n)) > 1]
    columns = tuple(dict.fromkeys(name for name in (*per, x, y) if name != rate))
    return plot_heat(
        losses(table, columns, lr=rate, loss=loss),
        x,
        y,
        per=per,
        lr_name=rate,
        loss_name=loss,
        others=others,
        style=style,
    )


def _rows(table: Table, per: Mapping[str, Key]) -> Table:
    return next(part for key, part in split(table, tuple(per)) if key == per)


def _runs(table: Table, per: Mapping[str, Key], x: str, rate: str, y: str) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The runs of one setting that have all three numbers and did not diverge."""
    rows = _rows(table, per)
    columns = [numbers(rows, name) for name in (x, rate, y)]
    usable = np.all([np.isfinite(column) for column in columns], axis=0)
    if "state" in rows.columns:
        usable &= np.asarray(rows["state"] != "diverged")
    first, second, third = (column[usable] for column in columns)
    return first, second, third


def _lowest(
    table: Table, per: Mapping[str, Key], axes: tuple[str, str], y: str
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The lowest y at each pair of values of two columns."""
    N, D, L = _runs(table, per, axes[0], axes[1], y)
    order = np.lexsort((L, D, N))
    first = np.concatenate([[True], (np.diff(N[order]) != 0) | (np.diff(D[order]) != 0)])
    return N[order][first], D[order][first], L[order][first]
