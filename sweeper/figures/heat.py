"""Loss over two axes as a heat map: where the valley lies, how wide it is, and what diverged or is missing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from sweeper.errors import FitError
from sweeper.figures.style import Style, canvas, drawing, legend, mark, note, sign, stroke, text_width, thinned
from sweeper.figures.text import axis_text, label, log_ticks, plain_text, words
from sweeper.fits.losses import Key, Losses, groups, plain
from sweeper.laws.arrays import FloatArray

COLOURS = "viridis_r"
"""Perceptually uniform and monotone in grey; the lowest loss is the palest, so that the valley lights up."""
SHARED = 0.6
"""Share of filled cells from which the rows count as one grid; below it every row has its own rates, at true scale."""
WRITTEN = 80
"""Cells up to which each holds its number."""
PANEL_SHARE = 0.7
"""Of the width that a panel has, what its cells take; names and colour bar take the rest."""
CAP = 0.9
"""Quantile of the excess at which the colours end: stray runs must not take the colours of the valley."""
DIVERGED: dict[str, Any] = {"fc": "white", "ec": "#888888", "hatch": "////", "lw": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The lowest loss at one place."""

    x: Key
    y: Key
    loss: float
    """NaN where every run there diverged or has no loss."""


def plot_heat(
    runs: Losses,
    x: str,
    y: str,
    *,
    per: tuple[str, ...] = (),
    lr_name: str = "lr_peak",
    loss_name: str = "loss",
    others: Sequence[str] = (),
    style: str = "paper",
) -> Figure:
    """Loss over two axes, a panel per setting of `per`; the best cell of each row is starred.

    Along a learning rate the colour is the loss above the minimum of its row, else the loss itself. Cells of runs that
    diverged are hatched, missing ones blank. Rows that share a grid are cells of equal size; where every row has rates
    of its own, cells lie at true scale on a logarithmic axis.

    Args:
        runs: Every run, with the columns x, y and `per`, except the rate.
        x, y: Columns; `lr_name` is the learning rate.
        per: Columns that get a panel each.
        others: Columns that vary beside these, for the note that a cell is the lowest over them.

    Raises:
        FitError: No run has both values.
    """
    panels_of = [(key, cells(part, x, y, lr_name)) for key, part in groups(runs, per)]
    panels_of = [(key, found) for key, found in panels_of if found]
    if not panels_of:
        raise FitError(f"no run has both {x} and {y}; choose other columns with --heat")
    excess = x == lr_name
    with drawing(style) as chosen:
        shown = thinned(panels_of, chosen.panels)
        tall = max(len({cell.y for cell in found}) for _, found in shown)
        aspect = min(1.1, max(0.62, 0.13 * tall + 0.25))
        figure, panels = canvas(chosen, len(shown), across=3, aspect=aspect)
        values = np.concatenate([_coloured(found, excess) for _, found in shown])
        norm = _norm(values, excess)
        for place, (axes, (key, found)) in enumerate(zip(panels, shown, strict=True)):
            _panel(axes, found, norm, chosen, x=x, y=y, excess=excess, panels=len(shown))
            axes.set_title(words(key), fontsize=chosen.points - (len(shown) > 3))
            axes.set_xlabel(label(x) if place + 3 >= len(shown) else "")
            axes.set_ylabel(label(y) if place % 3 == 0 else "")
        # Words that a map of one row has room for.
        name = plain_text(loss_name.replace("_", " "))
        quantity = f"{name} above row's best\n(nats/token)" if excess else label(loss_name).replace(" (", "\n(")
        bar = figure.colorbar(
            ScalarMappable(norm=norm, cmap=COLOURS),
            ax=list(panels),
            label=quantity,
            extend="max" if np.any(values > norm.vmax) else "neither",
            pad=0.02,
            aspect=25,
            shrink=1 / min(2, math.ceil(len(shown) / 3)),
            anchor=(0, 1),
        )
        bar.outline.set_linewidth(stroke(0.4))
        entries: dict[str, Artist] = {}
        if np.isfinite(values).any():
            entries["best of its row"] = sign("*", color="black", mfc="white", ms=mark(1.6))
        if np.isnan(values).any():
            entries["diverged"] = Rectangle((0, 0), 1, 1, **DIVERGED)
        legend(figure, chosen, entries, below=True)
        said = [f"lowest over {plain_text(', '.join(others))}"] if others else []
        said += [f"{len(shown)} of {len(panels_of)} panels"] if len(shown) < len(panels_of) else []
        if said:
            note(figure, "; ".join(said))
    return figure


def cells(runs: Losses, x: str, y: str, lr_name: str) -> list[Cell]:
    """The lowest loss at each pair of values, NaN where no run of the pair has one."""
    columns = [[plain(v) for v in (runs.lr if name == lr_name else runs.column(name))] for name in (x, y)]
    diverged = runs.excluded == "diverged"
    usable = runs.used | diverged
    found: dict[tuple[Key, Key], float] = {}
    for at_x, at_y, loss, fine, use in zip(*columns, runs.loss, runs.used, usable, strict=True):
        if not use or at_x != at_x or at_y != at_y or "" in (at_x, at_y):
            continue
        best = found.get((at_x, at_y), np.nan)
        found[at_x, at_y] = float(np.fmin(best, loss)) if fine else best
    return [Cell(x=at_x, y=at_y, loss=loss) for (at_x, at_y), loss in found.items()]


def _coloured(found: Sequence[Cell], excess: bool) -> FloatArray:
    """What the colour of each cell says."""
    losses = np.array([cell.loss for cell in found])
    if not excess:
        return losses
    rows = np.array([str(cell.y) for cell in found])
    lowest = {row: np.nanmin(losses[rows == row], initial=np.inf) for row in set(rows)}
    return np.asarray(losses - np.array([lowest[row] for row in rows]), dtype=np.float64)


def _norm(values: FloatArray, excess: bool) -> Normalize:
    known = values[np.isfinite(values)]
    if not known.size:
        return Normalize(0, 1)
    high = float(np.quantile(known, CAP))
    high = high if high > known.min() else float(known.max())
    high = high if high > known.min() else float(known.min()) + 1e-3
    # An excess grows as the square of the distance: its root gives every step of the rate as much colour.
    return PowerNorm(0.5, 0, high) if excess else Normalize(float(known.min()), high)


def _panel(
    axes: Axes, found: Sequence[Cell], norm: Normalize, style: Style, *, x: str, y: str, excess: bool, panels: int
) -> None:
    columns, rows = _sorted({cell.x for cell in found}), _sorted({cell.y for cell in found})
    numeric = not any(isinstance(value, str) or value <= 0 for value in columns)
    shared = len(found) >= SHARED * len(columns) * len(rows) or not numeric
    values = _coloured(found, excess)
    colours = mpl.colormaps[COLOURS]
    width = (style.page if panels > 1 else style.column) / min(panels, 3)
    written = shared and len(found) <= WRITTEN and width * PANEL_SHARE / len(columns) > text_width("+0.000")
    for row, at_y in enumerate(rows):
        own = sorted((i for i, cell in enumerate(found) if cell.y == at_y), key=lambda i: columns.index(found[i].x))
        edges = _edges(columns, [found[i].x for i in own], shared)
        for i, (left, right) in zip(own, edges, strict=True):
            value = values[i]
            box: dict[str, Any] = {"lw": stroke(0.5), "ec": "white"}
            if np.isfinite(value):
                fill = colours(norm(value))
                axes.add_patch(Rectangle((left, row - 0.5), right - left, 1, fc=fill, **box))
            else:
                axes.add_patch(Rectangle((left, row - 0.5), right - left, 1, **DIVERGED))
                continue
            middle = (left + right) / 2 if shared else np.sqrt(left * right)
            ink = "white" if _dark(fill) else "black"
            lowest = found[i].loss == min(found[k].loss for k in own if np.isfinite(found[k].loss))
            if written:
                text = f"{found[i].loss:.3f}" if lowest or not excess else f"+{value:.3f}"
                height = row - 0.12 if lowest else row
                axes.text(middle, height, text, color=ink, ha="center", va="center", size=style.points - 2)
            if lowest:
                place = row + 0.25 if written else row
                axes.plot(middle, place, "*", color="white", mec="black", mew=stroke(0.5), ms=mark(1.6), zorder=3)
    axes.grid(False)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    _named(axes, "y", rows, y)
    if shared:
        axes.set_xlim(-0.5, len(columns) - 0.5)
        _named(axes, "x", columns, x, most=max(2, int(width * PANEL_SHARE / (1.25 * _widest(columns, x)))))
    else:
        axes.set_xscale("log")
        axes.autoscale_view(scaley=False)
        lefts = [edge for row in rows for edge in _edges(columns, _sorted({c.x for c in found if c.y == row}), False)]
        axes.set_xlim(min(left for left, _ in lefts), max(right for _, right in lefts))
        log_ticks(axes, "x", axis_text(x if x != "learning_rate" else "lr"), most=5)


def _edges(columns: Sequence[Key], own: Sequence[Key], shared: bool) -> list[tuple[float, float]]:
    """Left and right edge of each cell of a row: of equal cells, or half way (in logarithms) to the neighbours."""
    if shared:
        return [(columns.index(value) - 0.5, columns.index(value) + 0.5) for value in own]
    at = np.log(np.array(own, dtype=np.float64))
    if at.size == 1:
        return [(float(np.exp(at[0] - 0.1)), float(np.exp(at[0] + 0.1)))]
    between = (at[1:] + at[:-1]) / 2
    whole = np.exp([2 * at[0] - between[0], *between, 2 * at[-1] - between[-1]])
    return [(float(left), float(right)) for left, right in pairwise(whole)]


def _named(axes: Axes, which: str, values: Sequence[Key], name: str, most: int = 14) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    step = -(-len(values) // most)
    text = axis_text(name)

    def written(place: float, _: object) -> str:
        value = values[round(place)]
        return plain_text(value) if isinstance(value, str) else text(_short(value))

    axis.set_major_locator(FixedLocator(list(range(0, len(values), step))))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(written))


def _widest(values: Sequence[Key], name: str) -> float:
    """Inches of the longest name of a tick."""
    text = axis_text(name)
    return max(text_width(value if isinstance(value, str) else text(_short(value))) for value in values)


def _short(value: float) -> float:
    """A number of a tick: whole ones in full, others with three digits."""
    return value if value == int(value) else float(f"{value:.3g}")


def _sorted(values: set[Key]) -> list[Key]:
    return sorted(values, key=lambda value: (isinstance(value, str), value))


def _dark(colour: tuple[float, ...]) -> bool:
    red, green, blue = colour[:3]
    return 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
