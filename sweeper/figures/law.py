"""The optimal learning rate against a covariate: both conventions of its power law, bounds, published values."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sweeper.errors import FitError
from sweeper.figures.style import GREY, LineStyle, Look, Looks, canvas, distinct, drawing, legend, mark, sign, stroke
from sweeper.figures.text import axis_text, label, log_ticks, rate_text, scientific, value_ticks, words
from sweeper.fits.optimum import Optimum, members
from sweeper.fits.power_law import PowerLawFit
from sweeper.laws.arrays import FloatArray
from sweeper.laws.published import PublishedOptima

REACH = 1.25
"""A law is drawn this factor beyond its data."""
PUBLISHED_MARKERS = "DsP"


def plot_law(
    optima: Sequence[Optimum],
    laws: Sequence[PowerLawFit],
    *,
    x: Sequence[str] = (),
    lr_name: str = "",
    y_label: str = "",
    reference: Sequence[PublishedOptima] = (),
    looks: Looks | None = None,
    style: str = "paper",
) -> Figure:
    """Optimal learning rate against one or several axes, a panel each, with both conventions of each law.

    The log-space law is broad with its 90 % band, the linear-space one dashed. Optima at the edge of their grid are
    hollow, with an arrow to where the optimum lies; no law goes through them.

    Args:
        optima: Of all settings of `per` of the laws; their groups hold the axes.
        laws: Of any number of axes.
        x: The axes; those of the laws when empty.
        lr_name: Name of the rate; that of the laws when empty.
        y_label: Of the vertical axis; the optimal rate when empty.
        reference: Published optima. They are drawn as they are where their ranges overlap with ours; else moved, as a
            whole and in logarithms, onto the middle of our data: their slope and scatter stay, and the legend says by
            which factors.

    Raises:
        FitError: An axis without a law and without a positive number.
    """
    columns = tuple(x) or tuple(dict.fromkeys(law.x for law in laws))
    rate = lr_name or (laws[0].y if laws else "lr_peak")
    arms = distinct([law.per for law in laws] or [{}])
    looks = looks or Looks(arms=arms)
    with drawing(style) as chosen:
        figure, panels = canvas(chosen, len(columns), sharey=len(columns) <= chosen.across)
        entries: dict[str, Artist] = {}
        for axes, column in zip(panels, columns, strict=True):
            own = [law for law in laws if law.x == column]
            placed = [o for o in optima if column in o.group and o.lr is not None]
            words_there = [o.group[column] for o in placed if isinstance(o.group[column], str)]
            if words_there:
                raise FitError(
                    f"a logarithmic axis {column} cannot show {words_there[0]!r}; draw a column of numbers, or compare "
                    "its values as arms (--figure arms)"
                )
            values = [float(o.group[column]) for o in placed]
            if not values or min(values) <= 0:
                seen = f"the value {min(values):g}" if values else "no optimum"
                raise FitError(f"a logarithmic axis {column} cannot show {seen}; choose rows with --where")
            reach = np.geomspace(min(values) / REACH, max(values) * REACH, 100)
            for setting in distinct([law.per for law in own] or arms):
                look = looks.arm(setting)
                fitted = [law for law in own if law.per == setting]
                found = _optima_points(axes, members(placed, setting), column, look, words(setting), alone=not fitted)
                along = f" along {label(column)}" if len(columns) > 1 else ""
                entries |= _law_lines(axes, fitted, reach, look, along) | found
            published = [item for item in reference if item.axis == column]
            ours = [(float(o.group[column]), o.lr) for o in placed if o.settled and o.lr is not None]
            for place, item in enumerate(published):
                if ours:
                    entries |= _published(axes, item, ours, PUBLISHED_MARKERS[place % len(PUBLISHED_MARKERS)])
            axes.set_xlabel(label(column))
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.margins(x=0.06, y=0.1)  # room for the arrow of an optimum beyond its grid
            value_ticks(axes, values, axis_text(column))
            log_ticks(axes, "y", rate_text)
        panels[0].set_ylabel(y_label or f"optimal {label(rate)}")
        legend(figure, chosen, entries)
    return figure


def _optima_points(
    axes: Axes, optima: Sequence[Optimum], x: str, look: Look, name: str, *, alone: bool
) -> dict[str, Artist]:
    entries: dict[str, Artist] = {}
    for optimum in optima:
        at, lr = float(optimum.group[x]), optimum.lr
        if lr is None:
            continue
        if optimum.settled:
            low, high = optimum.lr_low or lr, optimum.lr_high or lr
            axes.plot([at, at], [low, high], color=look.colour, lw=stroke(0.8), zorder=3)
            axes.plot(at, lr, zorder=4, **look.dots(ms=mark(1.3)))
            if alone:  # else the legend's line of the law carries the marker
                text = f"{name}, optimum with 90 % interval" if name else "optimum, 90 % interval"
                entries[text] = sign(look.marker, color=look.colour, ms=mark(1.2))
        elif optimum.status.startswith("edge"):
            arrow = {"arrowstyle": "<-", "color": look.colour, "lw": stroke(0.8), "shrinkA": 0, "shrinkB": mark(0.7)}
            away = (-4 if optimum.status == "edge_low" else 4) * mark()
            axes.annotate("", (at, lr), (0, away), textcoords="offset points", arrowprops=arrow)
            axes.plot(at, lr, zorder=4, **look.rings(ms=mark(1.3)))
            entries["only a bound: optimum beyond the grid"] = sign("o", mfc="white", ms=mark(1.2))
        elif optimum.status == "too_few":
            axes.plot(at, lr, zorder=4, **look.rings(ms=mark(1.3)))
            entries["best of fewer than 3 rates"] = sign("o", mfc="white", ms=mark(1.2))
    return entries


def _law_lines(axes: Axes, laws: Sequence[PowerLawFit], reach: FloatArray, look: Look, along: str) -> dict[str, Artist]:
    """The log-space law broad and pale, the linear one thin and dashed on top: seen also where they coincide.

    The broad line of the legend carries the marker of the optima.
    """
    entries: dict[str, Artist] = {}
    for law in sorted(laws, key=lambda law: (law.c != 0, law.space != "log")):
        broad = law.space == "log" and law.c == 0
        thin: LineStyle = (0, (4, 2)) if law.c == 0 else (0, (1, 1.5))
        drawn: dict[str, Any] = {"ls": "-", "lw": stroke(2.6), "alpha": 0.45} if broad else {"ls": thin}
        drawn = {"color": look.colour, "lw": stroke(0.8), **drawn}
        axes.plot(reach, law.law.along(reach), zorder=2 if broad else 2.5, **drawn)
        ends = (
            "" if law.b_low is None or law.b_high is None else f" [{law.b_low:.2f},\u00a0{law.b_high:.2f}]"
        )  # never broken
        kind = f"{law.space} space" + (f" above {law.c:.3g}" if law.c else "")
        who = ", ".join(part for part in (words(law.per), kind + along) if part)
        few = " (2 points)" if law.points == 2 else ""
        text = f"{who}: $b$\u00a0=\u00a0{law.b:.3f}{ends}{few}".replace("-", "−")
        dots: dict[str, Any] = (
            {"marker": look.marker, "ms": mark(1.2), "mec": "white", "mew": stroke(0.4)} if broad else {}
        )
        entries[text] = Line2D([], [], **drawn, **dots)
        band = [law.interval(float(value)) for value in reach] if broad else []
        known = [ends for ends in band if ends is not None]
        if known:
            low, high = np.array(known).T
            axes.fill_between(reach, low, high, color=look.colour, alpha=0.12, lw=0, zorder=1)
    return entries


def _published(
    axes: Axes, item: PublishedOptima, ours: Sequence[tuple[float, float]], marker: str
) -> dict[str, Artist]:
    """The paper's optima and law, at their own place or moved onto the middle of ours; their legend entry."""
    x, y = np.array(item.x, dtype=np.float64), np.array(item.lr, dtype=np.float64)
    our_x, our_y = np.array(ours).T
    by_x = 1.0 if _overlap(x, our_x) else _middle(our_x) / _middle(x)
    by_y = 1.0 if by_x == 1.0 and _overlap(y, our_y) else _middle(our_y) / _middle(y)
    name = f"{item.title} ({item.setting})"
    if item.law is not None:
        line = np.geomspace(x.min() / REACH, x.max() * REACH, 50)
        axes.plot(line * by_x, item.law.along(line) * by_y, color=GREY, ls=":", lw=stroke(), zorder=1.5)
        name += f": $b$\u00a0=\u00a0{item.law.b:.3g}".replace("-", "−")
    moved = [
        f"{what}\u00a0×\u00a0{_factor(by)}"
        for what, by in ((item.axis.replace("_", " "), by_x), ("rate", by_y))
        if by != 1
    ]
    if moved:
        name += f", moved: {', '.join(moved)}"
    style: dict[str, Any] = {"color": GREY, "mfc": "white", "mec": GREY, "mew": stroke(0.6), "ms": mark(1.1)}
    ls = ":" if item.law is not None else "-"
    axes.plot(
        x * by_x,
        y * by_y,
        marker=marker,
        ls="none" if item.law is not None else ls,
        lw=stroke(0.6),
        zorder=1.6,
        **style,
    )
    return {name: Line2D([], [], marker=marker, ls=ls, lw=stroke(0.8), **style)}


def _overlap(theirs: FloatArray, ours: FloatArray) -> bool:
    """Whether two ranges meet, each widened by a factor of 2."""
    return bool(theirs.min() / 2 <= ours.max() * 2 and ours.min() / 2 <= theirs.max() * 2)


def _middle(values: FloatArray) -> float:
    """The geometric mean."""
    return math.exp(float(np.mean(np.log(values))))


def _factor(value: float) -> str:
    return f"${scientific(float(f'{value:.2g}'))}$"
