"""Loss against learning rate: the runs of every group, the fitted curve, the optimum with its interval."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from sweeper.figures.style import (
    GREY,
    LEGEND_MOST,
    LINES,
    PALE,
    Look,
    Looks,
    canvas,
    distinct,
    drawing,
    legend,
    mark,
    note,
    sign,
    stroke,
    thinned,
)
from sweeper.figures.text import label, log_ticks, rate_text, words
from sweeper.fits.losses import Key, Losses, groups
from sweeper.fits.optimum import Optimum, members, settings
from sweeper.laws.published import PublishedSweep

GROUPS_OF_A_PANEL = 12
"""More groups than these are spread over panels, where several columns form them."""
GRID_ACROSS = 3
"""Panels side by side in a grid of several rows."""
EDGE = 0.985
"""Height, as a share of the panel, of the signs of runs that lie above it."""


def plot_lr_sweep(
    runs: Losses,
    optima: tuple[Optimum, ...],
    *,
    per: tuple[str, ...] = (),
    lr_name: str = "lr_peak",
    loss_name: str = "loss",
    published: Sequence[PublishedSweep] = (),
    looks: Looks | None = None,
    style: str = "paper",
) -> Figure:
    """Loss against learning rate: one colour per group with its fitted curve, optimum and interval.

    Many groups of several columns are spread over panels, one colour per value of the last column. A run that diverged
    is a cross on the upper edge, one far above the valley an arrow there; an optimum beyond its grid is a hollow
    triangle at the outermost rate, which points to it.

    Args:
        runs: The runs of all groups.
        optima: One per group of `runs`.
        per: Columns that get a panel each; the others are the colours.
        lr_name: Name of the rate.
        published: Sweeps of a paper; those of a group of ours are drawn behind it where both would fit the panel.
        looks: Colours shared with other figures.
    """
    apart = panel_columns(optima, per)
    panels_of = settings(optima, apart) or ({},)
    looks = looks or Looks(groups=colour_keys(optima, per))
    with drawing(style) as chosen:
        shown = thinned(panels_of, chosen.panels)
        alike = apart == per and len(shown) <= chosen.across
        parts = {tuple(group.values()): part for group, part in groups(runs, tuple(optima[0].group))} if optima else {}
        grid = len(shown) > chosen.across
        columns = min(GRID_ACROSS, chosen.across) if grid else 0
        figure, panels = canvas(chosen, len(shown), across=columns, aspect=0.66 if grid else 0.76, sharey=alike)
        limits = _rate_limits([part for part in parts.values() if part.used.any()]) if grid else None
        common = _ceiling(runs, tuple(optima[0].group)) if alike and optima else None
        entries: dict[tuple[Key, ...], Artist] = {}
        marks: dict[str, Artist] = {}
        drawn: dict[str, Artist] = {}
        for axes, setting in zip(panels, shown, strict=True):
            inside = members(optima, setting)
            parts_of = [parts[tuple(optimum.group.values())] for optimum in inside]
            top = common if common is not None else _highest(parts_of)
            for optimum, part in zip(inside, parts_of, strict=True):
                key = _without(optimum.group, apart)
                entries.setdefault(tuple(key.values()), _one_sweep(axes, part, optimum, looks.group(key), top))
            axes.set_ylim(*_floor_and(top, parts_of, inside))
            drawn |= _published(axes, [o.group for o in inside], published)
            axes.set_xscale("log")
            axes.margins(x=0.08)  # a star on the outermost rate is whole
            if limits is not None:
                axes.set_xlim(*limits)
            log_ticks(axes, "x", rate_text, most=6 if len(shown) <= 2 else 4)
            axes.set_title(words(setting), fontsize=chosen.points - grid)
            axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
            axes.yaxis.set_major_locator(MaxNLocator(nbins=6 if len(shown) <= 2 else 4))
            marks |= _marks(parts_of, inside, top)
        if grid:
            figure.supylabel(label(loss_name), fontsize=chosen.points)
        for place, axes in enumerate(panels):
            below = place + (columns or len(panels)) >= len(panels)
            axes.set_xlabel(label(lr_name) if below else "")
            axes.tick_params(labelbottom=below)
            # Four panels of a page are too low for it in one line.
            name = label(loss_name).replace(" (", "\n(") if len(panels) > 3 else label(loss_name)
            axes.set_ylabel(name if place == 0 and not grid else "")
            axes.tick_params(labelleft=not alike or place == 0)
        ordered = [key for key in looks.groups if tuple(key.values()) in entries]
        named = thinned(ordered, LEGEND_MOST)
        legend(
            figure,
            chosen,
            {words(key) or "runs": entries[tuple(key.values())] for key in named} | marks | drawn,
            title=f"{len(named)} of {len(ordered)} groups are named" if len(named) < len(ordered) else "",
        )
        if len(shown) < len(panels_of):
            note(figure, f"{len(shown)} of {len(panels_of)} panels, evenly spaced")
    return figure


def _rate_limits(parts: Sequence[Losses]) -> tuple[float, float]:
    """One axis of rates for a grid of panels, with room for the outermost signs."""
    low, high = (float(end([end(part.lr[part.used]) for part in parts])) for end in (min, max))
    room = (high / low) ** 0.07
    return low / room, high * room


def panel_columns(optima: Sequence[Optimum], per: tuple[str, ...]) -> tuple[str, ...]:
    """The columns whose every combination has a panel: `per`, and of many groups all but the last other column."""
    if not optima:
        return per
    others = [name for name in optima[0].group if name not in per]
    most = max(len(members(optima, setting)) for setting in settings(optima, per))
    return (*per, *others[:-1]) if len(others) > 1 and most > GROUPS_OF_A_PANEL else per


def colour_keys(optima: Sequence[Optimum], per: tuple[str, ...]) -> tuple[dict[str, Key], ...]:
    """What colours stand for: the values of the columns that have no panels, ascending."""
    apart = panel_columns(optima, per)
    keys = distinct(_without(optimum.group, apart) for optimum in optima)
    return tuple(sorted(keys, key=lambda key: [(isinstance(v, str), v) for v in key.values()]))


def _without(group: Mapping[str, Key], names: Iterable[str]) -> dict[str, Key]:
    return {name: value for name, value in group.items() if name not in names}


def _one_sweep(axes: Axes, runs: Losses, optimum: Optimum, look: Look, top: float) -> Artist:
    used, gone = runs.take(runs.used), runs.take(runs.excluded == "diverged")
    inside = used.loss <= top
    (handle,) = axes.plot(used.lr[inside], used.loss[inside], zorder=3, **look.dots())
    edge = axes.get_xaxis_transform()
    known = gone.lr[np.isfinite(gone.lr) & (gone.lr > 0)]
    for rates, shape in ((used.lr[~inside], "^"), (known, "x")):
        if rates.size:  # the layout takes an empty line for a point in the corner of the figure
            axes.plot(
                rates, np.full(rates.shape, EDGE), shape, color=look.colour, ms=mark(), mew=stroke(), transform=edge
            )
    if used.lr.size:
        line = np.geomspace(used.lr.min(), used.lr.max(), 200)
        curve = optimum.along(line)
        if curve is not None:
            axes.plot(line, np.where(curve <= top, curve, np.nan), color=look.colour, zorder=2)
        else:
            order = np.argsort(used.lr)
            kept = np.where(inside, used.loss, np.nan)
            axes.plot(used.lr[order], kept[order], color=look.colour, lw=stroke(0.6), ls=":", zorder=2)
    if optimum.lr is None or optimum.loss is None:
        return handle
    if optimum.settled:
        if optimum.lr_low is not None and optimum.lr_high is not None:
            reach = [optimum.lr_low, optimum.lr_high]
            axes.plot(reach, [optimum.loss] * 2, color="black", lw=stroke(0.9), zorder=4, solid_capstyle="butt")
        axes.plot(
            optimum.lr, optimum.loss, "*", color=look.colour, mec="black", mew=stroke(0.5), ms=mark(1.8), zorder=5
        )
    elif optimum.status.startswith("edge") and used.lr.size:
        shape = "<" if optimum.status == "edge_low" else ">"
        at = int(np.argmin(used.lr) if shape == "<" else np.argmax(used.lr))
        height = min(float(used.loss[at]), top)
        axes.plot(used.lr[at], height, shape, mfc="white", mec=look.colour, mew=stroke(), ms=mark(1.5), zorder=5)
    return handle


def _marks(parts: Sequence[Losses], optima: Sequence[Optimum], top: float) -> dict[str, Artist]:
    """Legend entries for the signs that a panel uses."""
    marks: dict[str, Artist] = {}
    settled = [o for o in optima if o.settled]
    if any(o.lr_low is not None and o.lr_high is not None for o in settled):
        marks["optimum, 90 % interval"] = sign("*", ls="-", color="black", mfc="white", ms=mark(1.8), lw=stroke(0.9))
    elif settled:
        marks["optimum"] = sign("*", color="black", mfc="white", ms=mark(1.8))
    if any(o.status.startswith("edge") for o in optima):
        marks["optimum beyond the grid"] = sign(">", mfc="white", ms=mark(1.4))
    if any(o.curvature is None and o.points > 1 for o in optima):
        marks["no fitted minimum"] = Line2D([], [], color=GREY, lw=stroke(0.6), ls=":")
    if any(np.any((part.excluded == "diverged") & (part.lr > 0)) for part in parts):
        marks["diverged"] = sign("x", mew=stroke())
    if any(np.any(part.loss[part.used] > top) for part in parts):
        marks["loss above the axis"] = sign("^")
    return marks


def _published(axes: Axes, ours: Sequence[Mapping[str, Key]], published: Sequence[PublishedSweep]) -> dict[str, Artist]:
    """The sweeps of a paper at the values of our groups, where rates and losses overlap; their legend entries."""
    (low, high), (left, right) = axes.get_ylim(), axes.get_xlim()
    entries: dict[str, Artist] = {}
    titles = list(dict.fromkeys(sweep.title for sweep in published))
    for sweep in published:
        if not any(group.get(sweep.axis) == sweep.x for group in ours):
            continue
        rates, losses = np.array(sweep.lr), np.array(sweep.loss)
        there = (losses >= low) & (losses <= high)
        if not np.any(there & (rates >= left) & (rates <= right)):
            continue
        (line,) = axes.plot(
            rates,
            np.where(there, losses, np.nan),
            color=PALE,
            marker=".",
            ls=LINES[titles.index(sweep.title) % len(LINES)],
            lw=stroke(0.7),
            ms=mark(),
            zorder=1,
        )
        entries[f"{sweep.title} ({sweep.setting})"] = line
    return entries


def _ceiling(runs: Losses, by: tuple[str, ...]) -> float:
    return _highest([part for _, part in groups(runs, by)])


def _highest(parts: Sequence[Losses]) -> float:
    """The highest loss that is drawn to scale: valleys fill the panel, however high a stray run lies."""
    used = [part.loss[part.used] for part in parts if part.used.any()]
    if not used:
        return 1.0
    best = max(float(values.min()) for values in used)
    spread = np.concatenate([values - values.min() for values in used])
    room = max(4 * float(np.quantile(spread, 0.75)), 1e-3 * abs(best))
    return min(max(float(values.max()) for values in used), best + room)


def _floor_and(top: float, parts: Sequence[Losses], optima: Sequence[Optimum]) -> tuple[float, float]:
    """The limits of the loss: room below the lowest run or optimum for the whole of its sign."""
    lowest = [float(part.loss[part.used].min()) for part in parts if part.used.any()] or [top - 1]
    floor = min(*lowest, *(o.loss for o in optima if o.loss is not None), top)
    span = max(top - floor, 1e-3 * abs(top))
    return floor - 0.1 * span, top + 0.06 * span
