"""Loss against compute: the best runs, the fitted curves, the compute leverage over a baseline."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sweeper.analysis import CurvePoints
from sweeper.figures.style import GREY, PALE, Look, Looks, canvas, distinct, drawing, legend, mark, sign, stroke
from sweeper.figures.text import SYMBOLS, axis_text, label, log_ticks, plain_text, scientific, words
from sweeper.fits.loss_curve import Leverage, LossCurveFit, name_of
from sweeper.fits.losses import Key
from sweeper.laws.arrays import FloatArray
from sweeper.laws.published import PublishedCurve

REACH = 1.3
"""Curves are drawn this factor beyond their data."""
EDGE = 0.985


def plot_flops(
    points: Sequence[CurvePoints],
    curves: Sequence[LossCurveFit],
    *,
    runs: tuple[FloatArray, FloatArray] | None = None,
    leverage: Sequence[Leverage] = (),
    baseline: str = "",
    reference: Sequence[PublishedCurve] = (),
    looks: Looks | None = None,
    style: str = "paper",
) -> Figure:
    """Best loss against compute with the fitted L = A·C^−b + E of each arm, and its compute leverage beside it.

    A best run at an edge of its grid, which no curve goes through, is hollow; so is a leverage that is read outside the
    runs of a curve. A run above the axis is an arrow there.

    Args:
        points: Of each setting.
        curves: The fits.
        runs: Compute and loss of every run, drawn faintly behind.
        leverage: Of the arms over the baseline; without any there is no second panel.
        baseline: Name of the baseline.
        reference: Published curves, drawn behind ours where compute and loss overlap; elsewhere the legend gives their
            exponents, which can be compared at any scale.
    """
    looks = looks or Looks(arms=distinct(part.per for part in points))
    shown = [row for row in leverage if row.value is not None or row.value_baseline_fit is not None]
    with drawing(style) as chosen:
        figure, panels = canvas(chosen, 2 if shown else 1)
        axes = panels[0]
        entries: dict[str, Artist] = {}
        best = np.concatenate([part.y for part in points])
        everywhere = np.concatenate([part.x for part in points])
        span = max(float(np.ptp(best)), 0.02 * float(best.max()))
        more = runs is not None and int(np.isfinite(runs[1]).sum()) > best.size
        low, top = float(best.min()) - 0.12 * span, float(best.max()) + (0.45 if more else 0.12) * span
        if runs is not None and more:
            entries |= _every_run(axes, *runs, top)
        reach = np.geomspace(everywhere.min() / REACH, everywhere.max() * REACH, 200)
        near = [item for item in reference if _overlap(item, everywhere, best)]
        for item in near:
            reach = np.geomspace(min(reach[0], item.flops[0] / REACH), max(reach[-1], item.flops[-1] * REACH), 200)
            low, top = min(low, min(item.loss) - 0.1 * span), max(top, max(item.loss) + 0.1 * span)
        for part in points:
            entries |= _arm(axes, part, [c for c in curves if c.per == part.per], looks.arm(part.per), reach)
        entries |= _published(axes, near)
        if reference and not near:
            exponents = ", ".join(f"{item.arm} {item.curve.b:g}" for item in reference)
            text = f"{reference[0].title}, at another scale: exponents $b$ = {exponents}"
            entries[text] = Line2D([], [], ls="none")
        x, y = (curves[0].x, curves[0].y) if curves else ("flops", "loss")
        axes.set_xlabel(label(x))
        axes.set_ylabel(label(y))
        axes.set_xlim(reach[0], reach[-1])
        log_ticks(axes, "x", axis_text(x), most=4)
        axes.set_ylim(low, top)
        if shown:
            entries |= _leverage(panels[1], shown, "compute" if x == "flops" else label(x), baseline, looks, near)
            panels[1].set_xlabel(f"{label(x)} of {plain_text(baseline) or 'the baseline'}")
            panels[1].set_xlim(reach[0], reach[-1])
            log_ticks(panels[1], "x", axis_text(x), most=4)
        legend(figure, chosen, entries)
    return figure


def _every_run(axes: Axes, x: FloatArray, y: FloatArray, top: float) -> dict[str, Artist]:
    inside = np.isfinite(y) & (y <= top)
    above = np.isfinite(y) & ~inside
    (dots,) = axes.plot(x[inside], y[inside], ".", color=PALE, ms=mark(0.9), zorder=1)
    entries: dict[str, Artist] = {"every run": dots}
    if above.any():
        there = np.unique(x[above])
        edge = axes.get_xaxis_transform()
        (arrows,) = axes.plot(
            there, np.full(there.shape, EDGE), "^", color=PALE, ms=mark(0.9), transform=edge, zorder=1
        )
        entries[f"{above.sum()} runs above the axis" if above.sum() > 1 else "1 run above the axis"] = arrows
    return entries


def _arm(
    axes: Axes, part: CurvePoints, curves: Sequence[LossCurveFit], look: Look, reach: FloatArray
) -> dict[str, Artist]:
    entries: dict[str, Artist] = {}
    who = words(part.per)
    C, L = part.fitted
    if C.size:
        axes.plot(C, L, zorder=3, **look.dots(ms=mark(1.25)))
    C, L = part.x[~part.settled], part.y[~part.settled]
    if C.size:
        axes.plot(C, L, zorder=3, **look.rings(ms=mark(1.25)))
        entries["best run at the edge of its grid"] = sign("o", mfc="white", ms=mark(1.2))
    handle = Line2D([], [], **look.dots(ms=mark(1.25), ls=look.line if curves else "none"))
    text = ", ".join(word for word in (who, "best run per budget") if word)
    for curve in curves:
        inside = (reach >= curve.x_low) & (reach <= curve.x_high)
        drawn = curve.curve.along(reach)
        axes.plot(reach, drawn, color=look.colour, lw=stroke(0.6), alpha=0.5, zorder=2)
        axes.plot(reach[inside], drawn[inside], color=look.colour, ls=look.line, zorder=2.5)
        floor = f"{curve.E:.3g}+" if curve.E > 0 else ""
        formula = f"${floor}{scientific(curve.A)}\\,{SYMBOLS.get(curve.x, 'x')}^{{-{curve.b:.3f}}}$"
        text = f"{who}: {formula}" if who else f"best run per budget: {formula}"
    return {text: handle, **entries}


def _leverage(
    axes: Axes, rows: Sequence[Leverage], what: str, baseline: str, looks: Looks, near: Sequence[PublishedCurve]
) -> dict[str, Artist]:
    """Both definitions against the compute of the baseline."""
    entries: dict[str, Artist] = {}
    name = plain_text(baseline) or "the baseline"
    axes.axhline(1, color=GREY, lw=stroke(0.7), zorder=1)
    settings: Mapping[str, dict[str, Key]] = {name_of(setting): setting for setting in looks.arms}
    seen: list[float] = [1.0]
    for arm in dict.fromkeys(row.arm for row in rows):
        look = looks.arm(settings[arm])
        for kind, line in (("value", "-"), ("value_baseline_fit", "--")):
            own = sorted((row for row in rows if row.arm == arm), key=lambda row: row.at)
            at = np.array([row.at for row in own])
            values = np.array([np.nan if (v := getattr(row, kind)) is None else v for row in own], dtype=np.float64)
            outside = np.array([row.extrapolated for row in own])
            if not np.isfinite(values).any():
                continue
            seen += values[np.isfinite(values)].tolist()
            axes.plot(at, values, color=look.colour, ls=line, lw=stroke(0.9), zorder=2)
            axes.plot(at[~outside], values[~outside], zorder=3, **look.dots(ms=mark(1.2)))
            axes.plot(at[outside], values[outside], zorder=3, **look.rings(ms=mark(1.2)))
    known = {"-": "value", "--": "value_baseline_fit"}
    texts = {"-": f"the arm's fit at the loss of {name}", "--": f"the fit of {name} at the arm's loss"}
    for line, kind in known.items():
        if any(getattr(row, kind) is not None for row in rows):
            entries[f"leverage, {texts[line]}"] = Line2D([], [], color=GREY, ls=line, lw=stroke(0.9))
    if any(row.extrapolated for row in rows):
        entries["outside the runs of a curve"] = sign("o", mfc="white", ms=mark(1.2))
    for item in near:
        if item.leverage:
            axes.plot(item.flops, item.leverage, color=PALE, marker=".", lw=stroke(0.7), zorder=1)
            seen += item.leverage
    axes.set_ylabel(f"{what} leverage over {name}")
    axes.set_ylim(min(seen) / 1.08, max(seen) * 1.08)
    log_ticks(axes, "y", lambda value: f"{value:g}×", most=7)
    return entries


def _published(axes: Axes, items: Sequence[PublishedCurve]) -> dict[str, Artist]:
    entries: dict[str, Artist] = {}
    for item, marker in zip(items, "DsP^v<>", strict=False):
        axes.plot(item.flops, item.loss, color=PALE, lw=stroke(0.7), zorder=1)
        style: dict[str, Any] = {"color": PALE, "mfc": "white", "mec": GREY, "mew": stroke(0.6), "ms": mark(1.1)}
        axes.plot(item.flops, item.loss, marker, ls="none", zorder=1.2, **style)
        entries[f"{item.title}: {item.arm}"] = Line2D([], [], marker=marker, lw=stroke(0.7), **style)
    return entries


def _overlap(item: PublishedCurve, x: FloatArray, y: FloatArray) -> bool:
    """Whether both compute and loss overlap with ours."""
    return bool(
        item.flops[0] <= x.max()
        and x.min() <= item.flops[-1]
        and min(item.loss) <= y.max()
        and y.min() <= max(item.loss)
    )
