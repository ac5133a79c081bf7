"""A figure as SVG inside a page: text as outlines, ids of its own, no style that a strict page would refuse."""

import io
import re
import xml.etree.ElementTree as ET
from typing import Any, Protocol

from sweeper.report.html import Html

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
POINT = 4 / 3 * 1.5
"""CSS pixels in a point of a figure, whose type is set for paper: larger on a page, that of the text around it."""

ET.register_namespace("", SVG)


class Drawing(Protocol):
    """What is asked of a figure: no more than matplotlib's own method."""

    def savefig(self, fname: Any, **kwargs: Any) -> None: ...


def inline_svg(figure: Drawing, prefix: str, label: str) -> Html:
    """The figure as an `svg` element: the same figure gives the same text.

    Ids are counted anew behind a prefix, because all figures of a page share one space of ids and matplotlib draws its
    own at random. Styles become attributes: a page whose policy allows no inline style shows them.

    Args:
        figure: Its patches are left transparent, so that the page shines through.
        prefix: Of its ids, unlike that of any other figure of the page.
        label: What it shows, for those who do not see it.
    """
    buffer = io.BytesIO()
    # Outside the style of `figures`, matplotlib draws text as outlines: the same in every browser.
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ET.fromstring(buffer.getvalue().decode())  # noqa: S314 - matplotlib wrote it a line above
    _remove(root, f"{{{SVG}}}metadata", f"{{{SVG}}}style")
    for element in root.iter():
        _style_as_attributes(element)
        if (target := element.attrib.pop(f"{{{XLINK}}}href", None)) is not None:
            element.set("href", target)
    _number_ids(root, prefix)
    for side in ("width", "height"):
        root.set(side, f"{float(root.get(side, '').removesuffix('pt')) * POINT:.0f}")
    root.attrib.pop("version", None)
    root.set("role", "img")
    root.set("aria-label", label)
    return Html(ET.tostring(root, encoding="unicode"))


def _remove(element: ET.Element, *names: str) -> None:
    for child in list(element):
        if child.tag in names:
            element.remove(child)
        else:
            _remove(child, *names)


def _style_as_attributes(element: ET.Element) -> None:
    for declaration in filter(None, map(str.strip, element.attrib.pop("style", "").split(";"))):
        name, _, value = declaration.partition(":")
        element.set(name.strip(), value.strip())


def _number_ids(root: ET.Element, prefix: str) -> None:
    """Rename the ids that something refers to, in the order of the text, and drop all others."""
    reference = re.compile(r"^#(.+)$|url\(#([^)]+)\)")
    used = {
        first or second
        for element in root.iter()
        for value in element.attrib.values()
        for first, second in reference.findall(value)
    }
    names: dict[str, str] = {}
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own is not None and own in used:
            names[own] = f"{prefix}-{len(names) + 1}"
            element.set("id", names[own])
    for element in root.iter():
        for name, value in element.attrib.items():
            if value.startswith("#") and value[1:] in names:
                element.set(name, f"#{names[value[1:]]}")
            elif value.startswith("url(#"):
                element.set(name, f"url(#{names[value[5:-1]]})")
