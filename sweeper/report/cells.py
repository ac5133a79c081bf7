"""How a value is written in a report: rounded as people do, exact for whoever sorts or copies it."""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import SupportsFloat, cast

from sweeper.terminal import count

Form = Callable[[float], str]
MISSING = "–"
LARGE = 100_000
"""From here on a whole number is a count, written with its unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A value of a table."""

    text: str
    """As people read it."""
    value: float | str | None
    """What it is sorted by; None where there is none, which comes last."""
    exact: str = ""
    """Every digit, where `text` has fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What the cells below it are."""

    name: str
    unit: str = ""
    meaning: str = ""


NOTHING = Cell(text=MISSING, value=None)


def significant(value: float, digits: int = 4) -> str:
    """A number with so many digits, its exponent short and its minus sign a real one.

    >>> significant(0.0152), significant(1.31e7), significant(-3.2e-6)
    ('0.0152', '1.31e7', '−3.2e−6')
    """
    mantissa, e, exponent = f"{value:.{digits}g}".partition("e")
    return _minus(f"{mantissa}e{int(exponent)}" if e else mantissa)


def decimals(places: int) -> Form:
    """Numbers with so many digits behind the point; large ones in powers of ten.

    >>> decimals(4)(2.41), decimals(3)(-0.3204), decimals(4)(6.1e9)
    ('2.4100', '−0.320', '6.1e9')
    """
    return lambda value: _minus(f"{value:.{places}f}") if abs(value) < LARGE else significant(value)


def share(value: float) -> str:
    """A part of the whole in per cent.

    >>> share(0.01483), share(12.0)
    ('1.48 %', '> 100 %')
    """
    return f"{100 * value:.2f} %" if value <= 1 else "> 100 %"


def _minus(text: str) -> str:
    return text.replace("-", "−")


def power_of_ten(value: float) -> str:
    """Three digits: `2.14e19`."""
    return significant(value, 3)


def amount(value: float) -> str:
    """A count of tokens or parameters: `10.4B`, `512`."""
    return count(value)


def plain_number(value: float) -> str:
    """A number of which nothing is known.

    >>> plain_number(2048.0), plain_number(15258.8), plain_number(131072), plain_number(0.25), plain_number(1.5e7 + 0.5)
    ('2048', '15259', '131K', '0.25', '1.5e7')
    """
    if float(value).is_integer() and abs(value) >= LARGE:
        return _minus(count(value))
    return _minus(f"{value:.0f}") if 1000 <= abs(value) < LARGE else significant(value)


COLUMN_FORMS: Mapping[str, tuple[Form, str]] = {
    "loss": (decimals(4), "nats/token"),
    "train_loss": (decimals(4), "nats/token"),
    "lr": (significant, ""),
    "lr_peak": (significant, ""),
    "tokens": (amount, ""),
    "params": (amount, ""),
    "params_total": (amount, ""),
    "batch_tokens": (amount, ""),
    "flops": (power_of_ten, ""),
    "wall_time_s": (significant, ""),
    "tokens_per_s": (amount, ""),
}
"""Form and unit of the columns whose meaning is known."""


def form_of(name: str) -> Form:
    """How the values of a column of results are written."""
    return COLUMN_FORMS.get(name, (plain_number, ""))[0]


def cell_of(value: object, form: Form = plain_number) -> Cell:
    """A cell of any value: a number in a form, a truth in words, everything else as its text."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return Cell(text="yes" if value else "no", value="yes" if value else "no")
    if isinstance(value, int | float) or hasattr(value, "__float__"):
        number = float(cast(SupportsFloat, value))
        if math.isnan(number):
            return NOTHING
        text = form(number) if math.isfinite(number) else "∞" if number > 0 else "−∞"
        exact = repr(value if isinstance(value, int) else number)
        return Cell(text=text, value=_finite(number), exact="" if exact == text else exact)
    return Cell(text=str(value), value=str(value))


def interval_cell(low: float | None, high: float | None, form: Form) -> Cell:
    """Both ends in one cell, sorted by the lower; an end that the data do not bound is an ellipsis."""
    if low is None and high is None:
        return NOTHING
    ends = [("…", "…") if end is None else (form(end), repr(end)) for end in (low, high)]
    (low_text, low_exact), (high_text, high_exact) = ends
    return Cell(
        text=f"{low_text} to {high_text}",
        value=next(_finite(end) for end in (low, high) if end is not None),
        exact=f"{low_exact} to {high_exact}",
    )


def _finite(number: float) -> float:
    """The number as JSON can hold it."""
    return float(min(max(number, -sys.float_info.max), sys.float_info.max))
