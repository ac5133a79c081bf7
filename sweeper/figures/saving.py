"""Figures as files, the same bytes for the same figure."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from sweeper.errors import SweeperError
from sweeper.figures.style import DPI, STYLES
from sweeper.files import replacing

UNDATED: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None},
    "ps": {"CreationDate": None},
    "eps": {"CreationDate": None},
    "svg": {"Date": None},
}
"""Without a date the same figure is the same file."""


def save_figure(figure: Figure, folder: Path, name: str, formats: tuple[str, ...] = ("png", "pdf")) -> tuple[Path, ...]:
    """Write the figure in each format, each file whole or not at all; returns their paths.

    Fonts are embedded: as TrueType in a PDF, as outlines in an SVG.

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
        with replacing(path) as partial, mpl.rc_context(STYLES["paper"].rc):  # type: ignore[arg-type]
            figure.savefig(partial, format=form, dpi=DPI, metadata=UNDATED.get(form))
        paths.append(path)
    return tuple(paths)
