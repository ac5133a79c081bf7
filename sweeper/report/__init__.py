"""One self-contained HTML page of what a sweep, or a table of results, answers."""

from pathlib import Path

from sweeper.files import replacing
from sweeper.report.origin import Origin, read_origin, tool_versions
from sweeper.report.page import Material, figures_for, render_report

__all__ = [
    "Material",
    "Origin",
    "figures_for",
    "read_origin",
    "render_report",
    "tool_versions",
    "write_report",
]


def write_report(material: Material, path: Path) -> Path:
    """Write the page whole or not at all; returns its path.

    Raises:
        DiskError: The file cannot be written.
    """
    text = render_report(material)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path
