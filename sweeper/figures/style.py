"""How every figure looks: sizes of paper and slides, colours, markers and lines, where legends go.

Colours are told apart by colour-blind readers and, with their markers and lines, in a grey print; a test measures the
distances.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path

from sweeper.errors import SweeperError
from sweeper.fits.losses import Key
from sweeper.typed import did_you_mean

StyleName = Literal["paper", "slides"]
LineStyle = str | tuple[float, tuple[float, ...]]

ARM_COLOURS = ("#004488", "#DDAA33", "#BB5566", "#56B4E9", "#000000", "#44AA99", "#AA3377")
"""Dark and light by turns. The first three are Paul Tol's high-contrast scheme (SRON/EPS/TN/09-002, 2021), then one of
Okabe and Ito's (2008) and Tol's."""
MARKERS = "osD^vPX<>p*h"
LINES: tuple[LineStyle, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (7, 2, 1, 2, 1, 2)))
GREY = "#666666"
PALE = "#bbbbbb"
SEQUENCE = (0.0, 0.82)
"""The part of viridis that groups run through: without its pale end, which vanishes on white."""
DPI = 200
TALLEST = 8.4
"""Inches: what a page leaves to a figure above its legend and its caption."""
HANDLE_EM = 3.6
"""Width of a legend's handle and pads."""
COLUMN_EM = 1.4
"""Space between the columns of a legend."""
LEGEND_MOST = 16
"""Entries of one kind in a legend; of more, evenly spaced ones are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """Where a figure will be read."""

    name: StyleName
    points: float
    """Size of the type."""
    column: float
    """Inches: width of a figure of one panel."""
    page: float
    """Inches: width of a figure of several panels."""
    height: float | None
    """Inches: height of every figure; None where it follows from the panels."""
    across: int
    """Panels side by side at most."""
    panels: int
    """Panels of one figure at most; a figure that leaves some out says so."""

    @property
    def rc(self) -> dict[str, object]:
        size = self.points
        line = size / 8
        return {
            "font.size": size,
            "axes.titlesize": size,
            "axes.labelsize": size,
            "legend.fontsize": size - 1,
            "legend.title_fontsize": size - 1,
            "xtick.labelsize": size - 1,
            "ytick.labelsize": size - 1,
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same everywhere
            "axes.unicode_minus": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.7 * line,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.titlepad": 4 * line,
            "axes.labelpad": 3 * line,
            "grid.color": "#e6e6e6",
            "grid.linewidth": 0.5 * line,
            "hatch.linewidth": 0.6 * line,
            "legend.frameon": False,
            "legend.handlelength": 2.2,
            "legend.columnspacing": COLUMN_EM,
            "legend.labelspacing": 0.35,
            "lines.linewidth": 1.2 * line,
            "lines.markersize": 4.2 * line,
            "xtick.major.width": 0.7 * line,
            "ytick.major.width": 0.7 * line,
            "xtick.major.size": 2.5 * line,
            "ytick.major.size": 2.5 * line,
            "pdf.fonttype": 42,  # TrueType, embedded: text stays text, and journals accept it
            "ps.fonttype": 42,
            "svg.fonttype": "path",  # an SVG cannot embed a font: glyphs look the same everywhere
            "svg.hashsalt": "sweeper",
        }


STYLES: Mapping[StyleName, Style] = {
    "paper": Style(name="paper", points=8, column=3.25, page=6.75, height=None, across=4, panels=20),
    "slides": Style(name="slides", points=15, column=40 / 3, page=40 / 3, height=7.5, across=3, panels=6),
}
"""One column and the page of a two-column paper; a 16:9 slide."""


def style_of(name: str) -> Style:
    """A style by its name.

    Raises:
        SweeperError: There is none of this name.
    """
    for known, style in STYLES.items():
        if known == name:
            return style
    raise SweeperError(f"no style {name!r} of figures; {did_you_mean(name, STYLES)}")


@contextmanager
def drawing(style: str) -> Iterator[Style]:
    """Draw in a style: sizes that are not given follow from it."""
    chosen = style_of(style)
    with mpl.rc_context(chosen.rc):  # type: ignore[arg-type]
        yield chosen


def mark(times: float = 1.0) -> float:
    """Size of a marker, points."""
    return times * float(mpl.rcParams["lines.markersize"])


def stroke(times: float = 1.0) -> float:
    """Width of a line, points."""
    return times * float(mpl.rcParams["lines.linewidth"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a series is drawn."""

    colour: str
    marker: str
    line: LineStyle

    def dots(self, **more: Any) -> dict[str, Any]:
        """Filled markers without a line."""
        return {
            "ls": "none",
            "marker": self.marker,
            "color": self.colour,
            "mec": "white",
            "mew": 0.4 * stroke(),
            "ms": mark(),
            **more,
        }

    def rings(self, **more: Any) -> dict[str, Any]:
        """Hollow markers without a line: a bound, or a value read outside the data."""
        return self.dots(mfc="white", mec=self.colour, mew=0.8 * stroke(), **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """The look of each arm and of each group, the same in all figures of a sweep."""

    arms: tuple[dict[str, Key], ...] = ()
    """Settings of the columns that separate laws and curves."""
    groups: tuple[dict[str, Key], ...] = ()
    """Values of the other columns that groups are formed by, ascending."""

    def arm(self, setting: Mapping[str, Key]) -> Look:
        place = self.arms.index(dict(setting))
        return Look(
            colour=ARM_COLOURS[place % len(ARM_COLOURS)],
            marker=MARKERS[place % len(MARKERS)],
            line=LINES[place % len(LINES)],
        )

    def group(self, key: Mapping[str, Key]) -> Look:
        place = self.groups.index(dict(key))
        return Look(
            colour=sequence(len(self.groups))[place],
            marker=MARKERS[place % len(MARKERS)],
            line=LINES[place % len(LINES)],
        )


def sequence(count: int) -> list[str]:
    """Colours from dark to light."""
    first, last = SEQUENCE
    places = [first + (last - first) * i / (count - 1) for i in range(count)] if count > 1 else [0.25]
    return [mpl.colors.to_hex(mpl.colormaps["viridis"](place)) for place in places]


def distinct(items: Iterable[Mapping[str, Key]]) -> tuple[dict[str, Key], ...]:
    """The different items in order of appearance."""
    found = {tuple(item.items()): dict(item) for item in items}
    return tuple(found.values())


def thinned(items: Sequence[Any], most: int) -> tuple[Any, ...]:
    """At most `most` of the items, evenly spaced, the first and the last among them.

    >>> thinned(range(10), 4)
    (0, 3, 6, 9)
    """
    if len(items) <= most:
        return tuple(items)
    return tuple(items[round(i * (len(items) - 1) / (most - 1))] for i in range(most))


def canvas(
    style: Style, panels: int, *, across: int = 0, aspect: float = 0.76, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, tuple[Axes, ...]]:
    """A figure with as many panels, at most `across` of them side by side.

    Args:
        aspect: Height of a panel over its width, where the height follows from the panels.
    """
    columns = min(panels, across or style.across)
    rows = math.ceil(panels / columns)
    width = style.column if columns == 1 else style.page
    height = style.height or min(rows * aspect * width / columns, TALLEST)
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).ravel()
    for unused in grid[panels:]:
        unused.remove()
    if sharex:  # above an empty place the ticks are its own
        for axes in grid[:panels][max(0, panels - columns) :]:
            axes.tick_params(labelbottom=True)
    return figure, tuple(grid[:panels])


def legend(
    figure: Figure, style: Style, entries: Mapping[str, Artist], title: str = "", *, below: bool = False
) -> None:
    """A legend outside of all panels: below them on paper, where it adds to the height, beside them on a slide.

    Args:
        below: Whether it is so short that it goes below on a slide too.
    """
    if not entries:
        return
    em = float(mpl.rcParams["legend.fontsize"]) / 72
    beside = style.height is not None and not below
    room = figure.get_figwidth() * (0.3 if beside else 1) - 0.1
    texts = [wrapped(text, room - HANDLE_EM * em) for text in entries]
    more: dict[str, Any] = {"title": title} if title else {}
    if beside:
        figure.legend(list(entries.values()), texts, loc="outside right upper", **more)
        return
    widest = max(text_width(line) for text in texts for line in text.splitlines())
    columns = max(1, min(len(entries), int((room + COLUMN_EM * em) / (widest + (HANDLE_EM + COLUMN_EM) * em))))
    heights = [1 + text.count("\n") for text in texts]
    deep = math.ceil(len(entries) / columns)  # entries fill the columns from above, one after the other
    lines = max(sum(heights[i : i + deep]) for i in range(0, len(heights), deep)) + bool(title)
    if style.height is None:
        figure.set_figheight(figure.get_figheight() + lines * 1.5 * em + 0.08)
    figure.legend(list(entries.values()), texts, loc="outside lower center", ncols=columns, **more)


def text_width(text: str) -> float:
    """Inches that a label of a legend takes, mathematics included."""
    font = FontProperties(size=mpl.rcParams["legend.fontsize"])
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath="$" in text)
    return float(width) / 72


def wrapped(text: str, room: float) -> str:
    """A label in lines of at most so many inches, broken at spaces outside of mathematics, never at hard spaces."""
    lines, line, pending = [], "", ""
    for part in text.split(" "):
        pending = f"{pending} {part}" if pending else part
        if pending.count("$") % 2:
            continue
        if line and text_width(f"{line} {pending}") > room:
            lines.append(line)
            line = pending
        else:
            line = f"{line} {pending}" if line else pending
        pending = ""
    return "\n".join([*lines, line])


def note(figure: Figure, text: str) -> None:
    """A sentence above all panels: what the figure leaves out."""
    figure.suptitle(text, fontsize=mpl.rcParams["legend.fontsize"], color=GREY, x=0.01, ha="left")


def sign(marker: str, **more: Any) -> Line2D:
    """A marker for a legend."""
    return Line2D([], [], **{"ls": "none", "marker": marker, "color": GREY, "ms": mark(), **more})
