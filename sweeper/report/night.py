"""Colours of figures on a dark page: neutrals turn round, hues stay and rise until they can be told from it."""

import colorsys
import re
from collections.abc import Iterable

INK = (0xE4, 0xE3, 0xDE)
PAPER = (0x13, 0x15, 0x18)
"""Ink and paper of the dark page, as in `page.css`."""
FLOOR = 0.21
"""Least luminance of a hue: a contrast of 4.5 to the dark paper (WCAG 2.2, 1.4.3)."""
GREY = 0.06
"""Below this difference of channels a colour has no hue."""
SCALE = 24
"""More colours than this are a scale that stands for numbers: it is not changed."""

COLOUR = re.compile(r'\b(fill|stroke)="(#[0-9a-f]{6})"')


def has_scale(svg: str) -> bool:
    """Whether a figure's colours stand for numbers."""
    return "<image" in svg or len({colour for _, colour in COLOUR.findall(svg)}) > SCALE


def night_rules(svgs: Iterable[str]) -> str:
    """Style that gives each colour of the figures its dark counterpart; a figure with a scale has none.

    Its selectors name no ancestor: what `use` repeats has none.
    """
    found = sorted({pair for svg in svgs if not has_scale(svg) for pair in COLOUR.findall(svg)})
    return "".join(f'[{name}="{colour}"]{{{name}:light-dark({colour},{night_of(colour)})}}\n' for name, colour in found)


def night_of(colour: str) -> str:
    """The counterpart of a colour on the dark page.

    Luminances y become 0.21 + 0.79 y, so that a scale of groups from dark to light keeps its order.

    >>> night_of("#ffffff"), night_of("#000000"), night_of("#004488")
    ('#131518', '#e4e3de', '#168aff')
    """
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    if max(red, green, blue) - min(red, green, blue) < GREY:
        made = [(ink + (paper - ink) * green) / 255 for ink, paper in zip(INK, PAPER, strict=True)]
        return _hex(made)
    hue, _, saturation = colorsys.rgb_to_hls(red, green, blue)
    wanted = FLOOR + (1 - FLOOR) * luminance((red, green, blue))
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        dark = luminance(colorsys.hls_to_rgb(hue, middle, saturation)) < wanted
        low, high = (middle, high) if dark else (low, middle)
    return _hex(colorsys.hls_to_rgb(hue, high, saturation))


def luminance(rgb: Iterable[float]) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2)."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _hex(rgb: Iterable[float]) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)
