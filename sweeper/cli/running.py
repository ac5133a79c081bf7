"""Commands that plan sweeps, launch them and gather what they gave."""

import json
from pathlib import Path
from typing import Annotated

import typer

from sweeper.cli.arguments import (
    EXIT_INTERRUPTED,
    EXIT_OVER_BUDGET,
    EXIT_RUNS_FAILED,
    SCHEMA_VERSION,
    AsJson,
    Overrides,
    RunsFolder,
    SweepName,
    same_cells,
)
from sweeper.errors import SweeperError


def plan(
    name: SweepName,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
    budget: Annotated[
        float | None, typer.Option(min=0, help="GPU-hours at hand; exit code 4 if more are left to run.")
    ] = None,
    rows: Annotated[int, typer.Option(min=0, help="Rows of the table; 0 prints all.")] = 60,
) -> None:
    """Show the runs of a sweep, what they cost and which are done.

    Example: sweeper plan quickstart model.depth=4 'axes.lr=geom(5e-3,0.16,6)'
    """
    from sweeper.launch import check_runs, plan_sweep
    from sweeper.plan import plan_json
    from sweeper.sources import open_sweep
    from sweeper.status import STARTABLE
    from sweeper.terminal.plan import print_plan

    sweep, specs, folder = open_sweep(name, overrides or [], runs)
    notes = (*sweep.notes, *check_runs(specs, sweep.cluster, online=False))
    planned = plan_sweep(sweep, specs, folder)
    if as_json:
        typer.echo(json.dumps(plan_json(planned, notes)))
    else:
        print_plan(planned, sweep.title, notes, rows=rows)
    if budget is not None and (unpriced := [run for run in planned.runs if run.params == 0 and run.state in STARTABLE]):
        raise SweeperError(
            f"--budget: the cost of {len(unpriced)} runs is not known, for their command's model is not described; "
            "choose a model group for the sweep, or leave --budget out"
        )
    if budget is not None and planned.totals.gpu_hours_left > budget:
        typer.echo(
            f"over budget: {planned.totals.gpu_hours_left:.4g} {planned.device}-hours left to run, {budget:g} at hand",
            err=True,
        )
        raise typer.Exit(EXIT_OVER_BUDGET)


def calibrate(
    name: SweepName,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    steps: Annotated[int, typer.Option(min=3, help="Steps to time of each shape.")] = 50,
    seconds: Annotated[float, typer.Option(min=0, help="Most time for a shape, beyond three steps.")] = 20.0,
    as_json: AsJson = False,
) -> None:
    """Time training steps of every shape of a sweep on this machine; plan and launch then go by what was measured.

    Shapes are measured on one process, alone on its device: run it where the sweep is to be trained.

    Example: sweeper calibrate quickstart
    """
    try:
        from sweeper.calibrating import calibrate as timed
    except ModuleNotFoundError as error:
        hint = "pip install 'sweeper-lm[train]'"
        raise SweeperError(f"timing steps needs {error.name}, which is not installed here; {hint}") from error
    from sweeper.calibration import write_calibration
    from sweeper.launch import check_runs
    from sweeper.sources import open_sweep
    from sweeper.terminal.calibration import Shown

    sweep, specs, folder = open_sweep(name, overrides or [], runs)
    check_runs(specs, sweep.cluster)
    shown = Shown(sweep, quiet=as_json)
    for one in timed(sweep, specs, steps=steps, limit_s=seconds, show=shown.add):
        write_calibration(folder, (one,))
    if as_json:
        typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, "shapes": shown.rows}))
    else:
        shown.end()


def launch(
    name: SweepName,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would run, with the scripts for SLURM; start nothing.")
    ] = False,
    budget: Annotated[
        float | None, typer.Option(min=0, help="GPU-hours at hand; start nothing if more are left.")
    ] = None,
    canary: Annotated[
        bool, typer.Option("--canary", help="The smallest and the largest job first; the others once these are done.")
    ] = False,
    keeper: Annotated[
        bool, typer.Option("--keeper", help="Also submit a one-CPU job that tends the sweep to its end.")
    ] = False,
) -> None:
    """Train every run of a sweep that has no result yet; again after Ctrl-C, a crash or a wider grid.

    On this machine it stays to the end; on a SLURM cluster it submits and returns.

    Example: sweeper launch quickstart
    """
    from sweeper.launch import launch as launch_sweep
    from sweeper.launch import plan_sweep
    from sweeper.sources import collect_sweep, open_sweep
    from sweeper.status import FINISHED
    from sweeper.terminal.launch import Progress, print_launch

    if dry_run or budget is not None:
        plan(name, overrides, runs, budget=budget)
    sweep, specs, folder = open_sweep(name, overrides or [], runs)
    if sweep.cluster.scheduler == "slurm":
        from sweeper.submission import dry_run as scripts
        from sweeper.submission import submit_keeper, submit_sweep
        from sweeper.terminal.submission import print_scripts, print_submission, tell

        if dry_run:
            print_scripts(scripts(sweep, plan_sweep(sweep, specs, folder), folder))
            return
        try:
            submission = submit_sweep(sweep, specs, folder, tell=tell, canary=canary)
            kept = submit_keeper(folder) if keeper else None
        except KeyboardInterrupt:
            tell("interrupted: what SLURM has is not submitted again; launch again for the rest, or see sweeper status")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        print_submission(submission, sweep, same_cells(name, overrides, runs), kept)
        return
    if canary or keeper:
        raise SweeperError(f"--canary and --keeper are for clusters; {sweep.cluster.name} runs on this machine")
    if dry_run:
        return
    with Progress(sweep.name) as progress:
        result = launch_sweep(sweep, specs, folder, follow=progress.show, tell=progress.note)
    collected = collect_sweep(specs, folder)
    print_launch(result, collected, sweep.name, same_cells(name, overrides, runs))
    if result.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if result.failures or not set(result.states) <= FINISHED:
        raise typer.Exit(EXIT_RUNS_FAILED)


def collect(name: SweepName, overrides: Overrides = None, runs: RunsFolder = Path("runs")) -> None:
    """Gather the records of a sweep into results.csv and results.parquet.

    Example: sweeper collect quickstart
    """
    from sweeper.records import read_records
    from sweeper.sources import collect_sweep, open_sweep
    from sweeper.status import count_states

    _, specs, folder = open_sweep(name, overrides or [], runs)
    records = read_records(folder)
    wanted = {spec.run_id for spec in specs}
    typer.echo(str(collect_sweep(specs, folder, records)))
    states = ", ".join(f"{n} {s}" for s, n in count_states(r.state for i, r in records.items() if i in wanted).items())
    others = len(records.keys() - wanted)
    typer.echo(
        f"{states or 'no run finished'} of {len(wanted)} cells"
        + (f"; {others} records of other grids of this sweep left out" if others else "")
    )


def merge(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the sweep on the other filesystem.")],
    name: Annotated[str, typer.Argument(help="The sweep, where its runs do not say which.")] = "",
    runs: RunsFolder = Path("runs"),
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Also bring the checkpoints of stopped runs, which then resume here.")
    ] = False,
    weights: Annotated[bool, typer.Option("--weights", help="Also bring the final weights of finished runs.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be brought; change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the runs of a sweep from another filesystem's folder into ours; a result that we have stays.

    Example: sweeper merge /mnt/other/runs/quickstart --dry-run
    """
    from sweeper.merge import merge_runs, open_elsewhere
    from sweeper.records import SweepFolder
    from sweeper.slurm import ask_queue
    from sweeper.terminal.merge import print_merge
    from sweeper.typed import plain

    there, sweep = open_elsewhere(folder, name)
    done = merge_runs(
        there, SweepFolder(runs, sweep), queue=ask_queue(), checkpoints=checkpoints, weights=weights, dry_run=dry_run
    )
    if as_json:
        typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, "counts": done.counts, **plain(done)}))
    else:
        print_merge(done)
