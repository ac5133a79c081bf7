"""A diagnosis as it goes: a line for each finding, its remedy below, and the count at the end."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.text import Text

from sweeper.doctor.finding import LEVELS, Area, Finding, Level
from sweeper.terminal import console, counted

MARK: Mapping[Level, tuple[str, str]] = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "bold red")}
TITLE: Mapping[Area, str] = {
    "python": "Python",
    "slurm": "SLURM",
    "profile": "The profile on this cluster",
    "folder": "The folder of the runs",
    "script": "The scripts for SLURM",
    "job": "In a job",
}


def print_finding(finding: Finding, before: Area | None) -> None:
    """One finding, under a title where its area begins."""
    if finding.area != before:
        console.print(TITLE[finding.area], style="bold")
    mark, style = MARK[finding.level]
    value = f" [{finding.value}]" if finding.value else ""
    line = Text.assemble((f"  {mark} ", style), (f"{finding.probe}: ", "bold"), finding.says, (value, "dim"))
    console.print(line, soft_wrap=True)
    if finding.remedy:
        console.print(Text(f"      {finding.remedy}", style=style), soft_wrap=True)


def print_verdict(findings: Sequence[Finding], cluster: str) -> None:
    """How many findings there are of each kind."""
    levels = [finding.level for finding in findings]
    there = [(levels.count(level), level) for level in LEVELS if level in levels]
    counts = ", ".join(f"{number} ok" if level == "ok" else counted(number, level) for number, level in there)
    worst: Level = max(levels, key=LEVELS.index, default="ok")
    console.print(f"{cluster}: {counts}", style=MARK[worst][1], soft_wrap=True)


def tell(note: str) -> None:
    """What is being waited for."""
    Console(stderr=True, highlight=False).print(f"    … {note}", style="dim", soft_wrap=True)
