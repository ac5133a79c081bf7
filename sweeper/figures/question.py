"""From a table, a question to it and its answer to the figures: each by its name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.figure import Figure

from sweeper.analysis import FitReport, curve_points, optima_along
from sweeper.analysis.question import separate_arms
from sweeper.analysis.surfaces import surface_points
from sweeper.errors import FitError
from sweeper.figures.arms import plot_arms
from sweeper.figures.flops import plot_flops
from sweeper.figures.heat import plot_heat
from sweeper.figures.joint import plot_joint
from sweeper.figures.law import plot_law
from sweeper.figures.lr import colour_keys, panel_columns, plot_lr_sweep
from sweeper.figures.sensitivity import plot_sensitivity
from sweeper.figures.stability import plot_stability
from sweeper.figures.style import Looks, distinct
from sweeper.figures.surface import plot_surface
from sweeper.figures.text import label
from sweeper.fits.joint import JointFit
from sweeper.fits.losses import Key, make_losses
from sweeper.fits.optimum import Optimum, fit_lr_optima, members, settings
from sweeper.fits.power_law import PowerLawFit, Space, fit_optimum_law
from sweeper.fits.surface import SurfaceFit
from sweeper.laws.arrays import FloatArray
from sweeper.laws.published import PAPERS, Paper, PublishedOptima, PublishedSweep
from sweeper.series import Series
from sweeper.spec import Question
from sweeper.table import Table, losses, lr_column, numbers, split
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
    scene = _Scene(
        table=table,
        question=question,
        report=report,
        looks=_looks(table, question, report),
        paper=PAPERS.get(question.reference),
        loss=loss,
        style=style,
        x=tuple(x),
        heat=heat,
        series=tuple(series),
        colour=colour,
    )
    figures = {name: _draw(name, scene) for name in question.figures}
    drawn = {name: figure for name, figure in figures.items() if figure is not None}
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    """What the figures of one question have in common, and what was asked of single ones."""

    table: Table
    question: Question
    report: FitReport
    looks: Looks
    paper: Paper | None
    loss: str
    style: str
    x: tuple[str, ...]
    heat: tuple[str, str] | None
    series: tuple[Series, ...]
    colour: str


def _draw(name: str, scene: _Scene) -> Figure | None:
    """One figure by its name; None where there is nothing to show."""
    report, per, style = scene.report, scene.question.per, scene.style
    if name == "lr" and report.optima:
        return _lr(scene)
    if name == "law":
        return _law(scene) or _column_law(scene)
    if name == "flops" and report.curves:
        return _flops(scene)
    if name == "heat" and (report.optima or scene.heat):
        return _heat(scene)
    if name == "sensitivity" and any(row.lr_error is not None for row in report.sensitivity):
        published = scene.paper.sensitivity if scene.paper else ()
        # Where losses have panels for some columns, the colours of groups are only those of the last.
        looks = scene.looks if panel_columns(report.optima, per) == per else None
        return plot_sensitivity(report.sensitivity, per=per, reference=published, looks=looks, style=style)
    if name == "arms" and per and any(o.lr is not None and o.loss is not None for o in report.optima):
        return plot_arms(
            report.optima,
            report.comparisons,
            per=per,
            baseline=scene.question.baseline,
            lr_name=report.rate,
            loss_name=scene.loss,
            looks=scene.looks,
            style=style,
        )
    if name == "surface" and report.surfaces:
        return plot_surface([(fit, _pairs(scene, fit)) for fit in report.surfaces], style=style)
    if name == "joint" and report.joint:
        return plot_joint([(fit, _runs(scene.table, fit)) for fit in report.joint], style=style)
    if name == "stability" and scene.series:
        return plot_stability(scene.series, colour=scene.colour or _one_each(scene), style=style)
    return None


def _one_each(scene: _Scene) -> str:
    """The column of the question that tells its runs apart by itself, if one does: a rate of each says less."""
    return next(
        (
            name
            for name in scene.question.by
            if len({item.labels.get(name) for item in scene.series}) == len(scene.series) > 1
        ),
        "",
    )


def _looks(table: Table, question: Question, report: FitReport) -> Looks:
    """One colour per arm and one per group, whatever the figure; an arm without any fit has one too."""
    arms = [*settings(report.optima, question.per)] if report.optima else []
    arms += [key for key, _ in split(table, question.per)]
    return Looks(arms=distinct(arms), groups=colour_keys(report.optima, question.per))


def _lr(scene: _Scene) -> Figure:
    optima, rate = scene.report.optima, scene.report.rate
    return plot_lr_sweep(
        losses(scene.table, tuple(optima[0].group), lr=rate, loss=scene.loss),
        optima,
        per=scene.question.per,
        lr_name=rate,
        loss_name=scene.loss,
        published=_sweeps(scene),
        looks=scene.looks,
        style=scene.style,
    )


def _flops(scene: _Scene) -> Figure:
    """The curves between the columns of the first one; leverage is of those too."""
    curves = scene.report.curves
    x, y = curves[0].x, curves[0].y
    return plot_flops(
        curve_points(scene.table, x, y, tuple(curves[0].per), scene.report.optima),
        [curve for curve in curves if (curve.x, curve.y) == (x, y)],
        runs=(numbers(scene.table, x), numbers(scene.table, y)),
        leverage=scene.report.leverage,
        baseline=scene.question.baseline,
        reference=scene.paper.curves if scene.paper and (x, y) == ("flops", "loss") else (),
        looks=scene.looks,
        style=scene.style,
    )


def _law(scene: _Scene) -> Figure | None:
    report, question, looks = scene.report, scene.question, scene.looks
    laws = tuple(law for law in report.laws if law.y == report.rate)
    columns = scene.x or tuple(dict.fromkeys(law.x for law in laws))
    if not (report.optima and columns):
        return None
    optima = _placed(scene, columns, laws)
    if scene.x:
        within = set(scene.x) <= set(question.by)
        rest = [name for name in question.by if within and name not in (*scene.x, *question.per)]
        laws = tuple(law for x in scene.x for law in _laws_along(optima, x, (*question.per, *rest), report.rate))
        if rest and laws:
            looks = Looks(arms=distinct(law.per for law in laws))
    return plot_law(
        optima,
        laws,
        x=columns,
        lr_name=report.rate,
        reference=_published(scene, report.rate),
        looks=looks,
        style=scene.style,
    )


def _placed(scene: _Scene, columns: Sequence[str], laws: Sequence[PowerLawFit]) -> list[Optimum]:
    """The optima with their values of the columns.

    Without a law along it, a column that the runs of a group do not share says nothing of an arm, unless it was asked
    for.
    """
    optima, per = scene.report.optima, scene.question.per
    groups = [dict(optimum.group) for optimum in optima]
    for column in columns:
        for arm in settings(optima, per):
            if column in scene.x or any(law.x == column and law.per == arm for law in laws):
                own = [place for place, optimum in enumerate(optima) if members((optimum,), arm)]
                found = optima_along(scene.table, tuple(optima[place] for place in own), column)
                for place, optimum in zip(own, found, strict=True):
                    groups[place] |= {column: optimum.group[column]}
    return [replace(optimum, group=group) for optimum, group in zip(optima, groups, strict=True)]


def _column_law(scene: _Scene) -> Figure | None:
    """Laws between two columns, such as those of a table of finished optima: each row is a point."""
    table = scene.table
    laws = [law for law in scene.report.laws if law.y != scene.report.rate and law.y in table.columns]
    laws = [law for law in laws if law.y == laws[0].y]
    if not laws:
        return None
    points: list[Optimum] = []
    for column, setting in dict.fromkeys((law.x, tuple(law.per.items())) for law in laws):
        rows = _rows(table, dict(setting))
        pairs = zip(numbers(rows, column), numbers(rows, laws[0].y), strict=True)
        points += [_point({**dict(setting), column: float(at)}, float(y)) for at, y in pairs if at > 0 and y > 0]
    reference = _published(scene, laws[0].y) if laws[0].y.startswith("lr") else ()
    return plot_law(points, laws, y_label=label(laws[0].y), reference=reference, looks=scene.looks, style=scene.style)


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


def _published(scene: _Scene, rate: str) -> tuple[PublishedOptima, ...]:
    if scene.paper is None:
        return ()
    peak = _peak(scene.table, rate)
    sweeps = [sweep for sweep in scene.paper.sweeps if ("lr_peak" if peak else "lr") in sweep.rates]
    return (*(scene.paper.optima if peak else ()), *_vertices(sweeps))


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


def _sweeps(scene: _Scene) -> tuple[PublishedSweep, ...]:
    """Published sweeps along an axis that alone sets our groups apart."""
    if scene.paper is None:
        return ()
    rate = "lr_peak" if _peak(scene.table, scene.report.rate) else "lr"
    own = [name for name in scene.question.by if name not in scene.question.per]
    return tuple(sweep for sweep in scene.paper.sweeps if own == [sweep.axis] and rate in sweep.rates)


def _heat(scene: _Scene) -> Figure | None:
    table, question = scene.table, scene.question
    rate = scene.report.rate or lr_column(table)
    by = tuple(dict.fromkeys((*question.per, *question.by)))
    own = [name for name in question.by if name not in question.per]
    if scene.heat is None and not own:
        return None
    # By default a panel per group but for the last column, as in `lr`; what was typed shows the lowest over the others.
    x, y = scene.heat or (rate, own[-1])
    x, y = (rate if name in ("lr", "lr_peak") and name not in table.columns else name for name in (x, y))
    per = tuple(name for name in (question.per if scene.heat else by) if name not in (x, y))
    others = [n for n in (rate, *question.by) if n not in (x, y, *per) and len(values_of(table, n)) > 1]
    columns = tuple(dict.fromkeys(name for name in (*per, x, y) if name != rate))
    return plot_heat(
        losses(table, columns, lr=rate, loss=scene.loss),
        x,
        y,
        per=per,
        lr_name=rate,
        loss_name=scene.loss,
        others=others,
        style=scene.style,
    )


def _rows(table: Table, per: Mapping[str, Key]) -> Table:
    return next(part for key, part in split(table, tuple(per)) if key == per)


def _runs(table: Table, fit: JointFit) -> tuple[FloatArray, FloatArray, FloatArray]:
    """What a joint fit went through: T, learning rate and loss of the runs of its setting."""
    found = losses(_rows(table, fit.per), (fit.x,), lr=fit.rate, loss=fit.y)
    used = found.take(found.used)
    return used.covariates[fit.x], used.lr, used.loss


def _pairs(scene: _Scene, fit: SurfaceFit) -> tuple[FloatArray, FloatArray, FloatArray]:
    """What a surface went through: size, data and lowest loss of each pair."""
    surface = f"{fit.y} ~ {fit.N} + {fit.D}"
    found = surface_points(scene.table, surface, tuple(fit.per), scene.report.optima)
    return next(points.fitted for points in found if points.per == fit.per)
