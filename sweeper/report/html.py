"""Markup as a value: whatever is not `Html` already is escaped when it enters a page."""

from collections.abc import Iterable
from html import escape
from typing import TypeAlias


class Html(str):
    """Text that is markup; only `tag`, `join` and the page's own files make it."""

    __slots__ = ()


Child: TypeAlias = "str | int | float | Iterable[Child] | None"
"""What a tag may hold; None holds nothing."""
VOID = frozenset({"meta", "input", "br"})


def join(*children: Child) -> Html:
    """The children one after another, text escaped.

    >>> join("a < b", tag("sup", 2))
    'a &lt; b<sup>2</sup>'
    """
    return Html("".join(map(_markup, children)))


def _markup(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, str | int | float):
        return escape(str(child))
    return join(*child)


def tag(element: str, /, *children: Child, **attributes: str | int | float | bool | None) -> Html:
    """An element; `class_` and `data_value` are spelled class and data-value, None and False leave an attribute out.

    >>> tag("td", "<b>", class_="text", data_value=0.5, hidden=True, title=None)
    '<td class="text" data-value="0.5" hidden>&lt;b&gt;</td>'
    """
    spelled = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.removesuffix("_").replace("_", "-")
        spelled.append(f" {key}" if value is True else f' {key}="{escape(str(value))}"')
    opened = f"<{element}{''.join(spelled)}>"
    return Html(opened if element in VOID else f"{opened}{join(*children)}</{element}>")
