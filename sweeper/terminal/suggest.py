"""Suggested runs as a table."""

from collections.abc import Sequence

from sweeper.analysis import SuggestedRuns
from sweeper.terminal import axis_value, console, counted, scientific, show, table

WHY = {
    "start": "three rates to begin with",
    "extend": "the best rate is the outermost",
    "straddle": "about the optimum",
    "fill": "between the rates about the optimum",
    "done": "narrow enough",
    "diverged": "beyond the edge runs diverge",
}


def print_suggestions(rows: Sequence[SuggestedRuns], title: str, tolerance: float, again: str, most: int = 40) -> None:
    """A row per group, then what there is to run and how; `again` are the words of the sweep, empty for a file."""
    made = table(f"Next runs of {title}")
    names = list(rows[0].suggestion.group)
    for name in [*names, "interval", "run at", "expected", "FLOPs", "why"]:
        made.add_column(name, justify="left" if name == "why" else "right")
    for row in rows[:most]:
        found = row.suggestion
        why = WHY[found.why]
        if row.waiting:
            why = f"{counted(row.waiting, 'cell')} without a result yet"
        elif not row.affordable:
            why = f"beyond the budget ({why})"
        made.add_row(
            *(axis_value(found.group[name]) for name in names),
            _octaves(found.half_width),
            ", ".join(f"{lr:.4g}" for lr in found.lrs) or "–",
            _octaves(found.expected) if found.lrs else "–",
            "–" if row.flops is None or not found.lrs else scientific(row.flops),
            why,
        )
    show(made)
    if len(rows) > most:
        console.print(f"… and {len(rows) - most} more groups (--json holds all)", style="dim")
    pending = [row for row in rows if row.pending]
    runs = sum(len(row.cells) or len(row.suggestion.lrs) for row in pending)
    if not pending:
        waiting = sum(row.waiting for row in rows)
        if waiting:
            console.print(f"nothing to add before {counted(waiting, 'cell')} of the sweep have results: launch first")
        elif any(not row.affordable for row in rows):
            console.print("nothing to add within the budget")
        elif all(row.suggestion.why == "done" for row in rows):
            console.print(f"every optimum is known to ±{tolerance:g} octaves: nothing to add")
        else:
            console.print("nothing to add")
        return
    known = [row.flops for row in pending if row.flops is not None]
    cost = f", {scientific(sum(known))} FLOPs" if len(known) == len(pending) else ""
    console.print(f"{counted(runs, 'run')} in {counted(len(pending), 'group')}{cost}", soft_wrap=True)
    if again:
        console.print(f"next: sweeper suggest {again} --launch", soft_wrap=True)


def _octaves(value: float | None) -> str:
    return "–" if value is None else f"±{value:.2f} oct"
