"""How far the optimum moves when a sweep has fewer learning rates."""

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from sweeper.errors import FitError
from sweeper.figures.style import LEGEND_MOST, LINES, PALE, Looks, canvas, distinct, drawing, legend, mark, stroke
from sweeper.figures.text import log_ticks, words
from sweeper.fits.losses import Key
from sweeper.fits.sensitivity import Sensitivity
from sweeper.laws.arrays import FloatArray
from sweeper.laws.published import PublishedSensitivity


def plot_sensitivity(
    rows: Sequence[Sensitivity],
    *,
    per: tuple[str, ...] = (),
    reference: Sequence[PublishedSensitivity] = (),
    looks: Looks | None = None,
    style: str = "paper",
) -> Figure:
    """Mean error of the optimal learning rate and of its loss against the number of learning rates, a line per group.

    HyperP's figure 11 (arXiv 2603.28743). Of more than 16 groups the lines are faint and their median is broad.

    Args:
        rows: Of any number of groups.
        per: Columns that set arms apart: their lines differ in style.
        looks: Colours shared with other figures.
        reference: Published errors, drawn behind ours: they are relative, so that they compare at any scale.

    Raises:
        FitError: No row has an error.
    """
    known = [row for row in rows if row.lr_error is not None]
    if not known:
        raise FitError("no group has learning rates enough to leave one out; add rates to the sweep")
    keys = distinct(row.group for row in known)
    bare = distinct({name: v for name, v in key.items() if name not in per} for key in keys)
    arms = distinct({name: v for name, v in key.items() if name in per} for key in keys)
    looks = looks or Looks(arms=arms, groups=bare)
    counted = sorted({row.rates for row in known} | {n for item in reference for n in item.rates})
    many = len(keys) > LEGEND_MOST
    with drawing(style) as chosen:
        figure, panels = canvas(chosen, 2, across=2)
        entries: dict[str, Artist] = {}
        for axes, kind in zip(panels, ("lr_error", "loss_error"), strict=True):
            for item in reference:
                n, errors = np.array(item.rates), _positive(getattr(item, kind))
                (line,) = axes.plot(n, 100 * errors, color=PALE, lw=stroke(0.8), marker=".", ms=mark(0.8), zorder=1)
                entries.setdefault(f"{item.title} ({len(reference)} budgets)", line)
            for key in keys:
                own = sorted((row for row in known if row.group == key), key=lambda row: row.rates)
                n = np.array([row.rates for row in own])
                errors = _positive([getattr(row, kind) for row in own])
                if many:
                    (line,) = axes.plot(n, 100 * errors, color="#7799bb", lw=stroke(0.4), alpha=0.4, zorder=2)
                    entries.setdefault(f"each of {len(keys)} groups", line)
                    continue
                group, arm = _parts(key, per)
                look = looks.group(group)
                ls = LINES[looks.arms.index(arm) % len(LINES)] if len(arms) > 1 else "-"
                (line,) = axes.plot(n, 100 * errors, zorder=3, **look.dots(ls=ls))
                entries.setdefault(words(key) or "all runs", line)
            if many:
                counts = sorted({row.rates for row in known})
                middle = [np.nanmedian(_positive([getattr(r, kind) for r in known if r.rates == n])) for n in counts]
                (line,) = axes.plot(counts, 100 * np.array(middle), "o-", color="black", lw=stroke(1.5), zorder=4)
                entries["their median"] = line
            axes.set_yscale("log")
            axes.margins(0.06)
            log_ticks(axes, "y", lambda value: f"{value:g} %", most=6)
            axes.xaxis.set_major_locator(FixedLocator(counted))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel("learning rates of the sweep")
        panels[0].set_ylabel("mean error of the optimal rate")
        panels[1].set_ylabel("mean error of its loss")
        legend(figure, chosen, entries)
    return figure


def _parts(key: dict[str, Key], per: tuple[str, ...]) -> tuple[dict[str, Key], dict[str, Key]]:
    return {n: v for n, v in key.items() if n not in per}, {n: v for n, v in key.items() if n in per}


def _positive(values: Sequence[float | None]) -> FloatArray:
    """Numbers for a logarithmic axis: what is not there or 0 leaves a gap."""
    numbers = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return np.where(numbers > 0, numbers, np.nan)
