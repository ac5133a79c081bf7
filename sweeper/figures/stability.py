"""What runs measured while they trained: loss, gradient norm, rate, speed and every metric of stability."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from sweeper.errors import FitError
from sweeper.figures.style import ARM_COLOURS, LINES, SEQUENCE, canvas, drawing, legend, note, stroke, thinned
from sweeper.figures.text import amount, axis_text, label, plain_text, rate_text, round_ticks
from sweeper.laws.arrays import FloatArray
from sweeper.series import STABILITY, Series
from sweeper.spec import Value

PANELS = {
    "loss": "training loss\n(nats/token)",
    "grad_norm": "gradient norm",
    "lr": "learning rate",
    "tokens_per_s": "tokens/s",
    "val/loss": "validation loss\n(nats/token)",
}
"""Metrics of every run, in the order of their panels."""
STABLE = {
    "attention_z": "attention $Z$",
    "router_z": "router $Z$",
    "attention_rms": "attention\noutput RMS",
    "mlp_rms": "MLP output RMS",
    "attention_outliers": "attention\noutliers (%)",
    "mlp_outliers": "MLP outliers (%)",
    "maxvio": "MaxVio",
    "balance": "load-balancing\nloss",
    "grad_norm": "gradient norm,\nmean of layers",
    "update_norm": "update norm,\nmean of layers",
}
"""Words for metrics of HyperP §5.1 (arXiv 2603.28743); any other goes by its own name."""
LOGARITHMIC = ("grad_norm", *(f"{STABILITY}{name}" for name in ("attention_z", "grad_norm", "update_norm")))
METRICS = 15
"""Panels, on a slide too."""
RUNS = 60
"""Lines of a panel at most."""
BUCKETS = 300
"""Of a series; each keeps its lowest and its highest value, so that no spike is lost."""
SETTLED = 0.1
"""Share of a run after which its losses set the height of the panel: the first steps would fill it."""


def plot_stability(series: Sequence[Series], *, colour: str = "", style: str = "paper") -> Figure:
    """A panel per metric against the tokens trained on, a line per run.

    A metric of layers is their mean. Panels fill themselves with what the runs report: every `stability/…` metric has
    one.

    Args:
        series: Of the runs; of more than 60 evenly spaced ones are drawn, and the figure says so.
        colour: Label that sets the colours; `arm` where there are several, else the peak learning rate, when empty.

    Raises:
        FitError: No run has metrics, or none has such a label.
    """
    if not series:
        raise FitError("no run has reported metrics yet; launch the sweep, or wait for its first steps")
    colour = colour or ("arm" if len({item.labels.get("arm") for item in series}) > 1 else "lr_peak")
    if any(colour not in item.labels for item in series):
        known = ", ".join(dict.fromkeys(name for item in series for name in item.labels))
        raise FitError(f"the runs have no label {colour!r} to be coloured by; choose among {known}")
    seen = dict.fromkeys(name for item in series for name, v in item.metrics.items() if np.isfinite(v).any())
    metrics = [name for name in PANELS if name in seen and (name != "val/loss" or _several(series, name))]
    order = [STABILITY + name for name in STABLE]
    measured = sorted(name for name in seen if name.startswith(STABILITY))
    metrics += sorted(measured, key=lambda name: order.index(name) if name in order else len(order))
    if not metrics:
        raise FitError("the runs report none of loss, grad_norm, lr and tokens_per_s; write them to metrics.jsonl")
    with drawing(style) as chosen:
        ordered = sorted(series, key=lambda item: _sortable(item.labels[colour]))
        runs = thinned(ordered, RUNS)
        shown = metrics[: max(chosen.panels, METRICS)]
        figure, panels = canvas(chosen, len(shown), across=2 if len(shown) <= 4 else 3, aspect=0.6)
        colours, entries, bar = _colours(runs, colour)
        for axes, name in zip(panels, shown, strict=True):
            _panel(axes, runs, name, colours)
        if bar is not None:
            made = figure.colorbar(bar, ax=list(panels), label=label(colour), pad=0.02, aspect=30)
            norm = bar.norm
            ticks = round_ticks(norm.vmin, norm.vmax, most=6)  # type: ignore[arg-type]
            made.ax.yaxis.set_major_locator(mpl.ticker.FixedLocator(ticks))
            made.ax.yaxis.set_minor_locator(NullLocator())
            made.ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: axis_text(colour)(float(f"{v:.4g}"))))
        legend(figure, chosen, entries)
        left = len(series) - len(runs)
        said = [f"{len(runs)} of {len(series)} runs, evenly spaced in {label(colour)}"] if left else []
        said += [f"{len(shown)} of {len(metrics)} metrics"] if len(shown) < len(metrics) else []
        if said:
            note(figure, "; ".join(said))
    return figure


def thin(x: FloatArray, y: FloatArray, buckets: int = BUCKETS) -> tuple[FloatArray, FloatArray]:
    """A long series as the lowest and the highest point of each of so many stretches, in their order.

    >>> x, y = thin(np.arange(8.0), np.array([0.0, 5, 1, 2, 9, 3, 4, 4]), buckets=2)
    >>> x.tolist(), y.tolist()
    ([0.0, 1.0, 4.0, 5.0], [0.0, 5.0, 9.0, 3.0])
    """
    if x.size <= 2 * buckets:
        return x, y
    kept: list[int] = []
    for part in np.array_split(np.arange(x.size), buckets):
        if np.isfinite(y[part]).any():
            kept += sorted({int(part[np.nanargmin(y[part])]), int(part[np.nanargmax(y[part])])})
    return x[kept], y[kept]


def _panel(axes: Axes, runs: Sequence[Series], name: str, colours: Sequence[tuple[str, object]]) -> None:
    settled: list[FloatArray] = []
    furthest = 0.0
    for item, (colour, line) in zip(runs, colours, strict=True):
        if name not in item.metrics:
            continue
        x, y = item.metrics.get("tokens", item.step), item.metrics[name]
        there = np.isfinite(x) & np.isfinite(y) & ((y > 0) | (name not in LOGARITHMIC))
        x, y = x[there], y[there]
        if not x.size:
            continue
        furthest = max(furthest, float(x[-1]))
        settled.append(y[x >= SETTLED * x[-1]])
        few: dict[str, Any] = {"marker": ".", "ms": stroke(2.5)} if x.size <= 3 else {}
        axes.plot(*thin(x, y), color=colour, ls=line, lw=stroke(0.7), **few)
    bare = name.removeprefix(STABILITY)
    axes.set_ylabel(PANELS.get(name) or STABLE.get(bare) or plain_text(bare.replace("_", " ")))
    axes.set_xlabel("tokens trained on")
    axes.set_xlim(0, furthest * 1.02 or 1)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
    values = np.concatenate(settled) if settled else np.array([0.0, 1.0])
    if name in LOGARITHMIC:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: rate_text(float(f"{value:.4g}"))))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif name == "tokens_per_s":
        axes.set_ylim(0, 1.1 * float(np.quantile(values, 0.99)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
    elif name == "lr":
        axes.set_ylim(bottom=0)
    elif name.endswith("loss"):
        low, high = float(values.min()), float(np.quantile(values, 0.99))
        room = 0.08 * max(high - low, 1e-3)
        axes.set_ylim(low - room, high + room)


def _colours(
    runs: Sequence[Series], name: str
) -> tuple[list[tuple[str, object]], dict[str, Artist], ScalarMappable | None]:
    """Colour and line of each run, with a legend for a few values or a bar for many numbers."""
    values = [item.labels[name] for item in runs]
    different = sorted(set(values), key=_sortable)
    numbers = [float(value) for value in different if isinstance(value, int | float) and value > 0]
    numeric = len(numbers) == len(different)
    first, last = SEQUENCE
    colours: list[tuple[str, object]]
    if numeric and len(different) > 7:
        norm: Normalize = LogNorm(min(numbers), max(numbers))
        scale = mpl.colors.ListedColormap(mpl.colormaps["viridis"](np.linspace(first, last, 256)))
        bar = ScalarMappable(norm=norm, cmap=scale)
        colours = [(mpl.colors.to_hex(bar.to_rgba(float(value))), "-") for value in values]  # type: ignore[arg-type]
        return colours, {}, bar
    entries: dict[str, Artist] = {}
    looks: dict[Value, tuple[str, object]] = {}
    for place, value in enumerate(different):
        share = place / max(1, len(different) - 1)
        chosen = (
            mpl.colors.to_hex(mpl.colormaps["viridis"](first + (last - first) * share))
            if numeric
            else ARM_COLOURS[place % len(ARM_COLOURS)]
        )
        looks[value] = (chosen, LINES[place % len(LINES)])
        text = f"{label(name)} {axis_text(name)(float(value))}" if numeric else plain_text(str(value))
        entries[text] = Line2D([], [], color=chosen, ls=looks[value][1])
    return [looks[value] for value in values], entries if len(different) > 1 else {}, None


def _several(series: Sequence[Series], name: str) -> bool:
    """Whether some run reports a metric more than once: a single point is no line."""
    return any(name in item.metrics and np.isfinite(item.metrics[name]).sum() > 1 for item in series)


def _sortable(value: Value) -> tuple[bool, float, str]:
    numeric = isinstance(value, int | float)
    return (not numeric, float(value) if numeric else 0.0, str(value))
