"""Words and numbers of figures: names of columns with their units, groups for legends, round ticks."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from sweeper.fits.losses import Key

NAMES: Mapping[str, str] = {
    "lr": "base learning rate $\\eta_0$",
    "lr_peak": "peak learning rate $\\eta$",
    "tokens": "training tokens",
    "D": "training tokens $D$",
    "flops": "training FLOPs",
    "lr_opt": "optimal learning rate",
    "loss": "validation loss (nats/token)",
    "loss_min": "lowest validation loss (nats/token)",
    "train_loss": "training loss (nats/token)",
    "params": "parameters",
    "params_total": "parameters, all experts",
    "N": "parameters $N$",
    "batch_tokens": "batch (tokens)",
    "wall_time_s": "wall time (s)",
    "tokens_per_s": "tokens/s",
    "top_k": "top-$k$",
}
"""Labels of columns, with the unit where the name alone does not say it."""

SYMBOLS: Mapping[str, str] = {"flops": "C", "tokens": "T", "D": "D", "params": "N", "N": "N", "batch_tokens": "B"}
"""Letters of columns in formulas."""

MOST_VALUES = 6
APART = 0.1
"""A share of the axis that the name of a tick needs."""

NARROW = 2.5
"""A logarithmic axis that spans less than this factor has evenly spaced ticks."""


def label(name: str) -> str:
    """What an axis of a column is called.

    >>> label("tokens"), label("aux_weight"), label("smooth loss")
    ('training tokens', 'aux weight', 'smooth loss (nats/token)')
    """
    known = NAMES.get(name)
    if known is None:
        known = plain_text(name.replace("_", " "))
        known += " (nats/token)" if known.endswith("loss") else ""
    return known


def plain_text(text: str) -> str:
    """Text of a user's as it is: matplotlib would read what stands between dollar signs as mathematics."""
    return text.replace("$", r"\$")


def words(key: Mapping[str, Key]) -> str:
    """A group for a legend.

    >>> words({"arm": "muonh", "tokens": 1e9, "width": 64})
    'muonh, 1B tokens, width 64'
    """
    return ", ".join(word(name, value) for name, value in key.items())


def word(name: str, value: Key) -> str:
    if isinstance(value, str):
        return plain_text(value if name == "arm" or name.startswith("optim") else f"{name.replace('_', ' ')}: {value}")
    if name == "tokens":
        return f"{amount(value)} tokens"
    return f"{plain_text(name.replace('_', ' '))} {amount(value) if abs(value) >= 1e4 else f'{value:.4g}'}"


def amount(value: float) -> str:
    """A count in the unit that people use.

    >>> amount(10.4e9), amount(524288), amount(1e12)
    ('10.4B', '524k', '1T')
    """
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def rate_text(value: float) -> str:
    return f"{value:g}" if 1e-4 <= abs(value) < 1e4 else f"${scientific(value)}$"


def flops_text(value: float) -> str:
    return f"${scientific(value)}$"


def axis_text(name: str) -> Callable[[float], str]:
    """How the ticks of a column are written: counts in T, B, M and k, compute in powers of ten."""
    if name == "flops":
        return flops_text
    if name.startswith("lr"):
        return rate_text
    return lambda value: amount(value) if abs(value) >= 1e4 else f"{value:g}"


def scientific(value: float) -> str:
    """A positive number as mathtext.

    >>> scientific(24.83), scientific(1e19), scientific(2e19)
    ('24.8', '10^{19}', '2\\\\times10^{19}')
    """
    if not (math.isfinite(value) and value > 0) or 0.01 <= value < 1000:
        return f"{value:.3g}"
    exponent = math.floor(math.log10(value))
    digits = f"{value / 10.0**exponent:.3g}"
    if digits == "10":
        digits, exponent = "1", exponent + 1
    return f"10^{{{exponent}}}" if digits == "1" else f"{digits}\\times10^{{{exponent}}}"


def value_ticks(axes: Axes, values: Iterable[float], text: Callable[[float], str]) -> None:
    """A logarithmic x axis with a tick at each of a few values that lie apart, else with round ticks."""
    own = sorted(set(values))
    low, high = axes.get_xlim()
    gaps = np.diff(np.log(own)) / math.log(high / low)
    log_ticks(axes, "x", text, most=5)
    if 2 <= len(own) <= MOST_VALUES and gaps.min() > APART:
        axes.xaxis.set_major_locator(FixedLocator(own))


def log_ticks(axes: Axes, which: Literal["x", "y"], text: Callable[[float], str], *, most: int = 7) -> None:
    """A logarithmic axis with 3 to `most` round ticks over what is shown now."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axis.get_view_interval())
    ticks = round_ticks(low, high, most=most)
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
    if high / low < NARROW:
        even = MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        ticks = [float(f"{tick:.6g}") for tick in even if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if 3 <= len(ticks) <= most:
            return ticks
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
