"""Numbers of fits as people read them."""

from collections.abc import Mapping

from sweeper.fits.losses import Key
from sweeper.terminal import axis_value, scientific


def rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def published_value(column: str, value: float | str) -> str:
    """A number as its paper prints it, large ones in words: `10.4B`."""
    if isinstance(value, str):
        return value
    if "flops" in column:
        return scientific(value)
    return axis_value(int(value)) if value >= 1 and value == int(value) else f"{value:g}"


def interval(low: float | None, high: float | None, form: str = "{:.4g}") -> str:
    if low is None and high is None:
        return "–"
    return f"{'…' if low is None else form.format(low)} – {'…' if high is None else form.format(high)}"


def share(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2%}" if value <= 1 else "> 100 %"


def times(value: float | None, star: str) -> str:
    return "–" if value is None else f"{value:.3f} ×{star}"


def setting(per: Mapping[str, Key]) -> str:
    return f" ({', '.join(f'{name} {axis_value(value)}' for name, value in per.items())})" if per else ""
