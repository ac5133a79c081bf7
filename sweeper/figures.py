"""One function per figure, each from values to a `Figure`; the only module that knows matplotlib.

Colours are safe for colour-blind readers and every series has its own marker, so that a grey print can be read:
groups run through `viridis` without its pale end, arms take the palette of Okabe and Ito.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator, ScalarFormatter

from sweeper.analysis import CurvePoints, FitReport, curve_points, optima_along, published_law
from sweeper.errors import FitError, SweeperError
from sweeper.files import replacing
from sweeper.fits.loss_curve import LossCurveFit
from sweeper.fits.losses import Key, Losses, groups
from sweeper.fits.optimum import Optimum, members, settings
from sweeper.fits.power_law import PowerLawFit
from sweeper.laws.arrays import FloatArray
from sweeper.laws.power import PowerLaw
from sweeper.spec import Question
from sweeper.table import Table, losses, numbers

ARM_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito (2008), without the yellow that vanishes on white."""
MARKERS = "osD^vPX<>p*h"
GREY = "#666666"
PANEL = (4.6, 3.4)
"""Inches of one panel."""
DPI = 200
STYLE: dict[str, object] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "none",
}

FIGURES: Mapping[str, str] = {
    "lr": "loss against learning rate, per group",
    "law": "optimal learning rate against the axis of its law",
    "flops": "best loss against compute",
}
"""What `plot` can draw, by the name that a question uses."""

NAMES: Mapping[str, str] = {
    "lr": "base learning rate $\\eta_0$",
    "lr_peak": "peak learning rate $\\eta$",
    "tokens": "training tokens",
    "flops": "training FLOPs",
    "loss": "validation loss (nats per token)",
    "params": "parameters",
    "batch_tokens": "batch (tokens)",
}


def plot_question(table: Table, question: Question, report: FitReport, *, loss: str = "loss") -> dict[str, Figure]:
    """The figures that a question names, by their names in `FIGURES`; those without data for them are left out.

    Raises:
        FitError: None of them has anything to show.
    """
    rate = report.rate
    drawn: dict[str, Figure] = {}
    by = tuple(report.optima[0].group) if report.optima else ()
    per = tuple(name for name in by if name not in question.by)
    if "lr" in question.figures and report.optima:
        drawn["lr"] = plot_lr_sweep(losses(table, by, lr=rate, loss=loss), report.optima, per=per, lr_name=rate)
    laws = tuple(law for law in report.laws if law.y == rate) if report.optima else ()
    if "law" in question.figures and laws:
        first = tuple(law for law in laws if law.x == laws[0].x)
        placed = [
            optima_along(table, members(report.optima, per), first[0].x) for per in _distinct(law.per for law in first)
        ]
        drawn["law"] = plot_law(
            tuple(optimum for group in placed for optimum in group),
            first,
            reference=published_law(table, question, first[0]),
        )
    if "flops" in question.figures and report.curves:
        x, y = report.curves[0].x, report.curves[0].y
        points = curve_points(table, x, y, tuple(report.curves[0].per), report.optima)
        same = tuple(curve for curve in report.curves if (curve.x, curve.y) == (x, y))
        drawn["flops"] = plot_flops(points, same, runs=(numbers(table, x), numbers(table, y)))
    if not drawn:
        raise FitError(f"no data for the figures {', '.join(question.figures)}; run more of the sweep, or name others")
    return drawn


def plot_lr_sweep(
    runs: Losses, optima: tuple[Optimum, ...], *, per: tuple[str, ...] = (), lr_name: str = "lr_peak"
) -> Figure:
    """Loss against learning rate: one colour per group with its fitted curve, optimum and interval.

    Args:
        runs: The runs of all groups; a run that diverged is a cross on the upper edge, one far above the valley an
            arrow there.
        optima: One per group of `runs`.
        per: Columns that get a panel each; the others are the colours.
        lr_name: Name of the rate.
    """
    panels_of = settings(optima, per) or ({},)
    with _style():
        figure = Figure(figsize=(PANEL[0] * len(panels_of) + 1.2, PANEL[1]), layout="constrained")
        panels = figure.subplots(1, len(panels_of), sharey=True, squeeze=False)[0]
        keys = _distinct({name: v for name, v in o.group.items() if name not in per} for o in optima)
        colours, top = _sequence(len(keys)), _ceiling(runs, tuple(optima[0].group) if optima else ())
        shown: dict[str, Artist] = {}
        for axes, setting in zip(panels, panels_of, strict=True):
            for optimum in members(optima, setting):
                key = {name: v for name, v in optimum.group.items() if name not in per}
                place = keys.index(key)
                runs_of = next(part for group, part in groups(runs, tuple(optimum.group)) if group == optimum.group)
                marker = MARKERS[place % len(MARKERS)]
                handle = _one_sweep(axes, runs_of, optimum, colours[place], marker, top)
                shown.setdefault(_words(key) or "runs", handle)
            axes.set_xscale("log")
            axes.margins(x=0.08)  # a star on the outermost rate is whole
            _log_ticks(axes, "x", _rate_text)
            axes.set_xlabel(_label(lr_name))
            axes.set_title(_words(setting))
        panels[0].set_ylim(*_floor_and(top, runs, optima))
        panels[0].yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        panels[0].set_ylabel(NAMES["loss"])
        shown |= _marks(runs, optima, top)
        figure.legend(list(shown.values()), list(shown), loc="outside right upper")
    return figure


def plot_law(
    optima: tuple[Optimum, ...], laws: Sequence[PowerLawFit], *, reference: tuple[str, PowerLaw] | None = None
) -> Figure:
    """Optimal learning rate against the axis of its laws, both conventions, with the 90 % band of the log-space law.

    Optima at the edge of their grid are hollow, with an arrow to where the optimum lies; no law goes through them.

    Args:
        optima: Of all settings of `per` of the laws.
        laws: Of one axis.
        reference: Name and values of a published law; only its slope is drawn, through the middle of the data.
    """
    x = laws[0].x
    arms = _distinct(law.per for law in laws)
    with _style():
        figure = Figure(figsize=(PANEL[0] + 0.6, PANEL[1]), layout="constrained")
        axes = figure.subplots()
        values = [float(o.group[x]) for o in optima]
        reach = np.geomspace(min(values) / 1.25, max(values) * 1.25, 100)
        for place, setting in enumerate(arms):
            colour = ARM_COLOURS[place % len(ARM_COLOURS)]
            marker = MARKERS[place % len(MARKERS)]
            _optima_points(axes, members(optima, setting), x, colour, marker)
            for law in sorted((law for law in laws if law.per == setting), key=lambda law: law.space != "log"):
                _law_line(axes, law, reach, colour, marker)
        settled = [o.lr for o in optima if o.settled and o.lr is not None]
        if reference is not None and settled:
            middle = math.exp(float(np.mean([math.log(float(o.group[x])) for o in optima if o.settled])))
            height = math.exp(float(np.mean(np.log(settled))))
            title, published = reference
            slope = height * (reach / middle) ** published.b
            axes.plot(reach, slope, color=GREY, ls=":", lw=1.2, label=f"{title}'s slope, $b = {published.b:.2f}$")
        axes.set_xlabel(_label(x))
        axes.set_ylabel(f"optimal {_label(laws[0].y)}")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.margins(y=0.1)  # room for the arrow of an optimum beyond its grid
        axes.set_xlim(reach[0], reach[-1])
        _log_ticks(axes, "x", amount)
        _log_ticks(axes, "y", _rate_text)
        axes.legend(loc="best")
    return figure


def plot_flops(
    points: Sequence[CurvePoints],
    curves: Sequence[LossCurveFit],
    *,
    runs: tuple[FloatArray, FloatArray] | None = None,
) -> Figure:
    """Best loss against compute with the fitted L = A·C^−b + E of each arm.

    A best run at an edge of its grid, which no curve goes through, is hollow; a run above the axis is an arrow there.

    Args:
        points: Of each setting.
        curves: The fits.
        runs: Compute and loss of every run, drawn faintly behind.
    """
    with _style():
        figure = Figure(figsize=(PANEL[0] + 2.4, PANEL[1]), layout="constrained")
        axes = figure.subplots()
        best = np.concatenate([part.y for part in points])
        everywhere = np.concatenate([part.x for part in points])
        span = max(float(np.ptp(best)), 0.02 * float(best.max()))
        more = runs is not None and int(np.isfinite(runs[1]).sum()) > best.size
        top = float(best.max()) + (0.45 if more else 0.1) * span
        if runs is not None and more:
            inside = np.isfinite(runs[1]) & (runs[1] <= top)
            above = np.isfinite(runs[1]) & ~inside
            axes.plot(runs[0][inside], runs[1][inside], ".", color="#bbbbbb", ms=4, zorder=1, label="every run")
            if above.any():
                there = np.unique(runs[0][above])
                edge = axes.get_xaxis_transform()
                label = f"{above.sum()} runs above the axis" if above.sum() > 1 else "1 run above the axis"
                axes.plot(
                    there,
                    np.full(there.shape, 0.985),
                    "^",
                    color="#bbbbbb",
                    ms=4,
                    transform=edge,
                    zorder=1,
                    label=label,
                )
        reach = np.geomspace(everywhere.min() / 1.3, everywhere.max() * 1.3, 200)
        for place, part in enumerate(points):
            colour, marker = ARM_COLOURS[place % len(ARM_COLOURS)], MARKERS[place % len(MARKERS)]
            name = ", ".join(word for word in (_words(part.per), "best run per budget") if word)
            C, L = part.fitted
            if C.size:
                axes.plot(C, L, marker, color=colour, mec="white", mew=0.5, ms=6, zorder=3, label=name)
            C, L = part.x[~part.settled], part.y[~part.settled]
            if C.size:
                name = ", ".join(word for word in (_words(part.per), "at the edge of its grid") if word)
                axes.plot(C, L, marker, color=colour, mfc="white", mec=colour, ms=6, zorder=3, label=name)
            for curve in (curve for curve in curves if curve.per == part.per):
                floor = f"{curve.E:.2f} + " if curve.E > 0 else ""
                text = f"${floor}{_scientific(curve.A)}\\,C^{{{-curve.b:.3f}}}$"
                axes.plot(reach, curve.curve.along(reach), color=colour, zorder=2, label=text)
        x, y = (curves[0].x, curves[0].y) if curves else ("flops", "loss")
        axes.set_xlabel(_label(x))
        axes.set_ylabel(_label(y))
        axes.set_xlim(reach[0], reach[-1])
        _log_ticks(axes, "x", lambda value: f"${_scientific(value)}$", wide=True)
        axes.set_ylim(float(best.min()) - 0.12 * span, top)
        figure.legend(loc="outside right upper")
    return figure


def save_figure(figure: Figure, folder: Path, name: str, formats: tuple[str, ...] = ("png", "pdf")) -> tuple[Path, ...]:
    """Write the figure in each format, each file whole or not at all; returns their paths.

    Raises:
        SweeperError: Matplotlib has no such format.
        DiskError: The folder cannot be written.
    """
    known = figure.canvas.get_supported_filetypes()
    paths = []
    for form in formats:
        if form not in known:
            raise SweeperError(f"figures cannot be written as {form!r}; choose among {', '.join(sorted(known))}")
        path = folder / f"{name}.{form}"
        # Without a date the same figure is the same file.
        undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(form, {})
        with replacing(path) as partial, _style():
            figure.savefig(partial, format=form, dpi=DPI, metadata=undated)
        paths.append(path)
    return tuple(paths)


def amount(value: float) -> str:
    """A count in the unit that people use.

    >>> amount(10.4e9), amount(524288), amount(1e12)
    ('10.4B', '524k', '1T')
    """
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


# ── parts of figures ───────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _style() -> Iterator[None]:
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        yield


def _one_sweep(axes: Axes, runs: Losses, optimum: Optimum, colour: str, marker: str, top: float) -> Artist:
    used, gone = runs.take(runs.used), runs.take(runs.excluded == "diverged")
    inside = used.loss <= top
    (handle,) = axes.plot(
        used.lr[inside], used.loss[inside], marker, color=colour, mec="white", mew=0.5, zorder=3, ls="none"
    )
    edge = axes.get_xaxis_transform()
    known = gone.lr[np.isfinite(gone.lr) & (gone.lr > 0)]
    for rates, sign in ((used.lr[~inside], "^"), (known, "x")):
        if rates.size:  # the layout takes an empty line for a point in the corner of the figure
            axes.plot(rates, np.full(rates.shape, 0.985), sign, color=colour, ms=5, mew=1.3, transform=edge)
    if used.lr.size:
        line = np.geomspace(used.lr.min(), used.lr.max(), 200)
        curve = optimum.along(line)
        if curve is not None:
            axes.plot(line, np.where(curve <= top, curve, np.nan), color=colour, zorder=2)
        else:
            order = np.argsort(used.lr)
            axes.plot(
                used.lr[order], np.where(inside, used.loss, np.nan)[order], color=colour, lw=0.8, ls=":", zorder=2
            )
    if optimum.settled and optimum.lr is not None and optimum.loss is not None:
        if optimum.lr_low is not None and optimum.lr_high is not None:
            axes.plot([optimum.lr_low, optimum.lr_high], [optimum.loss] * 2, color="black", lw=1.1, zorder=4)
        axes.plot(optimum.lr, optimum.loss, "*", color=colour, mec="black", mew=0.7, ms=10, zorder=5)
    return handle


def _marks(runs: Losses, optima: tuple[Optimum, ...], top: float) -> dict[str, Artist]:
    """Legend entries for the signs that this figure uses."""
    marks: dict[str, Artist] = {}
    settled = [o for o in optima if o.settled]
    if any(o.lr_low is not None and o.lr_high is not None for o in settled):
        marks["optimum, 90 % interval"] = Line2D([], [], marker="*", color="black", mfc="white", ms=9, lw=1.1)
    elif settled:
        marks["optimum"] = Line2D([], [], marker="*", color="black", mfc="white", ms=9, ls="none")
    if any(o.curvature is None and o.points > 1 for o in optima):
        marks["no fitted minimum"] = Line2D([], [], color=GREY, lw=0.8, ls=":")
    if np.any((runs.excluded == "diverged") & (runs.lr > 0)):
        marks["diverged"] = Line2D([], [], marker="x", color=GREY, ms=5, mew=1.3, ls="none")
    if np.any(runs.loss[runs.used] > top):
        marks["beyond the axis"] = Line2D([], [], marker="^", color=GREY, ms=5, ls="none")
    return marks


def _optima_points(axes: Axes, optima: tuple[Optimum, ...], x: str, colour: str, marker: str) -> None:
    for optimum in optima:
        at, lr = float(optimum.group[x]), optimum.lr
        if lr is None:
            continue
        if optimum.settled:
            low, high = optimum.lr_low or lr, optimum.lr_high or lr
            axes.plot([at, at], [low, high], color=colour, lw=1.1, zorder=3)
            axes.plot(at, lr, marker, color=colour, mec="white", mew=0.5, ms=6, zorder=4)
        elif optimum.status.startswith("edge"):
            arrow = {"arrowstyle": "<-", "color": colour, "lw": 1.1}
            away = -16 if optimum.status == "edge_low" else 16
            axes.annotate("", (at, lr), (0, away), textcoords="offset points", arrowprops=arrow)
            axes.plot(at, lr, marker, mfc="white", mec=colour, ms=6, zorder=4)


def _law_line(axes: Axes, law: PowerLawFit, reach: FloatArray, colour: str, marker: str) -> None:
    """The log-space law broad and pale, the linear one thin and dashed on top: seen also where they coincide."""
    ends = "" if law.b_low is None or law.b_high is None else f" [{law.b_low:.2f}, {law.b_high:.2f}]".replace("-", "−")
    who = ", ".join(part for part in (_words(law.per), f"{law.space} space") if part)
    few = " (2 points)" if law.points == 2 else ""
    broad = law.space == "log"
    style: dict[str, Any] = {"ls": "-", "lw": 3.5, "alpha": 0.45} if broad else {"ls": (0, (4, 2)), "lw": 1.1}
    axes.plot(reach, law.law.along(reach), color=colour, zorder=2 if broad else 2.5, **style)
    # The legend shows the marker of the arm; the line itself has none.
    label = f"{who}: $b = {law.b:.3f}${ends}{few}"
    axes.plot([], [], marker=marker if broad else "none", color=colour, mec="white", label=label, **style)
    band = [law.interval(float(value)) for value in reach] if broad else []
    known = [ends for ends in band if ends is not None]
    if known:
        low, high = np.array(known).T
        axes.fill_between(reach, low, high, color=colour, alpha=0.12, lw=0, zorder=1)


def _ceiling(runs: Losses, by: tuple[str, ...]) -> float:
    """The highest loss that is drawn to scale: valleys fill the panel, however high a stray run lies."""
    best, excess = [], []
    for _, part in groups(runs, by):
        values = part.loss[part.used]
        if values.size:
            best.append(values.min())
            excess.append(values - values.min())
    if not best:
        return 1.0
    spread = np.concatenate(excess)
    room = max(4 * float(np.quantile(spread, 0.75)), 1e-3 * abs(max(best)))
    return float(min(runs.loss[runs.used].max(), max(best) + room))


def _floor_and(top: float, runs: Losses, optima: tuple[Optimum, ...]) -> tuple[float, float]:
    """The limits of the loss: room below the lowest run or optimum for the whole of its sign."""
    lowest = [float(runs.loss[runs.used].min())] if runs.used.any() else [top - 1]
    floor = min(*lowest, *(o.loss for o in optima if o.settled and o.loss is not None), top)
    span = max(top - floor, 1e-3 * abs(top))
    return floor - 0.1 * span, top + 0.06 * span


def _rate_text(value: float) -> str:
    return f"{value:g}" if 1e-4 <= value < 1e4 else f"${_scientific(value)}$"


def _log_ticks(axes: Axes, which: Literal["x", "y"], text: Callable[[float], str], *, wide: bool = False) -> None:
    """A logarithmic axis with 3 to 7 round ticks; `wide` labels need more room."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axis.get_view_interval())
    ticks = round_ticks(low, high, most=5 if wide else 7)
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(float(f"{value:.6g}"))))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def round_ticks(low: float, high: float, *, most: int) -> list[float]:
    """At most `most` round numbers from low to high, at least 3 where they have digits enough.

    >>> round_ticks(0.004, 0.11, most=7), round_ticks(0.01, 1e9, most=7)
    ([0.005, 0.01, 0.02, 0.05, 0.1], [0.01, 1.0, 100.0, 10000.0, 1000000.0, 100000000.0])
    >>> round_ticks(0.0181, 0.0232, most=7)
    [0.019, 0.02, 0.021, 0.022, 0.023]
    """
    first, last = math.floor(math.log10(low)), math.floor(math.log10(high))
    every = range(first, last + 1)
    fine = [np.arange(1, 10, step).tolist() for step in (0.5, 0.2, 0.1, 0.05)]
    within = [[1.0], [1.0, 2.0, 5.0], [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0], *fine]
    # Decades apart only where single ones are too many.
    tries = [*((every, steps) for steps in within), *((every[::step], [1.0]) for step in range(2, len(every)))]
    found = []
    for exponents, steps in tries:
        ticks = [float(f"{step * 10.0**exponent:.6g}") for exponent in exponents for step in steps]
        found.append([tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)])
    fitting = [ticks for ticks in found if len(ticks) <= most]
    return next((ticks for ticks in fitting if len(ticks) >= 3), max(fitting, key=len, default=[]))


def _sequence(count: int) -> list[str]:
    """Colours from dark to light, the pale fifth of viridis left out."""
    places = np.linspace(0.0, 0.82, count) if count > 1 else [0.35]
    return [mpl.colors.to_hex(mpl.colormaps["viridis"](place)) for place in places]


def _distinct(items: "Iterator[dict[str, Key]] | Sequence[dict[str, Key]]") -> list[dict[str, Key]]:
    found: list[dict[str, Key]] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found


def _words(key: Mapping[str, Key]) -> str:
    """A group for a legend: 1B tokens, width 64, muonh."""
    parts = []
    for name, value in key.items():
        if isinstance(value, str):
            parts.append(value)
        elif name in ("tokens", "D"):
            parts.append(f"{amount(value)} tokens")
        elif name in ("batch_tokens", "params", "N", "flops"):
            parts.append(f"{name} {amount(value)}")
        else:
            parts.append(f"{name} {value:g}")
    return ", ".join(parts)


def _label(name: str) -> str:
    return NAMES.get(name, name.replace("_", " "))


def _scientific(value: float) -> str:
    """A positive number as mathtext: 24.8, 10^{19}, 2\\times10^{19}."""
    exponent = math.floor(math.log10(value) + 1e-9)
    if -2 <= exponent < 3:
        return f"{value:.3g}"
    mantissa = f"{value / 10**exponent:.3g}"
    return f"10^{{{exponent}}}" if mantissa == "1" else f"{mantissa}\\times10^{{{exponent}}}"
