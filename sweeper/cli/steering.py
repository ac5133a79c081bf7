"""Commands that show where a sweep stands, why, and that steer its runs and nodes."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.cli.arguments import (
    EXIT_INTERRUPTED,
    EXIT_RUNS_FAILED,
    AsJson,
    Overrides,
    RunsFolder,
    SweepName,
    same_cells,
)
from sweeper.errors import SweeperError

if TYPE_CHECKING:
    from sweeper.overview import Look, Row
    from sweeper.records import SweepFolder
    from sweeper.spec import RunSpec

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN|OVERRIDE]...",
        help="Runs by the start of their run_id or by a condition; words with '=' are the overrides of the launch.",
    ),
]
OneRun = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN [OVERRIDE]...",
        help="A run, by the start of its run_id or by a condition that one run satisfies; overrides of the launch.",
    ),
]
WhereRuns = Annotated[str, typer.Option("--where", help="The runs that satisfy: \"depth==16 and state=='failed'\".")]
Everything = Annotated[bool, typer.Option("--all", help="Every run of the sweep.")]
Rows = Annotated[int, typer.Option("--rows", min=0, help="Runs shown one by one; 0 shows all.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A sweep as a command looked at it."""

    folder: "SweepFolder"
    specs: "tuple[RunSpec, ...]"
    look: "Look"
    rows: "tuple[Row, ...]"
    named: tuple[str, ...]
    """The words that name runs."""
    cells: str
    """The words of a command that mean the same cells."""


def open_runs(name: str, words: Sequence[str] | None, runs: Path, *, ask: bool = True) -> Opened:
    """Look at the runs that words may name: at all of them only where a condition asks for that."""
    from sweeper.selection import could_be_named, split_words, with_named
    from sweeper.sources import open_sweep

    overrides, named = split_words(words or [])
    _, specs, folder = open_sweep(name, overrides, runs)
    chosen = could_be_named(with_named(specs, folder, named), named)
    return _looked_at(folder, chosen, same_cells(name, list(overrides), runs), named, ask=ask)


def _open_grid(name: str, overrides: Sequence[str], runs: Path, *, others: bool) -> Opened:
    """Look at all runs of a grid, and, if they are asked for, at those of the sweep's other grids."""
    from sweeper.records import read_spec, run_names
    from sweeper.sources import open_sweep

    _, specs, folder = open_sweep(name, overrides, runs)
    if others:
        known = {spec.run_id for spec in specs}
        specs = (*specs, *(read_spec(folder, run_id) for run_id in run_names(folder) if run_id not in known))
    return _looked_at(folder, specs, same_cells(name, list(overrides), runs))


def _looked_at(
    folder: "SweepFolder", specs: "tuple[RunSpec, ...]", cells: str, named: tuple[str, ...] = (), *, ask: bool = True
) -> Opened:
    from sweeper.overview import rows_of, take_look

    look = take_look(folder, [spec.run_id for spec in specs], ask=ask)
    return Opened(folder=folder, specs=specs, look=look, rows=rows_of(specs, look), named=named, cells=cells)


def status(
    name: SweepName,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    where: Annotated[str, typer.Option("--where", help="Only runs that satisfy: \"state=='failed'\".")] = "",
    rows: Rows = 20,
    everything: Annotated[
        bool, typer.Option("--all", help="Show finished runs too, and those of the sweep's other grids.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show where a sweep stands: its runs, their jobs, the time left, and what to type next.

    Exit code 3 if runs failed, else 0, also while some go on.

    Example: sweeper status quickstart --where 'lr > 0.1'
    """
    from sweeper.overview import next_step, overview
    from sweeper.selection import choose, none_satisfies
    from sweeper.terminal.status import print_status
    from sweeper.typed import plain

    opened = _open_grid(name, overrides or [], runs, others=everything)
    seen = whole = overview(opened.folder.name, opened.specs, opened.look)
    if where:
        chosen = {row.run_id for row in choose(opened.rows, opened.specs, [], where)}
        seen = overview(whole.sweep, [spec for spec in opened.specs if spec.run_id in chosen], opened.look)
    step = _next(next_step(whole), name, opened.cells, runs)
    if as_json:
        typer.echo(json.dumps({**plain(seen), "next": step}))
    elif where and not seen.runs:
        typer.echo(f"{whole.sweep}: {none_satisfies(opened.rows, opened.specs, where)}")
    else:
        print_status(seen, step, rows=rows, everything=everything or bool(where))
    if seen.states.get("failed"):
        raise typer.Exit(EXIT_RUNS_FAILED)


def _next(step: str, name: str, cells: str, runs: Path) -> str:
    verb, _, run = step.partition(" ")
    if verb == "tend":  # it goes by what was launched
        return f"sweeper tend {same_cells(name, [], runs)}"
    return f"sweeper {verb} {cells}" + (f" {run}" if run else "")


def watch(
    name: SweepName,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    every: Annotated[float, typer.Option("--every", min=0.5, help="Seconds between two looks.")] = 5.0,
    rows: Rows = 0,
) -> None:
    """Follow a sweep live until nobody is at work on it; Ctrl-C leaves, and the sweep goes on.

    Example: sweeper watch quickstart --every 30
    """
    from sweeper.overview import next_step, overview, take_look
    from sweeper.sources import open_sweep
    from sweeper.terminal.status import watch_status

    sweep, specs, folder = open_sweep(name, overrides or [], runs)
    run_ids = [spec.run_id for spec in specs]
    with _leaving():
        seen = watch_status(lambda: overview(sweep.name, specs, take_look(folder, run_ids)), every_s=every, rows=rows)
    cells = same_cells(name, overrides, runs)
    typer.echo(f"next: {_next(next_step(seen), name, cells, runs)}")
    if seen.states.get("failed"):
        raise typer.Exit(EXIT_RUNS_FAILED)


def logs(
    name: SweepName,
    words: OneRun,
    runs: RunsFolder = Path("runs"),
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on, over attempts, until the run ends.")] = False,
    attempt: Annotated[int, typer.Option("--attempt", min=0, help="Number of the attempt; 0 for the last.")] = 0,
    rank: Annotated[int, typer.Option("--rank", min=0, help="Process of a distributed run.")] = 0,
) -> None:
    """Print what a run logged in its last attempt, or else what its job printed.

    Example: sweeper logs quickstart 3fa91b07 -f
    """
    from sweeper.logs import find_logs, read_log
    from sweeper.logs import follow as follow_run
    from sweeper.selection import RUN_ID, choose_one, named_one

    word = named_one(words)
    opened = open_runs(name, words, runs, ask=not RUN_ID.match(word))
    run_id = choose_one(opened.rows, opened.specs, word).run_id
    if follow:
        with _leaving():
            for text in follow_run(opened.folder, run_id, rank=rank, over=lambda: _is_over(opened, run_id)):
                typer.echo(text, nl=False)
        return
    found = find_logs(opened.folder, run_id, attempt, rank)
    if not found:
        raise SweeperError(f"run {run_id} has not printed anything yet; `sweeper why` says what it waits for")
    for log in found:
        typer.echo(f"==> {log.path} <==", err=True)
        at, text = 0, "…"
        while text:
            text, at = read_log(log, at)
            typer.echo(text, nl=False)


def why(name: SweepName, words: OneRun, runs: RunsFolder = Path("runs"), as_json: AsJson = False) -> None:
    """Say in one sentence what ended a run or what it waits for, with the last lines of its traceback.

    Example: sweeper why quickstart "state=='failed' and lr==0.2"
    """
    from sweeper.explanation import explain
    from sweeper.logs import silent_job
    from sweeper.selection import choose_one, named_one
    from sweeper.status import STARTABLE
    from sweeper.terminal.status import print_explanation
    from sweeper.typed import plain

    word = named_one(words)
    opened = open_runs(name, words, runs)
    row = choose_one(opened.rows, opened.specs, word)
    spec = next(spec for spec in opened.specs if spec.run_id == row.run_id)
    silent = silent_job(opened.folder, row.run_id) if row.state in STARTABLE else None
    explained = explain(spec, row, opened.look, silent)
    if as_json:
        typer.echo(json.dumps(plain(explained)))
    else:
        print_explanation(explained)


def cancel(
    name: SweepName,
    words: Words = None,
    runs: RunsFolder = Path("runs"),
    where: WhereRuns = "",
    everything: Everything = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Stop runs and keep them from being started again; what they did so far is kept.

    More than one are asked about first; without a terminal to ask on, --yes is needed.

    Example: sweeper cancel quickstart --where "lr > 0.2 and state!='done'"
    """
    from sweeper.steering import SETTLED, cancel_runs
    from sweeper.terminal.steering import print_cancelled

    opened = open_runs(name, words, runs)
    chosen = _chosen(opened, where, everything)
    left = [row for row in chosen if row.state not in SETTLED]
    if len(left) > 1 and not yes:
        if not sys.stdin.isatty():
            raise SweeperError(f"there is no terminal to ask on whether to cancel {_counted(left)}; say so with --yes")
        if not typer.confirm(f"cancel {_counted(left)}?"):
            typer.echo("nothing was cancelled")
            raise typer.Exit(EXIT_INTERRUPTED)
    print_cancelled(cancel_runs(opened.folder, chosen, opened.look), opened.cells)


def retry(
    name: SweepName,
    words: Words = None,
    runs: RunsFolder = Path("runs"),
    where: WhereRuns = "",
    everything: Everything = False,
) -> None:
    """Take failed and cancelled runs up again, with all their attempts before them; on a cluster at once.

    Example: sweeper retry quickstart --where "state=='failed' and cause=='memory'"
    """
    from sweeper.steering import BY_DEFAULT, retry_runs
    from sweeper.terminal.steering import print_retried

    opened = open_runs(name, words, runs)
    if opened.named or where or everything:
        chosen = _chosen(opened, where, everything)
    else:
        chosen = tuple({row.run_id: row for row in opened.rows if row.state in BY_DEFAULT}.values())
    print_retried(retry_runs(opened.folder, chosen, opened.look), opened.cells)


def exclude(
    name: SweepName,
    nodes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NODE|OVERRIDE]...",
            help="Nodes, also as n[1-3]; without any they are listed. Overrides: not needed.",
        ),
    ] = None,
    runs: RunsFolder = Path("runs"),
    clear: Annotated[bool, typer.Option("--clear", help="Let jobs use them again; all, if none is named.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="What is kept beside the node.")] = "",
) -> None:
    """Keep a sweep's jobs from nodes of the cluster, those that wait already too.

    Example: sweeper exclude quickstart n[12-14] --reason 'broken fan'
    """
    from sweeper.selection import split_words
    from sweeper.steering import exclude as exclude_nodes
    from sweeper.terminal.steering import print_exclusion

    overrides, names = split_words(nodes or [])
    print_exclusion(exclude_nodes(_folder(name, overrides, runs), names, clear=clear, reason=reason), cleared=clear)


def tend(
    name: SweepName,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Those of the launch are not needed: it goes by what was launched.")
    ] = None,
    runs: RunsFolder = Path("runs"),
    every: Annotated[
        float, typer.Option("--every", min=0, help="Seconds between two cycles; 0 makes one and returns.")
    ] = 0.0,
) -> None:
    """Look after a sweep on a cluster once: note what died, avoid bad nodes, submit again what may run.

    It goes by what was launched, whatever became of the sweep's file. Exit code 3 if runs failed.

    Example: sweeper tend quickstart --every 60
    """
    from sweeper.tend import tend as tend_once
    from sweeper.terminal.steering import print_cycle

    folder, before = _folder(name, overrides or [], runs), ""
    with _leaving():
        while True:
            try:
                cycle = tend_once(folder)
                before = print_cycle(folder.name, cycle, before)
                if every == 0 or cycle.over:
                    break
            except SweeperError as error:  # a launch goes on, or SLURM does not answer: the next cycle will do
                if every == 0 or not (folder.path / "launch.json").exists():
                    raise
                typer.echo(f"{time.strftime('%H:%M:%S')} {error}", err=True)
            time.sleep(every)
    if cycle.states.get("failed"):
        raise typer.Exit(EXIT_RUNS_FAILED)


@contextmanager
def _leaving() -> Iterator[None]:
    """Ctrl-C is how a person leaves: no traceback, nothing left behind."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _folder(name: str, overrides: Sequence[str], runs: Path) -> "SweepFolder":
    """The folder of a sweep by its name, whether its file still exists or not; else by the file that is named."""
    from sweeper.records import SweepFolder
    from sweeper.sources import open_sweep

    return SweepFolder(runs, name) if (runs / name).is_dir() else open_sweep(name, overrides, runs)[2]


def _chosen(opened: Opened, where: str, everything: bool) -> "tuple[Row, ...]":
    from sweeper.selection import choose, none_satisfies

    if not (opened.named or where or everything):
        raise SweeperError("say which runs: the start of a run_id, --where CONDITION, or --all")
    if everything and (opened.named or where):
        raise SweeperError(
            f"--all means every run, but {(where or opened.named[0])!r} only some; leave one of them out"
        )
    chosen = choose(opened.rows, opened.specs, opened.named, where, everything=everything)
    if not chosen:
        conditions = [*opened.named, *([where] if where else [])]
        raise SweeperError(none_satisfies(opened.rows, opened.specs, *conditions))
    return chosen


def _counted(rows: "Sequence[Row]") -> str:
    from sweeper.status import count_states

    states = ", ".join(f"{number} {state}" for state, number in count_states(row.state for row in rows).items())
    return f"{len(rows)} runs ({states})"


def _is_over(opened: Opened, run_id: str) -> bool:
    """Whether nobody is at work on a run, and nobody tends it."""
    from sweeper.overview import goes_on, overview, take_look

    specs = [spec for spec in opened.specs if spec.run_id == run_id]
    return not goes_on(overview(opened.folder.name, specs, take_look(opened.folder, [run_id])))
