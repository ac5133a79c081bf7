"""Loss over model size and data: the fitted surface with its runs, loss along data per size, the residuals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sweeper.figures.style import (
    GREY,
    LEGEND_MOST,
    MARKERS,
    canvas,
    drawing,
    legend,
    mark,
    sequence,
    sign,
    stroke,
    thinned,
)
from sweeper.figures.text import amount, axis_text, label, log_ticks, words
from sweeper.fits.surface import SurfaceFit
from sweeper.laws.arrays import FloatArray

LEVELS = 9
GRID = 80
LEAST = 0.01
"""Percent of the loss below which residuals are rounding."""
ROWS = 4
"""Surfaces of one figure at most."""

Points = tuple[FloatArray, FloatArray, FloatArray]
"""N, D and loss of the runs that a surface goes through."""


def plot_surface(surfaces: Sequence[tuple[SurfaceFit, Points]], *, style: str = "paper") -> Figure:
    """L(N, D) = E + A·N^−alpha + B·D^−beta: contours with the runs, loss along D per N, and residuals.

    Args:
        surfaces: Fits, a row of panels each, with the runs that they went through.
    """
    with drawing(style) as chosen:
        rows = surfaces[:ROWS]
        figure, panels = canvas(chosen, 3 * len(rows), across=3, aspect=0.95)
        entries: dict[str, Artist] = {}
        for place, (fit, points) in enumerate(rows):
            contour, along, residual = panels[3 * place : 3 * place + 3]
            sizes = np.unique(points[0])
            colours = dict(zip(sizes.tolist(), sequence(len(sizes)), strict=True))
            markers = {size: MARKERS[i % len(MARKERS)] for i, size in enumerate(colours)}
            _contours(contour, fit, points, chosen.points - 2)
            entries |= _along(along, fit, points, colours, markers)
            _residuals(residual, fit, points, colours, markers)
            contour.set_title(words(fit.per))
            along.set_title(f"$E$ = {fit.E:.3g}")
            residual.set_title(f"$\\alpha$ = {fit.alpha:.3g}, $\\beta$ = {fit.beta:.3g}")
        named = dict.fromkeys(thinned(list(entries), LEGEND_MOST))
        legend(figure, chosen, {text: entries[text] for text in named} | {"run": sign(".", color="black")})
    return figure


def _at(fit: SurfaceFit, N: FloatArray, D: FloatArray) -> FloatArray:
    return np.asarray(fit.E + fit.A * N**-fit.alpha + fit.B * D**-fit.beta, dtype=np.float64)


def _contours(axes: Axes, fit: SurfaceFit, points: Points, size: float) -> None:
    N, D, _ = points
    n, d = (np.geomspace(values.min() / 1.3, values.max() * 1.3, GRID) for values in (N, D))
    grid = _at(fit, n[None, :], d[:, None])
    filled = axes.contourf(n, d, grid, LEVELS, cmap="viridis_r")
    lines = axes.contour(n, d, grid, levels=filled.levels, colors="white", linewidths=stroke(0.4))
    axes.plot(N, D, ".", color="black", mec="white", mew=stroke(0.3), ms=mark(1.5), zorder=3)
    axes.set_xlim(n[0], n[-1])
    axes.set_ylim(d[0], d[-1])
    log_ticks(axes, "x", axis_text(fit.N), most=5)
    log_ticks(axes, "y", axis_text(fit.D), most=5)
    axes.grid(False)
    for text in axes.clabel(lines, np.asarray(lines.levels)[::2], fmt="%.3g", fontsize=size, colors="black"):
        text.set_bbox({"fc": "white", "ec": "none", "pad": 0.6, "alpha": 0.75})
    axes.set_xlabel(label(fit.N))
    axes.set_ylabel(label(fit.D))


def _along(
    axes: Axes, fit: SurfaceFit, points: Points, colours: dict[float, str], markers: dict[float, str]
) -> dict[str, Artist]:
    N, D, L = points
    reach = np.geomspace(D.min() / 1.3, D.max() * 1.3, 100)
    entries: dict[str, Artist] = {}
    for size, colour in colours.items():
        own = size == N
        axes.plot(reach, _at(fit, np.full(reach.shape, size), reach), color=colour, lw=stroke(0.9), zorder=2)
        dots: dict[str, Any] = {
            "ls": "none",
            "marker": markers[size],
            "color": colour,
            "mec": "white",
            "mew": stroke(0.3),
        }
        axes.plot(D[own], L[own], ms=mark(), zorder=3, **dots)
        entries[f"{label(fit.N)} {amount(size)}"] = Line2D([], [], **(dots | {"ls": "-", "ms": mark()}))
    low, high = float(L.min()), float(L.max())
    room = 0.12 * max(high - low, 1e-3)
    axes.set_ylim(low - room, high + room)
    axes.set_xlim(reach[0], reach[-1])
    log_ticks(axes, "x", axis_text(fit.D), most=4)
    axes.set_xlabel(label(fit.D))
    axes.set_ylabel(label(fit.y))
    return entries


def _residuals(
    axes: Axes, fit: SurfaceFit, points: Points, colours: dict[float, str], markers: dict[float, str]
) -> None:
    N, D, L = points
    fitted = _at(fit, N, D)
    axes.axhline(0, color=GREY, lw=stroke(0.7), zorder=1)
    for size, colour in colours.items():
        own = size == N
        percent = 100 * (L[own] / fitted[own] - 1)
        axes.plot(fitted[own], percent, markers[size], color=colour, mec="white", mew=stroke(0.3), ms=mark(), zorder=3)
    reach = max(1.15 * float(np.max(np.abs(100 * (L / fitted - 1)))), LEAST)
    axes.set_ylim(-reach, reach)
    axes.set_xlabel("fitted loss (nats/token)")
    axes.set_ylabel("measured over fitted − 1 (%)")
