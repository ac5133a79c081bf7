"""All runs of a joint fit on reduced coordinates, where every budget's valley is one and the same curve."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sweeper.figures.style import LEGEND_MOST, MARKERS, canvas, drawing, legend, mark, note, sequence, stroke, thinned
from sweeper.figures.text import word, words
from sweeper.fits.joint import JointFit
from sweeper.fits.linex import g
from sweeper.fits.losses import plain
from sweeper.laws.arrays import FloatArray

Runs = tuple[FloatArray, FloatArray, FloatArray]
"""T, learning rate and loss of the runs of a fit."""
HIGHEST = 4.0
"""Reduced losses above this many times the valley's share are left off, with their number."""


def plot_joint(fits: Sequence[tuple[JointFit, Runs]], *, style: str = "paper") -> Figure:
    """(L − E)/(A·T^−beta) against u = ln η − ln(a·T^b), a panel per fit, with the fitted 1 + κ·g(u).

    Where the fit holds, the runs of all budgets lie on the curve; a budget that leaves it has an optimum, a curvature
    or a loss of its own.

    Args:
        fits: Each with its runs.
    """
    with drawing(style) as chosen:
        shown = fits[: chosen.panels]
        figure, panels = canvas(chosen, len(shown), across=3, sharey=True)
        budgets = np.unique(np.concatenate([runs[0] for _, runs in shown]))
        colours = sequence(len(budgets))
        entries: dict[str, Artist] = {}
        beyond = 0
        for axes, (fit, (T, lr, L)) in zip(panels, shown, strict=True):
            u = np.log(lr) - np.log(fit.a) - fit.b * np.log(T)
            reduced = (L - fit.E) / (fit.A * T**-fit.beta)
            reach = np.linspace(u.min() - 0.1, u.max() + 0.1, 200)
            curve = 1 + fit.kappa * g(reach, fit.skew)
            top = 1 + HIGHEST * max(float(np.quantile(reduced, 0.75)) - 1, 0.02)
            beyond += int((reduced > top).sum())
            axes.plot(reach, np.where(curve <= top, curve, np.nan), color="black", lw=stroke(0.9), zorder=2)
            for place, budget in enumerate(budgets):
                own = (budget == T) & (reduced <= top)
                if own.any():
                    dots: dict[str, Any] = {
                        "marker": MARKERS[place % len(MARKERS)],
                        "color": colours[place],
                        "ls": "none",
                    }
                    dots |= {"mec": "white", "mew": stroke(0.3), "ms": mark()}
                    (line,) = axes.plot(u[own], reduced[own], zorder=3, **dots)
                    entries.setdefault(word(fit.x, plain(budget)), line)
            axes.set_xlabel(r"$u = \ln\,\eta - \ln\,(a\,T^{\,b})$")
            who = words(fit.per)
            constants = f"$b$ = {fit.b:.3f}, $\\beta$ = {fit.beta:.3f}".replace("-", "−")
            axes.set_title(f"{who}: {constants}" if who else constants)
        panels[0].set_ylabel(r"$(L - E)\;/\;(A\,T^{-\beta})$")
        named = thinned(list(entries), LEGEND_MOST)
        curve_sign = {r"$1 + \kappa\,g(u)$": Line2D([], [], color="black", lw=stroke(0.9))}
        legend(figure, chosen, {text: entries[text] for text in named} | curve_sign)
        said = [f"{beyond} runs above the axis"] if beyond else []
        said += [f"{len(shown)} of {len(fits)} fits"] if len(shown) < len(fits) else []
        if said:
            note(figure, "; ".join(said))
    return figure
