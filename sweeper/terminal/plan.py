"""The plan as a table."""

from collections.abc import Sequence

from rich.markup import escape

from sweeper.plan import Plan, PlannedRun
from sweeper.terminal import STATE_STYLE, axis_value, console, count, counted, duration, scientific, show, table


def print_plan(plan: Plan, title: str, notes: Sequence[str], rows: int) -> None:
    """The plan as a table, one line per run, and its totals."""
    shown = plan.runs if rows == 0 else plan.runs[:rows]
    arms = len({run.arm for run in plan.runs}) > 1
    names = [name for name, _ in plan.runs[0].axes] if plan.runs else []
    heading = f"{plan.sweep}: {title}" if title else plan.sweep
    made = table(escape(heading))
    made.add_column("run")
    made.add_column("state")
    if arms:
        made.add_column("arm")
    for name in [n for n in names if n != "lr"]:
        made.add_column(name, justify="right")
    several = max((run.processes for run in plan.runs), default=1) > 1
    parts = max((run.passes for run in plan.runs), default=1) > 1
    for label in (
        "lr",
        "lr peak",
        "params",
        "tokens",
        "steps",
        "FLOPs",
        "GiB",
        *(("passes",) if parts else ()),
        *(("devices",) if several else ()),
        "time",
    ):
        if label.replace(" ", "_") not in names or label == "lr":
            made.add_column(label, justify="right")
    for run in shown:
        made.add_row(*_plan_cells(run, arms, names, several, parts))
    show(made)
    if len(shown) < len(plan.runs):
        console.print(f"… and {len(plan.runs) - len(shown)} more runs (--rows 0 shows all)", style="dim")
    totals = plan.totals
    states = ", ".join(f"{number} {state}" for state, number in totals.states.items())
    priced = f"{_hours(totals.gpu_hours, plan.device)}, of which {_hours(totals.gpu_hours_left, plan.device)} are left"
    console.print(
        f"{totals.runs} runs ({states}) · {count(totals.tokens)} tokens · {scientific(totals.flops)} FLOPs · "
        f"{'cost not known (no model is described)' if totals.flops == 0 else priced}",
        soft_wrap=True,
    )
    if parts:
        console.print("passes: of a step on one device × sequences of each", soft_wrap=True)
    if twice := sum(run.checkpointing for run in plan.runs):
        some = "" if twice == len(plan.runs) else f" of {twice} runs"
        console.print(f"activations{some} are computed twice to save memory: a third more time", soft_wrap=True)
    if totals.disk_gib:
        console.print(f"checkpoints: at most {_size(totals.disk_gib)} on disk at a time", soft_wrap=True)
    if calibrated := sum(run.calibrated for run in plan.runs):
        some = "" if calibrated == len(plan.runs) else f" of {calibrated} runs"
        console.print(f"time{some} as measured by sweeper calibrate", soft_wrap=True)
    if stacks := [load for job in plan.jobs for load in job.loads if load.stacked]:
        together = sum(len(load.runs) for load in stacks)
        console.print(
            f"{counted(len(plan.jobs), 'job')}: {together} runs share {counted(len(stacks), 'stack')} (launch.fuse)",
            soft_wrap=True,
        )
    for note in notes:
        console.print(note, style="yellow", soft_wrap=True, markup=False)


def _plan_cells(run: PlannedRun, arms: bool, names: list[str], several: bool, parts: bool) -> list[str]:
    axes = dict(run.axes)
    style = STATE_STYLE[run.state]
    cells = [run.run_id[:8], f"[{style}]{run.state}[/]" if style else run.state]
    cells += [run.arm] if arms else []
    cells += [axis_value(axes[name]) for name in names if name != "lr"]
    rest = {
        "lr": f"{run.lr:.4g}",
        "lr_peak": f"{run.lr_peak:.4g}",
        "params": count(run.params),
        "tokens": count(run.tokens),
        "steps": str(run.steps),
        "FLOPs": scientific(run.flops),
        "GiB": f"{run.memory_gib:.2g}",
        **({"passes": f"{run.passes} × {run.micro_batch}"} if parts else {}),
        **({"devices": f"{run.processes}" + (f" on {run.nodes}" if run.nodes > 1 else "")} if several else {}),
        "time": duration(run.gpu_hours * 3600 / run.processes),
    }
    if run.params == 0:  # a command whose model is not described
        rest |= dict.fromkeys(("params", "FLOPs", "GiB", "time"), "–")
    return cells + [text for key, text in rest.items() if key not in names or key == "lr"]


def _size(gib: float) -> str:
    """Bytes in the unit that reads best.

    >>> _size(0.002), _size(3.2), _size(20480)
    ('2.05 MiB', '3.2 GiB', '20 TiB')
    """
    for unit, factor in (("MiB", 1024.0), ("GiB", 1.0)):
        if gib * factor < 1000:
            return f"{gib * factor:.3g} {unit}"
    return f"{gib / 1024:.3g} TiB"


def _hours(hours: float, device: str) -> str:
    return f"{hours:.3g} {device}-hours" if hours >= 0.1 else f"{hours * 60:.2g} {device}-minutes"
