"""Arms side by side: the optimum's loss and learning rate per group, and what each arm gains over the baseline."""

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from scipy.special import ndtri

from sweeper.errors import FitError
from sweeper.figures.style import GREY, Looks, canvas, distinct, drawing, legend, mark, note, sign, stroke, thinned
from sweeper.figures.text import amount, label, log_ticks, plain_text, rate_text, words
from sweeper.fits.comparison import Comparison
from sweeper.fits.loss_curve import name_of
from sweeper.fits.losses import Key
from sweeper.fits.optimum import LEVEL, Optimum

GROUPS = {"paper": 16, "slides": 10}
"""Groups side by side at most."""


def plot_arms(
    optima: Sequence[Optimum],
    comparisons: Sequence[Comparison] = (),
    *,
    per: tuple[str, ...],
    baseline: str = "",
    lr_name: str = "lr_peak",
    loss_name: str = "loss",
    looks: Looks | None = None,
    style: str = "paper",
) -> Figure:
    """Loss at the optimum and optimal learning rate per group, an arm beside the other, with 90 % intervals.

    Below them, where there is a baseline, are the differences to it: of the loss in nats per token, of the learning
    rate in octaves. Hollow points are only bounds or observed best runs, from no fitted minimum.

    Args:
        optima: Of all arms and groups.
        comparisons: Of the arms with the baseline.
        per: Columns that set arms apart.
        baseline: Name of the baseline.

    Raises:
        FitError: No optimum has a learning rate.
    """
    placed = [o for o in optima if o.lr is not None and o.loss is not None]
    if not placed:
        raise FitError("no group has an optimum to compare; add learning rates to the sweep")
    arms = distinct({name: o.group[name] for name in per} for o in optima)
    looks = looks or Looks(arms=arms)
    keys = _ordered(distinct({n: v for n, v in o.group.items() if n not in per} for o in placed))
    with drawing(style) as chosen:
        shown = thinned(keys, GROUPS[chosen.name])
        figure, panels = canvas(chosen, 4 if comparisons else 2, across=2, aspect=0.62)
        step = 0.6 / max(1, len(arms))
        entries: dict[str, Artist] = {}
        for index, arm in enumerate(arms):
            look = looks.arm(arm)
            entries[words(arm) or "all runs"] = Line2D([], [], **look.dots(ms=mark(1.2)))
            for optimum in placed:
                lr, loss = float(optimum.lr or np.nan), float(optimum.loss or np.nan)
                key = {n: v for n, v in optimum.group.items() if n not in per}
                if {name: optimum.group[name] for name in per} != arm or key not in shown:
                    continue
                at = shown.index(key) + (index - (len(arms) - 1) / 2) * step
                dots = look.dots(ms=mark(1.2)) if optimum.settled else look.rings(ms=mark(1.2))
                if optimum.loss_sd is not None and optimum.settled:
                    reach = float(ndtri((1 + LEVEL) / 2)) * optimum.loss_sd
                    panels[0].plot([at, at], [loss - reach, loss + reach], color=look.colour, zorder=2)
                if optimum.settled and optimum.lr_low is not None and optimum.lr_high is not None:
                    panels[1].plot([at, at], [optimum.lr_low, optimum.lr_high], color=look.colour, zorder=2)
                panels[0].plot(at, loss, zorder=3, **dots)
                panels[1].plot(at, lr, zorder=3, **dots)
            for row in (row for row in comparisons if row.arm == name_of(arm) and row.group in shown):
                at = shown.index(row.group) + (index - (len(arms) - 1) / 2) * step
                for axes, value, low, high in (
                    (panels[2], row.loss_difference, row.loss_low, row.loss_high),
                    (panels[3], row.lr_shift, row.lr_shift_low, row.lr_shift_high),
                ):
                    if low is not None and high is not None:
                        axes.plot([at, at], [low, high], color=look.colour, zorder=2)
                    axes.plot(at, value, zorder=3, **look.dots(ms=mark(1.2)))
        if any(not o.settled for o in placed):
            entries["no fitted minimum"] = sign("o", mfc="white", ms=mark(1.2))
        panels[0].set_ylabel(_two_lines(f"lowest {label(loss_name)}"))
        panels[1].set_ylabel(f"optimal {label(lr_name)}")
        panels[1].set_yscale("log")
        panels[1].margins(y=0.1)
        log_ticks(panels[1], "y", rate_text, most=6)
        if comparisons:
            name = plain_text(baseline) or "the baseline"
            for axes, text in zip(panels[2:], ("loss", "rate"), strict=True):
                axes.axhline(0, color=GREY, lw=stroke(0.7), zorder=1)
                unit = "nats/token" if text == "loss" else "octaves"
                axes.set_ylabel(f"{text} − that of {name}\n({unit})")
        for axes in panels:
            _groups(axes, shown)
        legend(figure, chosen, entries)
        if len(shown) < len(keys):
            note(figure, f"{len(shown)} of {len(keys)} groups, evenly spaced")
    return figure


def _ordered(keys: Sequence[dict[str, Key]]) -> tuple[dict[str, Key], ...]:
    return tuple(sorted(keys, key=lambda key: [(isinstance(v, str), v) for v in key.values()]))


def _groups(axes: Axes, shown: Sequence[dict[str, Key]]) -> None:
    """Names of the groups below a panel; those of one column are its values, named once."""
    names = list(shown[0])
    one = len(names) == 1

    def text(key: dict[str, Key]) -> str:
        if not one:
            return words(key)
        (value,) = key.values()
        return plain_text(value) if isinstance(value, str) else amount(value) if value >= 1e4 else f"{value:.4g}"

    texts = [text(key) for key in shown]
    axes.set_xlim(-0.5, len(shown) - 0.5)
    axes.xaxis.set_major_locator(FixedLocator(np.arange(len(shown)).tolist()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: texts[round(place)] if shown else ""))
    crowded = sum(len(word) + 2 for word in texts) > 45
    axes.tick_params(axis="x", rotation=90 if crowded else 0)
    axes.grid(visible=False, axis="x")
    if one:
        axes.set_xlabel(label(names[0]))


def _two_lines(text: str) -> str:
    return text.replace(" (", "\n(")
