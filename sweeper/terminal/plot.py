"""Where the figures are."""

from collections.abc import Iterable
from pathlib import Path

from sweeper.terminal import console


def print_figures(paths: Iterable[Path]) -> None:
    """Where the figures are."""
    for path in paths:
        console.print(f"figure: {path}", soft_wrap=True, markup=False)
